"""An export outside any recipe: a finished step, the data of its recipe, and another device."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ...runtime.errors import FoveolaError, UsageError
from ..plan import make_plan
from ..progress import Progress
from ..proof.finished_step import find_step
from ..recipe import DATA, find_recipe, read_recipe
from ..stages.table import STAGES
from ..work import Work


def adhoc_work(
    step: str,
    origin: str | None,
    runs: Path,
    changes: tuple[str, ...],
    device: str | None,
    out: Path | None,
    voice: Progress,
) -> Work:
    """Make the surroundings of an export step that no recipe holds; no folder is made yet.

    Args:
        step: `RECIPE:STEP`, or the folder of a finished step.
        origin: where `step` is a folder: the recipe that has its data and tasks.
        runs: folder of all runs.
        changes: values of the recipe to change.
        device: id of a profile; None: the recipe's.
        out: where results go; None: `<recipe>-<device>`.
        voice: hears the progress.

    Raises:
        UsageError: no recipe, no such step, or one without a network.
        FoveolaError: the recipe's data are not there.
    """
    named = origin or step.rpartition(":")[0]
    if not named:
        raise UsageError(step, "names no recipe", "give RECIPE:STEP, or a step's folder and --of RECIPE")
    recipe = read_recipe(find_recipe(named), STAGES, changes)
    (data,) = [one for one in make_plan(recipe, runs) if one.step.name == DATA]
    if data.why != "reused":
        raise FoveolaError(step, f"the data of {named} are not there ({data.reason})", f"foveola run {named}")
    student, digest = find_step(step, runs, changes)
    if not (student / "model.safetensors").is_file():
        raise UsageError(step, "is no student's step", "name one that distils, quantises or calibrates")
    chosen = msgspec.structs.replace(recipe, device=device or recipe.device)
    return Work(
        step="export",
        digest=digest,
        folder=out or Path(f"{recipe.name}-{Path(chosen.device).stem}"),  # a device may be a YAML file
        inputs={"of": student},
        digests={"of": digest},
        data=data.folder,
        cache=data.folder.parent / "cache",
        recipe=chosen,
        reporter=voice,
    )
