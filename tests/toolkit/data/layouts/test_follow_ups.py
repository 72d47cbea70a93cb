"""NIH's follow-up numbers as visits: the public stand-in for people who come again."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import make_nih

from foveola.runtime.task import Task
from foveola.toolkit.data.dataset import Columns, Dataset, read_dataset
from foveola.toolkit.data.layouts.importing import import_layout
from foveola.toolkit.teachers.comprer.knobs import Roles
from foveola.toolkit.teachers.comprer.pairing import ahead, pairs_along
from foveola.toolkit.teachers.comprer.records import read_records, returned_subjects

ROLES = Roles(modality="", visit="follow_up", years="", side="")
REAL = Path(__file__).resolve().parents[4].parent / "shared" / "data"


def read(root: Path) -> Dataset:
    task = Task(name="effusion", kind="binary", classes=("0", "1"), columns=("finding_Effusion",))
    return read_dataset(root, [task], columns=Columns(attributes=("follow_up", "view")))


def test_an_imported_follow_up_number_is_the_visit_and_tells_which_came_first(tmp_path: Path) -> None:
    import_layout("nih", make_nih(tmp_path))

    records = read_records(read(tmp_path), ["chest"], ROLES)

    names = {records.patients[subject] for subject in returned_subjects(records)}
    assert {name.split(":")[-1] for name in names} == {"00000001", "00000005", "00000009"}
    scans = records.scans["chest"]
    first, second = pairs_along(scans)
    assert [scans.dataset.samples[i].attributes["follow_up"] for i in (*first, *second)] == ["0"] * 3 + ["1"] * 3
    assert ahead(scans, first, second).tolist() == [1, 1, 1]
    assert ahead(scans, second, first).tolist() == [-1, -1, -1]


def test_the_real_radiographs_have_patients_who_came_again_in_every_split() -> None:
    if not (REAL / "cxr/manifest.csv").is_file():
        pytest.skip("the real images are not beside this checkout")

    records = read_records(read(REAL / "cxr"), ["chest"], ROLES)

    again = {split: len(returned_subjects(records.subset(split))) for split in ("train", "val", "test")}
    assert again["train"] >= 40
    assert min(again.values()) >= 5
