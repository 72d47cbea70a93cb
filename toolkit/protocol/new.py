"""A new protocol from a bundle or a recipe: its tasks with the usual margins, the data by digest, the subgroups.

What a protocol is written from says what is asked (`Origin`); the data say on which cases and in which subgroups. A
recipe's own data are taken where they are there already; `--data` names others.
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
from .check import check_fit, check_subgroups, is_identifier
from .file import read_protocol
from .text import protocol_yaml

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..recipe import Recipe

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


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A protocol that was written, and what its reader should know."""

    protocol: Protocol
    notes: tuple[str, ...]


def write_new(named: str, data: Path | None, out: Path, changes: Sequence[str] = ()) -> Written:
    """Write the usual protocol of a bundle or recipe.

    Args:
        named: the bundle's file, or the recipe by path or shipped name.
        data: manifest of the proof's cases, or its folder; None takes the recipe's own.
        out: a file that is not there yet.
        changes: `field=value` each, for a recipe.

    Raises:
        FoveolaError: the origin or the data are wrong, or there is such a file.
    """
    if out.exists():
        raise UsageError(str(out), "is there already", "a protocol is never written over; name another file with -o")
    origin = find_origin(named, changes)
    dataset = read_data(origin, data)
    chosen, notes = choose_subgroups(dataset, origin.split) if dataset is not None else ((), ())
    if dataset is None:
        notes = ("no data were read: data.digest is empty, and any data set fits; --data MANIFEST names one",)
    protocol = new_protocol(origin, dataset, chosen)
    try:
        with out.open("x", encoding="utf-8") as stream:
            stream.write(protocol_yaml(protocol))
    except OSError as error:
        raise UsageError(str(out), f"cannot be written: {error.strerror}") from None
    return Written(protocol=protocol, notes=tuple(notes))


def check_ahead(file: Path, named: str | None, data: Path | None) -> tuple[str, ...]:
    """Hold a protocol against its bundle or recipe and against its data before it is locked; give notes.

    Args:
        file: the protocol's YAML.
        named: the bundle or recipe; None leaves that out.
        data: manifest of the cases, or its folder; None leaves that out.

    Raises:
        FoveolaError: it does not fit.
    """
    protocol = read_protocol(file)
    if data is not None and named is None:
        raise UsageError("--data", "needs BUNDLE or RECIPE", "they name the manifest's columns")
    if named is not None:
        origin = find_origin(named)
        check_fit(protocol, origin.plain_tasks, str(file))
        if data is not None:
            check_data(protocol, read_named(origin, data, protocol.data.subgroups), str(file))
    return () if protocol.data.digest else ("data.digest is empty: the protocol fits any data set",)


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


def find_origin(named: str, changes: Sequence[str] = ()) -> Origin:
    """Read a bundle's file, or a recipe by path or shipped name.

    Args:
        named: what the user wrote.
        changes: `field=value` each, for a recipe.

    Raises:
        FoveolaError: it is neither, or cannot be read.
    """
    path = Path(named)
    if path.is_file() and path.suffix not in (".yaml", ".yml"):
        if changes:
            raise UsageError("--set", "a bundle has no fields to change", "give a recipe, or leave it out")
        return _from_bundle(path)
    from ..recipe import find_recipe, read_recipe
    from ..stages import STAGES

    return _from_recipe(read_recipe(find_recipe(named), STAGES, changes))


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


def read_data(origin: Origin, data: Path | None) -> Dataset | None:
    """Read the cases: from a manifest that is named, else the recipe's own; None where there are none yet.

    Args:
        origin: of the tasks.
        data: a manifest, or the folder that holds `manifest.csv`.

    Raises:
        FoveolaError: anything is wrong with the data set.
    """
    from ..data.dataset import read_dataset

    if data is None:
        return None if origin.read is None else origin.read()
    root, manifest = _manifest(data)
    columns = origin.columns or Columns()
    if not columns.attributes:
        columns = msgspec.structs.replace(columns, attributes=guess_attributes(root / manifest, columns, origin.tasks))
    return read_dataset(root, origin.tasks, manifest=manifest, columns=columns, seed=origin.seed)


def read_named(origin: Origin, data: Path, attributes: Sequence[str]) -> Dataset:
    """Read a manifest with these columns as attributes; see `read_data`."""
    from ..data.dataset import read_dataset

    root, manifest = _manifest(data)
    columns = msgspec.structs.replace(origin.columns or Columns(), attributes=tuple(attributes))
    return read_dataset(root, origin.tasks, manifest=manifest, columns=columns, seed=origin.seed)


def _manifest(data: Path) -> tuple[Path, str]:
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


def _from_bundle(path: Path) -> Origin:
    from ...runtime.bundle import read_unverified

    manifest = read_unverified(path).manifest
    return Origin(
        name=manifest.name,
        tasks=tuple(output.task for output in manifest.outputs),
        teacher=manifest.provenance.teacher_digest,
        seed=manifest.provenance.seed,
    )


def _from_recipe(recipe: Recipe) -> Origin:
    from ..stages_artefact import Parity
    from ..stages_data import Manifest

    proofs = [step.stage for step in recipe.steps if isinstance(step.stage, Parity)]
    stage = recipe.data.stage
    return Origin(
        name=recipe.name,
        tasks=recipe.tasks,
        split=proofs[0].split if proofs else "test",
        seed=recipe.seed,
        resamples=proofs[0].resamples if proofs else None,
        columns=stage.columns if isinstance(stage, Manifest) else None,
        read=_reader_of(recipe),
    )


def _reader_of(recipe: Recipe) -> Callable[[], Dataset] | None:
    """Give what reads the recipe's data where they lie; phantoms are not drawn yet."""
    from ..data.dataset import read_dataset
    from ..data.join import read_joined
    from ..stages_data import FileStage, Manifest
    from ..stages_join import Join

    stage = recipe.data.stage
    if not isinstance(stage, FileStage) or not Path(stage.root).is_dir():
        return None

    def read() -> Dataset:
        if isinstance(stage, Join):
            dataset, faults = read_joined(Path(stage.root), stage.sources, recipe.tasks, seed=recipe.seed)
            faults.refuse(stage.root)
            return dataset
        assert isinstance(stage, Manifest)
        return read_dataset(
            Path(stage.root),
            recipe.tasks,
            manifest=stage.manifest,
            columns=stage.columns,
            calibration=stage.calibration,
            seed=recipe.seed,
        )

    return read
