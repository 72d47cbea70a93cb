"""COVID-Xray-5k (Deep-COVID): 184 images with COVID-19 out of publications, 5,000 without out of CheXpert.

- Below `non` there may be a folder a finding.
- Copies made by augmentation (`covid_original_NAME.jpg_UUID.jpg`) are left out where their original is there.
- The images without COVID-19 are CheXpert's: their patients keep CheXpert's names where the files tell them.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from .files import find_base, images_in
from .layout import TRAIN_VAL, Draft, Layout, Picture

MARKS = ("train/covid", "train/non")
PARTS = {"train": TRAIN_VAL, "test": "test"}
COPY = re.compile(r".+?_original_(?P<name>.+)_[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}")
PATIENT = re.compile(r"patient\d{5}")


def read_deepcovid(root: Path) -> Layout:
    """Read COVID-Xray-5k.

    Raises:
        FoveolaError: another layout.
    """
    base = find_base(root, MARKS)
    draft = Draft(root, *(base / part for part in PARTS))
    for part, official in PARTS.items():
        folder = draft.path(base, part, "covid")
        files = images_in(draft.stored, folder)
        originals = {PurePosixPath(file).stem for file in files}
        for file in files:
            name = PurePosixPath(file).stem
            if copy := COPY.fullmatch(name):
                name = PurePosixPath(copy["name"]).stem
                if name in originals:
                    draft.drop("copies made by augmentation", file)
                    continue
            draft.add(Picture(file=file, patient=name, part=official, cells={"finding_COVID19": "1"}))
        folder = draft.path(base, part, "non")
        for file in images_in(draft.stored, folder):
            inside = PurePosixPath(file).relative_to(folder)
            known = PATIENT.search(inside.as_posix())
            cells = {"finding_COVID19": "0", "group": inside.parts[0] if len(inside.parts) > 1 else ""}
            draft.add(Picture(file=file, patient=known[0] if known else "", part=official, cells=cells))
    draft.notes.append("the images without COVID-19 are CheXpert's: do not count both as independent sources")
    draft.notes.append("with and without come from other machines: a network may learn the source and not the disease")
    return draft.finish("deepcovid", attributes=("group",), targets=("finding_COVID19",))
