"""Mask files as arrays: one label map, or one mask a class; 255 means ignore in both.

- A label map of two classes or more holds 0 (background) to C, and may hold 255 (ignore).
- A mask of a single class is set wherever its pixel is not zero: 1 and 255 are both in use for "inside".
- `none` in a manifest stands for a mask in which nothing is set (`NOTHING`); an empty cell is a gap, not that.
- A mask has the size of its image as a viewer shows it. JPEG is refused: its labels are smeared at every edge.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import FoveolaError
from ...runtime.image import read_mask

IGNORE = 255
NONE = "none"  # in a cell
NOTHING = Path(os.devnull)  # stands for such a mask among the files

Size = tuple[int, int]  # height, width


def read_stored(path: Path, size: Size) -> NDArray[np.uint8]:
    """Read the pixels of a mask file, (H, W), as stored.

    Args:
        path: the mask.
        size: what its image has.

    Raises:
        FoveolaError: not there, broken, of another size, or not a mask.
    """
    place = str(path)
    pixels = read_mask(path, place)
    if pixels.shape != size:
        fault = f"the mask is {pixels.shape[1]}x{pixels.shape[0]}, its image {size[1]}x{size[0]}"
        raise FoveolaError(place, fault, "a mask has the size of its image")
    with path.open("rb") as stream:
        if stream.read(3) == b"\xff\xd8\xff":
            raise FoveolaError(place, "a mask must not be JPEG: its labels are smeared at every edge", "save it as PNG")
    return pixels


def read_inside(path: Path, size: Size) -> NDArray[np.bool_]:
    """Read where a mask of a single class (or an ignore mask) is set, (H, W)."""
    if path == NOTHING:
        return np.zeros(size, np.bool_)
    return np.asarray(read_stored(path, size) != 0)


def read_label_map(path: Path, classes: int, size: Size) -> NDArray[np.uint8]:
    """Read a label map of `classes` structures, (H, W): 0 background, 1 to `classes`, 255 ignore.

    Raises:
        FoveolaError: as `read_stored`, or a pixel that stands for no class.
    """
    if classes == 1:
        return read_inside(path, size).astype(np.uint8)
    if path == NOTHING:
        return np.zeros(size, np.uint8)
    pixels = read_stored(path, size)
    wrong = (pixels > classes) & (pixels != IGNORE)
    if wrong.any():
        values = ", ".join(str(value) for value in np.unique(pixels[wrong])[:5])
        fault = f"pixels hold {values}, but the task has classes 1 to {classes}"
        raise FoveolaError(str(path), fault, "0 is background, 255 is ignored")
    return pixels
