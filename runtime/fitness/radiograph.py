"""Measures of a radiograph: exposure, clipping, polarity, rotation, collimation, focus.

Grey values v are shares 0..1 of the file's range, on a small copy of 192 pixels; p(q) is their percentile q.

| measure | unit | formula |
|---|---|---|
| brightness | share of the range | mean of v |
| contrast | share of the range | p(99) - p(1) |
| midtone | share of the contrast | mean of the middle three quarters, between its own p(1) and p(99) |
| shadow | share of the contrast | (p(25) - p(1)) / (p(99) - p(1)); both tell exposure and gamma behind a window |
| white, black | share of the picture | v within 1/200 of the picture's whole span from its largest, smallest value |
| focus | octaves | log2 of std(Laplacian of v) / std(v): the mean frequency of what is seen |
| field | share of the picture | rectangle in which rows and columns are exposed |
| polarity | correlation, -1..1 | of a 16 x 16 thumbnail with the average training image; a negative answers -polarity |
| upright | correlation, -2..2 | that correlation less the best one of the thumbnail turned by 90, 180 or 270 degrees |
| whole | correlation, -2..2 | that correlation less the one with the middle half of the average: low when cropped |

Sources: variance of the Laplacian as focus measure, Pech-Pacheco et al., ICPR 2000, divided by that of the picture so
that contrast cancels; correlation with a template, Lewis, Vision Interface 1995.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from .copy import Plane, grey_plane, laplacian, lit_box, small_copy
from .manifest import TEMPLATE_SIDE

NEAR = 1 / 200  # of the span: as good as its end
EXPOSED = 0.06  # of the contrast above the first percentile: more than a collimator lets through
LEAST_LIT = 0.03  # of a row or column: a letter of lead is less
EIGHTH = 8
TINY = 1e-6


def measure_radiograph(picture: Image.Image, template: Plane) -> dict[str, float]:
    """Measure a picture of mode L, I;16 or RGB; see the module's table.

    Args:
        picture: the whole picture, as it was read.
        template: (16, 16), mean 0 and length 1; see `unit_thumbnail`.
    """
    grey = grey_plane(small_copy(picture))
    found = grey_measures(grey)
    view = unit_thumbnail(grey)
    alike = [float((np.rot90(view, turns) * template).sum()) for turns in range(4)]
    middle = float((view * unit_thumbnail(template[4:12, 4:12])).sum())
    return {**found, "polarity": alike[0], "upright": alike[0] - max(alike[1:]), "whole": alike[0] - middle}


def grey_measures(grey: Plane) -> dict[str, float]:
    """Measure all that needs no template, on the small copy (H, W)."""
    # Every fourth pixel gives the same percentiles for a quarter of the time.
    first, dark, last = _percentiles(grey[::2, ::2], (0.01, 0.25, 0.99))
    rows, columns = (length // EIGHTH for length in grey.shape)
    within = grey[rows : grey.shape[0] - rows : 2, columns : grey.shape[1] - columns : 2]
    lower, upper = _percentiles(within, (0.01, 0.99))
    low, high = float(grey.min()), float(grey.max())
    near, contrast = NEAR * (high - low), last - first
    x0, y0, x1, y1 = lit_box(grey > first + max(EXPOSED * contrast, TINY), LEAST_LIT)
    flat, edges = high - low < TINY, laplacian(grey)
    return {
        "brightness": float(grey.mean()),
        "contrast": contrast,
        "midtone": (float(np.clip(within, lower, upper).mean()) - lower) / max(upper - lower, TINY),
        "shadow": (dark - first) / max(contrast, TINY),
        "white": 1.0 if flat else float((grey >= high - near).mean()),
        "black": 1.0 if flat else float((grey <= low + near).mean()),
        "focus": octaves(float(edges.std()) if edges.size else 0.0, float(grey.std())),
        "field": (x1 - x0) * (y1 - y0) / grey.size,
    }


def _percentiles(values: Plane, shares: tuple[float, ...]) -> list[float]:
    few = np.sort(values, axis=None)
    return [float(few[round(share * (few.size - 1))]) for share in shares]


def octaves(edges: float, seen: float) -> float:
    """Compare the spread of the Laplacian with that of what is seen; the lowest number there is for a flat one."""
    return math.log2(max(edges, TINY**2) / max(seen, TINY))


def unit_thumbnail(grey: Plane) -> Plane:
    """Reduce to (16, 16), with mean 0 and length 1; all zeros for a flat picture."""
    small = np.asarray(Image.fromarray(grey).resize((TEMPLATE_SIDE, TEMPLATE_SIDE), Image.Resampling.BILINEAR))
    small = small - small.mean()
    length = float(np.linalg.norm(small))
    return np.asarray(small / length if length > TINY else np.zeros_like(small), np.float32)
