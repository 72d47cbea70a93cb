from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import timm
import torch
from factors import pictures, teacher_of
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from small import SPEC, TASKS, make_squares, silent, squares

from foveola.runtime.answer import probabilities
from foveola.runtime.errors import FoveolaError, UsageError
from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Task
from foveola.toolkit.checkpoint import Epoch, Weights, copy_weights
from foveola.toolkit.course import Scores
from foveola.toolkit.data.arrays import Arrays, prepare_arrays
from foveola.toolkit.data.dataset import Dataset, read_dataset
from foveola.toolkit.finished import read_history, read_locked, teacher_answers
from foveola.toolkit.knobs import Lessons, Plan, Shape
from foveola.toolkit.models.network import read_weights
from foveola.toolkit.models.outputs import task_outputs
from foveola.toolkit.score import score_answers
from foveola.toolkit.stages.sepl import TrainSepl
from foveola.toolkit.teachers.load import load_teacher
from foveola.toolkit.teachers.sepl.learn import Sepl, check_plan, factor_names, judge, new_sepl, train_sepl
from foveola.toolkit.teachers.sepl.teacher import SeplTeacher
from foveola.toolkit.teachers.sepl.usage import UsageReport, strata
from foveola.toolkit.teachers.start import start_backbone
from foveola.toolkit.train import distil_student

HOW = Sepl(simple=("bright", "side"), complex=("grade", "corner", "signs"), experts=2, hidden=8, prior_hidden=4)
PLAN = Plan(
    epochs=3,
    batch_size=4,
    learning_rate=1e-3,
    optimizer="adam",
    weight_decay=0.0,
    schedule="constant",
    clip=0.0,
    ema=0.0,
)


def learn(
    root: Path, how: Sepl = HOW, plan: Plan = PLAN, report: Any = silent, tasks: tuple[Task, ...] = TASKS
) -> SeplTeacher:
    (root / "run").mkdir(exist_ok=True)
    common: dict[str, Any] = {"folder": root / "run", "cache": root / "cache", "seed": 5, "report": report}
    return train_sepl(squares(root / "data", tasks), "test_resnet", SPEC, how, plan, **common)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sepl")
    learn(root)
    return root


def test_a_training_leaves_a_teacher_its_history_its_thresholds_and_how_its_experts_are_used(learned: Path) -> None:
    teacher, history = load_teacher(learned / "run"), read_history(learned / "run")

    assert {task.name for task in teacher.tasks} == {*HOW.simple, *HOW.complex}
    assert len(history) == 3
    assert set(history[0].losses) == {task.name for task in teacher.tasks}
    assert set(read_locked(learned / "run")) == {"bright", "signs"}
    report = msgspec.json.decode((learned / "run/sepl.json").read_bytes(), type=UsageReport)
    assert [gate.task for gate in report.gates] == ["signs", "corner", "grade"]
    for gate in report.gates:
        assert sum(gate.shares) == pytest.approx(1, abs=1e-5)
        assert 0 <= gate.entropy <= report.most_entropy == pytest.approx(np.log(2))
    assert {one.task for one in report.strata} == {"signs", "corner", "grade"}
    page = (learned / "run/sepl.html").read_text()
    assert "What a wrong prior costs" in page
    assert "Expert 2" in page


def test_the_epoch_of_the_smallest_validation_loss_is_kept(learned: Path) -> None:
    history = read_history(learned / "run")
    teacher = load_teacher(learned / "run")
    assert isinstance(teacher, SeplTeacher)

    best = min(epoch.measures["validation loss"] for epoch in history)
    val = squares(learned / "data").subset("val")
    again = judge(teacher, prepare_arrays(val, SPEC), HOW)

    assert again.measures["validation loss"] == pytest.approx(best, rel=1e-4)
    assert again.total == pytest.approx(1 / (1 + best), rel=1e-4)
    assert [epoch.score for epoch in history] == [1 / (1 + e.measures["validation loss"]) for e in history]


