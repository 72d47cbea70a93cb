"""Draws the masks that a layout only describes, as PNG in `foveola/masks` beside the data.

- Two masks of one lung each become one label map: 1 the patient's right lung, 2 the left one.
- Polygons become one mask: 255 inside.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ....runtime.errors import FoveolaError
from ....runtime.image import read_mask
from .fit import MASKS_AT_ODDS, Size, image_size
from .layout import Layout, LungPair, Outline, Picture, with_pictures

FOLDER = PurePosixPath("foveola/masks")

Progress = Callable[[int, int, str], None]


def with_drawn_masks(root: Path, layout: Layout, progress: Progress) -> Layout:
    """Draw the masks and name them in the cells; a pair of another size than its image becomes a gap.

    Raises:
        FoveolaError: a mask is broken, or the folder cannot be written.
    """
    total, done = sum(isinstance(picture.drawing, LungPair | Outline) for picture in layout.pictures), 0
    pictures, at_odds, sides = [], [], [0, 0]
    for picture in layout.pictures:
        if isinstance(picture.drawing, LungPair | Outline):
            size = image_size(root / picture.file)
            drawn, right_first = _drawn(root, picture.drawing, size)
            if drawn is None:
                at_odds.append(picture.file)
            else:
                picture = _with_mask(root, picture, drawn)
                sides[right_first] += isinstance(picture.drawing, LungPair)
            done += 1
            progress(done, total, "masks drawn")
        pictures.append(picture)
    note = f"leftMask is the patient's left lung in {sides[0]} of {sum(sides)} images, by where it lies"
    return with_pictures(layout, pictures, {MASKS_AT_ODDS: at_odds}, *([note] if sum(sides) else []))


def _drawn(root: Path, drawing: LungPair | Outline, size: Size) -> tuple[NDArray[np.uint8] | None, bool]:
    """The mask, None when it has another size; of a pair also whether the first is the patient's right lung."""
    if isinstance(drawing, Outline):
        return _filled(drawing, size), False
    first, second = (read_mask(root / file, str(root / file)) != 0 for file in (drawing.first, drawing.second))
    if {first.shape, second.shape} != {(size[1], size[0])}:
        return None, False
    return _lungs(first, second)


def _with_mask(root: Path, picture: Picture, mask: NDArray[np.uint8]) -> Picture:
    file = save_png(root, FOLDER / f"{PurePosixPath(picture.file).stem}.png", mask)
    return msgspec.structs.replace(picture, cells=picture.cells | dict.fromkeys(picture.drawn, file))


def save_png(root: Path, file: PurePosixPath, pixels: NDArray[np.uint8]) -> str:
    """Write pixels, (H, W) or (H, W, 3), as PNG below `root`; gives the path as a manifest says it.

    Raises:
        FoveolaError: the folder cannot be written.
    """
    path = root / file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    except OSError as error:
        mend = "make room, or import a copy that can be written"
        raise FoveolaError(str(path), f"cannot be written: {error.strerror or error}", mend) from None
    return file.as_posix()


def _lungs(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], bool]:
    """The label map, and whether the first mask is the patient's right lung.

    `leftMask` may be read as the patient's left or the picture's left, and readers of this set disagree. The picture
    does not: radiographs of the chest are shown as if one faced the patient, so what lies further left in the picture
    is the patient's right lung.
    """
    right_first = _middle(first) < _middle(second)
    right, left = (first, second) if right_first else (second, first)
    labels = np.zeros(first.shape, np.uint8)
    labels[right], labels[left] = 1, 2
    return labels, right_first


def _middle(mask: NDArray[np.bool_]) -> float:
    """Mean column of what is set; the far right when nothing is."""
    columns = mask.sum(axis=0)
    return float(np.average(np.arange(len(columns)), weights=columns)) if columns.any() else float(len(columns))


def _filled(outline: Outline, size: Size) -> NDArray[np.uint8]:
    canvas = Image.new("L", size)
    pen = ImageDraw.Draw(canvas)
    for polygon in outline.polygons:
        pen.polygon(list(polygon), fill=255, outline=255)
    return np.asarray(canvas)
