"""What a teacher's boxes teach: as if they had been annotated, or all of them with their scores as targets.

A teacher's boxes are (M, 6): x1, y1, x2, y2 in the student's input pixels, label, score. A two-stage network learns by
its own loss, from each box with the probability that the teacher gives it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from ..knobs import BoxLesson
from ..losses import anchor_free_loss, assign_points, lies_in, predicted_boxes, quality_focal_loss, smallest
from ..models.heads import Head, Pyramid
from ..models.student_heads import AnchorFreeHead

BOX_SCORE_FLOOR = 0.3  # a teacher's box below this is no lesson
SCORE_FLOOR = 0.05  # where scores are the targets, a weak box is a weak lesson
NEARBY = 0.25  # weight of the valuable region around an object's centre (Zheng et al. 2022, sec. 4.2)
LEAST_SIDE = 1.0  # pixels; a thinner box has no logarithm of its side, which a two-stage head needs


def box_lesson(
    how: BoxLesson, head: Head, raw: dict[str, Tensor], boxes: Sequence[Tensor], pyramid: Pyramid | None
) -> Tensor:
    """The loss against a teacher's boxes.

    Args:
        how: see `Lessons`; a two-stage head knows one way only.
        head: anchor-free or two-stage.
        raw: its outputs.
        boxes: an image each.
        pyramid: what the head saw; a two-stage head needs it.
    """
    if not isinstance(head, AnchorFreeHead):
        assert pyramid is not None
        return head.loss(pyramid, raw, drawn_boxes(boxes))
    sides, scores = raw[f"{head.task.name}.boxes"], raw[f"{head.task.name}.scores"]
    if how == "scores":
        return localisation_loss(sides, scores, boxes, head.stride)
    return anchor_free_loss(sides, scores, [one[one[:, 5] >= BOX_SCORE_FLOOR] for one in boxes], head.stride)


def drawn_boxes(boxes: Sequence[Tensor]) -> list[Tensor]:
    """Each box with the probability that the teacher gives it, so that on average it counts by its score.

    torchvision's matcher and samplers take whole boxes; a weight a box would mean a copy of its two-stage losses.
    """
    kept = []
    for one in boxes:
        sides = (one[:, 2:4] - one[:, :2]).amin(1) if len(one) else one.new_zeros(0)
        sure = (one[:, 5] >= BOX_SCORE_FLOOR) & (torch.rand(len(one), device=one.device) < one[:, 5])
        kept.append(one[sure & (sides >= LEAST_SIDE)])
    return kept


def localisation_loss(boxes_B4hw: Tensor, scores_BThw: Tensor, taught: Sequence[Tensor], stride: int) -> Tensor:
    """Quality focal loss towards the teacher's scores; GIoU to its boxes at their centres and around them.

    The regions are those of localisation distillation (Zheng et al., CVPR 2022, sec. 3.3): the points that must find a
    box, and with a quarter of the weight the others inside of it. A two-stage teacher has no distributions over the
    sides, so its boxes themselves are the target, weighted by its scores (Chen et al., NeurIPS 2017, sec. 3).
    """
    kept = [one[one[:, 5] >= SCORE_FLOOR].float() for one in taught]
    points, predicted = predicted_boxes(boxes_B4hw, stride)
    together = torch.cat(kept).to(points)
    logits = scores_BThw.flatten(2).transpose(1, 2).float()
    wanted = torch.zeros_like(logits)
    if len(together) == 0:
        return quality_focal_loss(logits, wanted).sum() + boxes_B4hw.sum() * 0.0
    counts = [len(one) for one in kept]
    first = torch.tensor([0, *counts[:-1]], device=points.device).cumsum(0)[:, None]  # of each image, in `together`
    centre, around = assign_points(points, kept, stride), smallest(lies_in(points, together), together, counts)
    at, near = centre >= 0, (centre < 0) & (around >= 0)
    mine, beside = together[(centre + first)[at]], together[(around + first)[near]]
    image, place = at.nonzero(as_tuple=True)
    wanted[image, place, mine[:, 4].long()] = mine[:, 5]
    weight = torch.cat((mine[:, 5], NEARBY * beside[:, 5]))
    aims = torch.cat((mine[:, :4], beside[:, :4]))
    apart = generalized_box_iou_loss(torch.cat((predicted[at], predicted[near])), aims, reduction="none")
    loss: Tensor = quality_focal_loss(logits, wanted).sum() + 2.0 * (apart * weight).sum()
    return loss / weight.sum().clamp(min=1.0)
