"""Turns the masks of fundus sets into PNG files that a manifest can name, in `foveola/masks` beside the data.

- Masks as GIF or in colours: whatever is not black becomes 255. Files that can be read as they are stay where they are.
- Optic disc and cup come in one file with three values, and publishers do not agree on them: 255 background, 128 rim,
  0 cup (REFUGE); 0, 1, 2 or 0, 128, 255 for background, rim, cup (copies of it). The background is what most pixels
  are, and that tells which it is. Drawn are `mask_disc` (a label map: 1 rim, 2 cup), and disc and cup alone.
- With the disc come its centre, the vertical cup-to-disc ratio, and the eye: the disc lies nasally of the fovea, which
  is on the right in the picture of a right eye.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ....runtime.errors import FoveolaError
from ....runtime.image import LIMITS, read_mask
from .draw import FOLDER, save_png
from .fit import MASKS_AT_ODDS, image_size
from .layout import DiscCup, Inked, Layout, Picture, with_pictures

DISC, WHOLE, CUP = "mask_disc", "mask_optic_disc", "mask_cup"
DISC_COLUMNS = (DISC, WHOLE, CUP)
FORMATS = ("GIF", "PNG", "TIFF", "BMP")  # no other decoder sees the file
READ_AS_THEY_ARE = ("1", "L", "P")  # modes of Pillow
ODD_VALUES = "images whose disc mask has other values than background, rim, cup (kept, with a gap)"

Progress = Callable[[int, int, str], None]  # done, total, of what


def with_eye_masks(root: Path, layout: Layout, progress: Progress) -> Layout:
    """Draw the masks that are no label maps yet; those of another size than their image become gaps.

    Raises:
        FoveolaError: a mask is broken, or the folder cannot be written.
    """
    asked = [picture for picture in layout.pictures if isinstance(picture.drawing, Inked | DiscCup)]
    drawn: dict[str, Picture] = {}
    wrong: dict[str, list[str]] = {MASKS_AT_ODDS: [], ODD_VALUES: []}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, (picture, why) in enumerate(pool.map(lambda one: _drawn(root, one), asked), 1):
            drawn[picture.file] = picture
            if why:
                wrong[why].append(picture.file)
            progress(done, len(asked), "masks drawn")
    return with_pictures(layout, (drawn.get(one.file, one) for one in layout.pictures), wrong)


def _drawn(root: Path, picture: Picture) -> tuple[Picture, str]:
    """The picture with its masks, and why one of them is a gap."""
    size, name = image_size(root / picture.file), PurePosixPath(picture.file).stem
    why = ""
    cells: dict[str, str] = {}
    if isinstance(picture.drawing, Inked):
        for column, file in picture.drawing.files.items():
            place = FOLDER / f"{name}_{column.removeprefix('mask_')}.png"
            cells[column], odds = _inked(root, file, place, size)
            why = why or odds
    elif isinstance(picture.drawing, DiscCup):
        labels = read_mask(root / picture.drawing.file, str(root / picture.drawing.file))
        if labels.shape != (size[1], size[0]):
            return picture, MASKS_AT_ODDS
        rim_cup = disc_and_cup(labels)
        if rim_cup is None:
            return picture, ODD_VALUES
        masks = {DISC: rim_cup, WHOLE: _white(rim_cup > 0), CUP: _white(rim_cup == 2)}
        for column, mask in masks.items():
            cells[column] = save_png(root, FOLDER / f"{name}_{column.removeprefix('mask_')}.png", mask)
        cells |= measures_of(rim_cup, picture.cells.get("fovea_x", ""))
    return msgspec.structs.replace(picture, cells=picture.cells | cells), why


def _inked(root: Path, file: str, place: PurePosixPath, size: tuple[int, int]) -> tuple[str, str]:
    """The path of a readable mask; empty, with the reason, when its size is another one."""
    try:
        with Image.open(root / file, formats=FORMATS) as image:
            if image.size != size:
                return "", MASKS_AT_ODDS
            if max(size) > LIMITS.max_side or size[0] * size[1] > LIMITS.max_pixels:
                raise FoveolaError(str(root / file), f"absurd size of {size[0]} x {size[1]} pixels")
            if image.mode in READ_AS_THEY_ARE and image.format != "GIF":
                return file, ""
            # A palette is resolved here, and what is transparent keeps its colour.
            inside = (np.asarray(image.convert("RGB")) != 0).max(axis=-1)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise FoveolaError(str(root / file), f"truncated or broken ({error})", "unpack the data set again") from None
    return save_png(root, place, _white(inside)), ""


def disc_and_cup(pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """A label map, (H, W): 1 rim of the optic disc, 2 cup; None when the values are none that are known.

    >>> disc_and_cup(np.array([[255, 255, 255], [255, 128, 0]], np.uint8))
    array([[0, 0, 0],
           [0, 1, 2]], dtype=uint8)
    >>> disc_and_cup(np.array([[0, 0, 0], [0, 1, 2]], np.uint8))
    array([[0, 0, 0],
           [0, 1, 2]], dtype=uint8)
    """
    values, counts = np.unique(pixels, return_counts=True)
    background = int(values[counts.argmax()])
    known = {255: {127: 1, 128: 1, 0: 2}, 0: {1: 1, 2: 2, 127: 1, 128: 1, 255: 2}}.get(background)
    found = {int(value) for value in values} - {background}
    if known is None or found - known.keys() or {1, 255} <= found or {2, 128} <= found:
        return None
    labels = np.zeros(pixels.shape, np.uint8)
    for value in found:
        labels[pixels == value] = known[value]
    return labels


def measures_of(rim_cup: NDArray[np.uint8], fovea_x: str = "") -> dict[str, str]:
    """Centre of the disc in pixels, vertical cup-to-disc ratio and eye, as cells; nothing where no disc is drawn."""
    rows, columns = np.nonzero(rim_cup)
    if not len(rows):
        return {}
    x, y = (columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2
    cup = np.nonzero(rim_cup == 2)[0]
    height = int(cup.max() - cup.min()) + 1 if len(cup) else 0
    cells = {"od_x": f"{x:g}", "od_y": f"{y:g}", "cup_disc_ratio": f"{height / (rows.max() - rows.min() + 1):.4f}"}
    return cells | ({"eye": eye_of(x, float(fovea_x))} if fovea_x else {})


def eye_of(disc_x: float, fovea_x: float) -> str:
    """`right` or `left` by where the disc lies."""
    return "right" if disc_x > fovea_x else "left"


def _white(inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return inside.astype(np.uint8) * np.uint8(255)
