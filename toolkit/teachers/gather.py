"""Gather finished teachers into a team, and save it as a finished step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from safetensors.torch import save_file

from ...runtime.errors import FoveolaError
from ..finished import LOCKED, read_locked
from ..json_files import write_json
from ..models.network import Network
from .built import BuiltPlan
from .load import load_teacher, read_plan
from .plans import Single
from .team import Member, Team, TeamPlan, team_of


def gather_team(
    members: Mapping[str, Path],
    *,
    order: Sequence[str],
    hints: str = "",
    only: Mapping[str, Sequence[str]] | None = None,
    folder: Path,
) -> Team:
    """Write `model.json`, `model.safetensors` and `locked.json` of a team; `load_teacher` gives the same answers back.

    Thresholds are those that each member locked for itself.

    Args:
        members: folders of finished teachers, by name.
        order: names of the tasks, in the order of the recipe.
        hints: as for `team_of`.
        only: as for `team_of`.
        folder: where the results go.

    Raises:
        FoveolaError: as `team_of` does; a member that is itself a team.
    """
    team = team_of({name: _member(name, path) for name, path in members.items()}, order=order, hints=hints, only=only)
    write_json(folder / "model.json", _plan(team, list(members.values())))
    write_json(folder / LOCKED, _locked(team, list(members.values())))
    tensors = {name: tensor.detach().contiguous() for name, tensor in team.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    return team.eval()


def _member(name: str, folder: Path) -> Member:
    teacher = load_teacher(folder)
    if not isinstance(teacher, Member):
        raise FoveolaError("team", f"{name!r} is itself a team", "name its members")
    return teacher


def _plan(team: Team, folders: Sequence[Path]) -> TeamPlan:
    plans = []
    for member, folder in zip(team.ordered_members(), folders, strict=True):
        plans.append(_plan_of(member, folder))
    return TeamPlan(
        members=tuple(plans),
        asked=tuple(tuple(task.name for task in member.tasks) for member in team.ordered_members()),
        # Margins and critical classes are the proof's; a change of them makes no new team.
        tasks=tuple(msgspec.structs.replace(task, margins={}, critical=()) for task in team.tasks),
        hints=team.hints,
    )


def _plan_of(member: Member, folder: Path) -> Single:
    if isinstance(member, Network):
        return member.architecture
    plan = read_plan(folder)
    assert not isinstance(plan, TeamPlan)
    if isinstance(plan, BuiltPlan):
        return plan.of_tasks({task.name for task in member.tasks})
    return plan  # a module from elsewhere is rebuilt whole; what nobody asks is left out when it answers


def _locked(team: Team, folders: Sequence[Path]) -> dict[str, tuple[float, ...]]:
    locked: dict[str, tuple[float, ...]] = {}
    for member, folder in zip(team.ordered_members(), folders, strict=True):
        asked = {task.name for task in member.tasks}
        locked |= {name: values for name, values in read_locked(folder).items() if name in asked}
    return locked
