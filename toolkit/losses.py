"""One loss for each kind of task; targets that are not known are masked and never counted.

B batch, T task channels, K mask channels, P grid points, M boxes. A gap is NaN in scalar targets, 255 in masks and None
in the list of boxes. Every loss is a mean over what is known; where nothing is, it is a zero that still has a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss

from ..runtime.task import Task
from .data.masks import IGNORE


def masked_mean(loss: Tensor, known: Tensor) -> Tensor:
    """Mean of the known elements; zero, with a gradient, where none is."""
    return torch.where(known, loss, torch.zeros_like(loss)).sum() / known.sum().clamp(min=1)


def above_grades(index_B1: Tensor, grades: int) -> Tensor:
    """(B, 1) grade to (B, grades - 1) answers of "above grade k"; NaN stays NaN (Frank and Hall, ECML 2001)."""
    k = torch.arange(grades - 1, device=index_B1.device)
    return torch.where(index_B1.isnan(), index_B1, (index_B1 > k).to(index_B1.dtype))


def scalar_loss(task: Task, raw_BT: Tensor, target: Tensor) -> Tensor:
    """Loss of the six kinds that answer with numbers; of an embedding zero, since nothing but a teacher can teach it.

    Args:
        task: which kind.
        raw_BT: raw outputs.
        target: (B, T) for binary, multilabel and (standardised) regression; (B, 1) index for multiclass and ordinal.
    """
    if task.kind == "embedding":
        return raw_BT.sum() * 0.0
    if task.kind == "multiclass":
        known = ~target[:, 0].isnan()
        index = target[:, 0].nan_to_num().long()
        return masked_mean(functional.cross_entropy(raw_BT, index, reduction="none"), known)
    if task.kind == "ordinal":
        target = above_grades(target, len(task.classes))
    known = ~target.isnan()
    filled = target.nan_to_num()
    if task.kind == "regression":
        return masked_mean(functional.smooth_l1_loss(raw_BT, filled, reduction="none"), known)
    return masked_mean(functional.binary_cross_entropy_with_logits(raw_BT, filled, reduction="none"), known)


def mask_loss(task: Task, raw_BKhw: Tensor, target: Tensor, *, entropy: bool = True) -> Tensor:
    """Cross entropy plus soft Dice (Milletari et al., 3DV 2016) at the target's resolution.

    Args:
        entropy: False leaves soft Dice alone, as MTPret has it (Liao et al. 2024, eq. 7 with smooth 1).
        task: exclusive (label map, softmax) or not (one mask a class, sigmoid).
        raw_BKhw: logits on the network's grid, upsampled here.
        target: uint8 (B, H, W) labels or (B, K, H, W) 0/1; 255 is not known.
    """
    raw = functional.interpolate(raw_BKhw.float(), size=target.shape[-2:], mode="bilinear", align_corners=False)
    if task.exclusive:
        known_B1HW = (target != IGNORE).unsqueeze(1)
        label = torch.where(target == IGNORE, torch.zeros_like(target), target).long()
        one_hot = functional.one_hot(label, raw.shape[1]).permute(0, 3, 1, 2).to(raw.dtype)
        dice = soft_dice_loss(raw.softmax(1)[:, 1:], one_hot[:, 1:], known_B1HW.expand(-1, raw.shape[1] - 1, -1, -1))
        cross = (
            masked_mean(functional.cross_entropy(raw, label, reduction="none"), known_B1HW[:, 0]) if entropy else 0.0
        )
        return cross + dice
    known = target != IGNORE
    wanted = torch.where(known, target, torch.zeros_like(target)).to(raw.dtype)
    dice = soft_dice_loss(raw.sigmoid(), wanted, known)
    if not entropy:
        return dice
    return masked_mean(functional.binary_cross_entropy_with_logits(raw, wanted, reduction="none"), known) + dice


def soft_dice_loss(probability: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    """1 - Dice per image and class, over the pairs with any known pixel; shapes (B, K, H, W)."""
    probability = torch.where(known, probability, torch.zeros_like(probability))
    overlap = (probability * wanted).sum((2, 3))
    total = probability.sum((2, 3)) + wanted.sum((2, 3))
    return masked_mean(1 - (2 * overlap + 1) / (total + 1), known.any(dim=(2, 3)) if known.dim() == 4 else known)


def anchor_free_loss(boxes_B4hw: Tensor, scores_BThw: Tensor, targets: Sequence[Tensor | None], stride: int) -> Tensor:
    """Quality focal loss on scores and GIoU loss on boxes (Li et al., NeurIPS 2020; Rezatofighi et al., CVPR 2019).

    Args:
        boxes_B4hw: raw distances left, top, right, bottom; a distance is softplus(raw) * stride.
        scores_BThw: logits a class.
        targets: per image (M, 5) boxes with label, or (M, 6) with a teacher's score too; None where not annotated.
        stride: input pixels a cell.
    """
    known = [i for i, target in enumerate(targets) if target is not None]
    if not known:
        return (boxes_B4hw.sum() + scores_BThw.sum()) * 0.0
    # Never in half precision, which would round a box's sides to whole pixels.
    boxes = [target.to(boxes_B4hw.device, torch.float32) for target in targets if target is not None]
    if len(known) < len(targets):
        boxes_B4hw, scores_BThw = boxes_B4hw[known], scores_BThw[known]
    points, predicted = predicted_boxes(boxes_B4hw, stride)
    chosen = assign_points(points, boxes, stride)
    logits = scores_BThw.flatten(2).transpose(1, 2).float()
    wanted = torch.zeros_like(logits)
    positive = chosen >= 0
    counts = positive.sum(1).tolist()
    box_loss, weight = boxes_B4hw.sum() * 0.0, 0.0
    if sum(counts):
        matched = torch.cat([one[found[found >= 0]] for one, found in zip(boxes, chosen, strict=True)])
        # Li et al. take the IoU itself; half is given here, since short trainings start with an IoU near zero.
        quality = 0.5 + 0.5 * paired_iou(predicted[positive].detach(), matched[:, :4])
        if matched.shape[1] > 5:  # a teacher's box counts by the teacher's confidence
            quality = quality * matched[:, 5]
        image, place = positive.nonzero(as_tuple=True)
        wanted[image, place, matched[:, 4].long()] = quality
        each = generalized_box_iou_loss(predicted[positive], matched[:, :4], reduction="none") * quality
        for part in each.split(counts):
            box_loss = box_loss + part.sum()
        weight = sum(torch.stack([part.sum() for part in quality.split(counts)]).tolist())
    score_loss = scores_BThw.sum() * 0.0
    for one in quality_focal_loss(logits, wanted).unbind():
        score_loss = score_loss + one.sum()
    return (score_loss + 2.0 * box_loss) / max(weight, 1.0)


def predicted_boxes(boxes_B4hw: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Centres (P, 2) of a grid's cells, row by row, and the boxes (B, P, 4) that are predicted there; input pixels."""
    height, width = boxes_B4hw.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    points = ((torch.stack((x, y), -1).reshape(-1, 2) + 0.5) * stride).to(boxes_B4hw.device, torch.float32)
    distance = functional.softplus(boxes_B4hw.float()).flatten(2).transpose(1, 2) * stride
    return points, torch.cat((points - distance[..., :2], points + distance[..., 2:]), 2)