def test_a_training_that_was_cut_off_ends_as_an_uninterrupted_one(learned: Path, tmp_path: Path) -> None:
    class CutError(Exception):
        pass

    def cut(done: float, total: float, text: str = "") -> None:
        if text.startswith("epoch 3/3, loss"):
            raise CutError

    make_squares(tmp_path / "data")
    with pytest.raises(CutError):
        learn(tmp_path, report=cut)
    teacher = learn(tmp_path)

    whole = load_teacher(learned / "run")
    assert isinstance(whole, SeplTeacher)
    for name, x in teacher.state_dict().items():
        assert torch.equal(x, whole.state_dict()[name]), name


def test_at_first_the_simple_factors_may_be_trained_alone(tmp_path: Path) -> None:
    how = msgspec.structs.replace(HOW, prior_epochs=1)

    learn(tmp_path, how, msgspec.structs.replace(PLAN, epochs=2))

    first, second = read_history(tmp_path / "run")
    assert set(first.losses) == set(HOW.simple)
    assert set(second.losses) == {*HOW.simple, *HOW.complex}


def test_an_epoch_of_simple_factors_alone_is_not_kept_however_well_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Weights] = []

    def judged(teacher: SeplTeacher, arrays: Arrays, how: Sepl) -> Scores:
        seen.append(copy_weights(teacher))
        return Scores((0.9, 0.5, 0.6, 0.4)[len(seen) - 1], {})

    monkeypatch.setattr("foveola.toolkit.teachers.sepl.learn.judge", judged)
    teacher = learn(tmp_path, msgspec.structs.replace(HOW, prior_epochs=1), msgspec.structs.replace(PLAN, epochs=4))

    assert all(torch.equal(x, seen[2][name]) for name, x in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("knobs", "names", "guided"),
    [
        ({"simple": (), "complex": ("side",), "prior": "none"}, ("side",), 1),
        ({"simple": ("bright",), "complex": ("side",)}, ("bright", "side"), 1),
        ({"simple": ("bright", "side"), "complex": ()}, ("bright", "side"), 0),
    ],
    ids=["no simple", "one guides one", "no complex"],
)
def test_there_may_be_no_simple_factor_one_complex_one_or_none(
    knobs: dict[str, Any], names: tuple[str, ...], guided: int, tmp_path: Path
) -> None:
    tasks = tuple(task for task in TASKS if task.name in names)
    learn(tmp_path, msgspec.structs.replace(HOW, **knobs), msgspec.structs.replace(PLAN, epochs=1), tasks=tasks)

    again = load_teacher(tmp_path / "run")

    assert tuple(task.name for task in again.tasks) == names
    assert set(again.answer(torch.rand(1, 1, 64, 64)).raw) == set(names)
    report = msgspec.json.decode((tmp_path / "run/sepl.json").read_bytes(), type=UsageReport)
    assert len(report.gates) == guided
    assert (tmp_path / "run/sepl.html").read_text().count("<table") >= guided


@pytest.mark.parametrize(
    "knobs",
    [
        {"prior": "reference", "sex_as": "sigmoid", "task_weights": "learned", "views": "affine"},
        {"prior": "none", "experts": 0, "hidden": 0, "scaling": "standard", "keep": "score"},
    ],
)
def test_every_arm_learns(knobs: dict[str, Any], tmp_path: Path) -> None:
    how: Sepl = msgspec.structs.replace(HOW, **knobs)

    teacher = learn(tmp_path, how, msgspec.structs.replace(PLAN, epochs=1))

    (epoch,) = read_history(tmp_path / "run")
    assert isinstance(epoch, Epoch)
    assert np.isfinite(epoch.score)
    assert teacher.sepl.prior == knobs["prior"]
    kept = read_weights(tmp_path / "run/model.safetensors")  # learned weights of tasks, say, serve training alone
    assert {key.split(".")[0] for key in kept} == {"backbone", "simple", "complex"}
    assert (tmp_path / "run/sepl.html").read_text().count("<table") == 2 - (how.experts == 0)


