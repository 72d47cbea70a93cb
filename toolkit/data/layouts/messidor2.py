"""Messidor-2: 1,748 photographs of 874 examinations, two eyes each; grades come from a table of Google Brain's.

- ADCIS publishes `IMAGES` and `messidor-2.csv` (which two images are one examination, parted by a semicolon), without
  grades; `messidor_data.csv` (Krause et al. 2018, adjudicated) is published on Kaggle. A copy of both names its
  columns as APTOS does.
- Names differ in the case of their extension (`IM002385.jpg`, `.JPG`), and copies in the extension itself.
- Images that are not gradable have no grade: they are left out, and so are those without a row.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from .files import by_stem, find_base, images_in
from .layout import Draft, Layout, Picture
from .tables import LINE, grade, read_plain, read_rows

TABLES = ("messidor_data.csv", "messidor_2.csv")
MARKS = ("|".join(TABLES),)
PAIRS = "messidor-2.csv"
COLUMNS = {"image": "image_id|id_code|image", "grade": "adjudicated_dr_grade|diagnosis"}
MORE = {"dme": "adjudicated_dme", "gradable": "adjudicated_gradable"}


def read_messidor2(root: Path) -> Layout:
    """Read Messidor-2 with the adjudicated grades.

    Raises:
        FoveolaError: another layout, a table of another version, a grade that is none.
    """
    base = find_base(root, MARKS)
    draft = Draft(root, base)
    images = images_in(draft.stored, draft.path(base))
    stored, used = by_stem(images), set()
    pairs = _pairs(base, draft)
    table = next(base / name for name in TABLES if (base / name).is_file())
    rows = read_rows(table, COLUMNS, optional=MORE)
    judged = any(row["gradable"] for row in rows)  # a copy has no such column
    for row in rows:
        name = _stem(row["image"])
        file = stored.get(name) or draft.path(base, "IMAGES", row["image"])
        used.add(file)
        gradable = grade(row["gradable"], 1, row[LINE], "adjudicated_gradable")
        cell = grade(row["grade"], 4, row[LINE], "grade")
        if (judged and gradable != "1") or not cell:
            draft.drop("images that are not gradable", file)
            continue
        patient, eye = pairs.get(name, ("", ""))
        cells = {"dr_grade": cell, "dme": grade(row["dme"], 1, row[LINE], "adjudicated_dme"), "eye": eye}
        draft.add(Picture(file=file, patient=patient, cells=cells))
    for file in images:
        if file not in used:
            draft.drop("images without a grade", file)
    return draft.finish("messidor2", attributes=("eye",), targets=("dr_grade", "dme"))


def _stem(name: str) -> str:
    return PurePosixPath(name.strip().replace("\\", "/")).stem.lower()


def _pairs(base: Path, draft: Draft) -> dict[str, tuple[str, str]]:
    """Patient and eye by the image's stem; the patient is called after the first image of the pair."""
    path = base / PAIRS
    if not path.is_file():
        draft.notes.append(f"no {PAIRS}: every image is its own patient, and two eyes of one may be in two splits")
        return {}
    found: dict[str, tuple[str, str]] = {}
    sides: list[str] = []
    for _, cells in read_plain(path):
        names = [name for name in ",".join(cells).replace(";", ",").split(",") if name.strip()]
        if not found and all("." not in name for name in names):
            sides = [next((side for side in ("left", "right") if side in name.lower()), "") for name in names]
            continue
        for place, name in enumerate(names[:2]):
            found[_stem(name)] = (PurePosixPath(names[0].strip()).stem, sides[place] if place < len(sides) else "")
    return found
