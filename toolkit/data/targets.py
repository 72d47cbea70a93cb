"""Targets out of the rows of a manifest, one function a kind of target; gaps are NaN or None.

Rows may lack a column that a task names (a fault by then): its cells read as gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...runtime.task import Task
from .cells import Spellings, read_boxes, read_class, read_flag, read_measure, read_number, spellings
from .faults import Faults
from .masks import NONE, NOTHING
from .samples import inside
from .table import Row, Table

NO_BOXES = "[]"  # in a cell: there are none

Files = tuple[Path | None, ...]  # None is a gap, `NOTHING` a mask in which nothing is set
Boxes = NDArray[np.float32]  # (M, 5) x1, y1, x2, y2, label index, in pixels of the stored image


def read_scalars(table: Table, rows: Sequence[Row], task: Task, spelled: Task, faults: Faults) -> NDArray[np.float32]:
    """Targets of a task that is neither segmentation nor detection, (N, columns); NaN is a gap."""
    read = _reader(task, spellings(spelled))
    columns = task.manifest_columns
    values = np.full((len(rows), len(columns)), np.nan, np.float32)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            if cell := row.cells.get(column, ""):
                try:
                    values[i, j] = read(cell)
                except ValueError as error:
                    faults.error(table.at(row, column), *error.args)
    return values


def _reader(task: Task, known: Spellings) -> Callable[[str], float]:
    match task.kind:
        case "multilabel" | "embedding":
            return read_flag
        case "regression":
            return lambda cell: read_measure(cell, task.plausible, task.unit)
        case _:
            return lambda cell: read_class(cell, known, len(task.classes))


def with_none(
    table: Table, rows: Sequence[Row], none: Mapping[str, str], tasks: Sequence[Task], faults: Faults
) -> list[Row]:
    """Write "none" into the empty cells of masks and boxes of which another column says that there is nothing to draw.

    Args:
        table: where the rows stand.
        rows: as the manifest has them.
        none: by column of masks or boxes the column that holds 0 then (`Columns.none`).
        tasks: those that are asked; columns of no task stay as they are.
        faults: gets a column that holds neither masks nor boxes, and cells that hold no number.
    """
    words: dict[str, str] = {}
    for task in tasks:
        word = {"segmentation": NONE, "detection": NO_BOXES}.get(task.kind, "")
        words |= dict.fromkeys(task.manifest_columns, word)
    for column in none:
        if words.get(column) == "":
            faults.error(table.place, f"column {column!r} (none) holds neither masks nor boxes", "leave it out of none")
    flags = {column: flag for column, flag in none.items() if words.get(column)}
    return [_with_none(table, row, flags, words, faults) for row in rows] if flags else list(rows)


def _with_none(table: Table, row: Row, flags: Mapping[str, str], words: Mapping[str, str], faults: Faults) -> Row:
    said: dict[str, str] = {}
    for column, flag in flags.items():
        cell = row.cells.get(flag, "")
        if not cell or row.cells.get(column, ""):
            continue
        try:
            if read_number(cell) == 0:
                said[column] = words[column]
        except ValueError as error:
            faults.error(table.at(row, flag), *error.args)
    return Row(row.line, row.cells | said) if said else row


def read_files(
    root: Path, table: Table, rows: Sequence[Row], columns: Sequence[str], faults: Faults
) -> tuple[Files, ...]:
    """For each row the mask files that the columns name."""

    def read(row: Row, column: str) -> Path | None:
        cell = row.cells.get(column, "")
        if cell == NONE:
            return NOTHING
        return inside(root, cell, table.at(row, column), faults) if cell else None

    return tuple(tuple(read(row, column) for column in columns) for row in rows)


def read_box_lists(
    table: Table, rows: Sequence[Row], task: Task, spelled: Task, faults: Faults
) -> tuple[Boxes | None, ...]:
    """For each row its boxes of the task's labels; None is a gap."""
    known, column = spellings(spelled), task.manifest_columns[0]
    found: list[Boxes | None] = []
    for row in rows:
        cell, boxes = row.cells.get(column, ""), None
        if cell:
            try:
                boxes = read_boxes(cell, known, exhaustive=task.exhaustive)
            except ValueError as error:
                faults.error(table.at(row, column), *error.args)
        found.append(boxes)
    return tuple(found)
