"""The small copy of a picture on which fitness is measured, and arithmetic on it.

The longer side has 192 pixels at most (a radiograph; 128 for a fundus photograph), each the mean of those it covers:
what is finer hardly matters to whether an image is fit, and a copy of this size is measured in half a millisecond. A
copy of a copy of the same size is that copy, bit for bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.float32]  # (H, W)
SIDE = 192  # pixels
TINY = 1e-6


def small_copy(picture: Image.Image, side: int = SIDE) -> Image.Image:
    """Reduce a picture (L, RGB or I;16) so that its longer side is at most `side`; a small one stays as it is."""
    longest = max(picture.size)
    if longest <= side:
        return picture
    width, height = (max(1, round(length * side / longest)) for length in picture.size)
    # Whole steps first: several times as fast, and a box mean of box means is one. It does not know 16 bits.
    step = min(picture.width // width, picture.height // height)
    if step > 1 and picture.mode != "I;16":
        picture = picture.reduce(step)
    return picture.resize((width, height), Image.Resampling.BOX)


def grey_plane(picture: Image.Image) -> Plane:
    """Give a picture's light in 0..1 of its file's range, (H, W); colour by ITU-R 601 luma."""
    grey = picture.convert("L") if picture.mode == "RGB" else picture
    pixels = np.asarray(grey)
    return np.asarray(pixels / np.float32(np.iinfo(pixels.dtype).max), np.float32)


def laplacian(plane: Plane) -> Plane:
    """Give the Laplacian (4 neighbours) of the inner pixels, (H - 2, W - 2)."""
    inner = 4 * plane[1:-1, 1:-1]
    inner -= plane[:-2, 1:-1]
    inner -= plane[2:, 1:-1]
    inner -= plane[1:-1, :-2]
    inner -= plane[1:-1, 2:]
    return inner


def lit_box(lit: NDArray[np.bool_], least: float) -> tuple[int, int, int, int]:
    """Find the rows and columns, x0, y0, x1, y1, of which a share of at least `least` is lit; zeros where none is."""
    spans = []
    for axis in (0, 1):
        lines = np.flatnonzero(np.count_nonzero(lit, axis=axis) >= least * lit.shape[axis])
        if not len(lines):
            return 0, 0, 0, 0
        spans.append((int(lines[0]), int(lines[-1]) + 1))
    (x0, x1), (y0, y1) = spans
    return x0, y0, x1, y1


class Squares:
    """Weighted means over all squares of planes (P, H, W), by tables of sums (Crow, SIGGRAPH 1984).

    Args:
        planes: the values.
        weight: (H, W), 0 where a value does not count.
        reach: largest radius that will be asked for, in pixels.
    """

    def __init__(self, planes: NDArray[np.float32], weight: Plane, reach: int) -> None:
        height, width = weight.shape
        self._reach = reach
        # Beyond the border there is nothing; the last of the tables is the weight's own.
        table = np.zeros((len(planes) + 1, height + 2 * reach + 1, width + 2 * reach + 1))
        inner = table[:, reach + 1 : reach + 1 + height, reach + 1 : reach + 1 + width]
        np.multiply(planes, weight, out=inner[:-1])
        inner[-1] = weight
        np.cumsum(table, axis=1, out=table)
        self._table = np.cumsum(table, axis=2, out=table)

    def means(self, radius: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give the mean of the 2 radius + 1 pixels wide square around each pixel, and its share of weight.

        The means are (P, H, W), 0 without weight; the share is (H, W).
        """
        sums = self._over(radius)
        return sums[:-1] / np.maximum(sums[-1], TINY), sums[-1] / (2 * radius + 1) ** 2

    def _over(self, radius: int) -> NDArray[np.float64]:
        table, start = self._table, self._reach - radius
        size, end = 2 * radius + 1, -2 * self._reach - 1
        height, width = table.shape[1] + end, table.shape[2] + end
        top, left = slice(start, start + height), slice(start, start + width)
        bottom, right = slice(start + size, start + size + height), slice(start + size, start + size + width)
        sums = table[:, bottom, right] - table[:, top, right]
        sums -= table[:, bottom, left]
        sums += table[:, top, left]
        return sums
