from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveola.runtime.errors import FoveolaError, UsageError
from foveola.runtime.task import Task
from foveola.toolkit.data.dataset import Columns, Dataset, load_mask, read_dataset

Broken = Callable[..., Path]

FINDINGS = Task(name="findings", kind="multilabel", classes=("a", "b"), columns=("finding_a", "finding_b"))
SEX = Task(name="sex", kind="binary", classes=("female|F", "male|M"))
VIEW = Task(name="view", kind="multiclass", classes=("PA", "AP|AP Supine"))
GRADE = Task(name="grade", kind="ordinal", classes=("none", "mild", "severe"))
AGE = Task(name="age", kind="regression", classes=("years",), columns=("age",), unit="years")
LUNGS = Task(name="lungs", kind="segmentation", classes=("right", "left"), columns=("mask",))
SPOTS = Task(name="spots", kind="detection", classes=("nodule",), columns=("boxes",))
TASKS = (FINDINGS, SEX, VIEW, GRADE, AGE, LUNGS, SPOTS)


def read(root: Path, *tasks: Task) -> Dataset:
    return read_dataset(root, tasks or TASKS)


def test_every_kind_of_cell_is_read_and_an_empty_one_is_a_gap(tiny: Path) -> None:
    dataset = read(tiny)

    np.testing.assert_array_equal(dataset.scalars["findings"], [[1, 0], [math.nan, 1], [0, 0], [1, 1]])
    np.testing.assert_array_equal(dataset.scalars["sex"][:, 0], [0, 0, 1, 1])
    np.testing.assert_array_equal(dataset.scalars["view"][:, 0], [0, 1, 0, 1])
    np.testing.assert_array_equal(dataset.scalars["grade"][:, 0], [0, 2, 1, 0])
    np.testing.assert_array_equal(dataset.scalars["age"][:, 0], [40, math.nan, 61.5, 33])
    assert [files[0] is None for files in dataset.masks["lungs"]] == [False, True, True, False]
    boxes = dataset.boxes["spots"]
    np.testing.assert_array_equal(boxes[0], [[2, 3, 10, 9, 0]])
    assert boxes[1] is None
    assert boxes[2] is not None
    assert boxes[2].shape == (0, 5)


def test_classes_are_shown_without_their_other_spellings(tiny: Path) -> None:
    assert read(tiny).task("view").classes == ("PA", "AP")


def test_known_says_which_images_have_a_target(tiny: Path) -> None:
    dataset = read(tiny)

    assert dataset.known("age").tolist() == [True, False, True, True]
    assert dataset.known("lungs").tolist() == [True, False, False, True]
    assert dataset.known("spots").tolist() == [True, False, True, False]


def test_a_subset_keeps_images_and_targets_together(tiny: Path) -> None:
    dataset = read(tiny).subset("val", "test")

    assert [sample.key for sample in dataset.samples] == ["c.png", "d.png"]
    np.testing.assert_array_equal(dataset.scalars["age"][:, 0], [61.5, 33])
    assert load_mask(dataset, "lungs", 1)[5, 3] == 2
    assert len(read(tiny).subset("calibration")) == 0


