"""RSNA paediatric bone age: 12,611 hands with the bone age in months.

The archive nests its folder (`boneage-training-dataset/boneage-training-dataset/`), so images are found by name. The
200 images of the test part have no bone age and are left out. Each image is of another child.
"""

from __future__ import annotations

from pathlib import Path

from .files import by_name, find_base, images_in
from .layout import Draft, Layout, Picture
from .tables import read_rows

MARKS = ("boneage-training-dataset.csv|train.csv", "boneage-training-dataset")
COLUMNS = {"id": "id", "months": "boneage", "male": "male"}
SEX = {"true": "M", "false": "F", "1": "M", "0": "F"}


def read_boneage(root: Path) -> Layout:
    """Read the RSNA bone age set.

    Raises:
        FoveolaError: another layout, a table of another version.
    """
    base = find_base(root, MARKS)
    draft = Draft(root, base)
    folder = draft.path(base, "boneage-training-dataset")
    files = by_name(images_in(draft.stored, folder))
    table = next(path for name in MARKS[0].split("|") if (path := base / name).is_file())
    for row in read_rows(table, COLUMNS):
        file = files.get(f"{row['id']}.png") or f"{folder}/{row['id']}.png"
        cells = {"bone_age_months": row["months"], "sex": SEX.get(row["male"].lower(), "")}
        draft.add(Picture(file=file, patient=row["id"], cells=cells))
    for file in images_in(draft.stored, draft.path(base, "boneage-test-dataset")):
        draft.drop("images of the test part, whose bone age is not public", file)
    return draft.finish("rsna-boneage", attributes=("sex",), targets=("bone_age_months",))
