"""Where a protocol is written from: a bundle's file, or a recipe with its own data.

A recipe's own data are taken where they are there already; `--data` names others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ...runtime.errors import UsageError
from ..data.samples import Columns
from ..parity.protocol import Protocol
from .check import check_fit
from .file import read_protocol
from .new import Origin, check_data, choose_subgroups, guess_attributes, manifest_in, new_protocol, read_named
from .text import protocol_yaml

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..recipe import Recipe


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
    from ..stages.table import STAGES

    return _from_recipe(read_recipe(find_recipe(named), STAGES, changes))


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
    root, manifest = manifest_in(data)
    columns = origin.columns or Columns()
    if not columns.attributes:
        columns = msgspec.structs.replace(columns, attributes=guess_attributes(root / manifest, columns, origin.tasks))
    return read_dataset(root, origin.tasks, manifest=manifest, columns=columns, seed=origin.seed)


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
    from ..stages.artefact import Parity
    from ..stages.data import Manifest

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
    from ..stages.data import FileStage, Manifest
    from ..stages.join import Join

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
