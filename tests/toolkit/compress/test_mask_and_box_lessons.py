"""Lessons of masks and boxes on examples that can be followed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from small import TASKS, TEACHER, squares

from foveola.toolkit.compress.box_lessons import NEARBY, box_lesson, drawn_boxes, localisation_loss
from foveola.toolkit.compress.mask_lessons import CHANNEL_TEMPERATURE, channel_loss, mask_lesson, soft_mask_loss
from foveola.toolkit.fresh import new_network
from foveola.toolkit.losses import quality_focal_loss
from foveola.toolkit.models.heads import Pyramid
from foveola.toolkit.models.network import Network
from foveola.toolkit.models.student_heads import AnchorFreeHead

MASKS = next(task for task in TASKS if task.name == "halves")
THINGS = TASKS[-1]
EVERYWHERE = torch.ones(1, 1, 4, 4, dtype=torch.bool)


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_channel_lesson_is_the_divergence_of_distributions_over_places() -> None:
    student, teacher = draws(1, 2, 4, 4), draws(1, 2, 4, 4, seed=1)
    p, q = (torch.softmax(x.flatten(2)[0] / CHANNEL_TEMPERATURE, 1).double().numpy() for x in (student, teacher))
    wanted = CHANNEL_TEMPERATURE**2 * np.mean([entropy(b, a) for a, b in zip(p, q, strict=True)])

    assert float(channel_loss(student, teacher, EVERYWHERE)) == pytest.approx(float(wanted), rel=1e-4)


def test_the_channel_lesson_minds_places_and_no_levels() -> None:
    teacher = draws(1, 2, 4, 4)

    assert float(channel_loss(teacher + 3.0, teacher, EVERYWHERE)) == pytest.approx(0, abs=1e-5)
    assert float(channel_loss(teacher.flip(3), teacher, EVERYWHERE)) > 0.1


def test_what_lies_outside_the_picture_is_in_no_channels_distribution() -> None:
    student, teacher = draws(1, 2, 4, 4), draws(1, 2, 4, 4, seed=1)
    view = EVERYWHERE.clone()
    view[..., :2] = False
    changed = student.clone()
    changed[..., :2] += 7

    assert torch.allclose(channel_loss(student, teacher, view), channel_loss(changed, teacher, view), atol=1e-5)


def test_both_mask_lessons_are_their_mean() -> None:
    student, teacher = draws(1, 2, 4, 4), draws(1, 2, 4, 4, seed=1)
    parts = soft_mask_loss(MASKS, student, teacher, EVERYWHERE), channel_loss(student, teacher, EVERYWHERE)

    assert torch.allclose(mask_lesson("both", MASKS, student, teacher, EVERYWHERE), (parts[0] + parts[1]) / 2)
    assert torch.equal(mask_lesson("pixels", MASKS, student, teacher, EVERYWHERE), parts[0])


def side_of(distance: float, stride: int) -> float:
    """Raw output whose softplus is a distance."""
    return float(torch.tensor(distance / stride).expm1().log())


def test_a_student_that_finds_the_teachers_box_with_its_score_has_the_focal_rest_alone() -> None:
    # One cell of 64 pixels, one box about it: every side is 20 pixels from the cell's centre.
    boxes = torch.full((1, 4, 1, 1), side_of(20.0, 64))
    scores = torch.tensor([0.6]).logit().reshape(1, 1, 1, 1)
    taught = torch.tensor([[12.0, 12.0, 52.0, 52.0, 0.0, 0.6]])

    assert float(localisation_loss(boxes, scores, [taught], 64)) == pytest.approx(0, abs=1e-4)


def test_points_around_a_centre_learn_the_box_at_a_quarter_of_the_weight() -> None:
    # Two by two cells of 8 pixels; the box covers all four centres and its own is nearest to the first.
    boxes, scores = torch.zeros(1, 4, 2, 2), torch.full((1, 1, 2, 2), -20.0)
    taught = torch.tensor([[0.0, 0.0, 15.0, 15.0, 0.0, 0.8]])
    from foveola.toolkit.losses import assign_points, predicted_boxes

    points, predicted = predicted_boxes(boxes, 8)
    (chosen,) = assign_points(points, [taught], 8)
    from torchvision.ops import generalized_box_iou

    apart = 1 - generalized_box_iou(predicted[0], taught[:, :4])[:, 0]
    weight = torch.where(chosen >= 0, 0.8, 0.8 * NEARBY)
    wanted_scores = torch.where(chosen >= 0, 0.8, 0.0)[:, None]
    focal = quality_focal_loss(scores.flatten(2).transpose(1, 2)[0], wanted_scores).sum()
    wanted = (focal + 2 * (apart * weight).sum()) / weight.sum().clamp(min=1)

    assert float(localisation_loss(boxes, scores, [taught], 8)) == pytest.approx(float(wanted), rel=1e-5)


def test_a_box_of_the_teacher_counts_by_its_score() -> None:
    boxes, scores = draws(1, 4, 4, 4).requires_grad_(), torch.zeros(1, 1, 4, 4)
    strong, weak = (torch.tensor([[4.0, 4.0, 28.0, 28.0, 0.0, score]]) for score in (0.9, 0.06))
    other = torch.tensor([[20.0, 2.0, 30.0, 12.0, 0.0, 0.9]])

    gradients: list[float] = []
    for first in (strong, weak):
        boxes.grad = None
        localisation_loss(boxes, scores, [torch.cat((first, other))], 8).backward()
        assert boxes.grad is not None
        gradients.append(float(boxes.grad[..., 1:3, 1:3].abs().sum()))

    assert gradients[0] > 3 * gradients[1]


def test_images_without_a_box_of_the_teacher_teach_that_there_is_nothing() -> None:
    boxes = draws(2, 4, 4, 4).requires_grad_()
    scores = torch.zeros(2, 1, 4, 4, requires_grad=True)

    localisation_loss(boxes, scores, [torch.zeros(0, 6)] * 2, 8).backward()

    assert scores.grad is not None
    assert bool((scores.grad > 0).all())
    assert boxes.grad is not None
    assert not boxes.grad.any()


def test_sure_boxes_teach_as_if_annotated_and_unsure_ones_do_not() -> None:
    head = AnchorFreeHead(THINGS, 4, 8)
    raw = {"things.boxes": draws(1, 4, 4, 4), "things.scores": draws(1, 2, 4, 4, seed=1)}
    sure = torch.tensor([[4.0, 4.0, 28.0, 28.0, 0.0, 0.9]])
    unsure = torch.tensor([[2.0, 2.0, 20.0, 20.0, 1.0, 0.2]])
    both = torch.cat((sure, unsure))

    assert torch.equal(box_lesson("boxes", head, raw, [both], None), box_lesson("boxes", head, raw, [sure], None))
    assert not torch.equal(box_lesson("scores", head, raw, [both], None), box_lesson("scores", head, raw, [sure], None))


def test_a_two_stage_network_takes_each_box_as_often_as_the_teacher_is_sure() -> None:
    torch.manual_seed(0)
    boxes = torch.tensor([[0.0, 0, 9, 9, 0, 0.8], [1, 1, 9, 9, 0, 0.4], [0, 0, 9, 9, 1, 0.1], [5, 5, 5.2, 9, 0, 1]])

    taken = [{int(x) for x in one[:, 0] * 10 + one[:, 4]} for one in drawn_boxes([boxes] * 2000)]

    assert np.mean([0 in one for one in taken]) == pytest.approx(0.8, abs=0.03)
    assert np.mean([10 in one for one in taken]) == pytest.approx(0.4, abs=0.03)
    assert not any(1 in one or 50 in one for one in taken)  # below the floor; thinner than a pixel


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return new_network("teacher", squares(tmp_path_factory.mktemp("data") / "data"), TEACHER, 0)


def test_a_two_stage_network_can_be_taught(teacher: Network) -> None:
    head = next(head for head in teacher.ordered_heads() if head.task.name == "things")
    pyramid: Pyramid = teacher.train().pyramid(draws(2, 1, 64, 64).abs())
    boxes = [torch.tensor([[4.0, 4.0, 28.0, 28.0, 0.0, 1.0]]), torch.zeros(0, 6)]

    loss = box_lesson("scores", head, head(pyramid), boxes, pyramid)
    loss.backward()

    assert float(loss.detach()) > 0
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in head.parameters())
