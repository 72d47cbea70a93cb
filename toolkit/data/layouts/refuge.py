"""REFUGE: 1,200 fundus photographs with glaucoma or not, optic disc and cup, and the centre of the fovea.

- Three parts of 400, told by the first letter of a name: `g0001`, `n0001` training (with and without glaucoma), `V0001`
  validation, `T0001` test. So it does not matter how deep archives are nested, or whether it is the official layout,
  the one of REFUGE2, or a copy on Kaggle (`{train,val,test}/{Images,Masks}` with `index.json`).
- Masks hold 0 cup, 128 rim, 255 background: the other way round than one would think. Copies of it have 0, 1, 2
  (see `eye_masks`).
- Excel tables give the fovea, and for validation and test the label, in a column whose name differs (`Glaucoma Label`,
  `Label(Glaucoma=1)`). Of the test part there may be no labels: then it is left out.
- The parts come from two cameras: training from a Zeiss Visucam, validation and test from a Canon CR-2.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from .eye_masks import DISC_COLUMNS
from .files import find_base, folders_of, images_in, stem
from .layout import DiscCup, Draft, Layout, Picture
from .tables import LINE, grade, measure, read_json, read_plain, read_rows

MARKS = (
    "REFUGE-Training400|Training400|REFUGE-Validation400|REFUGE-Test400|Annotation-Training400|REFUGE1-train"
    "|train/index.json|val/index.json|test/index.json|train/images/g0001.jpg|train/Images/g0001.jpg",
)
NAME = re.compile(r"(?P<letter>[gnvt])(?P<number>\d{4})")
PARTS = {"g": "train", "n": "train", "v": "val", "t": "test"}
CAMERAS = {"train": "zeiss", "val": "canon", "test": "canon"}
CROPPED = ("cropped", "square")  # words in the folders of a copy that hold other cuts of the same pictures
OTHERS = {"amd", "non-amd"}  # folders of another challenge, whose names begin with the same letters
TABLES = (".csv", ".xlsx")
COLUMNS = {"name": "ImgName|imgName"}
MORE = {"x": "Fovea_X", "y": "Fovea_Y", "label": "Label(Glaucoma=1)|Glaucoma Label|Label|Glaucoma"}

Cells = dict[str, str]


class Entry(msgspec.Struct, frozen=True):
    """One picture of an `index.json`."""

    ImgName: str
    Fovea_X: float | None = None
    Fovea_Y: float | None = None
    Label: int | None = None


def read_refuge(root: Path) -> Layout:
    """Read REFUGE, as published or as one of its copies.

    Raises:
        FoveolaError: another layout, a table of another version, a label that is none.
    """
    base = find_base(root, MARKS)
    draft = Draft(root, base)
    known = _known(draft, root)
    files = [file for file in images_in(draft.stored, draft.path(base)) if _wanted(file)]
    masks = {stem(file).lower(): file for file in files if _is_mask(file)}
    images = {stem(file).lower(): file for file in files if not _is_mask(file)}
    for name, file in sorted(images.items()):
        part = PARTS[name[0]]
        cells = {"glaucoma": {"g": "1", "n": "0"}.get(name[0], ""), "camera": CAMERAS[part]} | known.get(name, {})
        if not cells["glaucoma"] and name not in masks and not cells.get("fovea_x"):
            draft.drop(f"images of the {part} part without any label", file)
        elif name not in masks or draft.there(masks[name]):
            drawing = DiscCup(masks[name]) if name in masks else None
            draft.add(Picture(file=file, patient="", part=part, cells=cells, drawing=drawing))
    for name in sorted((masks.keys() | known.keys()) - images.keys()):
        draft.there(f"{name}.jpg of the {PARTS[name[0]]} part")
    bare = sum(name not in masks for name in images)
    draft.notes += [f"{bare} images have no mask of disc and cup: gaps"] if bare else []
    draft.notes.append("no patients are named: every image is taken for its own")
    return draft.finish(
        "refuge",
        attributes=("eye", "camera"),
        targets=("glaucoma", "fovea_x", "fovea_y", "od_x", "od_y", "cup_disc_ratio", *DISC_COLUMNS),
        points=(("fovea_x", "fovea_y"),),
    )


def _wanted(file: str) -> bool:
    folders = folders_of(file)
    if OTHERS & set(folders) or any(word in folder for folder in folders for word in CROPPED):
        return False
    return NAME.fullmatch(stem(file).lower()) is not None and not file.startswith("foveola/")


def _is_mask(file: str) -> bool:
    return any("mask" in folder for folder in folders_of(file)) or file.lower().endswith(".bmp")


def _known(draft: Draft, root: Path) -> dict[str, Cells]:
    """What the tables say, by the name of the image in lower case."""
    found: dict[str, Cells] = {}
    for file in draft.stored:
        rows = _index(root / file) if file.endswith("/index.json") else _table(root / file)
        for name, cells in rows.items():
            if NAME.fullmatch(name):
                found[name] = found.get(name, {}) | {column: cell for column, cell in cells.items() if cell}
    return found


def _table(path: Path) -> dict[str, Cells]:
    """A table with names of images; none of the other tables that lie about."""
    sheet = path.suffix.lower() == ".xlsx"
    if path.suffix.lower() not in TABLES or (sheet and path.with_suffix(".csv").is_file()):
        return {}
    header = {cell.strip() for cell in next(read_plain(path), (0, []))[1]}
    if not header & set(COLUMNS["name"].split("|")):
        return {}
    return {
        stem(row["name"]).lower(): {
            "fovea_x": measure(row["x"], row[LINE], "Fovea_X"),
            "fovea_y": measure(row["y"], row[LINE], "Fovea_Y"),
            "glaucoma": grade(row["label"], 1, row[LINE], "the label of glaucoma"),
        }
        for row in read_rows(path, COLUMNS, optional=MORE)
        if row["name"]
    }


def _index(path: Path) -> dict[str, Cells]:
    entries = read_json(path, dict[str, Entry])
    return {
        stem(one.ImgName).lower(): {
            "fovea_x": "" if one.Fovea_X is None else f"{one.Fovea_X:g}",
            "fovea_y": "" if one.Fovea_Y is None else f"{one.Fovea_Y:g}",
            "glaucoma": "" if one.Label is None else grade(str(one.Label), 1, f"{path}: {one.ImgName}", "Label"),
        }
        for one in entries.values()
    }
