"""Holds what a layout says against the pixels: damaged files, boxes and masks of another size than their image.

- Boxes belong to a picture of a certain size. If most of them do not fit, they are in another coordinate system and the
  data set is refused; single ones that do not fit become gaps and are named.
- A box that reaches over the border by up to one per cent was rounded and is cut; one without area is left out.
- Points (the centre of the fovea) lie within their image, by the same rule: on a reduced copy most of them do not.
- Only headers are read, except where a publisher's own files are known to be damaged.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from PIL import Image

from ....runtime.errors import FoveolaError
from ....runtime.image import read_image
from ..cells import BoxCell
from ..masks import NONE
from .layout import Boxes, Layout, Outline, Picture, with_pictures

BORDER = 0.01  # of a side, that a box may reach over it
FEW = 0.05  # of the images with boxes: fewer at odds are slips, more are another coordinate system
DAMAGED = "damaged files"
BOXES_AT_ODDS = "images whose boxes do not fit (kept, with a gap)"
POINTS_AT_ODDS = "images whose points lie outside (kept, with a gap)"
MASKS_AT_ODDS = "images whose mask has another size (kept, with a gap)"

ORIENTATION = 0x0112  # the EXIF tag
LYING = (5, 6, 7, 8)  # its values that swap width and height

Size = tuple[int, int]  # width, height
Progress = Callable[[int, int, str], None]


def without_damaged(root: Path, layout: Layout, progress: Progress) -> Layout:
    """Decode all images and leave out those that cannot be."""
    kept, damaged = [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sound = pool.map(lambda picture: _is_sound(root / picture.file), layout.pictures)
        for done, (picture, fine) in enumerate(zip(layout.pictures, sound, strict=True), 1):
            if fine:
                kept.append(picture)
            else:
                damaged.append(picture.file)
            progress(done, len(layout.pictures), "images decoded")
    return with_pictures(layout, kept, {DAMAGED: damaged})


def with_fitting_boxes(root: Path, layout: Layout) -> Layout:
    """Cut boxes at the border, and take those that do not fit for gaps.

    Raises:
        FoveolaError: too many do not fit: another coordinate system.
    """
    asked = [picture for picture in layout.pictures if picture.boxes]
    faults: dict[str, str] = {}
    fitted: dict[str, Boxes] = {}
    empty = 0
    for picture in asked:
        boxes = picture.boxes or ()
        found = _fit(boxes, image_size(root / picture.file), picture.box_size)
        if isinstance(found, str):
            faults[picture.file] = found
        else:
            fitted[picture.file] = found
            empty += len(boxes) - len(found)
    if len(faults) > FEW * len(asked):
        first, fault = next(iter(faults.items()))
        said = f"boxes in another coordinate system: {len(faults)} of {len(asked)} images, first {first}: {fault}"
        raise FoveolaError(str(root), said, layout.box_mend)
    pictures = [_with_boxes(picture, fitted, faults) for picture in layout.pictures]
    notes = [f"{empty} boxes without area were left out"] if empty else []
    return with_pictures(layout, pictures, {BOXES_AT_ODDS: list(faults)}, *notes)


def with_fitting_points(root: Path, layout: Layout) -> Layout:
    """Hold points against their images; single ones that lie outside become gaps.

    Raises:
        FoveolaError: more than a few lie outside: they belong to pictures of another size.
    """
    faults: dict[str, str] = {}
    pictures, asked = [], 0
    for picture in layout.pictures:
        known = [pair for pair in layout.points if all(picture.cells.get(name, "") for name in pair)]
        asked += bool(known)
        size = image_size(root / picture.file) if known else (0, 0)
        for pair in known:
            x, y = (float(picture.cells[name]) for name in pair)
            if not (0 <= x <= size[0] and 0 <= y <= size[1]):
                faults[picture.file] = f"{pair[0]}, {pair[1]} is {x:g}, {y:g} in an image of {size[0]}x{size[1]}"
                picture = msgspec.structs.replace(picture, cells=picture.cells | dict.fromkeys(pair, ""))
        pictures.append(picture)
    if len(faults) > FEW * asked:
        first, fault = next(iter(faults.items()))
        said = f"points in another coordinate system: {len(faults)} of {asked} images, first {first}: {fault}"
        raise FoveolaError(str(root), said, layout.box_mend or "import the original images, not a reduced copy")
    return with_pictures(layout, pictures, {POINTS_AT_ODDS: list(faults)})


def with_fitting_masks(root: Path, layout: Layout) -> Layout:
    """Take masks of another size than their image for gaps."""
    pictures, at_odds = [], []
    for picture in layout.pictures:
        masks = {name: file for name in layout.mask_columns if (file := picture.cells.get(name, "")) not in ("", NONE)}
        size = image_size(root / picture.file) if masks else None
        if any(image_size(root / file) != size for file in masks.values()):
            at_odds.append(picture.file)
            picture = msgspec.structs.replace(picture, cells=picture.cells | dict.fromkeys(masks, ""))
        pictures.append(picture)
    return with_pictures(layout, pictures, {MASKS_AT_ODDS: at_odds})


def image_size(path: Path) -> Size:
    """Width and height of the upright picture, out of the header.

    Raises:
        FoveolaError: not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(ORIENTATION) in LYING else (width, height)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FoveolaError(str(path), f"not an image: {error}", "copy the file again") from None


def _is_sound(path: Path) -> bool:
    try:
        read_image(path)
    except FoveolaError:
        return False
    return True


def _fit(boxes: Boxes, size: Size, claimed: Size | None) -> Boxes | str:
    """The boxes within the image, or why they do not fit."""
    if claimed is not None and claimed != size:
        return f"the image is {size[0]}x{size[1]}, its boxes are of {claimed[0]}x{claimed[1]}"
    width, height = size
    for box in boxes:
        over = max(-box.x1 / width, box.x2 / width - 1, -box.y1 / height, box.y2 / height - 1)
        if over > BORDER:
            corners = f"{box.x1:g},{box.y1:g} to {box.x2:g},{box.y2:g}"
            return f"the box {corners} is outside of the image of {width}x{height}"
    cut = [
        BoxCell(label=box.label, x1=max(box.x1, 0), y1=max(box.y1, 0), x2=min(box.x2, width), y2=min(box.y2, height))
        for box in boxes
    ]
    return tuple(box for box in cut if box.x2 > box.x1 and box.y2 > box.y1)


def _with_boxes(picture: Picture, fitted: dict[str, Boxes], faults: dict[str, str]) -> Picture:
    if picture.file in faults:
        # Polygons come from the same drawing as the boxes.
        drawing = None if isinstance(picture.drawing, Outline) else picture.drawing
        return msgspec.structs.replace(picture, boxes=None, drawing=drawing, drawn=picture.drawn if drawing else ())
    if picture.file in fitted:
        # Nothing left of a drawing is not "none": somebody saw something here.
        return msgspec.structs.replace(picture, boxes=fitted[picture.file] or None)
    return picture
