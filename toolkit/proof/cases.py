"""The cases of a proof in the field: a manifest with or without a reference standard.

- A task none of whose columns is there has no reference standard: its cells are gaps, and that is told. A column that
  is all but there (`Efusion`) is a mistake and refused.
- Which rows are proved is never guessed: a split of the manifest's own column, or `all`. Where there is no such column,
  a split by hash is taken only if somebody asked for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from ...runtime.errors import UsageError
from ...runtime.task import Task
from ..data.cells import plain_task
from ..data.dataset import Dataset, proof_set, read_dataset
from ..data.faults import Faults, did_you_mean
from ..data.samples import Columns
from ..data.table import read_table

MANIFEST = "manifest.csv"
ALL = "all"  # the split that is every row
OWN = ("file", "patient", "split")  # columns that belong to no task
NEAR = 0.85  # likeness of two column names from which one is taken for a mistyped other


class FieldCases(msgspec.Struct, frozen=True, kw_only=True):
    """What the manifest says.

    Args:
        manifest: the file.
        cases: the rows that are proved; all tasks are there, with gaps where nothing is known.
        digest: of the whole data set.
        split: which rows.
        without: tasks without a reference standard.
    """

    manifest: Path
    cases: Dataset
    digest: str
    split: str
    without: tuple[str, ...]


def manifest_of(data: Path) -> Path:
    """Name the manifest of a folder; a file is one itself."""
    return data / MANIFEST if data.is_dir() else data


def read_cases(
    manifest: Path, tasks: Sequence[Task], columns: Columns, split: str, *, sure: bool = False, seed: int = 0
) -> FieldCases:
    """Read the cases.

    Args:
        manifest: the CSV.
        tasks: all that its masks and labels may be for; a class may list other spellings.
        columns: which columns say what; the attributes must be there.
        split: which rows; `all` takes every row.
        sure: without a column of splits, that split by hash is meant.
        seed: of the hash.

    Raises:
        FoveolaError: anything is wrong with the data set, or no row is in the split.
        UsageError: nothing says which rows are meant.
    """
    there = read_table(manifest, Faults()).columns
    if not (sure or split == ALL or columns.split in there or not columns.split):
        fault = f"there is no column {columns.split!r} to say which rows are proved"
        mend = "--split all takes every row, --split test those that a hash puts there; --column split=NAME names one"
        raise UsageError(str(manifest), fault, mend)
    if split == ALL and columns.split not in there:
        columns = msgspec.structs.replace(columns, split="")
    without = tuple(task.name for task in tasks if _absent(task, there))
    present = [task for task in tasks if task.name not in without]
    dataset = read_dataset(manifest.parent, present, manifest=manifest.name, columns=columns, seed=seed)
    cases = dataset if split == ALL else proof_set(dataset, split)
    return FieldCases(
        manifest=manifest,
        cases=_with_gaps(cases, tasks, without),
        digest=dataset.digest,
        split=split,
        without=without,
    )


def name_columns(texts: Iterable[str], tasks: Sequence[Task], columns: Columns) -> tuple[tuple[Task, ...], Columns]:
    """Read `TASK=COLUMN,COLUMN` and `patient=COLUMN` as the command line has them.

    Args:
        texts: what the user wrote, each once.
        tasks: whose columns may be named.
        columns: to be changed.

    Raises:
        UsageError: all that is wrong with them.
    """
    changed, faults = {task.name: task for task in tasks}, []
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        names = tuple(part.strip() for part in value.split(","))
        if not equals or not all(names):
            faults.append(f"{text!r} is not NAME=COLUMN")
        elif name in OWN:
            columns = msgspec.structs.replace(columns, **{name: value})
        elif name not in changed:
            mend = did_you_mean(name, [*changed, *OWN])
            faults.append(f"no task {name!r}" + (f" ({mend})" if mend else ""))
        else:
            try:
                changed[name] = msgspec.structs.replace(changed[name], columns=names)
            except UsageError as error:
                faults.append(f"{error.place}: {error.fault}")
    if faults:
        mend = "write findings=Effusion,Nodule for a task, or patient=ID for a column of the table's own"
        raise UsageError("--column", "; ".join(faults), mend)
    return tuple(changed.values()), columns


def _absent(task: Task, there: Sequence[str]) -> bool:
    """Tell that a task has no column, and none that may have been meant."""
    wanted = plain_task(task).manifest_columns
    return not any(name in there or _is_near(name, there) for name in wanted)


def _is_near(name: str, there: Sequence[str]) -> bool:
    folded = [one.casefold() for one in there]
    return bool(difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=NEAR))


def _with_gaps(cases: Dataset, tasks: Sequence[Task], without: Sequence[str]) -> Dataset:
    scalars, boxes = dict(cases.scalars), dict(cases.boxes)
    plain = tuple(plain_task(task) for task in tasks)
    for task in plain:
        if task.name in without and task.kind == "detection":
            boxes[task.name] = (None,) * len(cases)
        elif task.name in without and task.kind != "segmentation":
            scalars[task.name] = np.full((len(cases), task.column_count), np.nan, np.float32)
    return msgspec.structs.replace(cases, tasks=plain, scalars=scalars, boxes=boxes)
