"""Numbers that clinicians read off masks: the cardiothoracic ratio and the vertical cup-to-disc ratio.

An extent reaches from the first to the last pixel of a part, both counted; a stray pixel far away is part of it, as it
would be for the one who reads the number. A ratio exists only where both parts are there; otherwise it is NaN, which
the proof treats like any other gap: the reference's or the teacher's leaves the case out and is counted, the student's
is the worst answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .protocol import Biomarker

Mask = NDArray[np.bool_]
ROWS, COLUMNS = 0, 1  # axes along which an extent is taken


def measure_marker(marker: Biomarker, classes: Sequence[str], masks: Mask) -> float:
    """Measure one image.

    Args:
        marker: what to measure.
        classes: of the segmentation, C in order.
        masks: (C, H, W).
    """
    inner, outer = (
        np.asarray(masks[[classes.index(name) for name in names]].any(axis=0)) for names in (marker.inner, marker.outer)
    )
    return {"cardiothoracic_ratio": cardiothoracic_ratio, "cup_disc_ratio": cup_disc_ratio}[marker.kind](inner, outer)


def cardiothoracic_ratio(heart: Mask, lungs: Mask) -> float:
    """Give the widest extent of the heart over that of the lungs, both (H, W), from side to side (Danzer 1919).

    The lungs' outer edges stand for the thorax, whose ribs have no mask. NaN where either is empty.
    """
    return _ratio(_extent(heart, COLUMNS), _extent(lungs, COLUMNS))


def cup_disc_ratio(cup: Mask, disc: Mask) -> float:
    """Give the extent of the cup over that of the disc, both (H, W), from top to bottom; NaN where either is empty."""
    return _ratio(_extent(cup, ROWS), _extent(disc, ROWS))


def _ratio(inner: int, outer: int) -> float:
    return inner / outer if inner and outer else float("nan")


def _extent(mask: Mask, axis: int) -> int:
    """Give the pixels from the first to the last along an axis."""
    places = np.flatnonzero(mask.any(axis=1 - axis))
    return int(places[-1] - places[0] + 1) if len(places) else 0
