from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from foveola.runtime.task import Task
from foveola.toolkit.parity.calibration_endpoints import CLIP
from foveola.toolkit.parity.cases import Cases

from .conftest import BINARY, Array, binary_scores, by_metric, compare, make_cases

FINDINGS = Task(name="findings", kind="multilabel", classes=("nodule", "effusion"))
VIEW = Task(name="view", kind="multiclass", classes=("PA", "AP", "LAT"))


def softmaxed(count: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Truth (N, 1) as a draw of the teacher's probabilities, and a student a little off."""
    rng = np.random.default_rng(seed)
    logits = 2.0 * rng.standard_normal((count, 3))

    def softmax(x: Array) -> Array:
        e = np.exp(x - x.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    teacher = softmax(logits)
    truth = (teacher.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return truth.astype(np.float64)[:, None], teacher, softmax(logits + 0.1 * rng.standard_normal((count, 3)))


def test_both_losses_of_a_binary_task_are_scikit_learns() -> None:
    truth, teacher, student = binary_scores(300)

    found = by_metric(compare(BINARY, truth, teacher, student))

    for name, oracle in (("brier", brier_score_loss), ("logloss", log_loss)):
        scores = [float(oracle(truth[:, 0], np.clip(p[:, 0], CLIP, 1 - CLIP))) for p in (teacher, student)]
        assert (found[name].teacher, found[name].student) == pytest.approx(scores, abs=1e-6)
        assert found[name].difference == pytest.approx(scores[0] - scores[1], abs=1e-6)


def test_both_losses_of_a_multiclass_task_are_scikit_learns() -> None:
    truth, teacher, student = softmaxed(400)

    found = by_metric(compare(VIEW, truth, teacher, student))

    assert found["logloss"].student == pytest.approx(log_loss(truth[:, 0], student))
    by_class = [float(brier_score_loss(truth[:, 0] == k, student[:, k])) for k in range(3)]
    assert found["brier"].student == pytest.approx(sum(by_class))
    assert found["brier"].verdict == "pass"


def test_a_label_not_known_leaves_only_that_label() -> None:
    rng = np.random.default_rng(0)
    teacher = rng.random((200, 2))
    truth = (rng.random((200, 2)) < teacher).astype(np.float64)
    truth[:50, 1] = np.nan

    found = by_metric(compare(FINDINGS, truth, teacher, teacher**1.1))

    wanted = [brier_score_loss(truth[:, 0], teacher[:, 0]), brier_score_loss(truth[50:, 1], teacher[50:, 1])]
    assert found["brier"].teacher == pytest.approx(np.mean(wanted))


def test_a_missing_answer_has_the_largest_loss() -> None:
    truth, teacher, _ = binary_scores(200)
    views, of_teacher, _ = softmaxed(200)

    labels = by_metric(compare(BINARY, truth, teacher, np.full_like(teacher, np.nan)))
    classes = by_metric(compare(VIEW, views, of_teacher, np.full_like(of_teacher, np.nan)))

    assert (labels["brier"].student, classes["brier"].student) == (1.0, 2.0)
    assert (labels["logloss"].student, classes["logloss"].student) == pytest.approx((-np.log(CLIP),) * 2)
    assert {labels["brier"].verdict, classes["logloss"].verdict} == {"fail"}


def test_equal_answers_differ_by_nothing() -> None:
    truth, teacher, _ = binary_scores(200)

    found = by_metric(compare(BINARY, truth, teacher, teacher.copy()))

    for name in ("brier", "logloss"):
        assert (found[name].difference, found[name].low, found[name].high) == (0.0, 0.0, 0.0)
        assert found[name].verdict == "pass"


def test_a_teacher_no_better_than_the_constant_answer_proves_nothing() -> None:
    truth, _, _ = binary_scores(400)
    noise = np.random.default_rng(0).random(truth.shape)

    found = by_metric(compare(BINARY, truth, noise, noise + 1e-4))

    assert found["brier"].verdict == "underpowered"
    assert "constant" in found["brier"].reason


def test_swapping_the_models_mirrors_the_interval() -> None:
    truth, teacher, student = softmaxed(300)
    cases = make_cases(300, 90)

    one = by_metric(compare(VIEW, truth, teacher, student, cases=cases))
    other = by_metric(compare(VIEW, truth, student, teacher, cases=cases))

    for name in ("brier", "logloss"):
        assert one[name].low == pytest.approx(-(other[name].high or 0.0), abs=1e-7)


def test_images_of_one_patient_are_one_piece_of_evidence() -> None:
    truth, teacher, student = (np.repeat(array, 4, axis=0) for array in binary_scores(200))
    together = Cases(
        keys=tuple(f"case{n:05d}" for n in range(800)), patients=tuple(f"patient{n // 4}" for n in range(800))
    )

    alone, clustered = (by_metric(compare(BINARY, truth, teacher, student, cases=c)) for c in (None, together))

    assert clustered["brier"].difference == pytest.approx(alone["brier"].difference)
    assert (clustered["brier"].low or 0.0) < (alone["brier"].low or 0.0)


def test_a_probability_rounded_to_nought_is_foreseen_to_cost_dear() -> None:
    rng = np.random.default_rng(0)
    teacher = np.full((2000, 1), 0.001)
    teacher[:400] = 0.8
    truth = np.zeros((2000, 1))
    truth[:400] = rng.random((400, 1)) < 0.8  # no rare positive happens to be among these cases
    rounded = np.round(teacher * 255) / 255

    found = by_metric(compare(BINARY, truth, teacher, rounded))["logloss"]

    assert (found.difference or 0.0) > -1e-4
    assert (found.low or 0.0) < -0.005
