"""TBX11K: 11,200 chest radiographs of 512x512 pixels: healthy, sick, tuberculosis with boxes.

- **Boxes of the JSON files are in pixels of the 512-pixel image, those of the XML files in pixels of the original
  radiograph** (about 3000 wide) and have to be scaled by the XML's own `size`.
- Healthy and sick images have no boxes. A tuberculosis image without a box is a gap (there is one).
- The labels of `test` are not public, and `extra` holds other data sets: both are left out. So the official `val` is
  the test split here, and the validation images are taken out of `train`. The source names no patients.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

from ....runtime.errors import FoveolaError
from ..cells import BoxCell
from .files import find_base, images_in
from .layout import TRAIN_VAL, Boxes, Draft, Layout, Picture
from .tables import read_json, read_names

MARKS = ("imgs/tb|imgs/health", "annotations")
SIZE = (512, 512)
PARTS = {"train": TRAIN_VAL, "val": "test"}
LABELS = ("ActiveTuberculosis", "ObsoletePulmonaryTuberculosis", "PulmonaryTuberculosis")
MEND = (
    "JSON boxes are in pixels of the 512x512 image, XML boxes in those of the original radiograph: "
    "take the official JSON files, or give --boxes xml, which scales them"
)


class CocoImage(msgspec.Struct, frozen=True):
    """An image of a COCO file."""

    id: int
    file_name: str


class CocoBox(msgspec.Struct, frozen=True):
    """A box of a COCO file: x, y, width, height."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]


class CocoCategory(msgspec.Struct, frozen=True):
    """A label of a COCO file."""

    id: int
    name: str


class Coco(msgspec.Struct, frozen=True):
    """A COCO file."""

    images: list[CocoImage]
    annotations: list[CocoBox]
    categories: list[CocoCategory]


def read_tbx11k(root: Path, *, boxes: Literal["json", "xml"] = "json", only_tb: bool = False) -> Layout:
    """Read TBX11K.

    Args:
        root: its folder.
        boxes: which files to read them from.
        only_tb: leave the healthy and the sick out.

    Raises:
        FoveolaError: another layout, a file of another version.
    """
    base = find_base(root, MARKS)
    draft = Draft(root, base / "imgs")
    for part, official in PARTS.items():
        files, found = _read_json(base, part) if boxes == "json" else (_read_list(base, part), {})
        for file in files:
            group = PurePosixPath(file).parts[0]
            if only_tb and group != "tb":
                draft.drop("images without tuberculosis", file)
                continue
            seen = found.get(file) if boxes == "json" else _read_xml(base, file) if group == "tb" else ()
            draft.add(
                Picture(
                    file=draft.path(base, "imgs", file),
                    patient=PurePosixPath(file).stem,
                    part=official,
                    cells={"group": group, "finding_Tuberculosis": str(int(group == "tb"))},
                    boxes=seen or (None if group == "tb" else ()),
                    box_size=SIZE,
                )
            )
    for file in images_in(draft.stored, draft.path(base, "imgs", "test")):
        draft.drop("images of the test part, whose labels are not public", file)
    for file in images_in(draft.stored, draft.path(base, "imgs", "extra")):
        draft.drop("images of other data sets (extra)", file)
    draft.notes.append(f"boxes were read from the {boxes.upper()} files; labels: {', '.join(LABELS)}")
    return draft.finish(
        "tbx11k", attributes=("group",), targets=("finding_Tuberculosis",), has_boxes=True, box_mend=MEND
    )


def _read_json(base: Path, part: str) -> tuple[list[str], dict[str, Boxes]]:
    path = base / "annotations" / "json" / f"TBX11K_{part}.json"
    coco = read_json(path, Coco)
    names, labels = {image.id: image.file_name for image in coco.images}, {one.id: one.name for one in coco.categories}
    unknown = sorted(set(labels.values()) - set(LABELS))
    if unknown:
        raise FoveolaError(str(path), f"another version of the file: no label {unknown[0]!r}", ", ".join(LABELS))
    boxes: dict[str, Boxes] = {}
    for one in coco.annotations:
        if one.image_id not in names or one.category_id not in labels:
            raise FoveolaError(
                str(path), f"a box of image {one.image_id}, which is not there", "take the official file"
            )
        x, y, width, height = one.bbox
        box = BoxCell(label=labels[one.category_id], x1=x, y1=y, x2=x + width, y2=y + height)
        boxes[names[one.image_id]] = (*boxes.get(names[one.image_id], ()), box)
    return list(names.values()), boxes


def _read_list(base: Path, part: str) -> list[str]:
    listed = base / "lists" / f"TBX11K_{part}.txt"
    return read_names(listed) if listed.is_file() else _read_json(base, part)[0]


def _read_xml(base: Path, file: str) -> Boxes | None:
    """Boxes of one image, scaled from the size that the XML tells to that of the stored image."""
    path = base / "annotations" / "xml" / f"{PurePosixPath(file).stem}.xml"
    if not path.is_file():
        return None
    try:
        tree = ET.parse(path)
        width, height = (float(_text(tree.getroot(), f"size/{side}")) for side in ("width", "height"))
        scale_x, scale_y = SIZE[0] / width, SIZE[1] / height
        boxes = []
        for one in tree.iter("object"):
            x1, y1, x2, y2 = (float(_text(one, f"bndbox/{corner}")) for corner in ("xmin", "ymin", "xmax", "ymax"))
            label = _text(one, "name")
            boxes.append(BoxCell(label=label, x1=x1 * scale_x, y1=y1 * scale_y, x2=x2 * scale_x, y2=y2 * scale_y))
    except (ET.ParseError, ValueError, ZeroDivisionError) as error:
        raise FoveolaError(str(path), f"another version of the file: {error}", "take the official one") from None
    return tuple(boxes)


def _text(element: ET.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"no {path}")
    return text.strip()
