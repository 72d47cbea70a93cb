from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from foveola.runtime.errors import FoveolaError, UsageError
from foveola.runtime.task import Task
from foveola.toolkit.data.check import survey_dataset
from foveola.toolkit.data.dataset import Columns, load_mask, read_dataset
from foveola.toolkit.data.fundus_lesions import COUNTS
from foveola.toolkit.data.phantom_chest import make_chest
from foveola.toolkit.data.phantom_fundus import make_fundus

SIZE = 128
Maker = Callable[..., int]
CHEST_TASKS = (
    Task(
        name="findings",
        kind="multilabel",
        classes=("nodule", "effusion", "cardiomegaly", "opacity"),
        columns=("finding_nodule", "finding_effusion", "finding_cardiomegaly", "finding_opacity"),
    ),
    Task(name="sex", kind="binary", classes=("female|F", "male|M")),
    Task(name="view", kind="binary", classes=("PA", "AP")),
    Task(name="age", kind="regression", classes=("years",), columns=("age",), unit="years"),
    Task(name="lungs", kind="segmentation", classes=("right lung", "left lung"), columns=("mask_lungs",)),
    Task(
        name="places",
        kind="detection",
        classes=("right_lung", "left_lung", "nodule", "effusion", "opacity", "cardiomegaly"),
        columns=("boxes",),
    ),
)
LESIONS: tuple[str, ...] = ("mask_ma", "mask_he", "mask_ex", "mask_se")
FUNDUS_TASKS = (
    Task(name="dr_grade", kind="ordinal", classes=("none", "mild", "moderate", "severe", "proliferative")),
    Task(name="cup_disc_ratio", kind="regression", classes=("ratio",)),
    Task(name="eye", kind="binary", classes=("right", "left")),
    Task(name="disc", kind="segmentation", classes=("rim", "cup"), columns=("mask_disc",)),
    Task(name="lesions", kind="segmentation", exclusive=False, classes=("ma", "he", "ex", "se"), columns=LESIONS),
    Task(
        name="places",
        kind="detection",
        classes=("optic_disc", "haemorrhage", "hard_exudate", "soft_exudate"),
        columns=("boxes",),
    ),
)