def test_the_area_under_the_curve_of_a_binary_factor_is_that_of_its_probabilities(learned: Path) -> None:
    teacher, val = load_teacher(learned / "run"), squares(learned / "data").subset("val")
    answers, arrays = teacher_answers(teacher, val), prepare_arrays(val, SPEC)

    scores = score_answers(teacher.tasks, answers, arrays, teacher.target_scale)

    (task,) = (task for task in teacher.tasks if task.name == "bright")
    area = roc_auc_score(arrays.scalars["bright"][:, 0], probabilities(task, answers.raw["bright"])[:, 0])
    assert scores.by_task["bright"] == pytest.approx(2 * area - 1)


def test_errors_are_told_apart_by_whether_the_binary_prior_was_right() -> None:
    side = Task(name="side", kind="regression", classes=("side",), unit="px")
    bright = Task(name="bright", kind="binary", classes=("no", "yes"))
    grade = Task(name="grade", kind="ordinal", classes=("none", "some", "much"))
    teacher = SeplTeacher.__new__(SeplTeacher)
    torch.nn.Module.__init__(teacher)

    class Said:
        simple = (bright,)
        complex = (side, grade)

    teacher.sepl = Said()  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    teacher._plan = type("P", (), {"target_scale": {"side": ((10.0,), (2.0,))}})()  # pyright: ignore
    raw = {
        "bright": np.array([[3.0], [-3.0], [3.0], [3.0]]),
        "side": np.array([[0.0], [1.0], [1.0], [5.0]]),
        "grade": np.array([[-5.0, -5.0], [5.0, 5.0], [5.0, -5.0], [5.0, 5.0]]),
    }
    targets = {
        "bright": np.array([[1], [1], [1], [np.nan]], np.float32),
        "side": np.array([[11], [15], [np.nan], [0]], np.float32),
        "grade": np.array([[0], [1], [2], [0]], np.float32),
    }

    by_task = {one.task: one for one in strata(teacher, raw, targets, {"bright": (0.5,)})}

    assert (by_task["side"].right, by_task["side"].wrong) == (1.0, 3.0)
    assert (by_task["side"].right_images, by_task["side"].wrong_images) == (1, 1)
    assert (by_task["grade"].right, by_task["grade"].wrong) == (0.5, 1.0)
    assert (by_task["side"].unit, by_task["grade"].unit) == ("px", "")


