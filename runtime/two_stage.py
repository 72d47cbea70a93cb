"""A two-stage detector's dense tensors as boxes: what Faster R-CNN does after its networks, in numpy.

The graph gives every proposal before any suppression, so that its shapes are static; all that depends on the picture
happens here, in the order and with the numbers of torchvision's `RegionProposalNetwork` and `RoIHeads` (Ren et al.,
NeurIPS 2015; Lin et al., CVPR 2017).

The four tensors of one image, in the order of `TaskOutput.tensors`. N proposals: level after level of the feature
pyramid, as the manifest counts them; C classes, without the background:

| tensor | shape | holds |
|---|---|---|
| proposals | (1, N, 4) | x1, y1, x2, y2 in input pixels, inside the input |
| objectness | (1, N) | logits |
| classes | (1, N, C + 1) | logits, the background first |
| deltas | (1, N, C, 4) | offsets of x, y, log width and log height of each class, times the manifest's weights |

Laws:
- Which rows an engine puts where within a level is its own affair; at equal scores the earlier row wins.
- Time and memory are bounded by the limits of `Proposals`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .exponential import exp64
from .manifest import Proposals, TaskOutput
from .suppression import nms

LARGEST_GROWTH = math.log(1000 / 16)  # of a side's logarithm; torchvision's `bbox_xform_clip`


def tensor_shapes(output: TaskOutput) -> tuple[tuple[int, ...], ...]:
    """Shapes of the four tensors, in their order."""
    assert output.proposals is not None
    rows, classes = sum(output.proposals.levels), len(output.task.classes)
    return (1, rows, 4), (1, rows), (1, rows, classes + 1), (1, rows, classes, 4)


def decode_two_stage(
    proposals: NDArray[Any],
    objectness: NDArray[Any],
    classes: NDArray[Any],
    deltas: NDArray[Any],
    *,
    how: Proposals,
    height: int,
    width: int,
    nms_iou: float,
    score_floor: float,
    max_boxes: int,
) -> NDArray[np.float64]:
    """Turn dense tensors into boxes (K, 6) x1, y1, x2, y2, score, label in input pixels, by falling score.

    Args:
        proposals: (N, 4); see the table above.
        objectness: (N,).
        classes: (N, C + 1).
        deltas: (N, C, 4).
        how: from the manifest.
        height: of the input; boxes are clipped to it.
        width: of the input.
        nms_iou: overlap above which the weaker of two boxes of a label is dropped.
        score_floor: boxes must have a higher score.
        max_boxes: most boxes.
    """
    corners = _clip(proposals.astype(np.float64), height, width)
    rows = _strongest(corners, objectness, how)
    score = _softmax(classes[rows].astype(np.float64))[:, 1:]
    found = _clip(_moved(corners[rows], deltas[rows].astype(np.float64), how.weights), height, width)
    place, label = np.nonzero((score > score_floor) & _large(found, how.box_min_side))
    boxes, strength = found[place, label], score[place, label]
    kept = nms(boxes, strength, nms_iou, max_boxes, label)
    return np.concatenate([boxes, strength[:, None], label[:, None].astype(np.float64)], axis=1)[kept]


def _strongest(corners: NDArray[np.float64], objectness: NDArray[Any], how: Proposals) -> NDArray[np.intp]:
    """Rows that reach the second stage: suppressed level by level, then the best of all levels."""
    level = np.repeat(np.arange(len(how.levels)), how.levels)
    large = np.flatnonzero(_large(corners, how.min_side))
    with np.errstate(over="ignore"):
        # torchvision sorts probabilities of 32 bits, of which many are exactly 1 where their logits still differ.
        chance = 1 / (1 + np.exp(-objectness.astype(np.float32)))
    kept: NDArray[np.intp] = large[nms(corners[large], chance[large], how.nms_iou, how.kept, level[large])]
    return kept


def _moved(
    corners: NDArray[np.float64], deltas: NDArray[np.float64], weights: tuple[float, float, float, float]
) -> NDArray[np.float64]:
    """Corners (M, C, 4) of proposals (M, 4) after each class's offsets (M, C, 4): torchvision's `BoxCoder.decode`."""
    x1, y1, x2, y2 = (side[:, None] for side in corners.T)
    dx, dy, dw, dh = np.moveaxis(deltas / np.array(weights), -1, 0)
    width, height = x2 - x1, y2 - y1
    x, y = x1 + 0.5 * width + dx * width, y1 + 0.5 * height + dy * height
    half_width = 0.5 * width * exp64(np.minimum(dw, LARGEST_GROWTH))
    half_height = 0.5 * height * exp64(np.minimum(dh, LARGEST_GROWTH))
    return np.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=-1)


def _clip(corners: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    return np.asarray(np.clip(corners, 0, np.array([width, height, width, height], np.float64)))


def _large(corners: NDArray[np.float64], least: float) -> NDArray[np.bool_]:
    sides = corners[..., 2:] - corners[..., :2]
    return np.asarray(np.all(sides >= least, axis=-1))


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    power = exp64(logits - logits.max(axis=1, keepdims=True))
    chances: NDArray[np.float64] = power / power.sum(axis=1, keepdims=True)
    return chances
