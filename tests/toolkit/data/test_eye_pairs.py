"""Both eyes of the children of CHASE_DB1: the public stand-in for two pictures of one person."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from foveola.runtime.task import Task
from foveola.toolkit.data.dataset import Columns, read_dataset
from foveola.toolkit.teachers.comprer.knobs import Roles
from foveola.toolkit.teachers.comprer.records import paired_subjects, read_records

FUNDUS = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "fundus"
ROLES = Roles(modality="", visit="", years="", side="eye", pairs="sides")


@pytest.fixture
def real() -> Path:
    if not (FUNDUS / "manifest.csv").is_file():
        pytest.skip("the real images are not beside this checkout")
    return FUNDUS


def test_left_and_right_eyes_of_a_child_are_a_pair_and_of_one_split(real: Path) -> None:
    task = Task(name="dr_grade", kind="ordinal", classes=("0", "1", "2", "3", "4"))

    dataset = read_dataset(real, [task], columns=Columns(patient="pair_id", attributes=("eye", "source_dataset")))

    records = read_records(dataset, ["fundus"], ROLES)
    pairs = {split: len(paired_subjects(records.subset(split), ROLES)) for split in ("train", "val", "test")}
    assert pairs == {"train": 4, "val": 1, "test": 2}


def test_the_pairs_column_and_the_patients_column_say_the_same(real: Path) -> None:
    with (real / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["pair_id"]]

    assert len(rows) == 14
    assert all(row["pair_id"] == row["patient_id"] for row in rows)
    assert {row["eye"] for row in rows} == {"left", "right"}
