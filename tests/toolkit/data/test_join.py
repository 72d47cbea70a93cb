from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveola.runtime.errors import FoveolaError, UsageError
from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Task
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.data.dataset import Columns, Dataset, load_mask
from foveola.toolkit.data.join import Source, read_joined, survey_joined

AGE = Task(name="age", kind="regression", classes=("years",), columns=("age",))
LUNGS = Task(name="lungs", kind="segmentation", classes=("right", "left"), columns=("mask",))
BROKEN = Task(name="broken", kind="binary", classes=("no", "yes"))
CRACKS = Task(name="cracks", kind="segmentation", classes=("crack",), columns=("mask_crack",))
SPOTS = Task(name="spots", kind="detection", classes=("nodule",), columns=("boxes",))
CRACK_BOXES = Task(name="crack_boxes", kind="detection", classes=("crack",), columns=("boxes",))
TASKS = (AGE, LUNGS, BROKEN, CRACKS, SPOTS, CRACK_BOXES)
CHEST = Source(folder="tiny", columns=Columns(attributes=("sex",)), tasks=("age", "lungs", "spots"))
LIMB = Source(
    folder="limb",
    columns=Columns(attributes=("hand",), none={"mask_crack": "broken", "boxes": "broken"}),
    tasks=("broken", "cracks", "crack_boxes"),
)
SOURCES = {"chest": CHEST, "limb": LIMB}


@pytest.fixture
def both(tiny: Path) -> Path:
    """The tiny chests, and beside them three limbs whose files and patients have the same names."""
    limb = tiny.parent / "limb"
    limb.mkdir()
    rng = np.random.default_rng(1)
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(rng.integers(0, 255, (12, 10), np.uint8)).save(limb / name)
    Image.fromarray(np.eye(12, 10, dtype=np.uint8)).save(limb / "crack.png")
    (limb / "manifest.csv").write_text(
        "file,patient_id,split,hand,broken,mask_crack,boxes\n"
        "a.png,p1,val,1,1,crack.png,\n"
        "b.png,p2,train,0,0,,\n"
        "c.png,p3,test,1,,,\n"
    )
    return tiny.parent


def joined(root: Path, **changes: Source) -> Dataset:
    dataset, faults = read_joined(root, SOURCES | changes, TASKS)
    faults.refuse(str(root))
    return dataset


def told(root: Path, tasks: tuple[Task, ...] = TASKS, **changes: Source) -> list[str]:
    _, faults = read_joined(root, SOURCES | changes, tasks)
    return [str(fault) for fault in faults.found if fault.severity == "error"]


def test_keys_and_patients_carry_their_source_and_so_does_an_attribute(both: Path) -> None:
    samples = joined(both).samples

    assert [sample.key for sample in samples][2:6] == ["chest/c.png", "chest/d.png", "limb/a.png", "limb/b.png"]
    assert [sample.patient for sample in samples][3:5] == ["chest:p3", "limb:p1"]
    assert samples[0].attributes == {"sex": "F", "hand": "", "dataset": "chest"}
    assert samples[4].attributes == {"sex": "", "hand": "1", "dataset": "limb"}
    assert [sample.split for sample in samples] == ["train", "train", "val", "test", "val", "train", "test"]
    assert samples[4].path == both / "limb/a.png"


def test_what_a_source_does_not_label_is_a_gap(both: Path) -> None:
    dataset = joined(both)

    assert [task.name for task in dataset.tasks] == [task.name for task in TASKS]
    np.testing.assert_array_equal(dataset.scalars["age"][:, 0], [40, np.nan, 61.5, 33, np.nan, np.nan, np.nan])
    assert dataset.known("broken").tolist() == [False] * 4 + [True, True, False]
    assert dataset.known("lungs").tolist() == [True, False, False, True] + [False] * 3
    # Both have boxes, each of its own labels; only the source that names a task labels it.
    assert dataset.known("spots").tolist() == [True, False, True, False] + [False] * 3
    assert dataset.known("crack_boxes").tolist() == [False] * 5 + [True, False]