def rows_of(root: Path) -> list[dict[str, str]]:
    with (root / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def pixels(path: Path) -> NDArray[np.int64]:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(np.int64)


def content(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chest")
    make_chest(root, patients=60, seed=1, size=SIZE)
    return root


@pytest.fixture(scope="module")
def fundus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fundus")
    make_fundus(root, patients=50, seed=1, size=SIZE)
    return root


def test_a_chest_phantom_is_a_sound_data_set_with_every_target(chest: Path) -> None:
    survey = survey_dataset(chest, CHEST_TASKS, columns=Columns(attributes=("site", "sex", "view")))

    assert survey.errors == ()
    assert all(survey.images[split] for split in ("train", "val", "calibration", "test"))
    assert survey.targets["findings"]["train"]["not known"] > 0
    assert survey.targets["lungs"]["train"]["not known"] > 0
    assert survey.targets["places"]["train"]["not known"] > 0
    assert survey.targets["lungs"]["test"]["not known"] == 0
    assert min(survey.targets["findings"]["train"][name] for name in CHEST_TASKS[0].classes) >= 5


def test_chest_pictures_are_sixteen_bits_deep_and_use_them(chest: Path) -> None:
    row = rows_of(chest)[0]
    image = pixels(chest / row["file"])

    with Image.open(chest / row["file"]) as picture:
        assert picture.mode == "I;16"
    assert image.shape == (SIZE, SIZE)
    assert image.max() > 40000
    assert len(np.unique(image)) > 2000


def test_lungs_are_darker_than_what_lies_between_them_and_on_their_own_side(chest: Path) -> None:
    dataset = read_dataset(chest, CHEST_TASKS)
    known = np.flatnonzero(dataset.known("lungs"))
    darker: list[bool] = []
    for index in known:
        lungs, image = load_mask(dataset, "lungs", int(index)), pixels(dataset.samples[index].path)
        columns = [np.argwhere(lungs == label)[:, 1].mean() for label in (1, 2)]
        assert columns[0] < SIZE / 2 < columns[1]
        assert 0.12 < (lungs > 0).mean() < 0.6
        middle = image[SIZE // 3 : SIZE * 2 // 3, int(np.mean(columns)) - 3 : int(np.mean(columns)) + 3]
        darker.append(bool(np.median(image[lungs > 0]) < np.median(middle)))
    assert all(darker)


def test_lung_boxes_are_the_extent_of_the_lung_masks(chest: Path) -> None:
    dataset = read_dataset(chest, CHEST_TASKS)
    both = np.flatnonzero(dataset.known("lungs") & dataset.known("places"))

    for index in both:
        lungs, boxes = load_mask(dataset, "lungs", int(index)), dataset.boxes["places"][index]
        assert boxes is not None
        for label in (0, 1):
            rows, columns = np.nonzero(lungs == label + 1)
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_array_equal(boxes[boxes[:, 4] == label][0, :4], extent)
    assert len(both) > 20


def test_a_finding_has_a_box_and_without_it_there_is_none(chest: Path) -> None:
    for row in rows_of(chest):
        if row["boxes"] and row["finding_nodule"]:
            labels = {box["label"] for box in json.loads(row["boxes"])}
            for finding in ("nodule", "cardiomegaly", "effusion", "opacity"):
                there = finding in labels
                # A box may fall out of the picture or be too faint to have an extent; never the other way round.
                assert not there or row[f"finding_{finding}"] == "1"
                assert there or row[f"finding_{finding}"] == "0" or finding in ("effusion", "opacity")
            anything = any(row[f"finding_{finding}"] == "1" for finding in CHEST_TASKS[0].classes)
            assert row["no_finding"] == str(int(not anything))


def test_an_enlarged_heart_is_measurably_wider(chest: Path) -> None:
    ratio: dict[str, list[float]] = {"0": [], "1": []}
    for row in rows_of(chest):
        if row["cardiothoracic_ratio"]:
            ratio[row["finding_cardiomegaly"]].append(float(row["cardiothoracic_ratio"]))

    assert np.mean(ratio["1"]) > np.mean(ratio["0"]) + 0.08
    assert max(ratio["0"]) < 0.55


def test_sites_differ_in_noise_and_exposure(tmp_path: Path) -> None:
    make_chest(tmp_path / "all", patients=60, seed=5, size=SIZE)
    noise: dict[str, list[float]] = {}
    for row in rows_of(tmp_path / "all"):
        image = pixels(tmp_path / "all" / row["file"]) / 65535
        fine = image - ndimage.gaussian_filter(image, 1.0)
        noise.setdefault(row["site"], []).append(float(np.median(np.abs(fine[SIZE // 2 :]))))

    assert set(noise) == {"north", "harbour", "mobile", "hill"}
    assert np.median(noise["mobile"]) > 1.15 * np.median(noise["north"]) > 1.15 * np.median(noise["harbour"])


def test_a_fundus_phantom_is_a_sound_data_set_with_every_target(fundus: Path) -> None:
    survey = survey_dataset(fundus, FUNDUS_TASKS, columns=Columns(attributes=("camera", "quality", "eye")))

    assert survey.errors == ()
    assert all(survey.images[split] for split in ("train", "val", "calibration", "test"))
    assert all(survey.targets["dr_grade"]["train"][grade] for grade in FUNDUS_TASKS[0].classes)
    assert survey.targets["lesions"]["train"]["not known"] > 0
    assert survey.targets["disc"]["test"]["not known"] == 0


def test_the_disc_lies_on_the_nasal_side_and_is_brighter_than_the_fovea(fundus: Path) -> None:
    brighter: list[bool] = []
    for row in rows_of(fundus):
        if not row["od_x"]:
            continue
        image, (dx, dy) = pixels(fundus / row["file"]), (float(row["od_x"]), float(row["od_y"]))
        fx, fy = float(row["fovea_x"]), float(row["fovea_y"])
        assert (dx > fx) == (row["eye"] == "right")
        around = [image[int(y) - 5 : int(y) + 6, int(x) - 5 : int(x) + 6].mean() for x, y in ((dx, dy), (fx, fy))]
        brighter.append(around[0] > around[1])
    assert np.mean(brighter) > 0.95


def test_the_grade_does_not_contradict_the_lesions(fundus: Path) -> None:
    for row in rows_of(fundus):
        if not row["dr_grade"] or not row["mask_ma"]:
            continue
        there = {name: bool(pixels(fundus / row[name]).any()) for name in LESIONS}
        highest = dict(zip(LESIONS, [high for _, high in COUNTS[int(row["dr_grade"])]], strict=True))
        assert all(highest[name] > 0 for name, found in there.items() if found), row
        assert any(there.values()) == (row["dr_grade"] != "0")
        assert row["referable"] == str(int(row["dr_grade"] >= "2"))


def test_the_cup_lies_in_the_disc_and_is_as_tall_as_it_is_said_to_be(fundus: Path) -> None:
    dataset = read_dataset(fundus, FUNDUS_TASKS)

    for index in np.flatnonzero(dataset.known("disc")):
        label = load_mask(dataset, "disc", int(index))
        cup, disc = (np.flatnonzero((label >= least).any(axis=1)) for least in (2, 1))
        ratio = (cup[-1] - cup[0] + 1) / (disc[-1] - disc[0] + 1)
        assert abs(ratio - float(dataset.scalars["cup_disc_ratio"][index, 0])) < 0.15
        inside = np.asarray(ndimage.binary_erosion(label > 0), bool)
        assert ((label == 2) & inside).sum() > 0.9 * (label == 2).sum()


def test_outside_the_field_of_view_it_is_black(fundus: Path) -> None:
    for row in rows_of(fundus):
        if row["mask_fov"]:
            image, field = pixels(fundus / row["file"]), pixels(fundus / row["mask_fov"]) > 0
            near = np.asarray(ndimage.binary_dilation(field, iterations=3), bool)
            assert image[~near].max(initial=0) <= 2
            assert image[field].mean() > 30


@pytest.mark.parametrize("make", [make_chest, make_fundus])
def test_equal_seeds_give_equal_files_and_other_seeds_other_ones(tmp_path: Path, make: Maker) -> None:
    counts = [make(tmp_path / name, patients=3, seed=seed, size=64) for name, seed in (("a", 1), ("b", 1), ("c", 2))]

    digests = [content(tmp_path / name) for name in "abc"]

    assert digests[0] == digests[1] != digests[2]
    assert counts[0] == counts[1] == len(rows_of(tmp_path / "a"))


@pytest.mark.parametrize("make", [make_chest, make_fundus])
def test_a_patients_pictures_do_not_depend_on_how_many_others_there_are(tmp_path: Path, make: Maker) -> None:
    make(tmp_path / "few", patients=1, seed=4, size=64)
    make(tmp_path / "more", patients=3, seed=4, size=64)

    for row in rows_of(tmp_path / "few"):
        assert (tmp_path / "few" / row["file"]).read_bytes() == (tmp_path / "more" / row["file"]).read_bytes()


def test_other_sizes_show_the_same_patient(tmp_path: Path) -> None:
    images = []
    for size in (96, 192):
        make_chest(tmp_path / str(size), patients=1, seed=2, size=size, gaps={})
        path = tmp_path / str(size) / rows_of(tmp_path / str(size))[0]["mask_lungs"]
        images.append(np.asarray(Image.open(path).resize((96, 96), Image.Resampling.NEAREST)) > 0)

    overlap = 2 * (images[0] & images[1]).sum() / (images[0].sum() + images[1].sum())
    assert overlap > 0.9


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(FoveolaError, match="not empty"):
        make_chest(tmp_path, patients=1)


@pytest.mark.parametrize("shares", [{"train": 0.5}, {"train": 0.5, "dev": 0.5}, {"train": 1.5, "test": -0.5}])
def test_shares_that_are_none_are_refused(tmp_path: Path, shares: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="no shares"):
        make_fundus(tmp_path, patients=2, shares=shares)


@pytest.mark.parametrize(("patients", "size"), [(0, 64), (3, 8)])
def test_a_phantom_of_nothing_is_refused(tmp_path: Path, patients: int, size: int) -> None:
    with pytest.raises(UsageError, match="at least one patient"):
        make_chest(tmp_path, patients=patients, size=size)


def test_shares_of_patients_are_kept(tmp_path: Path) -> None:
    make_chest(tmp_path, patients=20, size=32, shares={"train": 0.5, "val": 0.2, "test": 0.3})

    splits = {row["patient_id"]: row["split"] for row in rows_of(tmp_path)}
    assert sorted(splits.values()) == ["test"] * 6 + ["train"] * 10 + ["val"] * 4
