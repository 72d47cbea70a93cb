"""An export outside any recipe: a finished step, the data of its recipe, and another device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ...runtime.errors import FoveolaError, UsageError
from ..plan import make_plan
from ..progress import Progress
from ..proof.finished_step import find_step
from ..recipe import DATA, Recipe, find_recipe, read_recipe
from ..stages.artefact import Export
from ..stages.table import STAGES
from ..work import RecipeHead, Work


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


def rules_of(recipe: RecipeHead, step: str) -> dict[str, Any]:
    """Give what the recipe's own export step says whatever the device: `source`, `fitness` and `version`.

    A bundle for another device asks the same of its images; nothing, for a recipe without an export step.

    Args:
        recipe: of `adhoc_work`, which reads it with all its steps.
        step: as the command line names it; of several export steps the one of this student counts.

    Raises:
        UsageError: several export steps say different things, and none is of this student.
    """
    assert isinstance(recipe, Recipe)
    exports = [one.stage for one in recipe.steps if isinstance(one.stage, Export)]
    name = Path(step).name.rpartition("-")[0] if Path(step).is_dir() else step.rpartition(":")[2]
    own = [stage for stage in exports if stage.of == name]
    found = [{name: getattr(stage, name) for name in ("source", "fitness", "version")} for stage in own or exports]
    if any(one != found[0] for one in found):
        fault = "the recipe's export steps differ in source, fitness or version, and none is of this step"
        raise UsageError(step, fault, "name the student that one of them ships")
    return found[0] if found else {}
