"""Which student is meant, and which images belong to it.

A student is named by its step's folder, as `RECIPE:STEP`, or by a run alone, of which the step nearest to the device is
taken. Its images are those that the user names, those of a recipe, or those of its own run.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from ...runtime.errors import FoveolaError, UsageError
from ..data.dataset import Dataset, read_dataset
from ..data.faults import did_you_mean
from ..models.network import Architecture
from ..plan import SHORT, Record, read_record
from ..proof.finished_step import find_step
from ..recipe import DATA

PLAN, WEIGHTS, MANIFEST = "model.json", "model.safetensors", "manifest.csv"
# Stages that end with a student, the one nearest to the device first.
NEAREST = ("calibrate", "quantize", "qat", "rehearse", "prune", "finetune", "distill")


class Found(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A student's step.

    Args:
        name: as it was asked for, or the folder's.
        folder: of the finished step.
        record: of the step.
        architecture: of the network.
        dataset: its images; None where there are none.
        cache: folder for what can be made again.
    """

    name: str
    folder: Path
    record: Record
    architecture: Architecture
    dataset: Dataset | None
    cache: Path


def find_student(named: str, runs: Path, *, origin: str | None = None, data: Path | None = None) -> Found:
    """Find a student and its images.

    Args:
        named: folder of a step, `RECIPE:STEP`, or a run's name.
        runs: folder of all runs.
        origin: recipe that has its images.
        data: folder with a manifest of its images; the columns are those of the student's tasks.

    Raises:
        UsageError: there is no such step, or it holds no network.
        FoveolaError: the images are not what the student's tasks need.
    """
    folder = _step_folder(named, runs)
    record = read_record(folder)
    if record is None or not (folder / PLAN).is_file() or not (folder / WEIGHTS).is_file():
        raise UsageError(named, "is no student's step", "name one that distils, prunes, trains on, or quantises")
    try:
        architecture = msgspec.json.decode((folder / PLAN).read_bytes(), type=Architecture)
    except msgspec.DecodeError as error:
        raise FoveolaError(str(folder / PLAN), f"is no network's plan: {error}", "make the step anew") from None
    dataset = _images(folder, record, architecture, named, runs, origin, data)
    cache = folder.parent / "cache"
    return Found(name=named, folder=folder, record=record, architecture=architecture, dataset=dataset, cache=cache)


def _step_folder(named: str, runs: Path) -> Path:
    path = Path(named)
    if path.is_dir() and read_record(path) is not None:
        return path
    if ":" in named and not path.is_dir():
        return find_step(named, runs)[0]
    run = path if path.is_dir() else runs / named
    if not run.is_dir():
        known = [one.name for one in sorted(runs.glob("*")) if one.is_dir()] if runs.is_dir() else []
        mend = did_you_mean(named, known) or "give a step's folder, RECIPE:STEP or a run's name"
        raise UsageError(named, "there is no such step or run", mend)
    students = []
    for step in run.glob("*-*"):
        record = read_record(step) if (step / WEIGHTS).is_file() else None
        if record is not None and record.identity.stage in NEAREST:
            students.append((NEAREST.index(record.identity.stage), -(step / WEIGHTS).stat().st_mtime, step))
    if not students:
        raise UsageError(named, "the run holds no finished student", f"foveola run {run.name}")
    return min(students)[2]


def _images(
    folder: Path,
    record: Record,
    architecture: Architecture,
    named: str,
    runs: Path,
    origin: str | None,
    data: Path | None,
) -> Dataset | None:
    if data is not None:
        return read_dataset(data, architecture.tasks)
    recipe = origin or (named.rpartition(":")[0] if ":" in named and not Path(named).is_dir() else "")
    if recipe:
        return _of_recipe(named, recipe, runs)
    beside = folder.parent / f"{DATA}-{record.identity.inputs.get(DATA, '')[:SHORT]}"
    return read_dataset(beside, architecture.tasks) if (beside / MANIFEST).is_file() else None


def _of_recipe(named: str, recipe: str, runs: Path) -> Dataset:
    from ..progress import SilentProgress
    from ..stages.data import dataset_of
    from ..variants.adhoc import adhoc_work

    return dataset_of(adhoc_work(named, recipe, runs, (), None, None, SilentProgress()))
