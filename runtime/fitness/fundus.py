"""Measures of a fundus photograph: field of view, focus, illumination, colour cast, disc and macula.

Red, green and blue are shares 0..1 of the file's range, on a small copy of 128 pixels. The field is what is brighter
than the dark surround; all but `field` and `surround` is measured in its inner part, a disc of 9/10 of its width.

| measure | unit | formula |
|---|---|---|
| field | share of a full disc | its part that is lit; w wide, the longer side of the lit rectangle, and in its middle |
| surround | share of its outside | what is dark in the lit rectangle outside of that disc; 1 without an outside |
| brightness | share of the range | mean luma (ITU-R 601) |
| white | share of the field | brightest channel at 98 % of the range or more |
| black | share of the field | luma below a quarter of its median |
| contrast | share of the mean | std / mean of the green, of what is finer than a tenth of the field |
| evenness | ratio | mean luma of the darkest quarter (left, right, upper, lower third) over that of the brightest |
| focus | octaves | log2 of std(Laplacian) / std of the green: vessels stand out most in it |
| red_green | octaves | log2 of the mean red over the mean green: log chromaticity |
| blue | share of the light | mean blue over the sum of the mean red, green and blue; many cameras see next to none |
| disc | standard deviations | largest (mean luma of a square as large as a disc) - (of one three times as wide) |
| macula | share of the light | largest 1 - (mean green of a small square) / (of one twice as wide), beside the disc |

Sources: focus, Pech-Pacheco et al., ICPR 2000; uneven illumination, colour and visible structures as what makes a
fundus photograph gradable, Fu et al., MICCAI 2019 (EyeQ); log chromaticity, Finlayson and Hordley, JOSA A 2001. A disc
is a tenth to a fifth of a field of 60 to 30 degrees; the fovea lies some 15 degrees beside its middle, and little
below. It is sought where fields of 35 to 60 degrees have it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from .copy import Plane, Squares, grey_plane, laplacian, lit_box, small_copy
from .radiograph import octaves

FULL = np.float32(255)
LEVELS = np.arange(256) / 255
# The surround, as `runtime.image.field_of_view` finds it: a share of the 99th percentile, and in 1/255 of the range.
DIM, DARK = 0.15, 8
LEAST_LIT = 0.02  # of a row or column: dust and hot pixels are less
LEAST_FIELD = 0.02  # of the picture: less is no field
WIDE = 128  # pixels: longer side of the small copy; the larger vessels still show in it
LEAST_SIDE = 8  # pixels of the small copy
INNER = 0.45  # of the width: radius of the part that is measured
SATURATED = 0.98
COARSE = 32  # pixels: side of the copy on which disc and macula are sought
DISCS = (0.10, 0.14, 0.19)  # of the field's width, rising
MACULA = 0.06
FINE = 0.1
NEAREST, FARTHEST, SLOPE = 0.25, 0.45, 0.3  # macula to disc: of the field's width, and rise over run
NOISE = 1 / 255
RIM = 0.02  # of the width: the edge of the disc is not sharp
MOSTLY = 0.6  # of a square must lie in the field
ALL = 0.99


def measure_fundus(picture: Image.Image) -> dict[str, float]:
    """Measure a picture of mode RGB, L or I;16; see the module's table. Without a field there is `field` alone."""
    small = small_copy(picture, WIDE)
    if small.mode != "RGB":
        small = Image.fromarray((grey_plane(small) * FULL).astype(np.uint8)).convert("RGB")
    red, green, blue = small.split()
    light = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    level = max(DARK, DIM * _percentile(light.histogram(), 0.99))
    lit = np.asarray(light) > level
    x0, y0, x1, y1 = box = lit_box(lit, LEAST_LIT)
    width = max(x1 - x0, y1 - y0)
    if (x1 - x0) * (y1 - y0) < LEAST_FIELD * lit.size or min(x1 - x0, y1 - y0) < LEAST_SIDE:
        return {"field": 0.0}
    lit = lit[y0:y1, x0:x1]
    far = _distances(lit.shape)
    inside = lit & (far <= (INNER * width) ** 2)
    if np.count_nonzero(inside) < LEAST_FIELD * inside.size:
        return {"field": 0.0}
    full, beyond = far <= (width / 2) ** 2, far > ((0.5 + RIM) * width) ** 2
    outside = np.count_nonzero(beyond)
    return {
        "field": np.count_nonzero(lit & full) / (math.pi / 4 * width**2),
        "surround": 1 - np.count_nonzero(lit & beyond) / outside if outside else 1.0,
        **_light(small.crop(box), light.crop(box), inside),
        **_structures(small.crop(box), inside),
    }


def _percentile(counts: Sequence[int] | NDArray[np.float64], share: float) -> int:
    """Give the grey value at a share of a histogram's pixels, the nearest rank."""
    upto = np.cumsum(counts)
    return int(np.searchsorted(upto, share * upto[-1]))


