from __future__ import annotations

import msgspec
import numpy as np
import pytest
from scipy.stats import binomtest

from foveola.runtime.task import Task
from foveola.toolkit.parity.cases import Cases
from foveola.toolkit.parity.critical import exact_interval

from .conftest import Array, by_metric, compare

FINDING = Task(name="finding", kind="binary", classes=("no", "yes"), critical=("yes",))
LABELS = Task(name="findings", kind="multilabel", classes=("a", "b", "c"), critical=("a", "c"))
GRADE = Task(name="grade", kind="ordinal", classes=("0", "1", "2"), critical=("2",))


def positives(count: int, found: int, lost: int) -> tuple[Array, Array, Array]:
    """`count` positives, as many negatives; the teacher finds the first `found`, the student loses `lost` of them."""
    truth = np.repeat([1.0, 0.0], count)[:, None]
    teacher = np.full((2 * count, 1), 0.1)
    teacher[:found] = 0.9
    student = teacher - 1e-3
    student[:lost] = 0.2
    return truth, teacher, student


def patients_of(count: int, images: int) -> Cases:
    """`images` successive cases to a patient."""
    return Cases(
        keys=tuple(f"case{n:05d}" for n in range(count)),
        patients=tuple(f"patient{n // images:05d}" for n in range(count)),
    )


@pytest.mark.parametrize("lost", [0, 1, 7, 90])
def test_the_interval_is_clopper_and_pearsons(lost: int) -> None:
    low, high = exact_interval(lost / 90, 90, 0.025)

    wanted = binomtest(lost, 90).proportion_ci(0.95, method="exact")
    assert (low, high) == pytest.approx((wanted.low, wanted.high))


def test_what_the_student_loses_of_what_the_teacher_finds_is_counted() -> None:
    found = by_metric(compare(FINDING, *positives(400, 300, 6)))["critical_loss"]

    assert (found.cases, found.positives, found.teacher) == (300, 400, 0.0)
    assert found.student == pytest.approx(6 / 300)
    assert found.difference == pytest.approx(-6 / 300)
    wanted = binomtest(6, 300).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((-wanted.high, -wanted.low))
    assert found.verdict == "fail"


def test_nothing_lost_proves_half_a_percent_from_736_patients_on() -> None:
    enough, short = (by_metric(compare(FINDING, *positives(n, n, 0)))["critical_loss"] for n in (737, 735))

    assert (enough.verdict, short.verdict) == ("pass", "underpowered")
    assert short.needed_cases == 736


def test_a_patient_with_all_its_images_counts_once() -> None:
    truth, teacher, student = positives(800, 800, 8)

    by_image = by_metric(compare(FINDING, truth, teacher, student))["critical_loss"]
    by_patient = by_metric(compare(FINDING, truth, teacher, student, cases=patients_of(1600, 4)))["critical_loss"]

    wanted = binomtest(2, 200).proportion_ci(0.95, method="exact")
    assert by_patient.low == pytest.approx(-wanted.high)
    assert (by_patient.low or 0.0) < (by_image.low or 0.0)


def test_equal_models_lose_nothing() -> None:
    truth, teacher, _ = positives(100, 90, 0)

    found = by_metric(compare(FINDING, truth, teacher, teacher.copy()))["critical_loss"]

    assert (found.difference, found.low, found.high, found.verdict) == (0.0, 0.0, 0.0, "pass")


def test_a_missing_answer_is_lost() -> None:
    truth, teacher, student = positives(100, 90, 0)
    student[:5] = np.nan

    assert by_metric(compare(FINDING, truth, teacher, student))["critical_loss"].student == pytest.approx(5 / 90)


def test_critical_labels_count_together_and_each_is_shown() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((300, 3)) < 0.5).astype(np.float64)
    teacher = np.where(truth > 0.5, 0.9, 0.1)
    student = teacher - 1e-3
    student[np.flatnonzero(truth[:, 0])[:3], 0] = 0.1
    student[np.flatnonzero(truth[:, 1])[:30], 1] = 0.1  # b is not critical

    evidence = compare(LABELS, truth, teacher, student)

    rows = {e.label: e for e in evidence.endpoints if e.metric == "critical_loss"}
    assert set(rows) == {"", "a", "c"}
    assert rows[""].student == pytest.approx(3 / (truth[:, 0].sum() + truth[:, 2].sum()))
    assert rows["a"].student == pytest.approx(3 / truth[:, 0].sum())
    assert rows["c"].student == 0.0
    assert not rows["a"].primary


def test_a_critical_grade_is_lost_when_another_is_decided() -> None:
    truth = np.repeat([0.0, 1.0, 2.0], 50)[:, None]
    teacher = np.eye(3)[truth[:, 0].astype(int)] * 0.7 + 0.1
    student = teacher + 1e-3 * np.arange(3)
    student[100:104] = (0.1, 0.8, 0.1)

    found = by_metric(compare(GRADE, truth, teacher, student))["critical_loss"]

    assert found.cases == 50
    assert found.student == pytest.approx(4 / 50)


HINDERED = {
    "no positive": (positives(50, 40, 0)[0] * 0.0, "no critical positive"),
    "none found": (positives(50, 0, 0)[0], "finds no critical positive"),
    "few patients": (positives(8, 8, 0)[0], "only 8 found positive patients"),
}


@pytest.mark.parametrize("name", HINDERED)
def test_what_cannot_be_bounded_is_underpowered_and_says_why(name: str) -> None:
    truth, reason = HINDERED[name]
    count = len(truth) // 2
    _, teacher, student = positives(count, 0 if name == "none found" else count, 0)

    found = by_metric(compare(FINDING, truth, teacher, student))["critical_loss"]

    assert found.verdict == "underpowered"
    assert reason in found.reason


def test_a_task_without_critical_classes_has_no_such_endpoint() -> None:
    plain = msgspec.structs.replace(FINDING, critical=())

    assert "critical_loss" not in by_metric(compare(plain, *positives(50, 40, 0)))
