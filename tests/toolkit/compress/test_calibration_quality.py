"""Calibration images that are too few, alike, leaked, one-sided, or of another modality."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Task
from foveola.toolkit.compress.calibration_quality import CalibrationQuality, check_calibration
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.data.dataset import Columns, calibration_set, read_dataset

SPEC = InputSpec(height=64, width=64, channels=1)
TASKS = (Task(name="findings", kind="multilabel", classes=("a", "b")),)
Picture = NDArray[np.uint8]
Row = tuple[str, Picture, dict[str, Any]]


def body(seed: int) -> Picture:
    """A picture with something in its middle that lies elsewhere every time."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    shade = 60.0 + 40 * np.exp(-((y - 32) ** 2 + (x - 32) ** 2) / 500)
    for _ in range(6):
        cy, cx, size = random.uniform(5, 59), random.uniform(5, 59), random.uniform(10, 60)
        shade += random.uniform(-40, 60) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / size)
    return np.asarray(np.clip(shade + random.normal(0, 2, (64, 64)), 0, 255), np.uint8)


def stripes(seed: int) -> Picture:
    """Of another modality."""
    random = np.random.default_rng(seed)
    return np.asarray(np.where((np.arange(64) // random.integers(1, 4)) % 2, 250, 3)[None] * np.ones((64, 1)), np.uint8)


def usual(*, train: int = 40, calibration: int = 12) -> list[Row]:
    splits = ["train"] * train + ["calibration"] * calibration + ["test"] * 4
    return [(split, body(i), {"a": i % 2, "b": i % 2, "site": "north"}) for i, split in enumerate(splits)]


def check(folder: Path, rows: list[Row]) -> CalibrationQuality:
    (folder / "images").mkdir(parents=True)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["file", "patient_id", "split", "site", "a", "b"])
        writer.writeheader()
        for i, (split, picture, cells) in enumerate(rows):
            Image.fromarray(picture).save(folder / f"images/{i}.png")
            writer.writerow({"file": f"images/{i}.png", "patient_id": f"p{i}", "split": split} | cells)
    data = read_dataset(folder, TASKS, columns=Columns(attributes=("site",)))
    chosen = calibration_set(data, "calibration", 256, 1)
    arrays = prepare_arrays(chosen, SPEC, cache=folder / "cache")
    return check_calibration(data, chosen, arrays, SPEC, folder / "cache")


def test_images_of_the_task_pass_with_a_word_about_their_number(tmp_path: Path) -> None:
    found = check(tmp_path, usual())

    assert found.warnings == ("12 calibration images, 128 are usual",)
    assert (found.images, found.compared, found.strange, found.twins) == (12, 40, (), ())
    assert found.looked_at == {"train": 40, "test": 4}
    assert found.findings == {"findings": {"a": 6, "b": 6}}
    assert found.attributes == {"site": {"north": 12}}


def test_a_site_of_training_that_calibration_has_not_is_told(tmp_path: Path) -> None:
    rows = usual()
    rows[3][2]["site"] = "mobile"

    assert "no calibration image has site 'mobile', 2 % of the training images do" in check(tmp_path, rows).warnings


def test_a_finding_with_too_few_images_is_told_by_name(tmp_path: Path) -> None:
    rows = usual()
    for split, _, cells in rows:
        cells["b"] = cells["b"] if split == "train" else 0

    assert "findings: fewer than 5 calibration images of b (0)" in check(tmp_path, rows).warnings


def test_the_same_picture_in_two_files_counts_once(tmp_path: Path) -> None:
    rows = usual()
    again = rows[40][1].copy()
    again[0, 0] ^= 1  # another file, and nobody sees the difference
    rows[41] = ("calibration", again, rows[41][2])

    found = check(tmp_path, rows)

    (twins,) = found.twins
    assert (twins.image, twins.other, twins.split) == ("images/40.png", "images/41.png", "")
    assert any("1 calibration images look like each other" in line for line in found.warnings)


def test_a_picture_that_looks_like_one_of_training_is_told(tmp_path: Path) -> None:
    rows = usual()
    again = rows[7][1].copy()
    again[5, 5] ^= 7
    rows[41] = ("calibration", again, rows[41][2])

    found = check(tmp_path, rows)

    assert [(one.image, one.other, one.split, one.same) for one in found.twins] == [
        ("images/41.png", "images/7.png", "train", False)
    ]
    assert any("look like a training image: images/41.png and images/7.png" in line for line in found.warnings)


@pytest.mark.parametrize("split", ["train", "test"])
def test_pixels_of_training_or_proof_in_another_file_are_refused(tmp_path: Path, split: str) -> None:
    rows = usual()
    place = 7 if split == "train" else 53
    # Another file of the same picture: a grey picture stored as colours has the same grey values.
    rows[41] = ("calibration", np.repeat(rows[place][1][..., None], 3, 2), rows[41][2])

    with pytest.raises(FoveolaError, match=rf"images/41.png has the pixels of images/{place}.png of split {split}"):
        check(tmp_path, rows)


def test_images_of_another_modality_are_refused_in_one_line(tmp_path: Path) -> None:
    rows = [
        (split, stripes(i) if split == "calibration" else one, cells) for i, (split, one, cells) in enumerate(usual())
    ]

    with pytest.raises(FoveolaError, match=r"12 of 12 images are of another modality") as caught:
        check(tmp_path, rows)

    assert "\n" not in str(caught.value)


def test_one_stray_among_them_is_named(tmp_path: Path) -> None:
    rows = usual()
    rows[45] = ("calibration", stripes(1), rows[45][2])

    found = check(tmp_path, rows)

    assert found.strange == ("images/45.png",)
    assert "1 calibration images are unlike any training image: images/45.png" in found.warnings


def test_a_handful_of_training_images_says_nothing_of_what_is_usual(tmp_path: Path) -> None:
    rows = [
        (split, stripes(i) if split == "calibration" else one, cells)
        for i, (split, one, cells) in enumerate(usual(train=8))
    ]

    found = check(tmp_path, rows)

    assert (found.compared, found.strange) == (0, ())
