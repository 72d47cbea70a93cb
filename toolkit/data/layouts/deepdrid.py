"""DeepDRiD: 2,000 photographs of 500 people, two views of each eye, with grades and scores of quality.

- `image_path` is written with backslashes and leaves the folder `Images` out, so images are found by `image_id`.
- A grade stands in the column of its eye, `left_eye_DR_Level` or `right_eye_DR_Level`; for one patient the columns and
  the names (`_l1`, `_r2`) are crossed: the grade is kept, the eye is a gap.
- Grade 5 means ungradable and is no grade above 4: the grade is a gap, and `quality` says `ungradable`. The image
  stays, since its quality is known.
- The part `Online-Challenge1&2-Evaluation` is the test split where its labels (Excel) are there; else it is left out.
- Ultra-widefield images come from another kind of camera and are left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from .files import by_stem, find_base, images_in, stem
from .layout import Draft, Layout, Picture
from .sheets import csv_or_sheet
from .tables import LINE, grade, read_rows

REGULAR = "regular_fundus_images"
MARKS = (f"{REGULAR}|regular-fundus-training",)
PARTS = {"regular-fundus-training": "train", "regular-fundus-validation": "val"}
EVALUATION = "Online-Challenge1&2-Evaluation"
UNGRADABLE = "5"
NAME = re.compile(r"(?P<patient>\d+)_(?P<eye>[lr])(?P<view>\d)")
EYES = {"l": "left", "r": "right"}
SCORES = {"overall": "Overall quality", "clarity": "Clarity", "field": "Field definition", "artifact": "Artifact"}
COLUMNS = {"id": "image_id", "left": "left_eye_DR_Level", "right": "right_eye_DR_Level", "both": "patient_DR_Level"}
TARGETS = ("dr_grade", "patient_dr_grade", "overall_quality", "clarity", "field_definition", "artifact")

Row = dict[str, str]


def read_deepdrid(root: Path) -> Layout:
    """Read the regular fundus photographs of DeepDRiD.

    Raises:
        FoveolaError: another layout, a table of another version, a grade that is none.
    """
    base = find_base(root, MARKS)
    regular = base / REGULAR if (base / REGULAR).is_dir() else base
    draft = Draft(root, regular, base / "ultra-widefield_images")
    crossed = 0
    for folder, part in PARTS.items():
        if not (regular / folder / f"{folder}.csv").is_file():
            draft.notes.append(f"no {folder}.csv: that part is left out")
            continue
        sources = _sources(regular / folder)
        rows = read_rows(regular / folder / f"{folder}.csv", COLUMNS | SCORES)
        files = by_stem(images_in(draft.stored, draft.path(regular, folder)))
        for row in rows:
            match = NAME.fullmatch(row["id"].lower())
            named = EYES[match["eye"]] if match else ""
            # The eye's own column where both are filled.
            side = next((side for side in (named, *EYES.values()) if side and row[side]), "")
            crossed += bool(named and side and named != side)
            row |= {"grade": row[side] if side else "", "side": side, "source": sources.get(row["id"], "")}
            _add(draft, row, files, draft.path(regular, folder, "Images"), part)
    _add_evaluation(draft, regular)
    if crossed:
        draft.notes.append(f"{crossed} images are named after the other eye than their grade: their eye is a gap")
    for file in images_in(draft.stored, draft.path(base, "ultra-widefield_images")):
        draft.drop("ultra-widefield images, of another kind of camera", file)
    return draft.finish("deepdrid", attributes=("eye", "view", "source", "quality"), targets=TARGETS)


def _add(draft: Draft, row: Row, files: dict[str, str], folder: str, part: str) -> None:
    name, line = row["id"].lower(), row[LINE]
    match = NAME.fullmatch(name)
    if match is None:
        draft.drop("images whose name is not of the form 1_l1", row["id"])
        return
    level = grade(row["grade"], 5, line, "DR level")
    overall = grade(row["overall"], 1, line, "Overall quality")
    quality = "ungradable" if level == UNGRADABLE else {"1": "good", "0": "poor"}.get(overall, "")
    eye = EYES[match["eye"]]
    cells = {"eye": eye if row["side"] in ("", eye) else "", "view": match["view"], "source": row["source"]}
    cells |= {"dr_grade": _gradable(level), "quality": quality, "overall_quality": overall}
    cells["patient_dr_grade"] = _gradable(grade(row["both"], 5, line, "patient_DR_Level"))
    cells |= {name: grade(row[name.split("_")[0]], 10, line, name) for name in TARGETS[3:]}
    file = files.get(name) or f"{folder}/{match['patient']}/{row['id']}.jpg"
    draft.add(Picture(file=file, patient=match["patient"], part=part, cells=cells))


def _gradable(level: str) -> str:
    return "" if level == UNGRADABLE else level


def _add_evaluation(draft: Draft, regular: Path) -> None:
    base = regular / EVALUATION
    images = images_in(draft.stored, draft.path(base))
    grades, scores = (csv_or_sheet(base / f"Challenge{number}_labels.xlsx") for number in (1, 2))
    if not grades.is_file():
        for file in images:
            draft.drop("images of the evaluation, whose grades are not there", file)
        return
    quality = {row["id"]: row for row in read_rows(scores, {"id": "image_id"} | SCORES)} if scores.is_file() else {}
    files, known = by_stem(images), set()
    for row in read_rows(grades, {"id": "image_id", "grade": "DR_Levels|DR_Level"}):
        known.add(row["id"].lower())
        more = quality.get(row["id"], dict.fromkeys(SCORES, ""))
        _add(draft, {"side": "", "both": "", "source": ""} | more | row, files, draft.path(base, "Images"), "test")
    for file in images:
        if stem(file).lower() not in known:
            draft.drop("images of the evaluation without a grade", file)


def _sources(folder: Path) -> dict[str, str]:
    """The screening project of each image, where that table is there."""
    table = folder / f"{folder.name.replace('fundus-', 'fundus-source-')}.csv"
    if not table.is_file():
        return {}
    return {row["id"]: row["source"] for row in read_rows(table, {"id": "image_id", "source": "Source"})}
