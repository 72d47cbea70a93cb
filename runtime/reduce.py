"""The one resize of the runtime: Pillow's BILINEAR, of all pixels or of averages of whole blocks.

A triangle that widens on reduction looks at every pixel of a large picture several times. With `reduction: box` whole
blocks are averaged first, as many pixels as leave at least twice the size asked for, and the triangle works on these:
what Pillow calls `reducing_gap=2`, three to four times as fast on 9 megapixels. The two differ slightly, so the
manifest says which, and training has done the same.

    small = resized(picture, (256, 256), boxes=True)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GAP = 2.0  # the averaged picture has at least so many times the pixels asked for, in each direction
BILINEAR = Image.Resampling.BILINEAR
BAND_PIXELS = 2**17


def resized(picture: Image.Image, size: tuple[int, int], *, boxes: bool) -> Image.Image:
    """Bring a picture to a size.

    Args:
        picture: of mode L, RGB or I;16.
        size: columns and rows.
        boxes: averages of blocks first.
    """
    if not boxes:
        return picture.resize(size, BILINEAR)
    if picture.mode != "I;16":
        return picture.resize(size, BILINEAR, reducing_gap=GAP)
    # As Pillow does it for 8 bits (Image.resize, Image.reduce); it does not reduce 16 bits.
    steps = [max(1, int(before / after / GAP)) for before, after in zip(picture.size, size, strict=True)]
    if steps == [1, 1]:
        return picture.resize(size, BILINEAR)
    blocks = Image.fromarray(block_means(picture, steps[0], steps[1]))
    whole = (0.0, 0.0, picture.width / steps[0], picture.height / steps[1])
    return blocks.resize(size, BILINEAR, box=whole)


def block_means(picture: Image.Image, across: int, down: int) -> NDArray[np.uint16]:
    """Average blocks of `down` rows and `across` columns of a picture of mode I;16, halves up.

    Returns:
        (ceil(height / down), ceil(width / across)); blocks at the far edges may be smaller.
    """
    width, height = picture.size
    found = np.empty((-(-height // down), -(-width // across)), np.uint16)
    # Rows of blocks at a time, which stay in the processor's cache; an array of the whole picture would be a copy.
    band = max(1, BAND_PIXELS // (down * width))
    for first in range(0, len(found), band):
        rows = np.asarray(picture.crop((0, first * down, width, min((first + band) * down, height))))
        _fill(found[first : first + band], rows, across, down)
    return found


def _fill(found: NDArray[np.uint16], pixels: NDArray[np.uint16], across: int, down: int) -> None:
    """Average the blocks of some rows; slices summed, a pass for each line of a block: `reshape` is slower by far."""
    height, width = pixels.shape
    wide = np.uint32 if down * across < 2**16 else np.uint64  # a sum of so many pixels of 16 bits has room
    rows: NDArray[Any] = pixels[::down].astype(wide)
    for line in range(1, down):
        part = pixels[line::down]
        rows[: len(part)] += part
    sums: NDArray[Any] = rows[:, ::across].copy()
    for line in range(1, across):
        part = rows[:, line::across]
        sums[:, : part.shape[1]] += part
    found[:] = _means(sums, down * across)
    below, beside = height % down, width % across  # of the blocks at the far edges
    if below:
        found[-1] = _means(sums[-1], below * across)
    if beside:
        found[:, -1] = _means(sums[:, -1], down * beside)
    if below and beside:
        found[-1, -1] = _means(sums[-1:, -1:], below * beside)[0, 0]


def _means(sums: NDArray[Any], count: int) -> NDArray[np.uint16]:
    """Divide, halves up; exact, as a quotient that is not whole is further from one than the type's last digit."""
    real = np.float32 if count <= 256 else np.float64
    found: NDArray[Any] = sums.astype(real)
    found += count // 2
    found /= count
    return found.astype(np.uint16)
