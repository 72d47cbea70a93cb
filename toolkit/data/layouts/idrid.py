"""IDRiD: 516 fundus photographs with grades, centres of disc and fovea, and 81 with drawn lesions.

- Three archives: `A. Segmentation` (`IDRiD_01.jpg`, masks `IDRiD_01_MA.tif`), `B. Disease Grading` and
  `C. Localization` (`IDRiD_001.jpg`, the same 516 pictures in both). Any of them may be there alone, each may be nested
  in a folder of its own name, and copies write `_` or `%20` for blanks: folders are told by a word in their name.
- **Training and testing both begin with `IDRiD_001`**, for other pictures: part and number together name an image.
- `Risk of macular edema ` has a blank behind it, and the tables have columns without a name, and rows without anything.
- A lesion without a file is one that is not in the picture, where the folder of that lesion is there at all.
- Whether pictures of A are among those of B, names do not tell: where two files are byte for byte the same, what both
  say is put together.
- No patients are named.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..masks import NONE
from .eye_masks import WHOLE, eye_of
from .files import find_base, folders_of, images_in, stem
from .layout import TRAIN_VAL, Draft, Inked, Layout, Picture
from .tables import LINE, grade, measure, read_rows

MARKS = (
    "A. Segmentation|B. Disease Grading|C. Localization|A.*Segmentation|B.*Disease*Grading|C.*Locali?ation"
    "|2. All Segmentation Groundtruths|2. Groundtruths/*IDRiD*|2. Groundtruths/1. Optic Disc Center Location",
)
LESIONS = {"ma": "mask_ma", "he": "mask_he", "ex": "mask_ex", "se": "mask_se"}
MASKS = LESIONS | {"od": WHOLE}
MASK = re.compile(r"idrid_(?P<number>\d+)_(?P<what>ma|he|ex|se|od)", re.I)
IMAGE = re.compile(r"idrid_(?P<number>\d+)", re.I)
GRADES = {"name": "Image name", "dr": "Retinopathy grade", "dme": "Risk of macular edema|Risk of macular edema "}
POINTS = {"name": "Image No|Image name", "x": "X- Coordinate|X-Coordinate", "y": "Y - Coordinate|Y- Coordinate"}
PARTS = ("train", "test")  # words in the name of a folder or table
DIGITS_OF_A, LAST_OF_TRAINING = 2, 54
POINT_PAIRS = (("od_x", "od_y"), ("fovea_x", "fovea_y"))

Key = tuple[str, str]  # part, number as it is written: two digits are those of A


def read_idrid(root: Path) -> Layout:
    """Read IDRiD, all of it or one of its three archives.

    Raises:
        FoveolaError: another layout, a table of another version, a grade that is none.
    """
    base = find_base(root, MARKS)
    draft = Draft(root, base)
    known = _grades(draft, root)
    for key, cells in _points(draft, root).items():
        known[key] = known.get(key, {}) | cells
    images, masks = _images(draft), _masks(draft)
    for key, file in images.items():
        if key in masks:
            _add_lesions(draft, key, file, masks)
        elif key in known:
            cells = known[key]
            if cells.get("od_x") and cells.get("fovea_x"):
                cells = cells | {"eye": eye_of(float(cells["od_x"]), float(cells["fovea_x"]))}
            draft.add(Picture(file=file, patient="", part=_split(key), cells=cells))
        else:
            draft.drop("images without a label", file)
    for part, number in sorted((known.keys() | masks.keys()) - images.keys()):
        draft.there(f"IDRiD_{number}.jpg of the {part}ing part")
    draft.notes.append("no patients are named: two eyes of one person may be in two splits")
    return draft.finish(
        "idrid",
        attributes=("eye",),
        targets=("dr_grade", "dme_risk", "od_x", "od_y", "fovea_x", "fovea_y", *MASKS.values()),
        points=POINT_PAIRS,
    )


def _split(key: Key) -> str:
    return TRAIN_VAL if key[0] == "train" else "test"


def _key(file: str, number: str) -> Key:
    """Part, by the nearest folder that tells it (in A the number does, too), and number."""
    for name in reversed(folders_of(file)):
        if (part := next((part for part in PARTS if part in name), "")) != "":
            return part, number
    return ("train" if int(number) <= LAST_OF_TRAINING else "test") if len(number) == DIGITS_OF_A else "", number


def _tables(draft: Draft, word: str) -> dict[str, str]:
    """Tables by part whose name has a word."""
    names = {file: re.sub("%20| ", "_", stem(file).lower()) for file in draft.stored if file.lower().endswith(".csv")}
    return {part: file for part in PARTS for file, name in names.items() if word in name and part in name}


def _grades(draft: Draft, root: Path) -> dict[Key, dict[str, str]]:
    found: dict[Key, dict[str, str]] = {}
    for part, file in _tables(draft, "grading").items():
        for row in read_rows(root / file, GRADES):
            if (match := IMAGE.fullmatch(row["name"].removesuffix(".jpg"))) is not None:
                found[part, match["number"]] = {
                    "dr_grade": grade(row["dr"], 4, row[LINE], "Retinopathy grade"),
                    "dme_risk": grade(row["dme"], 2, row[LINE], "Risk of macular edema"),
                }
    return found


def _points(draft: Draft, root: Path) -> dict[Key, dict[str, str]]:
    found: dict[Key, dict[str, str]] = {}
    for word, name in (("od_center", "od"), ("fovea_center", "fovea")):
        for part, file in _tables(draft, word).items():
            for row in read_rows(root / file, POINTS):
                if (match := IMAGE.fullmatch(row["name"].removesuffix(".jpg"))) is None:
                    continue
                cells = {f"{name}_{axis}": measure(row[axis], row[LINE], f"{name}_{axis}") for axis in ("x", "y")}
                found[part, match["number"]] = found.get((part, match["number"]), {}) | cells
    return found


def _images(draft: Draft) -> dict[Key, str]:
    """Photographs by part and number; those of grading are taken before the same ones of localization."""
    found: dict[Key, str] = {}
    files = [file for file in images_in(draft.stored, "") if not file.startswith("foveola/")]
    for file in sorted(files, key=lambda file: (any("locali" in name for name in folders_of(file)), file)):
        match = IMAGE.fullmatch(stem(file))
        if match is None:
            continue
        key = _key(file, match["number"])
        if not key[0]:
            draft.drop("images of neither the training nor the testing part", file)
        elif found.setdefault(key, file) != file:
            draft.drop("the same photographs once more (C. Localization)", file)
    return found


def _masks(draft: Draft) -> dict[Key, dict[str, str]]:
    found: dict[Key, dict[str, str]] = {}
    for file in images_in(draft.stored, ""):
        match = MASK.fullmatch(stem(file))
        if match is not None and not file.startswith("foveola/"):
            found.setdefault(_key(file, match["number"]), {})[MASKS[match["what"].lower()]] = file
    return found


def _add_lesions(draft: Draft, key: Key, file: str, masks: dict[Key, dict[str, str]]) -> None:
    """One picture of A: a lesion whose folder holds no file of it is not in the picture."""
    drawn = masks[key]
    known = {column for (part, _), files in masks.items() if part == key[0] for column in files}
    cells = {column: NONE for column in LESIONS.values() if column in known and column not in drawn}
    there = [draft.there(mask) for mask in drawn.values()]  # all are looked at, so that all missing files are told
    if all(there):
        draft.add(Picture(file=file, patient="", part=_split(key), cells=cells, drawing=Inked(drawn)))
