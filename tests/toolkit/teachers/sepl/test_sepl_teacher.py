from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from factors import BLOOD, COMPLEX, SIMPLE, pictures, plan_of, teacher_of

from foveola.runtime.errors import FoveolaError, UsageError
from foveola.runtime.task import Task
from foveola.toolkit.models.network import read_weights
from foveola.toolkit.teachers.built import save_teacher
from foveola.toolkit.teachers.load import load_teacher, read_scale
from foveola.toolkit.teachers.sepl.teacher import SeplTeacher
from foveola.toolkit.teachers.team import team_of


def age_gradient(**knobs: Any) -> torch.Tensor | None:
    """The gradient that the blood pressure's loss gives to the head of age."""
    teacher = teacher_of(**knobs).train()
    teacher.propagate(pictures()).raw["sbp"].abs().sum().backward()
    head = teacher.simple["age"]
    assert isinstance(head, torch.nn.Linear)
    return head.weight.grad


def test_the_loss_of_a_complex_factor_reaches_the_head_of_a_simple_one_unless_priors_are_detached() -> None:
    through = age_gradient()

    assert through is not None
    assert float(through.abs().sum()) > 0
    assert age_gradient(prior="detached") is None
    assert age_gradient(prior="none") is None


@pytest.mark.parametrize("count", [1, 3])
def test_every_factor_has_its_name_and_its_shape_whatever_the_batch(count: int) -> None:
    answered = teacher_of().answer(pictures(count))

    assert tuple(answered.raw) == tuple(task.name for task in (*SIMPLE, *COMPLEX))
    assert all(said.shape == (count, 1) for said in answered.raw.values())
    assert answered.hint is not None
    assert answered.hint.shape[:2] == (count, 96)
    assert answered.features["backbone"].shape == (count, 96)
    assert answered.features["priors"].shape == (count, 6)
    assert answered.features["mixed.sbp"].shape == (count, 16)
    assert answered.features["gate.sbp"].shape == (count, 4)


def test_a_picture_is_answered_alike_alone_and_among_others() -> None:
    teacher, x = teacher_of(), pictures(3)

    together, alone = teacher(x), teacher(x[1:2])

    for name, said in alone.items():
        torch.testing.assert_close(said, together[name][1:2], rtol=1e-4, atol=1e-5)


def test_true_priors_take_the_place_of_the_network_s_own_only_where_they_are_known_and_asked_for() -> None:
    known = {task.name: torch.ones(2, 1) for task in SIMPLE}
    known["age"] = torch.tensor([[float("nan")], [1.0]])
    oracle, guide = teacher_of(prior="reference"), teacher_of()

    own, given = oracle.propagate(pictures()), oracle.propagate(pictures(), known)

    assert own.priors is not None
    assert given.priors is not None
    assert given.priors[0].tolist() == pytest.approx([4.0, own.priors[0, 1].item(), 1, 1, 1, 1])
    assert given.priors[1].tolist() == [4.0, 1, 1, 1, 1, 1]
    assert not torch.allclose(own.raw["sbp"], given.raw["sbp"])
    assert torch.equal(guide.propagate(pictures(), known).raw["sbp"], guide.propagate(pictures()).raw["sbp"])


def test_a_teacher_that_is_asked_for_simple_factors_has_no_experts_in_its_file(tmp_path: Path) -> None:
    teacher = teacher_of()
    for name, asked in (("all", (*SIMPLE, *COMPLEX)), ("simple", SIMPLE[:2]), ("guided", COMPLEX[:1])):
        (tmp_path / name).mkdir()
        save_teacher(teacher.limited([task.name for task in asked]), tmp_path / name)

    keys = {name: set(read_weights(tmp_path / name / "model.safetensors")) for name in ("all", "simple", "guided")}
    size = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in keys}

    assert not any(key.startswith("complex.") for key in keys["simple"])
    assert {key.split(".")[1] for key in keys["simple"] if key.startswith("simple.")} == {"sex", "age"}
    assert {key.split(".")[1] for key in keys["guided"] if key.startswith("simple.")} == {t.name for t in SIMPLE}
    assert {key.split(".")[2] for key in keys["guided"] if key.startswith("complex.gates.")} == {"sbp"}
    assert {key.split(".")[0] for key in keys["all"]} == {"backbone", "simple", "complex"}
    assert size["simple"] < size["guided"] < size["all"]