def test_none_by_a_flag_reaches_the_arrays(both: Path) -> None:
    dataset = joined(both)
    arrays = prepare_arrays(dataset, InputSpec(height=16, width=16, channels=1))

    assert dataset.known("cracks").tolist() == [False] * 4 + [True, True, False]
    assert np.unique(load_mask(dataset, "cracks", 5)).tolist() == [0]
    assert [np.unique(mask).tolist() for mask in arrays.masks["cracks"][4:]] == [[0, 1], [0], [255]]
    none = arrays.boxes["crack_boxes"][5]
    assert none is not None
    assert len(none) == 0


def test_a_source_that_names_no_tasks_labels_all_whose_columns_it_has(both: Path) -> None:
    everything = Source(folder="limb", columns=Columns(none={"boxes": "broken"}))

    dataset = joined(both, limb=everything)

    assert dataset.known("spots").tolist() == [True, False, True, False, False, True, False]
    assert not dataset.known("age")[4:].any()


def test_calibration_is_set_apart_source_by_source(both: Path) -> None:
    (both / "limb/manifest.csv").write_text("file,patient_id,split,broken\na.png,p1,train,1\nb.png,p2,train,0\n")
    limb = Source(folder="limb", calibration=0.5, tasks=("broken",))

    dataset, faults = read_joined(both, {"chest": CHEST, "limb": limb}, (AGE, LUNGS, SPOTS, BROKEN))

    assert faults.found == []
    assert {sample.key.split("/")[0] for sample in dataset.subset("calibration").samples} == {"limb"}
    assert len(dataset.subset("calibration")) == 1


def test_the_digest_is_of_the_content_of_all_sources(both: Path) -> None:
    before = joined(both).digest
    copy = both.parent / "copy"
    shutil.copytree(both, copy)

    assert joined(copy).digest == before
    Image.new("L", (10, 12)).save(copy / "limb/crack.png")
    assert joined(copy).digest != before


def test_the_same_image_in_two_splits_of_two_sources_is_an_error_and_in_one_split_a_warning(both: Path) -> None:
    shutil.copy(both / "tiny/d.png", both / "limb/a.png")  # test there, val here
    shutil.copy(both / "tiny/a.png", both / "limb/b.png")  # train in both
    Image.new("L", (20, 16)).save(both / "limb/crack.png")

    _, faults = read_joined(both, SOURCES, TASKS)

    error, warning = sorted(faults.found, key=lambda fault: fault.severity)
    assert error.fault == "the same image is in several splits: chest/d.png (line 5, test), limb/a.png (line 2, val)"
    assert (error.place, warning.severity) == (str(both), "warning")
    assert warning.fault == "the same image is there 2 times: chest/a.png (line 2, train), limb/b.png (line 3, train)"


def test_a_leak_within_a_source_is_told_once_and_by_that_source(both: Path) -> None:
    shutil.copy(both / "tiny/a.png", both / "tiny/d.png")

    (fault,) = told(both)

    assert fault.startswith(f"chest: {both / 'tiny/manifest.csv'}: the same image is in several splits: a.png")


def test_all_faults_of_all_sources_are_told_at_once(both: Path) -> None:
    text = (both / "tiny/manifest.csv").read_text()
    (both / "tiny/manifest.csv").write_text(text.replace("61.5", "old"))
    limb = Source(folder="limb", columns=Columns(attributes=("hnad",)), tasks=("broken", "crakcs", "age"))

    found = told(both, (AGE, LUNGS, SPOTS, BROKEN, CRACKS), limb=limb)

    for words in (
        "chest: ",
        "'old' is not a number",
        "limb: tasks: no task 'crakcs'; did you mean 'cracks'?",
        "limb: ",
        "no column 'hnad' (attribute); did you mean 'hand'?",
        "no column 'age' (task 'age')",
        "task 'cracks': no source labels it; it needs the column(s) mask_crack in one of them",
    ):
        assert [fault for fault in found if words in fault], words
    assert len(found) == 5


def test_an_absent_source_does_not_hide_the_faults_of_another(both: Path) -> None:
    (both / "tiny/b.png").unlink()

    found = told(both, limb=Source(folder="elsewhere"))

    assert len(found) == 2  # and not that nobody labels the limbs' tasks
    assert "b.png is not there" in found[0]
    assert found[1].startswith(f"limb: {both / 'elsewhere'}: not there")


