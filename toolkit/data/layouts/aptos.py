"""APTOS 2019 blindness detection: 3,662 fundus photographs with a grade of diabetic retinopathy, 0 to 4.

- The official `test.csv` has no grades: its images are left out. So the test split here is taken out of `train`.
- A copy on Kaggle parts the 3,662 images into `train_1.csv`, `valid.csv` and `test.csv` (2,930, 366, 366), with grades
  in all of them and each folder nested in one of its own name. Its parts are kept.
- No patients are named. Some photographs occur twice, now and then with another grade.
"""

from __future__ import annotations

from pathlib import Path

from .files import by_stem, find_base, images_in
from .layout import Draft, Layout, Picture
from .tables import LINE, grade, read_rows

MARKS = ("train.csv|train_1.csv", "train_images|train_images.zip")
TABLES = {"train": ("train_1.csv", "train.csv"), "val": ("valid.csv", "val.csv"), "test": ("test.csv",)}
FOLDERS = {"train": ("train_images",), "val": ("val_images", "valid_images"), "test": ("test_images",)}
COLUMNS = {"id": "id_code"}
GRADES = {"grade": "diagnosis"}
UNGRADED = "images of the test part, whose grades are not public"


def read_aptos(root: Path) -> Layout:
    """Read APTOS 2019, as published or as Kaggle's copy in three parts.

    Raises:
        FoveolaError: another layout, a table of another version, a grade that is none.
    """
    base = find_base(root, MARKS)
    draft = Draft(root, *(base / folder for folders in FOLDERS.values() for folder in folders))
    parted = (base / "train_1.csv").is_file()
    for part, names in TABLES.items():
        table = next((base / name for name in names if (base / name).is_file()), None)
        files = [file for name in FOLDERS[part] for file in images_in(draft.stored, draft.path(base, name))]
        if table is None:
            _leave_out(draft, part, files)
            continue
        rows = read_rows(table, COLUMNS | (GRADES if part == "train" else {}), optional=GRADES)
        stored = by_stem(files)
        for row in rows:
            file = stored.get(row["id"].lower()) or draft.path(base, FOLDERS[part][0], f"{row['id']}.png")
            cell = grade(row["grade"], 4, row[LINE], "diagnosis")
            if not cell:
                draft.drop(UNGRADED if part == "test" else "images without a grade", file)
                continue
            draft.add(Picture(file=file, patient="", part=part if parted else "", cells={"dr_grade": cell}))
    draft.notes.append("no patients are named: every image is taken for its own")
    return draft.finish("aptos", attributes=(), targets=("dr_grade",))


def _leave_out(draft: Draft, part: str, files: list[str]) -> None:
    for file in files:
        draft.drop(UNGRADED if part == "test" else f"images of {part} without a table", file)
