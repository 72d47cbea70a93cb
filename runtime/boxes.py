"""A grid's answers as boxes (FCOS): what one head says cell by cell, thinned to the strongest of each thing.

Law: the scores are the same to the last bit in every runtime (`exponential.py`).

Shapes: C classes, K kept boxes, h x w the network's grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .exponential import sigmoid, sigmoid64
from .suppression import nms

ROUGH = 1e-6  # more than a probability of 32 bits is off by
CANDIDATES = 1000  # strongest grid cells that enter the suppression (FCOS), so that its time is bounded


def decode_boxes(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    *,
    stride: int,
    height: int,
    width: int,
    nms_iou: float,
    score_floor: float,
    max_boxes: int,
) -> NDArray[np.float64]:
    """Turn the grid's answers into boxes (K, 6) x1, y1, x2, y2, score, label in input pixels, by falling score.

    A cell (i, j) stands at ((j + 0.5) * stride, (i + 0.5) * stride); its box ends softplus(raw) * stride to the left,
    above, to the right and below (FCOS, Tian et al. 2019, without centre-ness). Weaker boxes of a label that overlap a
    stronger one of it by more than `nms_iou` are dropped.

    Args:
        boxes: (4, h, w) raw distances left, top, right, bottom.
        scores: (C, h, w) logits.
        stride: input pixels per cell.
        height: of the input; boxes are clipped to it.
        width: of the input.
        nms_iou: intersection over union.
        score_floor: least score of a box.
        max_boxes: most boxes.
    """
    label, i, j = np.nonzero(sigmoid(scores) >= score_floor - ROUGH)  # few are left for the exact exponential
    score = sigmoid64(scores[label, i, j].astype(np.float64))
    sure = score >= score_floor
    label, i, j, score = label[sure], i[sure], j[sure], score[sure]
    best = np.argsort(-score, kind="stable")[:CANDIDATES]
    label, i, j, score = label[best], i[best], j[best], score[best]
    left, top, right, bottom = np.logaddexp(0.0, boxes[:, i, j].astype(np.float64)) * stride
    x, y = (j + 0.5) * stride, (i + 0.5) * stride
    corners = np.stack([x - left, y - top, x + right, y + bottom], axis=1)
    corners = np.clip(corners, 0, np.array([width, height, width, height]))
    # Labels moved apart do not overlap: one suppression serves all.
    apart = corners + (label * 2 * max(height, width))[:, None]
    kept = nms(apart, score, nms_iou, max_boxes)
    return np.concatenate([corners, score[:, None], label[:, None].astype(np.float64)], axis=1)[kept]
