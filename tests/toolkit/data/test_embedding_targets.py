"""What a manifest says about an embedding: conditions in columns of their own, and whose image it is."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveola.runtime.errors import FoveolaError
from foveola.runtime.task import Task
from foveola.toolkit.data.check import PAIRED, survey_dataset
from foveola.toolkit.data.dataset import read_dataset

BARE = Task(name="likeness", kind="embedding", size=4)
PROBED = Task(name="likeness", kind="embedding", size=4, classes=("diabetes", "smoker"), columns=("dm", "smoker"))


def write(root: Path, *, single: bool = False, flag: str = "1") -> Path:
    rows = []
    (root / "images").mkdir(parents=True)
    for n, split in enumerate(("train",) * 4 + ("val",) * 2 + ("test",) * 2):
        Image.fromarray(np.full((8, 8), 10 * n, np.uint8)).save(root / f"images/{n}.png")
        rows.append((f"images/{n}.png", f"p{n if single else n // 2}", split, flag if n % 2 else "0", ""))
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("file", "patient_id", "split", "dm", "smoker"), *rows])
    return root


def test_an_embedding_without_conditions_needs_no_column_and_is_known_everywhere(tmp_path: Path) -> None:
    data = read_dataset(write(tmp_path / "data"), (BARE,))

    assert data.scalars["likeness"].shape == (8, 0)
    assert data.known("likeness").all()
    assert len(data.only(["likeness"])) == 8


def test_its_conditions_are_flags_with_gaps(tmp_path: Path) -> None:
    data = read_dataset(write(tmp_path / "data"), (PROBED,))

    assert data.scalars["likeness"][:, 0].tolist() == [0, 1] * 4
    assert np.isnan(data.scalars["likeness"][:, 1]).all()
    assert data.known("likeness").all()


def test_a_condition_that_is_neither_0_nor_1_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FoveolaError, match="'maybe' is neither 0 nor 1"):
        read_dataset(write(tmp_path / "data", flag="maybe"), (PROBED,))


def test_a_condition_without_its_column_is_refused(tmp_path: Path) -> None:
    absent = Task(name="likeness", kind="embedding", size=4, classes=("stroke",))

    with pytest.raises(FoveolaError, match="stroke"):
        read_dataset(write(tmp_path / "data"), (absent,))


def test_the_survey_counts_conditions_and_pairs(tmp_path: Path) -> None:
    survey = survey_dataset(write(tmp_path / "data"), (PROBED,))

    assert survey.targets["likeness"]["train"] == {"diabetes": 2, "smoker": 0, PAIRED: 4, "not known": 0}


def test_a_split_without_a_pair_is_warned_of(tmp_path: Path) -> None:
    survey = survey_dataset(write(tmp_path / "data", single=True), (BARE,))

    assert any("split test" in str(one) and "no patient has two images" in str(one) for one in survey.warnings)