def test_a_student_may_keep_the_teacher_s_scaler_which_goes_into_the_bundle(learned: Path, tmp_path: Path) -> None:
    teacher, dataset = load_teacher(learned / "run"), squares(learned / "data")
    asked = dataset.only(["side"], labelled=False)
    answers = teacher_answers(teacher, asked.subset("train"))
    shape = Shape(backbone="mobilenetv4_conv_small_035", input=SPEC, width=16)
    common: dict[str, Any] = {"taught_on": SPEC, "taught_scale": teacher.target_scale, "lessons": Lessons()}
    common |= {"cache": tmp_path / "cache", "seed": 1, "report": silent}
    plan = Plan(epochs=1, batch_size=4, learning_rate=1e-3)
    students = {}
    for name, keep in (("own", False), ("kept", True)):
        (tmp_path / name).mkdir()
        students[name] = distil_student(asked, shape, plan, answers, folder=tmp_path / name, keep_scale=keep, **common)

    values = dataset.subset("train").scalars["side"].astype(np.float64)
    quartiles = np.nanpercentile(values, (75, 25))
    (output,) = task_outputs(students["kept"], {})
    assert (output.mean, output.std) == ((np.nanmedian(values),), (quartiles[0] - quartiles[1],))
    assert students["own"].target_scale["side"][0][0] == pytest.approx(np.nanmean(values))
    assert students["own"].target_scale != students["kept"].target_scale


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (Sepl(simple=("brigth",)), "simple: no task 'brigth'.*did you mean 'bright'"),
        (Sepl(simple=("square",)), "simple: square is a segmentation"),
        (Sepl(simple=("bright",), complex=("things",)), "complex: things is a detection"),
        (Sepl(simple=("bright",), complex=("bright",)), "simple: 'bright' is named twice"),
    ],
)
def test_factors_that_cannot_be_are_refused_in_one_line(how: Sepl, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        factor_names(TASKS, how)


def test_without_names_all_values_and_classes_are_guided() -> None:
    assert factor_names(TASKS, Sepl(simple=("bright",))) == {"bright", "signs", "corner", "grade", "side"}


@pytest.mark.parametrize(("epochs", "patience"), [(5, 0), (9, 5)])
def test_a_start_on_the_simple_factors_that_would_be_all_is_refused(epochs: int, patience: int) -> None:
    plan = msgspec.structs.replace(PLAN, epochs=epochs, patience=patience)

    with pytest.raises(UsageError, match="prior_epochs: 5 epochs for the simple factors alone; keep it below 5"):
        check_plan(msgspec.structs.replace(HOW, prior_epochs=5), plan)


def changed(root: Path, column: str, place: int, cell: str) -> Path:
    """The data set with another cell."""
    make_squares(root)
    path = root / "manifest.csv"
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows if place < 0 else rows[place : place + 1]:
        row[column] = cell
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


def read(root: Path) -> Dataset:
    side = Task(name="side", kind="regression", classes=("side",), unit="px", plausible=(4, 64))
    return read_dataset(root, (TASKS[0], side))


@pytest.mark.parametrize(
    ("column", "place", "cell", "words"),
    [
        ("side", 2, "tall", "manifest.csv.*4.*side.*'tall' is not a number"),
        ("side", 2, "2100", "manifest.csv.*4.*side.*2100 lies outside of 4 to 64 px"),
        ("patient_id", 9, "p1", "patient p1 is in several splits"),
    ],
)
def test_a_factor_that_says_nonsense_is_refused_with_its_row(
    column: str, place: int, cell: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(FoveolaError, match=words):
        read(changed(tmp_path / "data", column, place, cell))


def test_a_constant_factor_is_refused_before_any_training(tmp_path: Path) -> None:
    dataset = read(changed(tmp_path / "data", "side", -1, "20"))

    with pytest.raises(FoveolaError, match="task 'side': side has one value only"):
        new_sepl(dataset, "test_resnet", SPEC, Sepl(simple=("side",)), 0)


def test_a_class_that_no_train_image_has_is_refused_before_any_training(tmp_path: Path) -> None:
    dataset = squares(tmp_path / "data")
    dataset.scalars["signs"][:8] = np.nan

    with pytest.raises(FoveolaError, match="no train image has a target for signs"):
        new_sepl(dataset, "test_resnet", SPEC, HOW, 0)


def test_a_backbone_needs_no_finer_features_than_those_at_stride_32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foveola.toolkit.stages.sepl.dataset_of", lambda work: squares(tmp_path / "data"))
    spec, work = InputSpec(height=64, width=64, channels=3), None
    stage = TrainSepl(backbone="efficientvit_m0", input=spec, simple=("bright",))  # its maps begin at stride 16

    stage.check_ahead(work)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    with pytest.raises(FoveolaError, match=r"it gives no features at strides \(32,\)"):
        msgspec.structs.replace(stage, backbone="test_vit").check_ahead(work)  # type: ignore[arg-type]  # pyright: ignore


def test_what_is_kept_of_a_training_is_what_the_device_needs(learned: Path) -> None:
    plan = json.loads((learned / "run/model.json").read_text())

    assert plan["type"] == "sepl"
    assert not (learned / "run/checkpoint").exists()
    assert set(plan["target_mean"]) == set(plan["target_std"]) == {"side"}


def test_the_published_backbone_starts_from_a_checkpoint_with_timm_s_names(tmp_path: Path) -> None:
    classifier: Any = timm.create_model("test_convnext", pretrained=False)
    save_file(classifier.state_dict(), tmp_path / "weights.safetensors")
    teacher = teacher_of(backbone="test_convnext")

    said = start_backbone(teacher.backbone, tmp_path / "weights.safetensors", "test_convnext")

    assert (
        said == f"{len(teacher.backbone.state_dict())} of {len(teacher.backbone.state_dict())} tensors of the backbone"
    )
    x = pictures()
    torch.testing.assert_close(teacher.backbone(x)[0], classifier.forward_features(x))