def test_the_digest_is_of_the_content_and_not_of_the_folder(tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(tiny, copy)
    before = read(tiny).digest

    assert read(copy).digest == before
    Image.new("L", (20, 16), 9).save(copy / "mask_a.png")
    assert read(copy).digest != before


@pytest.mark.parametrize(
    ("line", "cells", "words"),
    [
        (2, {"sex": "f"}, "did you mean 'F'?"),
        (2, {"finding_a": "-1"}, "neither 0 nor 1"),
        (2, {"age": "about 40"}, "not a number"),
        (2, {"age": "nan"}, "not a finite number"),
        (2, {"grade": "3"}, "none of the classes"),
        (2, {"grade": "1.5"}, "none of the classes"),
        (2, {"split": "training"}, "did you mean 'train'?"),
        (2, {"split": ""}, "empty"),
        (2, {"mask": "mask_x.png"}, "mask_x.png is not there"),
        (2, {"mask": "../tiny/mask_a.png"}, "not a path inside"),
        (2, {"file": "/etc/hostname"}, "not a path inside"),
        (2, {"file": ""}, "column file: empty"),
        (2, {"file": "b.png"}, "already named in line 2"),
        (2, {"boxes": "nodule"}, "not a list of boxes"),
        (2, {"boxes": '[{"label": "nodule", "x1": 5, "y1": 1, "x2": 2, "y2": 4}]'}, "has no area"),
        (2, {"boxes": '[{"lable": "nodule", "x1": 5, "y1": 1, "x2": 9, "y2": 4}]'}, "lable"),
        (2, {"boxes": '[{"label": "nodule", "x1": 5, "y1": 1, "x2": 1e999, "y2": 4}]'}, "not a list of boxes"),
        (4, {"patient_id": "p1"}, "patient p1 is in several splits: train (line 2), val (line 4)"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_cell_is_refused_with_its_place(broken: Broken, line: int, cells: dict[str, str], words: str) -> None:
    root = broken(line, **cells)

    with pytest.raises(FoveolaError) as refusal:
        read(root)

    assert words in str(refusal.value)
    assert "manifest.csv" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_all_faults_are_told_at_once(broken: Broken) -> None:
    broken(2, age="old", sex="X")
    root = broken(4, finding_b="yes")

    with pytest.raises(FoveolaError, match=r"3 faults") as refusal:
        read(root)

    for words in ("'old'", "'X'", "'yes'", "data check"):
        assert words in str(refusal.value)


def test_the_same_image_in_two_splits_is_refused_even_under_two_names(tiny: Path) -> None:
    shutil.copy(tiny / "a.png", tiny / "d.png")

    with pytest.raises(FoveolaError, match=r"the same image is in several splits: a.png"):
        read(tiny)


def test_an_absent_column_is_refused_with_the_nearest_one(tiny: Path) -> None:
    with pytest.raises(FoveolaError, match=r"no column 'finding_A' .*did you mean 'finding_a'"):
        read(tiny, Task(name="x", kind="multilabel", classes=("a",), columns=("finding_A",)))
    with pytest.raises(FoveolaError, match=r"no column 'splits'"):
        read_dataset(tiny, (SEX,), columns=Columns(split="splits"))


def test_a_misspelt_split_column_never_becomes_a_new_split(tiny: Path) -> None:
    text = (tiny / "manifest.csv").read_text().replace("split", "Split", 1)
    (tiny / "manifest.csv").write_text(text)

    with pytest.raises(FoveolaError, match=r"did you mean 'Split'"):
        read(tiny)


@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_a_missing_or_empty_image_is_refused(tiny: Path, damage: str) -> None:
    (tiny / "b.png").unlink()
    if damage == "empty":
        (tiny / "b.png").touch()

    with pytest.raises(FoveolaError, match=r"line 3.*b\.png is (not there|empty)"):
        read(tiny)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"file,split\n", "no images"),
        (b"file,file\na.png,b.png\n", "twice"),
        (b"file,split\na.png\n", "1 cells, but 2 columns"),
        (b"\xff\xfe\x00f", "not UTF-8"),
        (b'file,split\n"a.png,train\n', "not valid CSV"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tiny: Path, data: bytes, words: str) -> None:
    (tiny / "manifest.csv").write_bytes(data)

    with pytest.raises(FoveolaError, match=words):
        read_dataset(tiny, (), columns=Columns(patient=""))


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FoveolaError, match=r"nowhere: not there"):
        read_dataset(tmp_path / "nowhere", ())
    with pytest.raises(FoveolaError, match=r"labels\.csv: not there; give the folder that holds labels\.csv"):
        read_dataset(tmp_path, (), manifest="labels.csv")


def test_a_file_in_place_of_the_folder_is_told_with_a_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(FoveolaError, match=r"Not a directory; give the folder that holds manifest\.csv"):
        read_dataset(tmp_path / "file", ())


def test_a_manifest_with_a_byte_order_mark_and_blanks_is_read(tiny: Path) -> None:
    text = (tiny / "manifest.csv").read_text().replace(",F,", ", F ,")
    (tiny / "manifest.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n")

    np.testing.assert_array_equal(read(tiny).scalars["sex"][:, 0], [0, 0, 1, 1])


def test_an_empty_patient_cell_makes_the_image_its_own_patient(broken: Broken) -> None:
    dataset = read(broken(3, patient_id=""))

    assert [sample.patient for sample in dataset.samples] == ["p1", "b.png", "p2", "p3"]


def test_calibration_takes_whole_patients_from_train_only(many: Path) -> None:
    before = read_dataset(many, ())
    after = read_dataset(many, (), calibration=0.25, seed=3)

    apart = {sample.patient for sample in after.subset("calibration").samples}
    assert len(apart) == round(0.25 * len({sample.patient for sample in before.subset("train").samples}))
    assert apart.isdisjoint(sample.patient for sample in after.subset("train").samples)
    assert [s.key for s in after.subset("val").samples] == [s.key for s in before.subset("val").samples]
    again = read_dataset(many, (), calibration=0.25, seed=3)
    assert [s.split for s in again.samples] == [s.split for s in after.samples]


def test_a_calibration_split_of_ones_own_is_not_added_to(broken: Broken) -> None:
    root = broken(4, split="calibration")

    with pytest.raises(UsageError, match=r"calibration split of its own"):
        read_dataset(root, (), calibration=0.5)


def test_without_a_split_column_patients_are_split_by_hash_and_stay_where_they_are(many: Path) -> None:
    full = read_dataset(many, (), columns=Columns(split=""))
    text = (many / "manifest.csv").read_text().splitlines()
    (many / "manifest.csv").write_text("\n".join([text[0], *text[41:]]) + "\n")
    part = read_dataset(many, (), columns=Columns(split=""))

    split = {sample.patient: sample.split for sample in full.samples}
    assert all(split[sample.patient] == sample.split for sample in part.samples)
    shares = [len(full.subset(name)) / len(full) for name in ("train", "val", "test")]
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.12)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """120 images of 60 patients."""
    lines = ["file,patient_id,split"]
    for i in range(120):
        patient = i // 2
        (tmp_path / f"{i}.png").write_bytes(b"%d" % i)  # read_dataset does not decode
        lines.append(f"{i}.png,p{patient},{('train', 'train', 'val', 'test')[patient % 4]}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_numbers_name_a_class_by_index_unless_classes_are_numbers(broken: Broken) -> None:
    root = broken(2, grade="2.0")
    text = (root / "manifest.csv").read_text()
    (root / "manifest.csv").write_text(text.replace(",mild,", ",1,").replace(",none,", ",0,"))

    by_index = read(root, GRADE).scalars["grade"][:, 0]
    by_name = read(root, Task(name="grade", kind="ordinal", classes=("2", "1", "0"))).scalars["grade"][:, 0]

    assert by_index.tolist() == [2, 2, 1, 0]
    assert by_name.tolist() == [0, 0, 1, 2]


def test_boxes_of_other_labels_mean_none_or_not_annotated_as_the_task_says(tiny: Path) -> None:
    def task(*, exhaustive: bool) -> Task:
        return Task(name="x", kind="detection", classes=("mass",), columns=("boxes",), exhaustive=exhaustive)

    none = read(tiny, task(exhaustive=True)).boxes["x"]
    unknown = read(tiny, task(exhaustive=False)).boxes["x"]

    assert none[0] is not None
    assert len(none[0]) == 0
    assert unknown[0] is None
    assert unknown[2] is not None  # "[]" says none, whatever the labels


def test_masks_are_label_maps_with_255_for_gaps_and_ignored_places(tiny: Path) -> None:
    ignore = np.zeros((16, 20), np.uint8)
    ignore[:2] = 1
    Image.fromarray(ignore).save(tiny / "ignore.png")
    text = (tiny / "manifest.csv").read_text().splitlines()
    text = [text[0] + ",ignore", text[1] + ",ignore.png", *(line + "," for line in text[2:])]
    (tiny / "manifest.csv").write_text("\n".join(text) + "\n")
    task = Task(name="lungs", kind="segmentation", classes=("right", "left"), columns=("mask",), ignore_column="ignore")
    dataset = read(tiny, task)

    first, gap = load_mask(dataset, "lungs", 0), load_mask(dataset, "lungs", 1)

    assert np.unique(first[:2]).tolist() == [255]
    assert (first[5, 3], first[5, 13], first[15, 0]) == (1, 2, 0)
    assert np.unique(gap).tolist() == [255]
    assert gap.shape == (16, 20)


def test_a_mask_of_one_class_is_set_wherever_it_is_not_zero(tiny: Path) -> None:
    mask = np.zeros((16, 20), np.uint8)
    mask[3:5] = 255
    Image.fromarray(mask).save(tiny / "mask_a.png")

    target = load_mask(read(tiny, Task(name="x", kind="segmentation", classes=("x",), columns=("mask",))), "x", 0)

    assert np.unique(target).tolist() == [0, 1]
    assert target.sum() == 40


def test_masks_that_may_overlap_come_one_a_class_and_a_gap_is_255(tiny: Path) -> None:
    text = (tiny / "manifest.csv").read_text().splitlines()
    text = [text[0] + ",other", text[1] + ",", *(line + ",mask_d.png" for line in text[2:])]
    (tiny / "manifest.csv").write_text("\n".join(text) + "\n")
    task = Task(name="x", kind="segmentation", exclusive=False, classes=("p", "q"), columns=("mask", "other"))

    target = load_mask(read(tiny, task), "x", 0)

    assert target.shape == (2, 16, 20)
    assert np.unique(target[0]).tolist() == [0, 1]
    assert np.unique(target[1]).tolist() == [255]


@pytest.mark.parametrize("damage", ["size", "label", "jpeg", "colour", "truncated", "text"])
def test_a_mask_that_cannot_be_one_is_refused(tiny: Path, damage: str) -> None:
    path = tiny / "mask_a.png"
    match damage:
        case "size":
            Image.new("L", (10, 16)).save(path)
        case "label":
            Image.new("L", (20, 16), 7).save(path)
        case "jpeg":
            Image.new("L", (20, 16)).save(path, format="JPEG")
        case "colour":
            Image.new("RGB", (20, 16), (1, 2, 0)).save(path)
        case "truncated":
            path.write_bytes(path.read_bytes()[:-30])
        case _:
            path.write_text("not a picture")

    with pytest.raises(FoveolaError, match=r"mask_a.png"):
        load_mask(read(tiny), "lungs", 0)


def test_an_ambiguous_spelling_is_the_recipes_fault(tiny: Path) -> None:
    with pytest.raises(UsageError, match=r"'X' stands for two classes"):
        read(tiny, Task(name="sex", kind="binary", classes=("F|X", "M|X")))
    with pytest.raises(UsageError, match=r"same name"):
        read(tiny, SEX, SEX)


NONE = Columns(none={"mask": "finding_a", "boxes": "finding_a"})  # 0 in line 4 only


def test_a_flag_of_0_says_that_an_empty_cell_is_none_and_no_gap(broken: Broken) -> None:
    dataset = read_dataset(broken(4, boxes=""), TASKS, columns=NONE)

    assert dataset.known("lungs").tolist() == [True, False, True, True]  # line 3: the flag itself is a gap
    assert dataset.known("spots").tolist() == [True, False, True, False]  # line 5: the flag is 1
    assert np.unique(load_mask(dataset, "lungs", 2)).tolist() == [0]
    boxes = dataset.boxes["spots"][2]
    assert boxes is not None
    assert boxes.shape == (0, 5)


def test_a_cell_that_says_none_is_a_mask_in_which_nothing_is_set(broken: Broken) -> None:
    each = Task(name="each", kind="segmentation", classes=("x", "y"), columns=("mask", "sex"), exclusive=False)
    root = broken(3, mask="none", sex="none")
    broken(2, sex="")
    broken(4, sex="")
    broken(5, sex="")

    target = load_mask(read(root, each), "each", 1)

    assert target.shape == (2, 16, 20)
    assert np.unique(target).tolist() == [0]
    assert np.unique(load_mask(read(root, LUNGS), "lungs", 1)).tolist() == [0]


def test_what_is_not_drawn_is_another_data_set_than_what_is_not_known(tiny: Path) -> None:
    assert read_dataset(tiny, TASKS, columns=NONE).digest != read(tiny).digest


@pytest.mark.parametrize(
    ("none", "words"),
    [
        ({"mask": "finding_c"}, "no column 'finding_c' (none); did you mean"),
        ({"age": "finding_a"}, "column 'age' (none) holds neither masks nor boxes"),
        ({"mask": "sex"}, "line 3, column sex: 'F' is not a number"),
    ],
    ids=["absent", "no-mask", "no-number"],
)
def test_a_flag_that_cannot_say_none_is_refused(tiny: Path, none: dict[str, str], words: str) -> None:
    with pytest.raises(FoveolaError) as refusal:
        read_dataset(tiny, TASKS, columns=Columns(none=none))

    assert words in str(refusal.value)


def test_only_some_tasks_come_with_the_images_that_they_label(tiny: Path) -> None:
    dataset = read(tiny)

    few = dataset.only(["spots", "lungs"])

    assert [task.name for task in few.tasks] == ["spots", "lungs"]
    assert [sample.key for sample in few.samples] == ["a.png", "c.png", "d.png"]
    assert (few.scalars, list(few.masks), list(few.boxes)) == ({}, ["lungs"], ["spots"])
    assert [boxes is None for boxes in few.boxes["spots"]] == [False, False, True]
    assert len(dataset.only(["lungs"], labelled=False)) == 4
    assert len(dataset.only([])) == 0


def test_an_unknown_task_is_refused_with_the_nearest_one(tiny: Path) -> None:
    with pytest.raises(UsageError, match=r"no task 'lung'; did you mean 'lungs'\?"):
        read(tiny).only(["sex", "lung"])


def test_only_images_of_the_named_attributes_are_kept(tiny: Path) -> None:
    dataset = read_dataset(tiny, TASKS, columns=Columns(attributes=("sex", "view")))

    assert [sample.key for sample in dataset.having({"sex": "M", "view": "PA"}).samples] == ["c.png"]
    assert dataset.having({}) is dataset


@pytest.mark.parametrize(
    ("attributes", "words"),
    [({"sex": "X"}, "there are F, M"), ({"modality": "fundus"}, "name the column among columns.attributes")],
)
def test_an_attribute_that_no_image_has_is_refused(tiny: Path, attributes: dict[str, str], words: str) -> None:
    dataset = read_dataset(tiny, TASKS, columns=Columns(attributes=("sex", "view")))

    with pytest.raises(FoveolaError, match=words):
        dataset.having(attributes)


def test_a_value_of_another_unit_is_refused_with_its_row(tiny: Path) -> None:
    age = Task(name="age", kind="regression", classes=("age",), unit="years", plausible=(0, 60))

    with pytest.raises(FoveolaError, match=r"line 4, column age: 61\.5 lies outside of 0 to 60 years"):
        read_dataset(tiny, (age,))
