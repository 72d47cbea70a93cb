from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from foveola.runtime.task import Kind, Task
from foveola.toolkit.losses import (
    above_grades,
    anchor_free_loss,
    assign_points,
    mask_loss,
    quality_focal_loss,
    scalar_loss,
    soft_dice_loss,
)

NAN = math.nan


def task(kind: Kind, *classes: str, exclusive: bool = True) -> Task:
    return Task(name="t", kind=kind, classes=classes or ("a", "b"), exclusive=exclusive)


@pytest.mark.parametrize("kind", ["binary", "multilabel", "multiclass", "ordinal", "regression"])
def test_a_case_without_a_target_changes_neither_loss_nor_gradient(kind: Kind) -> None:
    one = task(kind)
    raw = torch.tensor([[0.3] * one.channels, [-1.2] * one.channels, [2.0] * one.channels], requires_grad=True)
    target = torch.ones(3, one.column_count)
    target[1] = NAN

    scalar_loss(one, raw, target).backward()

    assert raw.grad is not None
    assert torch.equal(raw.grad[1], torch.zeros(one.channels))
    kept = scalar_loss(one, raw[[0, 2]], target[[0, 2]])
    assert torch.allclose(scalar_loss(one, raw, target), kept)


@pytest.mark.parametrize("kind", ["binary", "multilabel", "multiclass", "ordinal", "regression"])
def test_a_batch_without_any_target_has_a_loss_of_zero_with_a_gradient(kind: Kind) -> None:
    one = task(kind)
    raw = torch.zeros(2, one.channels, requires_grad=True)

    loss = scalar_loss(one, raw, torch.full((2, one.column_count), NAN))
    loss.backward()

    assert float(loss.detach()) == 0.0
    assert raw.grad is not None


def test_a_grade_becomes_one_answer_for_each_step_above() -> None:
    assert above_grades(torch.tensor([[0.0], [2.0], [3.0]]), 4).tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert above_grades(torch.tensor([[NAN]]), 4).isnan().all()


def test_ignored_pixels_do_not_count() -> None:
    one = task("segmentation", "lung")
    raw = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(2, 8, 8, dtype=torch.uint8)
    target[:, :4] = 1
    target[:, 6:] = 255
    changed = raw.clone()
    changed[:, :, 6:] += 9.0

    assert torch.allclose(mask_loss(one, raw, target), mask_loss(one, changed, target))


def test_an_image_without_a_mask_changes_nothing() -> None:
    one = task("segmentation", "a", "b", exclusive=False)
    raw = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    target = torch.ones(2, 2, 8, 8, dtype=torch.uint8)
    target[1] = 255

    assert torch.allclose(mask_loss(one, raw, target), mask_loss(one, raw[:1], target[:1]))


def test_a_perfect_mask_has_almost_no_loss() -> None:
    one = task("segmentation", "lung")
    target = torch.zeros(1, 8, 8, dtype=torch.uint8)
    target[:, 2:6, 2:6] = 1
    raw = functional.one_hot(target.long(), 2).permute(0, 3, 1, 2).float() * 40 - 20

    assert float(mask_loss(one, raw, target)) < 1e-3


def test_the_quality_focal_loss_is_the_focal_loss_where_quality_is_all_or_nothing() -> None:
    logits = torch.linspace(-4, 4, 9)
    wanted = (torch.arange(9) % 2).float()

    assert torch.allclose(quality_focal_loss(logits, wanted), sigmoid_focal_loss(logits, wanted, alpha=-1, gamma=2.0))


def test_a_point_belongs_to_the_smallest_box_around_it_and_no_box_is_lost() -> None:
    y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    points = (torch.stack((x, y), -1).reshape(-1, 2) + 0.5) * 8.0
    boxes = torch.tensor([[0.0, 0, 64, 64, 0], [22, 22, 34, 34, 1], [50, 50, 53, 53, 0]])

    (chosen,) = assign_points(points, [boxes], stride=8)

    assert set(chosen.tolist()) == {-1, 0, 1, 2}
    assert chosen.reshape(8, 8)[3, 3] == 1  # inside both, the small one wins
    assert (chosen == 2).sum() == 1  # smaller than a cell: the nearest point


def test_images_without_annotated_boxes_teach_nothing_and_empty_ones_teach_no() -> None:
    boxes, scores = torch.zeros(2, 4, 4, 4, requires_grad=True), torch.zeros(2, 2, 4, 4, requires_grad=True)

    anchor_free_loss(boxes, scores, [None, torch.zeros(0, 5)], stride=8).backward()

    assert scores.grad is not None
    assert torch.equal(scores.grad[0], torch.zeros(2, 4, 4))
    assert bool((scores.grad[1] > 0).all())


def dice(probability: list[float], wanted: list[float]) -> float:
    p, y = (torch.tensor(values).reshape(1, 1, 2, 2) for values in (probability, wanted))
    return float(soft_dice_loss(p, y, torch.ones_like(p, dtype=torch.bool)))


def test_soft_dice_is_the_worked_example_with_a_smoothing_of_one() -> None:
    assert dice([1.0, 1, 0, 0], [1.0, 0, 1, 0]) == pytest.approx(0.4)


def test_soft_dice_of_perfect_empty_and_doubly_empty_masks() -> None:
    assert dice([1.0, 1, 0, 0], [1.0, 1, 0, 0]) == 0.0
    assert dice([0.0] * 4, [1.0, 1, 1, 0]) == pytest.approx(1 - 1 / (3 + 1))
    assert dice([0.0] * 4, [0.0] * 4) == 0.0


def test_masks_may_be_learned_by_soft_dice_alone() -> None:
    lungs = task("segmentation", "lung", exclusive=False)
    raw, target = torch.full((1, 1, 4, 4), -40.0), torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    target[..., :2] = 1

    assert float(mask_loss(lungs, raw, target, entropy=False)) == pytest.approx(1 - 1 / (8 + 1))
    assert float(mask_loss(lungs, raw, target)) > 10