def _distances(shape: tuple[int, ...]) -> Plane:
    """Squares of the distances from the middle, in pixels."""
    rows, columns = (np.arange(length, dtype=np.float32) - (length - 1) / 2 for length in shape)
    return np.asarray(rows[:, None] ** 2 + columns**2, np.float32)


def _light(field: Image.Image, light: Image.Image, inside: NDArray[np.bool_]) -> dict[str, float]:
    """Measure light, colour and focus; Pillow counts grey values faster than numpy picks pixels."""
    mask = Image.fromarray(inside.view(np.uint8) * np.uint8(255))
    colours = np.array(field.histogram(mask), np.float64).reshape(3, 256)
    luma, brightest = (np.array(one.histogram(mask), np.float64) for one in (field.convert("L"), light))
    means = colours @ LEVELS / luma.sum() + NOISE
    green = np.asarray(field.getchannel(1), np.float32) / FULL
    spread = float(colours[1] @ (LEVELS + NOISE - means[1]) ** 2 / luma.sum())
    edges = np.where(inside[1:-1, 1:-1], laplacian(green), 0).ravel()
    power = float(edges @ edges) / max(1, int(np.count_nonzero(inside[1:-1, 1:-1])))
    dark = 0.25 * _percentile(luma, 0.5)
    return {
        "brightness": float(luma @ LEVELS / luma.sum()),
        "white": float(brightest[LEVELS >= SATURATED].sum() / luma.sum()),
        "black": float(luma[: math.ceil(dark)].sum() / luma.sum()),
        "focus": octaves(math.sqrt(power), math.sqrt(spread)),
        "red_green": float(np.log2(means[0] / means[1])),
        "blue": float(means[2] / means.sum()),
    }


def _structures(field: Image.Image, inside: NDArray[np.bool_]) -> dict[str, float]:
    """Measure what shows on a coarse copy: evenness, contrast, disc and macula."""
    planes = np.stack([_coarse(field.convert("L")), _coarse(field.getchannel(1))])
    within = _coarse(Image.fromarray(inside)) > ALL
    if np.count_nonzero(within) < LEAST_SIDE**2:
        return {"evenness": 0.0, "contrast": 0.0, "disc": 0.0, "macula": 0.0}
    squares = Squares(planes, within.astype(np.float32), 3 * _radius(DISCS[-1]))
    luma, green = planes
    smooth = squares.means(_radius(FINE))[0][1]
    place, disc = _find_disc(squares, within, float(luma[within].std()))
    return {
        "evenness": _evenness(luma, within),
        "contrast": float((green - smooth)[within].std()) / max(float(green[within].mean()), NOISE),
        "disc": disc,
        "macula": _find_macula(squares, within, place),
    }


def _radius(size: float) -> int:
    """Half of a share of the field's width, in pixels of the coarse copy."""
    return max(1, round(size * COARSE / 2))


def _coarse(plane: Image.Image) -> Plane:
    """Reduce to (32, 32) shares of the range; a field that is cut off at its sides lies in the middle, on black."""
    longest = max(plane.size)
    width, height = (max(1, round(length * COARSE / longest)) for length in plane.size)
    out = np.zeros((COARSE, COARSE), np.float32)
    left, above = (COARSE - width) // 2, (COARSE - height) // 2
    small = plane.convert("L").resize((width, height), Image.Resampling.BOX)
    np.divide(np.asarray(small), FULL, out=out[above : above + height, left : left + width], dtype=np.float32)
    return out


def _evenness(luma: Plane, within: NDArray[np.bool_]) -> float:
    third = COARSE // 3
    parts = (np.s_[:, :third], np.s_[:, -third:], np.s_[:third], np.s_[-third:])
    means = [float(luma[part][within[part]].mean()) for part in parts if within[part].any()]
    return min(means) / max(*means, NOISE) if len(means) > 1 else 0.0


def _find_disc(squares: Squares, within: NDArray[np.bool_], deviation: float) -> tuple[tuple[int, int], float]:
    """Find row and column of what looks most like a disc, and by how many standard deviations it stands out."""
    best = np.zeros(within.shape)
    for size in DISCS:
        centre, share = squares.means(_radius(size))
        around, _ = squares.means(3 * _radius(size))
        np.maximum(best, np.where((share >= MOSTLY) & within, centre[0] - around[0], 0), out=best)
    row, column = divmod(int(best.argmax()), COARSE)
    return (row, column), float(best[row, column]) / max(deviation, NOISE)


def _find_macula(squares: Squares, within: NDArray[np.bool_], disc: tuple[int, int]) -> float:
    """Find how much darker than around it the darkest place is where a macula can lie, on either side of the disc."""
    line = np.arange(COARSE)
    down, across = np.abs(line[:, None] - disc[0]), np.abs(line - disc[1])
    there = (across >= NEAREST * COARSE) & (across <= FARTHEST * COARSE) & (down <= SLOPE * across) & within
    centre, share = squares.means(_radius(MACULA))
    around, _ = squares.means(2 * _radius(MACULA))
    return float(np.where(there & (share >= MOSTLY), 1 - centre[1] / np.maximum(around[1], NOISE), 0).max())
