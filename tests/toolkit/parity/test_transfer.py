"""What a locked threshold costs, beside one that was fitted by the same rule on other images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from foveola.runtime.errors import FoveolaError
from foveola.runtime.task import Task
from foveola.toolkit.parity.cases import Answers, Cases, References
from foveola.toolkit.parity.threshold import lock_threshold
from foveola.toolkit.parity.transfer import carried_over, check_apart, transfers

from .conftest import BINARY, Array, make_cases

LABELS = Task(name="t", kind="multilabel", classes=("a", "b"))
Side = tuple[References, Answers]


def side(task: Task, truth: Array, scores: Array, *limits: float) -> Side:
    thresholds = {task.name: limits} if limits else {}
    return References(scores={task.name: truth}), Answers(scores={task.name: scores}, thresholds=thresholds)


def drawn(count: int, seed: int, width: int = 1, shift: float = 0.0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    truth = (rng.random((count, width)) < 0.4).astype(np.float64)
    return truth, np.clip(0.3 + shift + 0.3 * truth + 0.15 * rng.standard_normal((count, width)), 0, 1)


def rates(truth: Array, scores: Array, limit: float) -> tuple[float, float]:
    """Sensitivity and specificity by scikit-learn."""
    (tn, fp), (fn, tp) = confusion_matrix(truth > 0.5, scores >= limit)
    return float(tp / (tp + fn)), float(tn / (tn + fp))


@pytest.mark.parametrize("rule", ["youden", "sensitivity:0.9", "specificity:0.9", "fixed:0.4"])
def test_the_second_threshold_is_fitted_by_the_same_rule_elsewhere_and_both_are_judged_here(rule: str) -> None:
    truth, scores = drawn(200, 1)
    other_truth, other_scores = drawn(300, 2)

    (row,) = transfers(
        "openvino", BINARY, rule, side(BINARY, truth, scores, 0.7), side(BINARY, other_truth, other_scores), "val"
    )

    fitted = lock_threshold(rule, other_truth[:, 0] > 0.5, other_scores[:, 0])
    assert (row.engine, row.task, row.label, row.whose, row.fitted_on) == (
        "openvino", "finding", "yes", "bundle", "val",
    )  # fmt: skip
    assert (row.locked, row.refitted) == (0.7, fitted)
    by_limit = [rates(truth, scores, limit) for limit in (0.7, fitted)]
    assert row.sensitivity == pytest.approx((by_limit[0][0], by_limit[1][0]))
    assert row.specificity == pytest.approx((by_limit[0][1], by_limit[1][1]))


def test_a_threshold_of_squeezed_scores_is_found_again() -> None:
    """What quantisation does at its worst: everything moved down, so that the locked threshold loses positives."""
    truth, scores = drawn(400, 1)
    other = drawn(400, 2)
    locked = lock_threshold("youden", other[0][:, 0] > 0.5, other[1][:, 0])
    moved = side(BINARY, truth, 0.5 * scores, locked)

    (row,) = transfers("e", BINARY, "youden", moved, side(BINARY, other[0], 0.5 * other[1]), "val")

    assert row.refitted == pytest.approx(0.5 * locked)
    assert row.sensitivity[0] < 0.1 < 0.7 < row.sensitivity[1]


def test_each_label_has_its_own_row_and_gaps_count_on_neither_side() -> None:
    truth, scores = drawn(200, 3, width=2)
    other_truth, other_scores = drawn(200, 4, width=2)
    gaps, missing = truth.copy(), scores.copy()
    gaps[:50, 0] = np.nan
    missing[50:90, 0] = np.nan

    first, second = transfers(
        "e", LABELS, "youden", side(LABELS, gaps, missing, 0.4, 0.6), side(LABELS, other_truth, other_scores), "val"
    )

    assert (first.label, first.locked, second.label, second.locked) == ("a", 0.4, "b", 0.6)
    expected = rates(truth[90:, 0], scores[90:, 0], 0.4)
    assert (first.sensitivity[0], first.specificity[0]) == pytest.approx(expected)


@pytest.mark.parametrize("where", ["here", "elsewhere"])
@pytest.mark.parametrize("only", [0.0, 1.0, np.nan])
def test_where_one_class_is_all_there_is_nothing_is_said(where: str, only: float) -> None:
    truth, scores = drawn(50, 1)
    both, one = side(BINARY, truth, scores, 0.5), side(BINARY, np.full_like(truth, only), scores, 0.5)

    pair = (one, both) if where == "here" else (both, one)
    assert list(transfers("e", BINARY, "youden", *pair, "val")) == []


def test_a_task_without_a_threshold_has_no_row() -> None:
    view = Task(name="finding", kind="multiclass", classes=("PA", "AP"))
    both = side(view, *drawn(20, 1))

    assert list(transfers("e", view, "youden", both, both, "val")) == []
    assert list(carried_over("e", view, both, both[1], "val")) == []


def test_the_teachers_threshold_is_tried_on_the_students_answers() -> None:
    truth, scores = drawn(200, 5)
    here = side(BINARY, truth, scores, 0.4)

    (row,) = carried_over("e", BINARY, here, Answers(thresholds={"finding": (0.6,)}), "val")

    assert (row.whose, row.locked, row.refitted, row.fitted_on) == ("teacher", 0.6, 0.4, "val")
    assert (row.sensitivity[0], row.specificity[0]) == pytest.approx(rates(truth, scores, 0.6))
    assert (row.sensitivity[1], row.specificity[1]) == pytest.approx(rates(truth, scores, 0.4))


# --- apart


def cases(patients: str, images: str = "") -> Cases:
    return Cases(keys=tuple(f"{n}" for n in range(len(patients))), patients=tuple(patients), images=tuple(images))


@pytest.mark.parametrize(
    ("here", "elsewhere", "words"),
    [
        (cases("ab", "12"), cases("bc", "34"), r"1 patient\(s\) and 0 image\(s\) are in the proof too"),
        (cases("ab", "12"), cases("cd", "23"), r"0 patient\(s\) and 1 image\(s\) are in the proof too"),
        (cases("aab", "123"), cases("bba", "112"), r"2 patient\(s\) and 2 image\(s\) are in the proof too"),
        (make_cases(9), make_cases(3), r"3 patient\(s\) and 0 image\(s\) are in the proof too"),
    ],
    ids=["patient", "image", "both", "no images known"],
)
def test_images_or_patients_on_both_sides_are_refused(here: Cases, elsewhere: Cases, words: str) -> None:
    with pytest.raises(FoveolaError, match=f"^split 'val': {words}; fit thresholds on"):
        check_apart(here, elsewhere, "split 'val'")


def test_what_is_apart_is_let_through() -> None:
    check_apart(cases("ab", "12"), cases("cd", "34"), "split 'val'")
