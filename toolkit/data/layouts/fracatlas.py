"""FracAtlas: 4,083 radiographs of limbs, 717 with a fracture, drawn as boxes and polygons.

- Some of the published files are cut off; all are decoded, and those are left out by name.
- The source names no patients. Views of one patient usually have neighbouring numbers, so a hundred numbers in a row
  are taken for one.
- An image without a fracture has no boxes and an empty mask; one with a fracture but without a drawing is a gap.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import msgspec

from ..cells import BoxCell
from ..masks import NONE
from .files import by_name, find_base
from .layout import Draft, Layout, Outline, Picture
from .tables import flag, read_json, read_rows

MARKS = ("dataset.csv", "images/Fractured|images/Non_fractured")
DRAWN = Path("Annotations/COCO JSON/COCO_fracture_masks.json")
MASK = "mask_fracture"
BLOCK = 100  # numbers in a row
ATTRIBUTES = ("hand", "leg", "hip", "shoulder", "mixed", "hardware", "multiscan", "frontal", "lateral", "oblique")
COLUMNS = {"file": "image_id", "fractured": "fractured", "fracture_count": "fracture_count"}


class CocoImage(msgspec.Struct, frozen=True):
    """An image of a COCO file."""

    id: int
    file_name: str
    width: int
    height: int


class CocoDrawing(msgspec.Struct, frozen=True):
    """A drawing of a COCO file: x, y, width, height, and polygons."""

    image_id: int
    bbox: tuple[float, float, float, float]
    segmentation: list[list[float]] = []


class Coco(msgspec.Struct, frozen=True):
    """A COCO file."""

    images: list[CocoImage]
    annotations: list[CocoDrawing]


def read_fracatlas(root: Path) -> Layout:
    """Read FracAtlas.

    Raises:
        FoveolaError: another layout, a table of another version.
    """
    base = find_base(root, MARKS)
    draft = Draft(root, base / "images")
    files, coco = by_name(draft.stored), read_json(base / DRAWN, Coco)
    drawings: dict[int, list[CocoDrawing]] = {}
    for drawing in coco.annotations:
        drawings.setdefault(drawing.image_id, []).append(drawing)
    by_file = {image.file_name: (image, drawings.get(image.id, [])) for image in coco.images}
    for row in read_rows(base / "dataset.csv", COLUMNS | {name: name for name in ATTRIBUTES}):
        folder = "Fractured" if flag(row["fractured"]) == "1" else "Non_fractured"
        file = files.get(row["file"]) or draft.path(base, "images", folder, row["file"])
        if PurePosixPath(file).parent.name != folder:
            draft.drop("images that lie in the other folder than the table says", file)
            continue
        cells = {name: row[name] for name in (*ATTRIBUTES, "fractured", "fracture_count")}
        picture = Picture(file=file, patient=_block(row["file"]), cells=cells)
        draft.add(_with_drawings(picture, *by_file.get(row["file"], (None, []))))
    draft.notes.append(f"no patients are named: blocks of {BLOCK} image numbers stand for them")
    return draft.finish(
        "fracatlas",
        attributes=ATTRIBUTES,
        targets=("fractured", "fracture_count", MASK),
        has_boxes=True,
        may_be_damaged=True,
        box_mend="the drawings are in pixels of the original images: import those",
    )


def _block(name: str) -> str:
    match = re.fullmatch(r"\D*(\d+)\.\w+", name)
    return f"block_{int(match[1]) // BLOCK:03d}" if match else ""


def _with_drawings(picture: Picture, image: CocoImage | None, drawings: list[CocoDrawing]) -> Picture:
    if flag(picture.cells["fractured"]) == "0":
        return msgspec.structs.replace(picture, boxes=(), cells=picture.cells | {MASK: NONE})
    if image is None or not drawings:
        return picture
    corners = [drawing.bbox for drawing in drawings]
    polygons = tuple(tuple(points) for drawing in drawings for points in drawing.segmentation if len(points) >= 6)
    return msgspec.structs.replace(
        picture,
        boxes=tuple(BoxCell(label="fracture", x1=x, y1=y, x2=x + w, y2=y + h) for x, y, w, h in corners),
        box_size=(image.width, image.height),
        drawing=Outline(polygons) if polygons else None,
        drawn=(MASK,) if polygons else (),
    )
