"""Agreement of student and teacher: by hand, by scikit-learn, and what its bound promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score

from foveola.runtime.task import Task
from foveola.toolkit.parity.agreement import ALIKE, agreements
from foveola.toolkit.parity.cases import Answers
from foveola.toolkit.parity.evidence import Agreement

from .conftest import BINARY, Array

LABELS = Task(name="t", kind="multilabel", classes=("a", "b"))
VIEW = Task(name="t", kind="multiclass", classes=("PA", "AP", "LAT"))
GRADE = Task(name="t", kind="ordinal", classes=("0", "1", "2"))
AGE = Task(name="t", kind="regression", classes=("age",), unit="years")
LUNGS = Task(name="t", kind="segmentation", classes=("right", "left"))
NODULES = Task(name="t", kind="detection", classes=("nodule", "mass"))
ALPHA = 0.025
NAN = float("nan")


def agree(
    task: Task, teacher: Any, student: Any, *, patients: NDArray[np.intp] | None = None, limits: Any = ((), ())
) -> list[Agreement]:
    """Compare plain arrays (or lists of boxes), one patient a case."""
    field = "boxes" if task.kind == "detection" else "scores"
    t, s = (
        Answers(**{field: {task.name: answers}, "thresholds": {task.name: tuple(limit)}})
        for answers, limit in zip((teacher, student), limits, strict=True)
    )
    codes = np.arange(len(teacher)) if patients is None else patients
    return list(agreements("onnxruntime", task, codes, t, s, ALPHA))


def masks(dice: Array, patients: NDArray[np.intp] | None = None) -> list[Agreement]:
    codes = np.arange(len(dice)) if patients is None else patients
    return list(agreements("onnxruntime", LUNGS, codes, Answers(), Answers(alike={"t": dice}), ALPHA))


def box(x: float, score: float = 0.9, label: int = 0, side: float = 10.0) -> list[float]:
    return [x, 0.0, x + side, side, score, label]


def boxes(*rows: list[float]) -> Array:
    return np.array(rows, np.float64).reshape(-1, 6)


# --- what is alike


def test_decisions_are_taken_at_each_models_own_threshold() -> None:
    scores = np.array([[0.2], [0.4], [0.6], [0.8]])

    (row,) = agree(BINARY, scores, scores, limits=((0.5,), (0.7,)))

    assert (row.task, row.label, row.measure) == ("finding", "yes", "decisions")
    assert (row.cases, row.patients, row.agreement, row.flips) == (4, 4, 0.75, 1)


def test_each_label_has_its_own_row() -> None:
    teacher = np.array([[0.9, 0.1], [0.9, NAN], [0.1, 0.1]])
    student = np.array([[0.8, 0.2], [0.1, 0.9], [0.2, 0.7]])

    first, second = agree(LABELS, teacher, student)

    assert (first.label, first.cases, first.flips) == ("a", 3, 1)
    assert first.agreement == pytest.approx(2 / 3)
    assert (second.label, second.cases, second.agreement) == ("b", 2, 0.5)  # one without the teacher's answer


@pytest.mark.parametrize("task", [VIEW, GRADE], ids=["multiclass", "ordinal"])
def test_classes_agree_as_scikit_learn_counts_them(task: Task) -> None:
    rng = np.random.default_rng(0)
    teacher, student = rng.dirichlet((1, 1, 1), 80), rng.dirichlet((1, 1, 1), 80)

    (row,) = agree(task, teacher, student)

    assert row.label == ""
    assert row.agreement == accuracy_score(teacher.argmax(1), student.argmax(1))
    assert row.flips == round(80 * (1 - row.agreement))


def test_values_agree_within_a_tenth_of_the_teachers_spread() -> None:
    teacher = np.array([[40.0], [50.0], [60.0], [70.0]])
    near = ALIKE * teacher.std()

    (row,) = agree(AGE, teacher, teacher + np.array([[0.0], [0.99], [1.01], [-5.0]]) * near)

    assert (row.label, row.measure, row.agreement, row.flips) == ("age", "value", 0.5, 2)


def test_masks_agree_by_their_mean_dice() -> None:
    dice = np.array([[1.0, 0.96], [0.9, NAN], [0.8, 0.94]])

    right, left = masks(dice)

    assert (right.label, right.measure, right.flips, left.cases, left.flips) == ("right", "dice", 2, 2, 1)
    assert (right.agreement, left.agreement) == pytest.approx((0.9, 0.95))


def test_without_the_students_masks_nothing_is_said() -> None:
    assert list(agreements("e", LUNGS, np.arange(3), Answers(), Answers(), ALPHA)) == []


def test_boxes_agree_by_their_mean_f1() -> None:
    teacher = [boxes(box(0), box(50)), boxes(), boxes(box(0)), boxes(box(0, label=1))]
    student = [boxes(box(1), box(90), box(200)), boxes(), boxes(box(4)), boxes(box(0))]

    nodule, mass = agree(NODULES, teacher, student)

    # By hand: 2 * 1 / (3 + 2); none and none; overlap 6 x 10 of 14 x 10 is below 0.5; one against none.
    assert nodule.agreement == pytest.approx((0.4 + 1 + 0 + 0) / 4)
    assert (nodule.label, nodule.measure, nodule.flips) == ("nodule", "boxes", 3)
    assert mass.agreement == pytest.approx((1 + 1 + 1 + 0) / 4)


def test_boxes_below_a_models_own_threshold_are_not_shown() -> None:
    teacher, student = [boxes(box(0, 0.6), box(50, 0.4))], [boxes(box(0, 0.6), box(50, 0.4))]

    nodule, _ = agree(NODULES, teacher, student, limits=((0.5, 0.5), (0.3, 0.5)))

    assert nodule.agreement == pytest.approx(2 / 3)


# --- gaps


@pytest.mark.parametrize("task", [BINARY, VIEW, AGE], ids=lambda task: task.kind)
@pytest.mark.parametrize("gap", [NAN, np.inf])
def test_an_answer_that_the_student_did_not_give_agrees_with_nothing(task: Task, gap: float) -> None:
    width = len(task.classes) if task.kind == "multiclass" else 1
    teacher = np.arange(1.0, 1 + 4 * width).reshape(4, width) / 100
    student = teacher.copy()
    student[1] = gap

    (row,) = agree(task, teacher, student)

    assert (row.cases, row.agreement, row.flips) == (4, 0.75, 1)


def test_boxes_that_the_student_did_not_give_agree_with_nothing_not_even_with_none() -> None:
    nodule, mass = agree(NODULES, [boxes(), boxes(box(0))], [None, None])

    assert (nodule.agreement, nodule.flips) == (0.0, 2)
    assert (mass.agreement, mass.flips) == (0.0, 2)


@pytest.mark.parametrize("task", [BINARY, VIEW, AGE], ids=lambda task: task.kind)
def test_a_case_without_the_teachers_answer_is_left_out(task: Task) -> None:
    width = len(task.classes) if task.kind == "multiclass" else 1
    student = np.arange(1.0, 1 + 4 * width).reshape(4, width) / 100
    teacher = student.copy()
    teacher[0, -1] = NAN

    (row,) = agree(task, teacher, student)

    assert (row.cases, row.agreement) == (3, 1.0)


def test_boxes_without_the_teachers_answer_are_left_out() -> None:
    nodule, _ = agree(NODULES, [None, boxes(box(0))], [boxes(box(0)), boxes(box(0))])

    assert (nodule.cases, nodule.agreement) == (1, 1.0)


@pytest.mark.parametrize("task", [BINARY, VIEW, AGE], ids=lambda task: task.kind)
def test_where_no_case_is_left_nothing_is_said(task: Task) -> None:
    width = len(task.classes) if task.kind == "multiclass" else 1
    nothing = np.full((3, width), NAN)

    assert agree(task, nothing, np.zeros((3, width))) == []
    assert agree(NODULES, [None], [boxes()]) == []


# --- the bound


def test_the_bound_of_single_images_is_wilsons() -> None:
    teacher = np.zeros((100, 1))
    student = (np.arange(100) < 12).astype(np.float64)[:, None]

    (row,) = agree(BINARY, teacher, student)

    interval = binomtest(88, 100).proportion_ci(confidence_level=1 - 2 * ALPHA, method="wilson")
    assert row.low == pytest.approx(interval.low, abs=1e-3)
    assert row.low < interval.low  # the variance between patients is that of a sample: n - 1


def test_where_nothing_differs_the_bound_rests_on_patients_and_not_on_images() -> None:
    same = np.zeros((100, 1))
    wilson = binomtest(20, 20).proportion_ci(confidence_level=1 - 2 * ALPHA, method="wilson").low

    (share,) = agree(BINARY, same, same, patients=np.arange(100) // 5)
    (mean, _) = masks(np.ones((100, 2)), np.arange(100) // 5)

    assert share.low == pytest.approx(wilson)
    assert mean.low == pytest.approx(wilson)
    assert (share.patients, mean.patients) == (20, 20)


def test_images_that_differ_together_widen_the_bound() -> None:
    student = np.repeat((np.arange(50) % 4 == 0).astype(np.float64), 4)[:, None]
    teacher = np.zeros_like(student)

    (alone,) = agree(BINARY, teacher, student)
    (together,) = agree(BINARY, teacher, student, patients=np.arange(200) // 4)

    assert alone.agreement == together.agreement
    assert alone.low is not None
    assert together.low is not None
    assert together.low < alone.low


def test_one_patient_bounds_no_mean() -> None:
    right, _ = masks(np.full((5, 2), 0.9), np.zeros(5, np.intp))

    assert right.low is None


def betas(rng: np.random.Generator, patients: int, images: int) -> Array:
    return rng.beta(30, 2, (patients, images))


def mostly_one(rng: np.random.Generator, patients: int, images: int) -> Array:
    """F1 as it is: 1 for nine patients in ten, anything for all images of the tenth."""
    bad = rng.random((patients, 1)) < 0.1
    return np.repeat(np.where(bad, rng.random((patients, 1)), 1.0), images, axis=1)


@pytest.mark.parametrize(("patients", "images"), [(10, 2), (20, 1), (50, 2), (200, 1)])
@pytest.mark.parametrize(("draw", "truth"), [(betas, 30 / 32), (mostly_one, 0.95)])
def test_the_bound_of_a_mean_is_above_the_truth_no_more_often_than_promised(
    draw: Any, truth: float, patients: int, images: int
) -> None:
    rng, above, runs = np.random.default_rng(patients), 0, 400
    codes = np.repeat(np.arange(patients), images)
    for _ in range(runs):
        low = masks(np.repeat(draw(rng, patients, images).reshape(-1, 1), 2, axis=1), codes)[0].low
        above += low is not None and low > truth

    assert above / runs <= ALPHA + 2.6 * (ALPHA * (1 - ALPHA) / runs) ** 0.5


@pytest.mark.parametrize(("patients", "images"), [(20, 3), (50, 4), (200, 2)])
@pytest.mark.parametrize("together", [0.02, 0.5])
def test_the_bound_of_a_share_is_above_the_truth_no_more_often_than_promised(
    together: float, patients: int, images: int
) -> None:
    rng, above, runs, truth = np.random.default_rng(patients), 0, 400, 0.85
    codes, scale = np.repeat(np.arange(patients), images), (1 - together) / together
    for _ in range(runs):
        chance = rng.beta(truth * scale, (1 - truth) * scale, (patients, 1))
        student = (rng.random((patients, images)) >= chance).astype(np.float64).reshape(-1, 1)
        (row,) = agree(BINARY, np.zeros_like(student), student, patients=codes)
        above += row.low is not None and row.low > truth

    assert above / runs <= ALPHA + 2.6 * (ALPHA * (1 - ALPHA) / runs) ** 0.5
