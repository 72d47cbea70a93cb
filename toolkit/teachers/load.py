"""The teacher of a finished step, whichever stage made it; read from `model.json` and `model.safetensors`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ...runtime.manifest import InputSpec
from ..answers import Scale
from ..models.network import Architecture, Network, Teacher, load_weights
from .built import BuiltPlan, load_built
from .external import External, identity_scale, load_external
from .plans import Single
from .team import TeamPlan, load_team


def read_plan(folder: Path) -> Single | TeamPlan:
    """What the teacher of a finished step is made of."""
    plan: Single | TeamPlan = msgspec.json.decode((folder / "model.json").read_bytes(), type=Single | TeamPlan)
    return plan


def read_input(folder: Path) -> InputSpec:
    """How the teacher of a finished step is fed."""
    return read_plan(folder).input


def read_scale(folder: Path) -> Scale:
    """Mean and standard deviation by which the regression values of a finished step's teacher become units."""
    plan = read_plan(folder)
    if not isinstance(plan, TeamPlan):
        return _scale(plan)
    pairs = zip(plan.members, plan.asked, strict=True)
    return {name: x for one, asked in pairs for name, x in _scale(one).items() if name in asked}


def _scale(plan: Architecture | External | BuiltPlan) -> Scale:
    if isinstance(plan, External):
        return identity_scale(plan.tasks)
    return plan.target_scale


def load_teacher(folder: Path) -> Teacher:
    """The teacher of a finished step, in evaluation mode."""
    plan, weights = read_plan(folder), folder / "model.safetensors"
    if isinstance(plan, TeamPlan):
        return load_team(plan, weights)
    if isinstance(plan, External):
        return load_external(plan, weights)
    if isinstance(plan, BuiltPlan):
        return load_built(plan, weights)
    network = Network(plan)
    load_weights(network, weights)
    return network.eval()
