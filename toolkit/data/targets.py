"""Targets out of the rows of a manifest, one function a kind of target; gaps are NaN or None.

Rows may lack a column that a task names (a fault by then): its cells read as gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...runtime.task import Task
from .cells import Spellings, read_boxes, read_class, read_flag, read_number, spellings
from .faults import Faults
from .samples import inside
from .table import Row, Table

Files = tuple[Path | None, ...]  # None is a gap
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
        case "multilabel":
            return read_flag
        case "regression":
            return read_number
        case _:
            return lambda cell: read_class(cell, known, len(task.classes))


def read_files(
    root: Path, table: Table, rows: Sequence[Row], columns: Sequence[str], faults: Faults
) -> tuple[Files, ...]:
    """For each row the mask files that the columns name."""

    def read(row: Row, column: str) -> Path | None:
        cell = row.cells.get(column, "")
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
