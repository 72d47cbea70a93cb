"""A new protocol: tasks with the usual margins, the data by digest, the subgroups.

What a protocol is written from says what is asked (`Origin`, see `origin.py`); the data say on which cases and in which
subgroups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ...runtime.errors import UsageError
from ...runtime.task import Task
from ..data.cells import plain_task
from ..data.faults import Faults
from ..data.samples import Columns
from ..data.table import Table, read_table
from ..parity.bands import groups_of, is_age
from ..parity.protocol import CaseRules, Protocol, TaskRules, usual_protocol
from .check import check_subgroups, is_identifier

if TYPE_CHECKING:
    from ..data.dataset import Dataset

MANIFEST = "manifest.csv"
MOST_GUESSED = 20  # values of a column that nobody named, for it to be taken for a subgroup


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What a protocol is written from.

    Args:
        name: of the bundle.
        tasks: as written, with other spellings of classes.
        teacher: digest; empty where it is not known yet.
        split: of the proof.
        seed: of the recipe.
        resamples: of the recipe's proof; None takes the usual number.
        columns: of the recipe's manifest; None where it has none.
        read: reads the recipe's own data set; None where it is not there.
    """

    name: str
    tasks: tuple[Task, ...]
    teacher: str = ""
    split: str = "test"
    seed: int = 0
    resamples: int | None = None
    columns: Columns | None = None
    read: Callable[[], Dataset] | None = None

    @property
    def plain_tasks(self) -> tuple[Task, ...]:
        """The tasks as the bundle has them."""
        return tuple(plain_task(task) for task in self.tasks)


def check_data(protocol: Protocol, dataset: Dataset, place: str) -> None:
    """Refuse data of another digest, without cases in the split, or without the protocol's subgroups.

    Raises:
        UsageError: one of these.
    """
    wanted, split = protocol.data.digest, protocol.data.split
    if wanted and wanted != dataset.digest:
        fault = f"data.digest is {wanted[:12]}..., that of {dataset.root} is {dataset.digest[:12]}..."
        raise UsageError(place, fault, "name the data that the protocol was written for, or write a new one")
    cases = dataset.subset(split)
    if not len(cases):
        raise UsageError(place, f"no case in split {split!r}", "name another under data.split")
    names = cases.samples[0].attributes
    check_subgroups(protocol, {name: [sample.attributes[name] for sample in cases.samples] for name in names}, place)


def new_protocol(origin: Origin, dataset: Dataset | None = None, subgroups: Sequence[str] = ()) -> Protocol:
    """Write the usual protocol down: margins of the tasks or the usual ones, primary metrics primary.

    Args:
        origin: of the tasks.
        dataset: the data of the proof; None leaves their digest empty.
        subgroups: attributes to be screened.
    """
    tasks = origin.plain_tasks
    usual = usual_protocol(tasks, origin.name)
    digest = "" if dataset is None else dataset.digest
    return msgspec.structs.replace(
        usual,
        teacher=origin.teacher,
        data=CaseRules(digest=digest, split=origin.split, subgroups=tuple(subgroups)),
        tasks={task.name: _described(task, usual.tasks[task.name]) for task in tasks},
        resamples=origin.resamples or usual.resamples,
        seed=origin.seed,
    )


def read_named(origin: Origin, data: Path, attributes: Sequence[str]) -> Dataset:
    """Read a manifest with these columns as attributes; see `read_data`."""
    from ..data.dataset import read_dataset

    root, manifest = manifest_in(data)
    columns = msgspec.structs.replace(origin.columns or Columns(), attributes=tuple(attributes))
    return read_dataset(root, origin.tasks, manifest=manifest, columns=columns, seed=origin.seed)


def manifest_in(data: Path) -> tuple[Path, str]:
    """Give the folder and the name of a manifest that may be named by its folder alone."""
    return (data, MANIFEST) if data.is_dir() else (data.parent, data.name)


def choose_subgroups(dataset: Dataset, split: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Choose the attributes that make at least two groups in the split; also say why others do not."""
    samples = dataset.subset(split).samples or dataset.samples
    chosen, left_out = [], []
    for name in samples[0].attributes if samples else ():
        values = [sample.attributes.get(name, "") for sample in samples]
        if is_identifier(name, values):
            left_out.append(f"{name}: {len(set(values) - {''})} values, it names cases and no groups")
        elif len(groups_of(name, values)) < 2:
            left_out.append(f"{name}: one value only")
        else:
            chosen.append(name)
    return tuple(chosen), tuple(left_out)


def guess_attributes(path: Path, columns: Columns, tasks: Sequence[Task]) -> tuple[str, ...]:
    """Guess which columns of a manifest describe the cases: ages, and texts with 2 to 20 values that no task has.

    Other numbers are left out: most are labels or measurements, which are no property of a case but its outcome.

    Raises:
        FoveolaError: there is no manifest.
    """
    table = read_table(path, Faults())
    used = {columns.file, columns.patient, columns.split, "boxes"}
    used |= {name for task in tasks for name in (*task.manifest_columns, task.ignore_column)}
    return tuple(name for name in table.columns if name not in used and _describes(table, name))


def _describes(table: Table, column: str) -> bool:
    if not column or column.startswith(("mask_", "finding_")):
        return False
    values = [row.cells[column] for row in table.rows]
    if not is_age(column) and all(_is_number(value) for value in values if value):
        return False
    return 2 <= len(groups_of(column, values)) <= MOST_GUESSED and not is_identifier(column, values)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _described(task: Task, rules: TaskRules) -> TaskRules:
    return msgspec.structs.replace(rules, kind=task.kind, classes=task.classes)