def paired_iou(a_N4: Tensor, b_N4: Tensor) -> Tensor:
    """Intersection over union (N,) of boxes pair by pair."""
    low, high = torch.maximum(a_N4[:, :2], b_N4[:, :2]), torch.minimum(a_N4[:, 2:], b_N4[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    areas = (a_N4[:, 2:] - a_N4[:, :2]).prod(1) + (b_N4[:, 2:4] - b_N4[:, :2]).prod(1)
    return shared / (areas - shared)


def quality_focal_loss(logits: Tensor, wanted: Tensor, beta: float = 2.0) -> Tensor:
    """|wanted - sigmoid(logits)|^beta times the binary cross entropy (Li et al., NeurIPS 2020, eq. 4), per element."""
    scale = (wanted - logits.sigmoid()).abs().pow(beta)
    return scale * functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")


def assign_points(points_P2: Tensor, boxes: Sequence[Tensor], stride: int, radius: float = 1.5) -> Tensor:
    """For each image and grid point (B, P) the index of the box that it must find, or -1 (FCOS centre sampling).

    A point belongs to the smallest box that it lies in, if it is within `radius` cells of that box's centre, or within
    a quarter of its width and height. The point nearest to a box's centre always belongs to it, so that a box smaller
    than a cell is not lost.

    Args:
        points_P2: centres of the cells.
        boxes: (M, 4 or more) an image.
        stride: input pixels a cell.
        radius: cells.
    """
    # All images' boxes side by side: a few operations on (P, all M), and one of its own for each image.
    together = torch.cat([one[:, :4] for one in boxes]).to(points_P2)
    chosen = torch.full((len(boxes), len(points_P2)), -1, dtype=torch.long, device=points_P2.device)
    if len(together) == 0:
        return chosen
    centre = (together[:, :2] + together[:, 2:]) / 2
    away = (points_P2[:, None] - centre[None]).abs()  # (P, M, 2), in pixels
    offset = away.amax(-1)
    reach = torch.maximum((together[:, 2:] - together[:, :2]) / 4, torch.full_like(centre, radius * stride))
    good = lies_in(points_P2, together) & (away < reach).all(-1)
    good[offset.argmin(0), torch.arange(len(together), device=good.device)] = True
    return smallest(good, together, [len(one) for one in boxes])


def lies_in(points_P2: Tensor, boxes_M4: Tensor) -> Tensor:
    """Whether each point lies in each box, (P, M)."""
    return ((points_P2[:, None] > boxes_M4[None, :, :2]) & (points_P2[:, None] < boxes_M4[None, :, 2:4])).all(-1)


def smallest(good_PM: Tensor, boxes_M4: Tensor, counts: Sequence[int]) -> Tensor:
    """For each image and point (B, P) the index, among the image's own boxes, of the smallest good one, or -1.

    Args:
        good_PM: which box each point may take.
        boxes_M4: of all images.
        counts: boxes an image.
    """
    area = ((boxes_M4[:, 2] - boxes_M4[:, 0]) * (boxes_M4[:, 3] - boxes_M4[:, 1]))[None].expand_as(good_PM)
    area = torch.where(good_PM, area, torch.full_like(area, torch.inf))
    none = torch.full((len(good_PM),), -1, dtype=torch.long, device=good_PM.device)
    rows = []
    for own in area.split(list(counts), dim=1):
        best = own.min(1) if own.shape[1] else None
        rows.append(none if best is None else torch.where(best.values.isfinite(), best.indices, none))
    return torch.stack(rows)
