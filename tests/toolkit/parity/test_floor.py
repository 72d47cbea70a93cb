"""What the student must reach by itself: every endpoint of labels and classes has the student's own bound."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from foveola.runtime.task import Task
from foveola.toolkit.parity.evidence import Endpoint
from foveola.toolkit.parity.metrics import METRICS
from foveola.toolkit.parity.protocol import Protocol, Rule, TaskRules

from .conftest import Array, binary_scores, by_metric, compare, make_cases

FINDING = Task(name="finding", kind="binary", classes=("no", "yes"), critical=("yes",))
VIEW = Task(name="view", kind="multiclass", classes=("PA", "AP", "LAT"), critical=("AP",))
GRADE = Task(name="grade", kind="ordinal", classes=("0", "1", "2", "3"))
METRICS_OF = {
    FINDING.name: ("auc", "sensitivity", "specificity", "brier", "logloss", "critical_loss"),
    VIEW.name: ("accuracy", "brier", "logloss", "critical_loss"),
    GRADE.name: ("kappa",),
}


def material(task: Task) -> tuple[Array, Array, Array]:
    """Reference, teacher and a student much like it."""
    if task.kind == "binary":
        return binary_scores(1600)
    rng = np.random.default_rng(0)
    width = len(task.classes)
    truth = rng.integers(0, width, 1600)
    guess = np.where(rng.random(1600) < 0.1, (truth + 1) % width, truth)
    teacher = np.eye(width)[guess] * 0.8 + 0.2 / width
    student = np.where(rng.random((1600, 1)) < 0.002, np.roll(teacher, 1, axis=1), teacher)
    return truth.astype(np.float64)[:, None], teacher, student


def judged(task: Task, metric: str, floor: float) -> Endpoint:
    rule = Rule(margin=0.5, floor=floor)
    rules = TaskRules(endpoints={metric: rule}, critical=task.critical)
    protocol = Protocol(tasks={task.name: rules}, resamples=200)
    evidence = compare(task, *material(task), cases=make_cases(1600, 700), protocol=protocol)
    return by_metric(evidence)[metric]


@pytest.mark.parametrize(
    ("task", "metric"), [(task, metric) for task in (FINDING, VIEW, GRADE) for metric in METRICS_OF[task.name]]
)
def test_a_student_passes_a_floor_that_its_own_bound_reaches_and_no_other(task: Task, metric: str) -> None:
    better = METRICS[metric].larger_is_better
    found = judged(task, metric, 0.01 if better else 10.0)
    assert found.verdict == "pass", found.reason
    assert found.student is not None
    assert found.student_low is not None
    assert found.student_low < found.student if better else found.student_low > found.student

    between = (found.student + found.student_low) / 2
    beyond = found.student * (1.02 if better else 0.5) - (0.0 if better else 1e-3)

    assert judged(task, metric, between).verdict == "underpowered"
    assert judged(task, metric, beyond).verdict == "fail"


def test_the_floor_takes_patients_as_clusters() -> None:
    truth, teacher, student = binary_scores(800)
    rules = TaskRules(endpoints={name: Rule(margin=0.5, floor=0.1) for name in ("auc", "sensitivity")})
    protocol = Protocol(tasks={FINDING.name: rules}, resamples=200)

    many, few = (
        by_metric(compare(FINDING, truth, teacher, student, cases=make_cases(800, count), protocol=protocol))
        for count in (800, 80)
    )

    assert (few["sensitivity"].student_low or 1.0) <= (many["sensitivity"].student_low or 0.0)
    assert msgspec.structs.asdict(few["auc"])["student"] == many["auc"].student
