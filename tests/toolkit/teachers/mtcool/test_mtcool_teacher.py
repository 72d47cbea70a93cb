"""Laws of the cooperation's modules: who hears whom, what is saved, and that training leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import torch
from mtcool_small import BUILD, NUMBERS, SPEC, THREE, awake, made, some
from small import TASKS
from torch import nn

from foveola.runtime.errors import FoveolaError
from foveola.toolkit.teachers.built import save_teacher
from foveola.toolkit.teachers.facts import facts_of
from foveola.toolkit.teachers.load import load_teacher
from foveola.toolkit.teachers.mtcool.fusion import FUSIONS, Concat, Settle
from foveola.toolkit.teachers.mtcool.learn import Build
from foveola.toolkit.teachers.mtcool.teacher import KINDS, CoolPlan, Cooperative
from foveola.toolkit.teachers.team import team_of

X = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_at_the_start_a_reader_answers_as_it_does_alone(fusion: str) -> None:
    own = torch.rand(2, 6, 3, 3)
    others = [torch.rand(2, 4, 3, 3), torch.rand(2, 5, 3, 3)]
    module = FUSIONS[fusion](6, [4, 5])  # type: ignore[index]

    assert torch.equal(module(own, others), module(own, None))
    assert module(own, others).shape == own.shape


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_each_fusion_hears_every_other_once_it_has_learned(fusion: str) -> None:
    torch.manual_seed(1)
    module = FUSIONS[fusion](6, [4, 5])  # type: ignore[index]
    for carry in module.carry:
        assert isinstance(carry, nn.Conv2d)
        nn.init.normal_(carry.weight)
    others = [torch.rand(2, 4, 3, 3, requires_grad=True), torch.rand(2, 5, 3, 3, requires_grad=True)]

    slopes = torch.autograd.grad(module(torch.rand(2, 6, 3, 3), others).square().sum(), others)

    assert all(bool(slope.abs().sum() > 0) for slope in slopes)


def test_concat_is_a_pointwise_layer_over_all_features_side_by_side() -> None:
    torch.manual_seed(1)
    module, layer = Concat(6, [4, 5]), nn.Conv2d(15, 6, 1)
    kernels = layer.weight.detach()
    weights = {"own.weight": kernels[:, :6], "carry.0.weight": kernels[:, 6:10], "carry.1.weight": kernels[:, 10:]}
    assert layer.bias is not None
    module.load_state_dict(weights | {"own.bias": layer.bias.detach()})
    own, others = torch.rand(2, 6, 3, 3), [torch.rand(2, 4, 3, 3), torch.rand(2, 5, 3, 3)]

    assert torch.allclose(module(own, others), layer(torch.cat((own, *others), 1)).relu(), atol=1e-6)


@pytest.mark.parametrize("cells", [(1, 1), (3, 3), (5, 7)])
def test_settled_features_have_mean_0_and_variance_1_whatever_their_scale(cells: tuple[int, int]) -> None:
    settled = Settle()(torch.rand(4, 8, 4, 4) * 1000 + 50, cells)

    assert settled.shape == (4, 8, *cells)
    assert torch.allclose(settled.flatten(1).mean(1), torch.zeros(4), atol=1e-4)
    assert torch.allclose(settled.flatten(1).std(1, correction=0), torch.ones(4), atol=1e-2)


@pytest.mark.parametrize("masks", ["light", "deeplab"])
def test_every_kind_of_task_but_boxes_has_a_sub_model(masks: str, tmp_path: Path) -> None:
    tasks = tuple(task for task in TASKS if task.kind in KINDS)
    build = msgspec.structs.replace(BUILD, masks=masks)
    teacher, _, _ = made(tmp_path, build, tasks)

    raw = teacher.eval().answer(X).raw

    assert len(tasks) == len(TASKS) - 1
    for task in tasks:
        assert raw[task.name].shape[:2] == (2, task.channels)
        assert raw[task.name].dim() == (4 if task.kind == "segmentation" else 2)


@pytest.mark.parametrize("masks", ["light", "deeplab"])
def test_a_reader_loses_the_same_twice_so_that_a_perturbation_alone_makes_a_difference(
    masks: str, tmp_path: Path
) -> None:
    teacher, _, data = made(tmp_path, msgspec.structs.replace(BUILD, masks=masks))
    batch = some(data)
    with torch.no_grad():
        pyramids = teacher.eval().pyramids(batch.images)
        for task in teacher.tasks:
            reader = teacher.reader(task.name).train()

            losses = [reader.loss(pyramids[task.name], None, batch.target(task)) for _ in range(2)]

            assert torch.equal(*losses)


def test_a_checkpoint_without_a_scaler_is_refused_by_name(tmp_path: Path) -> None:
    teacher, _, _ = made(tmp_path, BUILD, NUMBERS)
    save_teacher(teacher, tmp_path)
    plan = json.loads((tmp_path / "model.json").read_text())
    del plan["target_std"]["side"]
    (tmp_path / "model.json").write_text(json.dumps(plan))

    with pytest.raises(FoveolaError, match="model.json: no scaler for 'side': its answers would have no unit"):
        load_teacher(tmp_path)


def test_encoders_of_different_backbones_hear_each_other_and_may_share_a_stem(tmp_path: Path) -> None:
    build = msgspec.structs.replace(BUILD, backbones={"corner": "test_resnet"}, stem=4, fusion="attention")
    teacher, _, _ = made(tmp_path, build)
    awake(teacher).eval()

    answered = teacher.answer(X)

    assert set(answered.raw) == {task.name for task in THREE}
    assert teacher.backbones == ("test_efficientnet", "test_resnet", "test_efficientnet")
    assert answered.features["corner"].shape == (2, 96)
    assert answered.hint is not None
    assert answered.hint.shape[1] == answered.features["backbone"].shape[1] == 96 + 2 * 64


def test_a_saved_cooperation_answers_as_before_and_holds_nothing_but_encoders_and_readers(tmp_path: Path) -> None:
    teacher, _, _ = made(tmp_path)
    awake(teacher).eval()
    (tmp_path / "step").mkdir()
    save_teacher(teacher, tmp_path / "step")

    again = load_teacher(tmp_path / "step")

    assert isinstance(again, Cooperative)
    assert all(torch.equal(again.answer(X).raw[name], raw) for name, raw in teacher.answer(X).raw.items())
    assert {key.split(".")[0] for key in again.state_dict()} == {"encoders", "readers"}
    parameters = sum(x.numel() for x in teacher.parameters())
    assert (tmp_path / "step/model.safetensors").stat().st_size < 4 * parameters * 1.15
    assert facts_of(again, {}).networks == ("test_efficientnet",) * 3


def test_asked_for_one_task_it_keeps_all_encoders_but_one_reader_and_answers_the_same(tmp_path: Path) -> None:
    teacher, _, _ = made(tmp_path)
    awake(teacher).eval()

    smaller = teacher.limited({"corner"})

    assert torch.equal(smaller.answer(X).raw["corner"], teacher.answer(X).raw["corner"])
    assert isinstance(smaller, Cooperative)
    assert list(smaller.readers) == ["corner"]
    assert smaller.names == teacher.names
    assert isinstance(smaller.plan, CoolPlan)


def test_a_team_takes_some_of_its_tasks(tmp_path: Path) -> None:
    teacher, _, _ = made(tmp_path)
    awake(teacher).eval()

    team = team_of({"cool": teacher}, only={"cool": ["bright"]})

    assert [task.name for task in team.tasks] == ["bright"]
    assert torch.equal(team.answer(X).raw["bright"], teacher.answer(X).raw["bright"])


def test_equal_seeds_give_equal_weights(tmp_path: Path) -> None:
    first, second = (made(tmp_path)[0] for _ in range(2))

    assert all(torch.equal(x, y) for x, y in zip(first.parameters(), second.parameters(), strict=True))
    assert Build(backbone="test_resnet", input=SPEC).fusion == "concat"
