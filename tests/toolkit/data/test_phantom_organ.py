"""Laws of the phantom of organs: labels that follow from each other, sides that are mirrored, masks that fit."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveola.runtime.errors import FoveolaError, UsageError
from foveola.runtime.task import Task
from foveola.toolkit.data.check import survey_dataset
from foveola.toolkit.data.dataset import Columns, read_dataset
from foveola.toolkit.data.layouts.medmnist_sets import organ_cells
from foveola.toolkit.data.organ_body import GROUPS, ORGANS, draw_organ
from foveola.toolkit.data.phantom_organ import make_organs
from foveola.toolkit.data.phantoms import PHANTOMS

TASKS = (
    Task(name="organ", kind="multiclass", classes=tuple(organ.name for organ in ORGANS)),
    Task(name="organ_group", kind="multiclass", classes=GROUPS),
    Task(name="side", kind="multiclass", classes=("left", "right", "unpaired")),
    Task(name="region", kind="multiclass", classes=("thorax", "abdomen", "pelvis")),
    Task(name="area", kind="regression", classes=("area",), columns=("area_cm2",), unit="cm2", plausible=(1, 500)),
    Task(name="outline", kind="segmentation", classes=("organ",), columns=("mask_organ",)),
)


@pytest.fixture(scope="module")
def organs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("organs")
    make_organs(root, patients=120, seed=1)
    return root


def rows_of(root: Path) -> list[dict[str, str]]:
    with (root / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_survey_finds_no_fault_and_every_label_occurs(organs: Path) -> None:
    survey = survey_dataset(organs, TASKS, columns=Columns(attributes=PHANTOMS["organ"].attributes))
    dataset = read_dataset(organs, TASKS)

    assert not survey.faults
    for task in TASKS[:4]:
        assert len(np.unique(dataset.scalars[task.name])) == len(task.classes)


def test_group_side_and_region_follow_from_the_organ_as_in_organcmnist(organs: Path) -> None:
    for row in rows_of(organs):
        cells = organ_cells(row["organ"])
        assert {name: row[name] for name in cells} == cells
    assert len(ORGANS) == 11
    assert len(GROUPS) == 8


def test_no_patient_is_in_two_splits_and_none_has_more_than_three_slices(organs: Path) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    for row in rows_of(organs):
        splits[row["patient_id"]].add(row["split"])
        counts[row["patient_id"]] += 1

    assert all(len(found) == 1 for found in splits.values())
    assert set(counts.values()) == {1, 2, 3}


def test_the_mask_covers_the_area_that_the_manifest_says(organs: Path) -> None:
    width = {organ.name: organ.width_mm for organ in ORGANS}
    for row in rows_of(organs):
        with Image.open(organs / row["mask_organ"]) as picture:
            mask = np.asarray(picture)
        area = float((mask > 0).sum()) * (width[row["organ"]] / 10 / mask.shape[0]) ** 2
        assert float(row["area_cm2"]) == pytest.approx(area, abs=0.06)
        assert 0.02 < (mask > 0).mean() < 0.95


def test_a_left_organ_is_the_mirror_image_of_a_right_one() -> None:
    by_name = {organ.name: organ for organ in ORGANS}
    for group in ("femur", "kidney", "lung"):
        means = {}
        for side in ("left", "right"):
            slices = [
                draw_organ(by_name[f"{group}-{side}"], 0.5, 48, np.random.default_rng(k)).tissue for k in range(40)
            ]
            means[side] = np.mean(slices, axis=0)
        mirrored = np.abs(means["left"][:, ::-1] - means["right"]).mean()
        assert mirrored < 0.5 * np.abs(means["left"] - means["right"]).mean()


def test_contrast_medium_brightens_a_kidney_and_leaves_a_femur() -> None:
    for name, gain in (("kidney-left", 0.1), ("femur-left", 0.0)):
        organ = next(organ for organ in ORGANS if organ.name == name)
        native, bright = (draw_organ(organ, contrast, 64, np.random.default_rng(4)) for contrast in (0.0, 1.0))
        rise = float((bright.tissue - native.tissue)[native.organ].mean())
        assert rise > gain if gain else rise == 0


def test_equal_seeds_give_equal_files_and_a_full_folder_is_refused(tmp_path: Path) -> None:
    make_organs(tmp_path / "a", patients=6, seed=3, size=32)
    make_organs(tmp_path / "b", patients=6, seed=3, size=32)

    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    with pytest.raises(FoveolaError, match="not empty"):
        make_organs(tmp_path / "a", patients=6, seed=3, size=32)
    with pytest.raises(UsageError, match="no shares"):
        make_organs(tmp_path / "c", patients=6, shares={"train": 0.5})


def test_it_is_in_the_table_of_phantoms() -> None:
    assert PHANTOMS["organ"].make is make_organs