def test_a_limited_teacher_gives_the_same_answers() -> None:
    teacher, x = teacher_of(), pictures()

    fewer = teacher.limited(["sbp", "age"])

    assert [task.name for task in fewer.tasks] == ["age", "sbp"]
    for name, said in fewer.answer(x).raw.items():
        assert torch.equal(said, teacher.answer(x).raw[name])


def test_a_saved_teacher_answers_as_before_and_carries_its_scalers(tmp_path: Path) -> None:
    scaled = plan_of()
    scaled.target_mean["sbp"], scaled.target_std["sbp"] = (121.5,), (18.25,)
    torch.manual_seed(0)
    teacher = scaled.build().eval()

    save_teacher(teacher, tmp_path)
    again = load_teacher(tmp_path)

    assert isinstance(again, SeplTeacher)
    assert read_scale(tmp_path)["sbp"] == ((121.5,), (18.25,))
    for name, said in again.answer(pictures()).raw.items():
        assert torch.equal(said, teacher.answer(pictures()).raw[name])


def test_a_checkpoint_without_a_scaler_is_refused_by_name(tmp_path: Path) -> None:
    save_teacher(teacher_of(), tmp_path)
    plan = json.loads((tmp_path / "model.json").read_text())
    del plan["target_mean"]["glucose"]
    (tmp_path / "model.json").write_text(json.dumps(plan))

    with pytest.raises(FoveolaError, match="model.json: no scaler for 'glucose'"):
        load_teacher(tmp_path)


def test_sepl_joins_a_team_for_the_tasks_that_it_is_asked_for() -> None:
    first, second = teacher_of(), teacher_of(1)
    x = pictures()

    team = team_of({"a": first, "b": second}, only={"a": ["sex", "age"], "b": list(BLOOD)})

    answered = team.eval().answer(x)
    assert torch.equal(answered.raw["age"], first.answer(x).raw["age"])
    assert torch.equal(answered.raw["sbp"], second.answer(x).raw["sbp"])
    assert not any(key.startswith("members.0.complex") for key in team.state_dict())


def test_factors_of_any_kind_and_number_may_guide_and_be_guided() -> None:
    simple = (
        Task(name="camera", kind="multiclass", classes=("a", "b", "c")),
        Task(name="size", kind="regression", classes=("height", "weight")),
    )
    hard = (
        Task(name="flags", kind="multilabel", classes=("x", "y")),
        Task(name="grade", kind="ordinal", classes=("none", "some", "much")),
        Task(name="ill", kind="binary", classes=("no", "yes")),
    )

    answered = teacher_of(simple=simple, tasks=(*hard, *simple)).answer(pictures())

    shapes = {name: said.shape[1] for name, said in answered.raw.items()}
    assert shapes == {"flags": 2, "grade": 2, "ill": 1, "camera": 3, "size": 2}
    assert answered.features["priors"].shape == (2, 5)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"simple": ()}, "simple: no factor is predicted first"),
        ({"experts": 0}, "experts: plain heads take no priors"),
        ({"hidden": 0}, "hidden: an expert of width 0"),
        ({"target_std": {}}, "no scaler for 'age'"),
        (
            {"tasks": (*SIMPLE, Task(name="disc", kind="segmentation", classes=("disc",)))},
            "task 'disc': segmentation is no factor",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises((FoveolaError, UsageError), match=words):
        plan_of(**knobs)


def test_a_plan_survives_its_own_json() -> None:
    plan = plan_of(prior="detached", sex_as="sigmoid")

    again = msgspec.json.decode(msgspec.json.encode(plan), type=type(plan))

    assert again == plan
    assert msgspec.to_builtins(plan)["type"] == "sepl"
