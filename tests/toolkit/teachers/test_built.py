"""Laws of teachers that are rebuilt from a plan: what is saved comes back, and a part of it is a smaller whole."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Task
from foveola.toolkit.models.network import Answered, Architecture
from foveola.toolkit.teachers.built import BuiltPlan, BuiltTeacher, load_built, save_teacher
from foveola.toolkit.teachers.external import External
from foveola.toolkit.teachers.plans import Single
from foveola.toolkit.teachers.team import Team, team_of

SPEC = InputSpec(height=8, width=8, channels=1)
TASKS = (
    Task(name="bright", kind="binary", classes=("no", "yes")),
    Task(name="side", kind="regression", classes=("side",), unit="px"),
)


class Plain(BuiltPlan, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="plain"):
    def build(self) -> PlainTeacher:
        return PlainTeacher(self)


class PlainTeacher(BuiltTeacher):
    def __init__(self, plan: BuiltPlan) -> None:
        super().__init__(plan)
        self.heads = nn.ModuleDict({task.name: nn.Linear(64, task.channels) for task in plan.tasks})

    @property
    def backbones(self) -> tuple[str, ...]:
        return ("none",)

    def answer(self, x_BCHW: Tensor) -> Answered:
        flat = x_BCHW.flatten(1)
        return Answered(raw={name: head(flat) for name, head in self.heads.items()}, features={"flat": flat})


def plain() -> BuiltTeacher:
    torch.manual_seed(0)
    return Plain(input=SPEC, tasks=TASKS, target_mean={"side": (20.0,)}, target_std={"side": (5.0,)}).build().eval()


def test_a_saved_teacher_answers_as_before(tmp_path: Path) -> None:
    teacher, x = plain(), torch.rand(3, 1, 8, 8)
    save_teacher(teacher, tmp_path)

    again = load_built(teacher.plan, tmp_path / "model.safetensors")

    for name, raw in teacher.answer(x).raw.items():
        assert torch.equal(again.answer(x).raw[name], raw)
    assert again.target_scale == {"side": ((20.0,), (5.0,))}


def test_a_scale_without_its_checkpoint_is_refused(tmp_path: Path) -> None:
    teacher = plain()
    save_teacher(teacher.limited({"bright"}), tmp_path)

    with pytest.raises(FoveolaError, match="another architecture"):
        load_built(teacher.plan, tmp_path / "model.safetensors")


def test_a_limited_teacher_answers_its_part_as_before_and_holds_nothing_else() -> None:
    teacher, x = plain(), torch.rand(3, 1, 8, 8)

    part = teacher.limited({"side"})

    assert torch.equal(part.answer(x).raw["side"], teacher.answer(x).raw["side"])
    assert {key.split(".")[1] for key in part.state_dict()} == {"side"}
    assert [task.name for task in part.tasks] == ["side"]
    assert part.limited({"bright"}).target_scale == {}


def test_a_built_teacher_is_a_member_of_a_team() -> None:
    teacher, x = plain(), torch.rand(3, 1, 8, 8)

    team = team_of({"one": teacher}, only={"one": ["side"]})

    assert isinstance(team, Team)
    assert torch.equal(team.answer(x).raw["side"], teacher.answer(x).raw["side"])


def test_every_plan_in_the_table_has_a_tag_of_its_own() -> None:
    plans = get_args(Single)

    tags = [plan.__struct_config__.tag for plan in plans]

    assert len(set(tags)) == len(tags)
    assert all(plan in (Architecture, External) or issubclass(plan, BuiltPlan) for plan in plans)
