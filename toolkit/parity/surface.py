"""How far two outlines lie apart: normalised surface Dice and the 95th percentile of the surface distance, in 2-D.

Nikolov et al. (JMIR 2021, "Clinically applicable segmentation of head and neck anatomy") weigh each element of an
outline by its length and do not count border pixels, so that slanted outlines are not favoured. An element lies at the
corner of four pixels; its length follows from which of them are inside. Pixels beyond the image are outside: a mask at
the image's edge has an outline there.

| | NSD | HD95 |
|---|---|---|
| both empty | 1 | 0 |
| one empty | 0 | the image's diagonal |

No answer is NaN: a model that misses a structure would score better by being left out of the mean (MONAI issue 9095).
The diagonal is the largest distance there can be, so that missing a structure is never better than finding it badly.
"""

from __future__ import annotations

from math import hypot

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

from .cases import Array

Mask = NDArray[np.bool_]
PERCENTILE = 95.0
SLACK = 1e-9  # relative: 3 times 0.1 mm is not more than 0.3 mm, and 95 of 100 equal lengths are 95 % of them
DENSE = 0.05  # elements a pixel from which a distance map is faster than a search tree


def surface_measures(truth: Mask, answer: Mask, spacing: float, tolerance: float) -> tuple[float, float]:
    """Give the normalised surface Dice and the 95th percentile of the surface distance (the larger of both ways).

    Args:
        truth: (H, W) the reference.
        answer: (H, W) the model's mask.
        spacing: millimetres a pixel; 0 measures in pixels.
        tolerance: distance up to which two outlines agree, in the same unit.

    Raises:
        ValueError: the masks have not one shape of two axes.
    """
    if truth.ndim != 2 or truth.shape != answer.shape:
        raise ValueError(f"masks of shapes {truth.shape} and {answer.shape}")
    unit = spacing or 1.0
    if not truth.any() and not answer.any():
        return 1.0, 0.0
    if not truth.any() or not answer.any():
        return 0.0, hypot(*truth.shape) * unit
    first, first_lengths = outline(truth)
    second, second_lengths = outline(answer)
    there, back = _nearest(first, second), _nearest(second, first)
    within = tolerance / unit * (1.0 + SLACK)
    near = float(first_lengths[there <= within].sum() + second_lengths[back <= within].sum())
    nsd = near / float(first_lengths.sum() + second_lengths.sum())
    return nsd, max(_percentile(there, first_lengths), _percentile(back, second_lengths)) * unit


def outline(mask: Mask) -> tuple[NDArray[np.intp], Array]:
    """Give the outline's elements, in pixels: corners (K, 2), rows then columns, and lengths (K,).

    Corner (r, c) lies between the pixels (r - 1, c - 1) and (r, c). An outline that passes straight has the length 1
    there, one that cuts a corner half a diagonal; where two pixels touch at a corner only, it does so twice.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.zeros((0, 2), dtype=np.intp), np.zeros(0)
    top, left = rows[0], columns[0]
    inside = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    a, b, c, d = inside[:-1, :-1], inside[:-1, 1:], inside[1:, :-1], inside[1:, 1:]
    places = np.argwhere((a != b) | (a != c) | (a != d))
    near = np.stack([part[places[:, 0], places[:, 1]] for part in (a, b, c, d)])
    count = near.sum(axis=0)
    lengths = np.where(count != 2, 0.5**0.5, np.where(near[0] == near[3], 2.0**0.5, 1.0))
    return places + np.array([top, left]), lengths


def _nearest(points: NDArray[np.intp], others: NDArray[np.intp]) -> Array:
    """Give the distance (K,) from each point to the nearest of the others, in pixels; exact both ways."""
    corner = np.minimum(points.min(axis=0), others.min(axis=0))
    size = np.maximum(points.max(axis=0), others.max(axis=0)) - corner + 1
    if len(points) + len(others) < DENSE * size.prod():
        near: Array = np.asarray(KDTree(others).query(points)[0], np.float64)
        return near
    free = np.ones(size, dtype=bool)
    free[tuple((others - corner).T)] = False
    field: Array = np.asarray(distance_transform_edt(free), np.float64)
    return np.asarray(field[tuple((points - corner).T)], np.float64)


def _percentile(distances: Array, lengths: Array) -> float:
    """Give the distance within which 95 % of the outline's length lie."""
    order = np.argsort(distances, kind="stable")
    until = np.cumsum(lengths[order])
    place = int(np.searchsorted(until, PERCENTILE / 100.0 * until[-1] * (1.0 - SLACK)))
    return float(distances[order][min(place, len(order) - 1)])
