from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveola.runtime.errors import FoveolaError
from foveola.runtime.task import Task
from foveola.toolkit.data.check import check_dataset, survey_dataset

Broken = Callable[..., Path]

TASKS = (
    Task(name="sex", kind="binary", classes=("female|F", "male|M")),
    Task(name="findings", kind="multilabel", classes=("a", "b"), columns=("finding_a", "finding_b")),
    Task(name="age", kind="regression", classes=("years",), columns=("age",)),
    Task(name="lungs", kind="segmentation", classes=("right", "left"), columns=("mask",)),
    Task(name="spots", kind="detection", classes=("nodule",), columns=("boxes",)),
)


def errors(root: Path) -> list[str]:
    return [str(fault) for fault in check_dataset(root, TASKS) if fault.severity == "error"]


def warnings(root: Path) -> list[str]:
    return [str(fault) for fault in check_dataset(root, TASKS) if fault.severity == "warning"]


def test_a_sound_data_set_has_no_errors_and_is_counted(tiny: Path) -> None:
    survey = survey_dataset(tiny, TASKS)

    assert survey.errors == ()
    assert survey.images == {"train": 2, "val": 1, "calibration": 0, "test": 1}
    assert survey.patients["train"] == 1
    assert survey.targets["sex"]["train"] == {"female": 2, "male": 0, "not known": 0}
    assert survey.targets["findings"]["train"] == {"a": 1, "b": 1, "not known": 0}
    assert survey.targets["age"]["train"] == {"years": 1, "not known": 1}
    assert survey.targets["lungs"]["test"] == {"masks": 1, "not known": 0}
    assert survey.targets["spots"]["train"] == {"nodule": 1, "not known": 1}


def test_all_kinds_of_fault_are_listed_at_once(tiny: Path, broken: Broken) -> None:
    broken(2, sex="X", boxes='[{"label": "nodule", "x1": 2, "y1": 3, "x2": 21, "y2": 9}]')
    broken(3, age="old")
    broken(4, patient_id="p1", file="c.bmp")
    (tiny / "b.png").write_text("a text file named .png")
    Image.new("L", (9, 9)).save(tiny / "mask_d.png")

    found = errors(tiny)

    for words in (
        "line 2, column sex",
        "line 3, column age",
        "c.bmp is not there",
        "b.png: not a PNG",
        "the mask is 9x9, its image 20x16",
        "outside the image of 20x16",
    ):
        assert sum(words in fault for fault in found) == 1, (words, found)
    assert len(found) == 6


@pytest.mark.parametrize("x2", [20.0, 20.4])
def test_a_box_up_to_the_border_is_inside(broken: Broken, x2: float) -> None:
    root = broken(2, boxes=f'[{{"label": "nodule", "x1": 0, "y1": 0, "x2": {x2}, "y2": 16}}]')

    assert errors(root) == []


def test_a_leak_by_patient_and_one_by_image_are_both_found(tiny: Path, broken: Broken) -> None:
    shutil.copy(tiny / "c.png", tiny / "d.png")

    found = errors(broken(3, split="val"))

    assert sum("patient p1 is in several splits" in fault for fault in found) == 1
    assert sum("the same image is in several splits" in fault for fault in found) == 1


def test_what_only_deserves_a_look_is_a_warning(tiny: Path, broken: Broken) -> None:
    shutil.copy(tiny / "a.png", tiny / "b.png")
    Image.new("L", (20, 16), 3).save(tiny / "c.png")
    broken(5, split="train")
    broken(2, boxes='[{"label": "nodul", "x1": 2, "y1": 3, "x2": 10, "y2": 9}]')

    found = warnings(tiny)

    assert errors(tiny) == []
    for words in (
        "there 2 times",
        "all pixels are 3",
        "no images in split test",
        "task 'sex', split val: one class only: male",
        "task 'lungs', split val: no image has a target",
        "split val: always the same: a, b",
        "1 boxes 'nodul' belong to no task; did you mean 'nodule'?",
    ):
        assert sum(words in fault for fault in found) == 1, (words, found)


def test_without_tasks_masks_and_boxes_are_found_by_their_columns_names(tiny: Path) -> None:
    text = (tiny / "manifest.csv").read_text().replace(",mask,", ",mask_lungs,")
    (tiny / "manifest.csv").write_text(text)
    Image.new("L", (9, 9)).save(tiny / "mask_d.png")

    survey = survey_dataset(tiny)

    assert set(survey.targets) == {"mask_lungs", "boxes"}
    assert ["the mask is 9x9" in str(fault) for fault in survey.errors] == [True]


def test_progress_ends_at_the_number_of_images(tiny: Path) -> None:
    calls: list[tuple[int, int]] = []

    check_dataset(tiny, TASKS, progress=lambda done, total: calls.append((done, total)))

    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FoveolaError, match=r"manifest\.csv: not there"):
        check_dataset(tmp_path, TASKS)


def test_sixteen_bit_images_are_as_good_as_any(tiny: Path) -> None:
    deep = np.random.default_rng(1).integers(0, 65535, (16, 20), np.uint16)
    Image.fromarray(deep).save(tiny / "a.png")

    assert errors(tiny) == []