def test_a_calibration_split_of_its_own_is_the_sources_fault(both: Path) -> None:
    text = (both / "limb/manifest.csv").read_text()
    (both / "limb/manifest.csv").write_text(text.replace("train", "calibration"))

    (fault,) = told(both, limb=Source(folder="limb", calibration=0.5, tasks=LIMB.tasks, columns=LIMB.columns))

    assert fault.startswith("limb: calibration: ")
    assert "calibration split of its own" in fault


@pytest.mark.parametrize("folder", ["../tiny", "/tmp", ""])
def test_a_source_lies_inside_of_root(folder: str) -> None:
    with pytest.raises(UsageError, match="not inside of root"):
        Source(folder=folder)


def test_the_attribute_dataset_is_not_the_sources_to_give() -> None:
    with pytest.raises(UsageError, match="'dataset' is not the source's to give"):
        Source(folder="x", columns=Columns(attributes=("dataset",)))


def test_two_manifests_of_one_folder_are_two_sources(both: Path) -> None:
    head, *lines = (both / "tiny/manifest.csv").read_text().splitlines()
    (both / "tiny/first.csv").write_text("\n".join([head, *lines[:2]]) + "\n")
    (both / "tiny/second.csv").write_text("\n".join([head, *lines[2:]]) + "\n")
    sources = {name: Source(folder=".", manifest=f"{name}.csv") for name in ("first", "second")}

    dataset, faults = read_joined(both / "tiny", sources, (AGE,))

    assert [sample.key for sample in dataset.samples] == ["first/a.png", "first/b.png", "second/c.png", "second/d.png"]
    assert faults.found == []


def test_no_sources_are_refused(both: Path) -> None:
    with pytest.raises(UsageError, match="there are none"):
        read_joined(both, {}, TASKS)


def test_the_survey_looks_at_every_picture_and_counts_none_apart(both: Path) -> None:
    calls: list[tuple[int, int]] = []

    survey = survey_joined(both, SOURCES, TASKS, progress=lambda done, total: calls.append((done, total)))

    assert survey.errors == ()
    assert calls == [(i, 7) for i in range(1, 8)]
    assert survey.images == {"train": 3, "val": 2, "calibration": 0, "test": 2}
    assert survey.patients == {"train": 2, "val": 2, "calibration": 0, "test": 2}
    assert survey.targets["cracks"]["train"] == {"masks": 0, "none there": 1, "not known": 2}
    assert survey.targets["cracks"]["val"] == {"masks": 1, "not known": 1}
    assert survey.digest == joined(both).digest
    (both / "limb/c.png").write_text("not a picture")
    (error,) = survey_joined(both, SOURCES, TASKS).errors
    assert "limb/c.png" in error.place


def test_box_labels_are_held_against_the_tasks_of_their_source(both: Path) -> None:
    text = (both / "tiny/manifest.csv").read_text()
    (both / "tiny/manifest.csv").write_text(text.replace("nodule", "crack"))

    warnings = [str(fault) for fault in survey_joined(both, SOURCES, TASKS).warnings]

    assert [text for text in warnings if "1 boxes 'crack' belong to no task" in text and "tiny" in text]


def test_refusal_is_one_line(both: Path) -> None:
    (both / "tiny/b.png").unlink()
    (both / "limb/b.png").unlink()

    with pytest.raises(FoveolaError, match=r"2 faults: chest: .* \| limb: ") as refusal:
        joined(both)

    assert "\n" not in str(refusal.value)


def test_a_source_that_is_not_labelled_gives_pictures_without_targets(both: Path) -> None:
    bare = Source(folder="limb", columns=Columns(attributes=("hand",)), labelled=False)

    dataset, faults = read_joined(both, SOURCES | {"limb": bare}, (AGE, LUNGS, SPOTS))

    assert [fault for fault in faults.found if fault.severity == "error"] == []
    limbs = np.array([sample.attributes["dataset"] == "limb" for sample in dataset.samples])
    assert limbs.sum() == 3
    assert not any(dataset.known(task.name)[limbs].any() for task in dataset.tasks)
    with pytest.raises(UsageError, match="tasks: named, but `labelled` is false"):
        Source(folder="limb", tasks=("broken",), labelled=False)
