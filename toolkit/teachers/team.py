"""Several teachers as one teacher: each answers its own tasks.

- Each task is answered by one member; a member may be asked for part of its tasks (`limited`).
- All members see the same picture. Only `mean` and `std` may differ, which each subtracts and divides by itself.
- Members are asked one after the other, each once a batch; one of them gives the features that guide a student.
- A saved team is one `TeamPlan` and one safetensors file with the members' tensors under `members.N.`.

    team = team_of({"findings": network, "lungs": GivenTeacher(mine, tasks, spec)}).eval()
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from torch import Tensor, nn

from ...runtime.errors import FoveolaError
from ...runtime.manifest import InputSpec
from ...runtime.task import Task
from ..data.faults import did_you_mean
from ..models.network import Answered, Network, load_weights
from .built import BuiltPlan, BuiltTeacher
from .external import External, GivenTeacher, build_external
from .plans import Single

Member = Network | GivenTeacher | BuiltTeacher
T = TypeVar("T")
INSIDE = ("mean", "std")  # fields of an input that a network applies by itself


class TeamPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="team"):
    """What is needed to rebuild a team before its weights are loaded.

    The members' steps are not named: a step that is renamed leaves the same team.

    Args:
        members: in order; a network has the heads it is asked for and no others.
        asked: names of the tasks that each member answers.
        tasks: all of them, in the order of the recipe.
        hints: number of the member whose features guide a student; None: no member has features.
    """

    members: tuple[Single, ...]
    asked: tuple[tuple[str, ...], ...]
    tasks: tuple[Task, ...]
    hints: int | None

    @property
    def input(self) -> InputSpec:
        """How all members are fed, but for `mean` and `std`, which are those of the first."""
        return self.members[0].input


class Team(nn.Module):
    """Several teachers that answer one picture together; `team_of` checks what it is made of.

    Args:
        members: each answers its own tasks.
        tasks: those of all members, in the order of the answers.
        hints: number of the member that gives the features; None for no features.
    """

    def __init__(self, members: Sequence[Member], tasks: tuple[Task, ...], hints: int | None) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.hints = hints
        self._tasks = tasks

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that it answers."""
        return self._tasks

    @property
    def input(self) -> InputSpec:
        """How all members are fed, but for `mean` and `std`, which are those of the first."""
        return self.ordered_members()[0].input

    @property
    def target_scale(self) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
        """Mean and standard deviation of each regression task."""
        return {name: scale for member in self.ordered_members() for name, scale in member.target_scale.items()}

    def answer(self, x_BCHW: Tensor) -> Answered:
        """Raw outputs and boxes of all members, features of one; evaluation mode only (see `Teacher`)."""
        together = Answered()
        for number, member in enumerate(self.ordered_members()):
            answered = member.answer(x_BCHW)
            together.raw |= answered.raw
            together.boxes |= answered.boxes
            if number == self.hints:
                together.hint = answered.hint
        return together

    def ordered_members(self) -> list[Member]:
        """Members in order."""
        found: list[Member] = []
        for member in self.members:
            assert isinstance(member, Member)
            found.append(member)
        return found


def team_of(
    members: Mapping[str, Member],
    *,
    order: Sequence[str] = (),
    hints: str = "",
    only: Mapping[str, Sequence[str]] | None = None,
) -> Team:
    """A team of teachers, in the mode (training or evaluation) that each of them is in.

    Args:
        members: by the name that errors use.
        order: names of the tasks as they are to be answered; what is not among them comes last.
        hints: the member whose features guide a student; empty takes the first that has features.
        only: the tasks that a member is asked for, where it is not to answer all of its own.

    Raises:
        FoveolaError: no members, a task that two of them answer, different inputs, or a name that is not known.
    """
    claims = shared_out({name: [task.name for task in member.tasks] for name, member in members.items()}, only or {})
    check_inputs({name: member.input for name, member in members.items()})
    chosen = _featured(members, hints)
    for name, asked in claims.items():
        if not asked and name != chosen:
            raise FoveolaError("team", f"{name!r} answers no task and gives no features", "leave it out")
    asked_members = [limited(member, claims[name]) for name, member in members.items()]
    found = {task.name: task for member in asked_members for task in member.tasks}
    names = [name for name in order if name in found]
    tasks = tuple(found[name] for name in (*names, *(name for name in found if name not in names)))
    return Team(asked_members, tasks, list(members).index(chosen) if chosen else None)


