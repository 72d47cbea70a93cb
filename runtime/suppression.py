"""Greedy non-maximum suppression: of boxes that overlap, the strongest stays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def nms(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    iou: float,
    most: int | None = None,
    groups: NDArray[Any] | None = None,
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression: indices of the kept boxes, by falling score (the earlier box at a tie).

    Args:
        boxes: (M, 4) x1, y1, x2, y2.
        scores: (M,).
        iou: a box that overlaps a kept one by more than this goes.
        most: stop after so many.
        groups: (M,) a box suppresses those of its own group only; None: all are of one.
    """
    x1, y1, x2, y2 = boxes.T
    area = (x2 - x1) * (y2 - y1)
    waiting = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(waiting) and len(kept) != most:
        first, rest = waiting[0], waiting[1:]
        kept.append(int(first))
        wide = np.minimum(x2[first], x2[rest]) - np.maximum(x1[first], x1[rest])
        high = np.minimum(y2[first], y2[rest]) - np.maximum(y1[first], y1[rest])
        shared = np.maximum(wide, 0) * np.maximum(high, 0)
        # Not divided: a box without area shares nothing and is kept.
        stays = shared <= iou * (area[first] + area[rest] - shared)
        if groups is not None:
            stays |= groups[rest] != groups[first]
        waiting = rest[stays]
    return np.array(kept, np.intp)
