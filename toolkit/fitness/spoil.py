"""Good pictures spoiled on purpose, one fault at a time, so that a rule can be seen to catch it.

Every fault is a function of the picture alone: values (H, W) or (H, W, 3) as shares 0..1 of the range, and back. They
are strong enough that a reader would send the picture back, and no stronger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ...runtime.fitness.manifest import FitnessKind
from ...runtime.image import Pixels

Values = NDArray[np.floating]
Fault = Callable[[Values], Values]
BLUR = 1 / 170  # of the longer side: a disc of confusion of 3.5 pixels in a picture of 256
DISC = 0.11  # radius of what is painted over, of the width


def spoil(picture: Image.Image, fault: Fault) -> Image.Image:
    """Carry a fault out on a picture of mode L, I;16 or RGB; it keeps its mode."""
    pixels: Pixels = np.asarray(picture)
    full = float(np.iinfo(pixels.dtype).max)
    spoiled = np.clip(fault(pixels / np.float32(full)), 0, 1)
    return Image.fromarray(np.ascontiguousarray(np.rint(spoiled * full), dtype=pixels.dtype))


def blurred(values: Values) -> Values:
    """Out of focus, or moved."""
    sigma = BLUR * max(values.shape[:2])
    return np.asarray(ndimage.gaussian_filter(values, (sigma, sigma, 0)[: values.ndim], mode="nearest"))


def clipped(values: Values) -> Values:
    """A window so narrow that a quarter of the picture is black and a quarter white."""
    low, high = np.quantile(values, (0.25, 0.75))
    stretched: Values = (values - low) / max(float(high - low), 1e-3)
    return stretched


def cropped(values: Values) -> Values:
    """The middle half of the picture."""
    height, width = values.shape[:2]
    middle: Values = values[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return middle


def collimated(values: Values) -> Values:
    """Shutters over all but the middle three fifths."""
    height, width = (length // 5 for length in values.shape[:2])
    out = np.full_like(values, values.min())
    out[height:-height, width:-width] = values[height:-height, width:-width]
    return out


def uneven(values: Values) -> Values:
    """Bright on one side, dark on the other."""
    slope = np.linspace(0.15, 1.2, values.shape[1])
    return values * slope.reshape(1, -1, *(1,) * (values.ndim - 2))


def half_dark(values: Values) -> Values:
    """Two fifths of the picture hidden, as by a lid or a lash."""
    out = values.copy()
    out[:, : 2 * values.shape[1] // 5] = 0
    return out


def tinted(red: float, green: float, blue: float) -> Fault:
    """Give the fault that multiplies the colours."""

    def tint(values: Values) -> Values:
        return values * np.array([red, green, blue]) if values.ndim == 3 else values

    return tint


def without_disc(values: Values) -> Values:
    """The brightest round place of the field painted over with what is around it."""
    luma = _smooth(values)
    return _painted(values, *_extreme(luma, _within(luma), largest=True))


def without_macula(values: Values) -> Values:
    """The darkest round place beside the disc painted over with what is around it."""
    luma = _smooth(values)
    inside = _within(luma)
    row, column = _extreme(luma, inside, largest=True)
    width = luma.shape[1]
    rows, columns = np.ogrid[: luma.shape[0], :width]
    down, across = np.abs(rows - row), np.abs(columns - column)
    beside = inside & (across > 0.25 * width) & (across < 0.45 * width) & (down < 0.3 * across)
    return _painted(values, *_extreme(luma, beside if beside.any() else inside, largest=False))


def _smooth(values: Values) -> Values:
    grey = values.mean(axis=2) if values.ndim == 3 else values
    return np.asarray(ndimage.gaussian_filter(grey, 0.035 * grey.shape[1]))


def _within(luma: Values) -> NDArray[np.bool_]:
    lit = luma > 0.3 * float(np.quantile(luma, 0.95))
    return np.asarray(ndimage.binary_erosion(lit, iterations=max(1, luma.shape[1] // 16)), np.bool_)


def _extreme(luma: Values, where: NDArray[np.bool_], *, largest: bool) -> tuple[int, int]:
    score = np.where(where, luma if largest else -luma, -np.inf)
    row, column = np.unravel_index(int(score.argmax()), luma.shape)
    return int(row), int(column)


def _painted(values: Values, row: int, column: int) -> Values:
    rows, columns = np.ogrid[: values.shape[0], : values.shape[1]]
    far = np.hypot(rows - row, columns - column) / (DISC * values.shape[1])
    around = values[(far > 1) & (far < 1.4)]
    share = np.clip((1.1 - far) / 0.2, 0, 1)[(...,) + (None,) * (values.ndim - 2)]
    painted: Values = values * (1 - share) + np.median(around, axis=0) * share
    return painted


BOTH: Mapping[str, Fault] = {
    "out of focus": blurred,
    "dark": lambda values: values / 4,
    "dark mid-tones": lambda values: values**4,
    "bright mid-tones": lambda values: values**0.25,
    "clipped": clipped,
    "inverted": lambda values: 1 - values,
    "cropped": cropped,
}
FAULTS: Mapping[FitnessKind, Mapping[str, Fault]] = {
    "radiograph": {
        **BOTH,
        "turned by 90 degrees": lambda values: np.rot90(values),
        "turned by 180 degrees": lambda values: np.rot90(values, 2),
        "collimated": collimated,
    },
    "fundus": {
        **BOTH,
        "unevenly lit": uneven,
        "half dark": half_dark,
        "green cast": tinted(0.5, 1.2, 1.0),
        "blue cast": tinted(0.7, 0.9, 3.0),
        "no disc": without_disc,
        "no macula": without_macula,
    },
}