def shared_out(
    answered: Mapping[str, Sequence[str]], only: Mapping[str, Sequence[str]] | None = None
) -> dict[str, tuple[str, ...]]:
    """Which tasks each member is asked for.

    Args:
        answered: names of the tasks that each member can answer.
        only: as for `team_of`.

    Raises:
        FoveolaError: no members, a task that two of them would answer, or a name that is not known.
    """
    only = only or {}
    if not answered:
        raise FoveolaError("team", "it has no members", "list the teachers' steps in `of`")
    for name, asked in only.items():
        _check_known("only", name, answered, "member")
        for task in asked:
            _check_known(f"only.{name}", task, answered[name], "task of this member")
    claims = {name: tuple(task for task in tasks if task in only.get(name, tasks)) for name, tasks in answered.items()}
    answerers = {
        task: [name for name, asked in claims.items() if task in asked]
        for task in dict.fromkeys(task for asked in claims.values() for task in asked)
    }
    twice = [f"task {task!r} by {' and '.join(names)}" for task, names in answerers.items() if len(names) > 1]
    if twice:
        mend = "give one of them fewer tasks: `only: {MEMBER: [TASK, ...]}`"
        raise FoveolaError("team", f"answered more than once: {', '.join(twice)}", mend)
    return claims


def check_inputs(inputs: Mapping[str, InputSpec]) -> None:
    """Refuse members that would see a picture differently.

    Args:
        inputs: each member's.

    Raises:
        FoveolaError: those that differ from the first, with the fields.
    """
    first, *others = inputs
    told = []
    for name in others:
        fields = [
            field
            for field in InputSpec.__struct_fields__
            if field not in INSIDE and getattr(inputs[name], field) != getattr(inputs[first], field)
        ]
        if fields:
            told.append(f"{name!r} has {_said(inputs[name], fields)}, {first!r} {_said(inputs[first], fields)}")
    if told:
        mend = "give all members the same `input`; mean and std may differ"
        raise FoveolaError("team", f"its members see different pictures: {', '.join(told)}", mend)


def limited(member: Member, names: Collection[str]) -> Member:
    """A teacher that answers these of its tasks only; the weights are shared or copied.

    A network loses its other heads, and a built teacher the modules that nothing asked needs, so that they take neither
    time nor room. A given module answers with one forward
    pass whatever it is asked, and what nobody asked is left out.
    """
    tasks = tuple(task for task in member.tasks if task.name in names)
    if len(tasks) == len(member.tasks):
        return member
    if isinstance(member, BuiltTeacher):
        return member.limited(names)
    if isinstance(member, GivenTeacher):
        own = GivenTeacher(member.module, tasks, member.input, _some(member.target_scale, names))
        return own.train(member.training)
    plan = msgspec.structs.replace(
        member.architecture,
        tasks=tasks,
        target_mean=_some(member.architecture.target_mean, names),
        target_std=_some(member.architecture.target_std, names),
    )
    network = Network(plan)
    weights, wanted = member.state_dict(), network.state_dict()
    network.load_state_dict({key: weights[key] for key in wanted})
    return network.train(member.training)


def load_team(plan: TeamPlan, weights: Path) -> Team:
    """The team with its weights, in evaluation mode.

    Raises:
        FoveolaError: see `build_external` and `load_weights`.
    """
    members = [_member(one, asked) for one, asked in zip(plan.members, plan.asked, strict=True)]
    team = Team(members, plan.tasks, plan.hints)
    load_weights(team, weights)
    return team.eval()


def _member(plan: Single, asked: Collection[str]) -> Member:
    if isinstance(plan, External):
        return limited(build_external(plan), asked)
    return plan.build() if isinstance(plan, BuiltPlan) else Network(plan)


def _featured(members: Mapping[str, Member], hints: str) -> str:
    """Name of the member that gives features; empty where none can."""
    if not hints:
        return next((name for name, member in members.items() if not isinstance(member, GivenTeacher)), "")
    _check_known("hints", hints, members, "member")
    if isinstance(members[hints], GivenTeacher):
        raise FoveolaError(
            "hints", f"{hints!r} gives no features", "name a member that was trained here, or leave it empty"
        )
    return hints


def _check_known(place: str, name: str, known: Collection[str], what: str) -> None:
    if name not in known:
        raise FoveolaError(place, f"{name!r} is no {what}", did_you_mean(name, known))


def _said(spec: InputSpec, fields: Sequence[str]) -> str:
    return ", ".join(f"{field} {getattr(spec, field)}" for field in fields)


def _some(values: Mapping[str, T], names: Collection[str]) -> dict[str, T]:
    return {name: value for name, value in values.items() if name in names}
