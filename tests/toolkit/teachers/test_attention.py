"""Laws of the attention pictures: the map by definition, cases by rule."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from factors import COLOUR, pictures, teacher_of
from mtcool_small import NUMBERS, awake, made
from PIL import Image
from small import SPEC, TASKS, TEACHER
from torch import nn
from torch.nn import functional

from foveola.runtime.task import Task
from foveola.toolkit.models.heads import LinearHead
from foveola.toolkit.models.network import Architecture, Network
from foveola.toolkit.teachers.attention import SIDE, grad_cam, heat_picture, network_for, pick_cases
from foveola.toolkit.teachers.comprer.teacher import ComprerPlan
from foveola.toolkit.teachers.external import GivenTeacher
from foveola.toolkit.teachers.team import team_of

CLASSES = tuple(task for task in TASKS if task.name in ("bright", "signs"))


def make_network(tasks: tuple[Task, ...] = CLASSES) -> Network:
    torch.manual_seed(0)
    return Network(
        Architecture(
            role="teacher",
            backbone=TEACHER.backbone,
            input=SPEC,
            tasks=tasks,
            width=TEACHER.width,
            output_stride=TEACHER.output_stride,
        )
    ).eval()


def look_at(network: Network, task: str, output: int, channel: int, weight: float) -> None:
    """Make one output of a head see one channel alone."""
    head = network.heads[task]
    assert isinstance(head, LinearHead)
    with torch.no_grad():
        head.linear.weight[output].zero_()
        head.linear.weight[output, channel] = weight


def test_a_head_that_sees_one_channel_gives_that_channels_map() -> None:
    network, x = make_network(), torch.rand(3, 1, 64, 64)
    look_at(network, "signs", 1, 5, 2.0)
    with torch.no_grad():
        one = network.pyramid(x)[32][:, 5:6].clamp(min=0)

    found = grad_cam(network, x, "signs", 1)

    peak = one.amax((2, 3), keepdim=True)
    expected = functional.interpolate(one / peak.clamp(min=1e-30), size=(64, 64), mode="bilinear", align_corners=False)
    assert found.shape == (3, 64, 64)
    assert np.allclose(found, expected[:, 0].numpy(), atol=1e-6)
    assert found.min() >= 0
    assert found.max() <= 1


def test_behind_global_pooling_a_teacher_after_comprer_has_the_class_activation_map_of_its_weights() -> None:
    """Selvaraju et al., section 3.1: there Grad-CAM is CAM (Zhou et al., CVPR 2016)."""
    sick = Task(name="sick", kind="binary", classes=("no", "yes"))
    torch.manual_seed(0)
    teacher = ComprerPlan(modality="fundus", input=COLOUR, tasks=(sick,), backbone="test_resnet").build().eval()
    x = pictures(2)
    (linear,) = (one for one in teacher.modules() if isinstance(one, nn.Linear))
    with torch.no_grad():
        linear.weight.abs_()  # so that something speaks for it
        coarse = teacher.answer(x).hint
        assert coarse is not None
        expected = torch.einsum("bchw,c->bhw", coarse, linear.weight[0]).clamp(min=0)

    found = grad_cam(teacher, x, "sick", 0)

    expected = functional.interpolate(expected[:, None], size=(64, 64), mode="bilinear", align_corners=False)[:, 0]
    assert network_for(teacher, "sick") is teacher
    for one, other in zip(found, expected.numpy(), strict=True):
        assert one.any()
        assert np.allclose(one * other.max(), other * one.max(), atol=1e-5)


def test_a_complex_factor_looks_through_its_priors_too() -> None:
    through, around = teacher_of(), teacher_of(prior="detached")  # of the same weights

    maps = [grad_cam(one, pictures(2), "sbp", 0) for one in (through, around)]

    assert maps[0].shape == (2, 64, 64)
    assert all(one.max() > 0 for one in maps)
    assert not np.allclose(maps[0], maps[1])


def test_in_a_cooperation_the_task_s_own_encoder_is_asked(tmp_path: Path) -> None:
    teacher = awake(made(tmp_path, tasks=NUMBERS)[0]).eval()
    x = torch.rand(2, 1, 32, 32)

    coarse, raw = teacher.attended(x, "bright")

    assert torch.equal(coarse, teacher.pyramids(x)["bright"][32])
    assert torch.allclose(raw, teacher.answer(x).raw["bright"])
    assert grad_cam(teacher, x, "bright", 0).shape == (2, 32, 32)


def test_the_map_is_the_rectified_sum_of_maps_weighted_by_gradient() -> None:
    network, x = make_network(), torch.rand(2, 1, 64, 64)
    head = network.heads["bright"]
    assert isinstance(head, LinearHead)
    with torch.no_grad():
        coarse = network.pyramid(x)[32]
        # Behind global pooling the gradient of the output is the weight over the number of cells.
        expected = torch.einsum("bchw,c->bhw", coarse, head.linear.weight[0]).clamp(min=0)

    found = grad_cam(network, x, "bright", 0)

    expected = functional.interpolate(expected[:, None], size=(64, 64), mode="bilinear", align_corners=False)[:, 0]
    for one, other in zip(found, expected.numpy(), strict=True):
        assert np.allclose(one * other.max(), other * one.max(), atol=1e-5)


def test_where_nothing_speaks_for_the_label_the_map_is_empty() -> None:
    network = make_network()
    look_at(network, "bright", 0, 3, -1.0)  # features are not negative, so all speak against

    assert not grad_cam(network, torch.rand(2, 1, 64, 64), "bright", 0).any()


def test_a_map_leaves_no_gradient_and_changes_no_weight() -> None:
    network = make_network()
    before = {name: x.clone() for name, x in network.state_dict().items()}

    with torch.inference_mode(False):
        grad_cam(network, torch.rand(1, 1, 64, 64), "signs", 0)

    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())


def test_the_member_that_answers_a_task_is_looked_into() -> None:
    first, second = make_network(CLASSES[:1]), make_network(CLASSES[1:])
    given = GivenTeacher(nn.Identity(), CLASSES[1:], SPEC)

    assert network_for(first, "bright") is first
    assert network_for(first, "signs") is None
    assert network_for(team_of({"a": first, "b": second}), "signs") is second
    assert network_for(team_of({"a": first, "b": given}), "signs") is None
    assert network_for(given, "signs") is None


def test_the_surest_hit_the_worst_miss_and_the_surest_false_alarm_are_picked() -> None:
    truth = np.array([1, 1, 1, 1, 0, 0, 0, np.nan])[:, None]
    probability = np.array([0.8, 0.9, 0.3, 0.1, 0.7, 0.6, 0.2, 0.99])[:, None]

    picks = pick_cases(CLASSES[0], probability, truth, (0.5,), 6)

    assert [(pick.index, pick.outcome) for pick in picks] == [
        (1, "true positive"),
        (3, "miss"),
        (4, "false alarm"),
        (0, "true positive"),
        (2, "miss"),
        (5, "false alarm"),
    ]
    assert [pick.right for pick in picks[:3]] == [True, False, False]
    assert (picks[1].reference, picks[1].answer, picks[1].probability) == ("yes", "no", 0.1)
    assert pick_cases(CLASSES[0], probability, truth, (0.5,), 2) == picks[:2]


def test_a_label_with_one_class_only_has_no_pictures() -> None:
    truth = np.array([[1.0, 0.0], [1.0, 1.0]])

    picks = pick_cases(CLASSES[1], np.full((2, 2), 0.9), truth, (), 3)

    assert {pick.label for pick in picks} == {"top"}
    assert {pick.channel for pick in picks} == {1}


@pytest.mark.parametrize(("kind", "channels"), [("multiclass", [2, 0]), ("ordinal", [1, 0])])
def test_classes_show_the_most_certain_right_and_wrong_answer(kind: str, channels: list[int]) -> None:
    task = msgspec.structs.replace(TASKS[2], kind=kind)
    probability = np.array([[0.9, 0.1, 0.0], [0.1, 0.1, 0.8], [0.0, 0.3, 0.7], [0.5, 0.3, 0.2]])
    truth = np.array([[1.0], [2.0], [2.0], [0.0]])

    picks = pick_cases(task, probability, truth, (), 2)

    assert [(pick.index, pick.outcome, pick.label) for pick in picks] == [(1, "right", "c"), (0, "wrong", "a")]
    assert [pick.channel for pick in picks] == channels


def test_other_kinds_have_no_pictures() -> None:
    assert pick_cases(TASKS[4], np.zeros((2, 1)), np.zeros((2, 1)), (), 3) == []


@pytest.mark.parametrize("shape", [(100, 50), (50, 100, 3)])
def test_the_picture_shows_both_panels_and_is_the_same_every_time(shape: tuple[int, ...]) -> None:
    image = np.full(shape, 100, np.uint8)
    heat = np.zeros(shape[:2])
    heat[: shape[0] // 2] = 1

    png = heat_picture(image, heat)

    pixels = np.asarray(Image.open(io.BytesIO(png)), np.int64)
    half = pixels.shape[1] // 2
    assert max(pixels.shape[0], half) >= SIDE
    assert np.ptp(pixels[:, : half - 4]) == 0  # the picture itself
    assert np.abs(pixels[-5:, half + 4 :] - 100).max() <= 1  # nothing there
    assert pixels[5, -5].tolist() != [100, 100, 100]
    assert png == heat_picture(image, heat)
