"""A teacher named as the command line names it: the folder of a finished step, or `RECIPE:step`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from ...runtime.errors import UsageError
from ..data.dataset import Dataset
from ..finished import read_locked
from ..plan import RECORD, make_plan, read_record
from ..teachers.load import load_teacher
from .kept_answers import StoredAnswers
from .teacher_answers import Progress, ask_teacher


def ask_step(named: str, runs: Path, dataset: Dataset, progress: Progress) -> StoredAnswers:
    """Ask the teacher of a finished step about all images of a data set.

    Args:
        named: the step's folder, or `RECIPE:step`.
        runs: where the recipes' runs lie.
        dataset: the images; no target of it is looked at.
        progress: called with (done, total).

    Raises:
        UsageError: there is no such step, or it is not finished or no teacher.
        FoveolaError: an image cannot be read.
    """
    folder, digest = find_step(named, runs)
    try:
        teacher, locked = load_teacher(folder), read_locked(folder)
    except (FileNotFoundError, msgspec.DecodeError):
        raise UsageError(named, "is not the step of a teacher", "name a step that trains or loads one") from None
    return ask_teacher(teacher, locked, dataset, teacher_digest=digest, progress=progress)


def find_step(named: str, runs: Path, changes: Sequence[str] = ()) -> tuple[Path, str]:
    """Find a finished step by its folder or as `RECIPE:step`: its folder and its identity.

    Args:
        named: the step's folder, or `RECIPE:step`.
        runs: where the recipes' runs lie.
        changes: values of the recipe to change, as `--set` takes them.

    Raises:
        UsageError: there is none.
    """
    folder = Path(named)
    if not folder.is_dir() and ":" in named:
        folder = _step_of_recipe(named, runs, changes)
    if not folder.is_dir():
        raise UsageError(named, "there is no such step", "give its folder, or RECIPE:STEP")
    record = read_record(folder)
    if record is None:
        raise UsageError(str(folder), f"holds no {RECORD}: it is no finished step", "run the recipe first")
    return folder, record.digest


def _step_of_recipe(named: str, runs: Path, changes: Sequence[str]) -> Path:
    from ..recipe import find_recipe, read_recipe
    from ..stages.table import STAGES

    recipe, _, name = named.rpartition(":")
    planned = make_plan(read_recipe(find_recipe(recipe), STAGES, changes), runs)
    for one in planned:
        if one.step.name == name:
            if one.why != "reused":
                raise UsageError(named, f"is not done yet ({one.reason})", f"foveola run {recipe}")
            return one.folder
    raise UsageError(named, f"{recipe} has no step {name!r}", f"it has {', '.join(one.step.name for one in planned)}")
