"""EyePACS (Kaggle, Diabetic Retinopathy Detection 2015): 88,702 photographs of both eyes, graded 0 to 4.

- The patient stands in the name: `10_left` and `10_right` are the eyes of patient 10.
- The grades of the test part were published later, as `retinopathy_solution.csv`; without it that part is left out,
  and the test split is taken out of `train`.
- Copies on Kaggle hold reduced images (`resized_train/resized_train/`, and cropped ones with a table of their own).
"""

from __future__ import annotations

import re
from pathlib import Path

from ....runtime.errors import FoveolaError
from .files import by_stem, find_base, folders_of, images_in
from .layout import TRAIN_VAL, Draft, Layout, Picture
from .tables import LINE, grade, read_rows

MARKS = ("trainLabels.csv|trainLabels15.csv|trainLabels_cropped.csv",)
TEST = ("retinopathy_solution.csv", "testLabels.csv", "testLabels15.csv")
COLUMNS = {"image": "image", "grade": "level"}
NAME = re.compile(r"(?P<patient>\d+)_(?P<eye>left|right)")


def read_eyepacs(root: Path) -> Layout:
    """Read EyePACS, as published or as one of Kaggle's copies.

    Raises:
        FoveolaError: another layout, a table of another version, a grade or a name that is none.
    """
    base = find_base(root, MARKS)
    draft = Draft(root, base)
    images = images_in(draft.stored, draft.path(base))
    here = len(folders_of(draft.path(base, "x")))
    parts: tuple[list[str], list[str]] = ([], [])
    for file in images:
        parts[any("test" in folder for folder in folders_of(file)[here:])].append(file)
    train, test = parts
    tables = [base / name for name in TEST if (base / name).is_file()]
    if not tables or not test:
        for file in test:
            draft.drop("images of the test part, whose grades (retinopathy_solution.csv) are not there", file)
        if tables:
            draft.notes.append("no images of the test part: it is left out, and test is taken out of train")
        test = []
    labels = next(base / name for name in MARKS[0].split("|") if (base / name).is_file())
    _add(draft, labels, by_stem(train), TRAIN_VAL if test else "", draft.path(base, "train"))
    if test:
        _add(draft, tables[0], by_stem(test), "test", draft.path(base, "test"))
    return draft.finish("eyepacs", attributes=("eye", "usage"), targets=("dr_grade",))


def _add(draft: Draft, table: Path, stored: dict[str, str], part: str, folder: str) -> None:
    for row in read_rows(table, COLUMNS, optional={"usage": "Usage"}):
        name = row["image"].lower().removesuffix(".jpeg").removesuffix(".jpg").removesuffix(".png")
        match = NAME.fullmatch(name)
        if match is None:
            raise FoveolaError(row[LINE], f"another version of the file: image {row['image']!r}", "expected is 10_left")
        cell = grade(row["grade"], 4, row[LINE], "level")
        file = stored.get(name) or f"{folder}/{name}.jpeg"
        if not cell:
            draft.drop("images without a grade", file)
            continue
        cells = {"dr_grade": cell, "eye": match["eye"], "usage": row["usage"].lower()}
        draft.add(Picture(file=file, patient=match["patient"], part=part, cells=cells))
