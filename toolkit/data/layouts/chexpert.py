"""CheXpert: 223,648 chest radiographs of 65,240 patients, 14 observations with "uncertain" among their values.

- A value of -1 is uncertain: a gap, unless `uncertain` says otherwise. A blank is "not mentioned": a gap.
- The 234 images of `valid` were read by radiologists: they are the test split here, as others report on them, and the
  validation patients are taken out of `train`.
- Paths in the tables begin with the archive's name, which changes (`-small`); what follows it does not.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

from ....runtime.errors import FoveolaError
from .files import find_base
from .layout import TRAIN_VAL, Draft, Layout, Picture
from .tables import column, flag, read_rows, sex, years

MARKS = ("train.csv|valid.csv", "train/patient*|valid/patient*")
OBSERVATIONS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
NONE = "No Finding"
COLUMNS = {"path": "Path", "sex": "Sex", "age": "Age", "side": "Frontal/Lateral", "view": "AP/PA"}
PARTS = {"train": TRAIN_VAL, "valid": "test"}

Uncertain = Literal["gap", "zero", "one"]


def read_chexpert(root: Path, *, uncertain: Uncertain = "gap") -> Layout:
    """Read CheXpert, reduced (`-small`) or not.

    Args:
        root: its folder.
        uncertain: what -1 becomes.

    Raises:
        FoveolaError: another layout, a table of another version.
    """
    base = find_base(root, MARKS)
    draft = Draft(root, *(base / part for part in PARTS))
    here = PurePosixPath(draft.path(base))
    values = {"-1": {"gap": "", "zero": "0", "one": "1"}[uncertain]}
    values |= {"-1.0": values["-1"]}
    doubts = 0
    for part in PARTS:
        if not (base / f"{part}.csv").is_file():
            draft.notes.append(f"no {part}.csv: its images are left out")
            continue
        for row in read_rows(base / f"{part}.csv", COLUMNS | {name: name for name in (NONE, *OBSERVATIONS)}):
            inside = _inside(row["path"], str(base / f"{part}.csv"))
            doubts += sum(row[name] in values for name in (NONE, *OBSERVATIONS))
            cells = {column(name): values.get(row[name], flag(row[name])) for name in OBSERVATIONS}
            cells["no_finding"] = values.get(row[NONE], flag(row[NONE]))
            cells |= {"sex": sex(row["sex"]), "age": years(row["age"]), "view": row["view"]}
            cells |= {"projection": row["side"].lower(), "study": "/".join(inside.parts[1:3])}
            file = str(here / inside)
            draft.add(Picture(file=file, patient=inside.parts[1], part=PARTS[inside.parts[0]], cells=cells))
    draft.notes.append(f"{doubts} uncertain values (-1) became {uncertain}; a blank means not mentioned and is a gap")
    return draft.finish(
        "chexpert",
        attributes=("sex", "age", "projection", "view", "study"),
        targets=(*(column(name) for name in OBSERVATIONS), "no_finding"),
    )


def _inside(path: str, place: str) -> PurePosixPath:
    """The path from `train` or `valid` on: part, patient, study, file."""
    parts = PurePosixPath(path).parts
    begin = next((i for i, part in enumerate(parts) if part in PARTS), None)
    if begin is None or len(parts) - begin != 4:
        mend = "expected is .../train/patient00001/study1/view1_frontal.jpg"
        raise FoveolaError(place, f"another version of the file: path {path!r}", mend)
    return PurePosixPath(*parts[begin:])
