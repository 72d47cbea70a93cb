"""The stage that makes one teacher of several; see `table.py`."""

from __future__ import annotations

from pathlib import Path

from msgspec import field

from ...runtime.errors import FoveolaError
from ..stage import Stage, digest_of
from ..work import Work
from .network import TEACHERS, Load, NetworkStage, begun_with

MEMBERS = tuple(kind for kind in TEACHERS if kind != "team")


class Team(Stage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Make one teacher of several: each member answers its own tasks, and one student learns from all.

    Args:
        of: the steps of the teachers.
        hints: the member whose features guide the student; empty takes the first that was trained here.
        only: the tasks that a member is asked for, where it is not to answer all of its own.
    """

    INPUTS = ("of", "hints")
    ACCEPTS = {"of": MEMBERS, "hints": tuple(kind for kind in MEMBERS if kind != "load")}  # noqa: RUF012
    USES = frozenset({"tasks"})

    of: tuple[str, ...]
    hints: str = ""
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what the names alone show.

        Raises:
            FoveolaError: no members, one that is named twice, or one in `hints` or `only` that is not among them.
        """
        if not self.of:
            raise FoveolaError("of", "a team has no members", "list the steps of the teachers in `of`")
        twice = sorted({name for name in self.of if self.of.count(name) > 1})
        if twice:
            raise FoveolaError("of", f"{', '.join(twice)} is named more than once", "name each member once")
        for place, names in (("hints", [self.hints] if self.hints else []), ("only", list(self.only))):
            others = [name for name in names if name not in self.of]
            if others:
                fault = f"{place} names {', '.join(others)}, which is no member"
                raise FoveolaError(place, fault, f"members: {', '.join(self.of)}")

    def files(self, folder: Path) -> str:
        """`only` speaks of members by name, so that then the names decide what is asked of whom."""
        return digest_of(self.of) if self.only else ""

    def check_ahead(self, work: Work) -> None:
        """No task has two answers, and all members are fed alike; known before any of them is trained."""
        from ..recipe import Recipe
        from ..teachers.team import check_inputs, shared_out

        assert isinstance(work.recipe, Recipe)
        stages = {step.name: step.stage for step in work.recipe.steps}
        every = tuple(task.name for task in work.tasks)
        answered, inputs = {}, {}
        for name in self.of:
            stage = stages[name]
            assert isinstance(stage, NetworkStage | Load)
            answered[name] = getattr(stage, "tasks", ()) or every  # a `train` step has no such field
            # A `load` step names its architecture; what starts from another step is fed as that one.
            backbone = getattr(stage, "backbone", "") or getattr(stage, "architecture", "")
            _, inputs[name] = begun_with(work, getattr(stage, "of", ""), backbone, getattr(stage, "input", None))
        shared_out(answered, self.only)
        check_inputs(inputs)

    def run(self, work: Work) -> None:
        """Load the members, check, save."""
        from ..teachers.gather import gather_team

        gather_team(
            dict(zip(self.of, work.listed("of"), strict=True)),
            order=[task.name for task in work.tasks],
            hints=self.hints,
            only=self.only,
            folder=work.folder,
        )
