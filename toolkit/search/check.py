"""What of a search is refused before anything is trained: a value that no recipe can have, or that the device lacks."""

from __future__ import annotations

from ...devices.profile import Profile, load_profile
from ..models.network import check_backbone
from ..recipe import Recipe
from ..stages.network import require_int8
from ..stages.prune import Prune
from ..variants.candidates import candidates
from .draft import Draft, made_by
from .section import Range, fields_of
from .space import own_values


def check_space(draft: Draft) -> None:
    """Read the recipe with every value of the space in turn, so that a wrong one is told before any training.

    Raises:
        FaultsError: a value that the recipe cannot have.
        FoveolaError: no such backbone, or the device has no such engine or precision.
    """
    start = own_values(draft) or {}
    draft.read(draft.whole(start))
    recipe = draft.read(draft.trial(start))
    device = load_profile(recipe.device)
    _check_arithmetic(recipe, device)
    for key, dimension in draft.search.space.items():
        values = dimension.values() if isinstance(dimension, Range) else dimension
        for value in values:
            recipe = draft.read(draft.varied({key: value}))
            network = made_by(recipe, draft.roles.student)
            if any(field[-1] == "backbone" for field in fields_of(key)) and network is not None:
                check_backbone(str(value), _channels(network.stage))
            _check_arithmetic(draft.read(draft.trial({**start, key: value})), device)
    bundle = next(step.stage for step in recipe.steps if step.name == draft.roles.bundle)
    engines, precisions = getattr(bundle, "engines", ()), getattr(bundle, "precisions", ())
    candidates(device, engines, precisions=precisions, quantised=True, nncf=False)


def _check_arithmetic(trial: Recipe, device: Profile) -> None:
    """The device computes what the steps of a trial make."""
    for step in trial.steps:
        if step.kind in ("quantize", "qat"):
            require_int8(device, step.name)
        if isinstance(step.stage, Prune):
            step.stage.check_clock(device)


def _channels(stage: object) -> int:
    return int(getattr(getattr(stage, "input", None), "channels", 1))
