"""Locking a threshold: what `tests/toolkit/test_score.py` does not look at, that is exact rates, ties and size."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from foveola.toolkit.parity.threshold import lock_threshold

CASES = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.9, 1.0])), min_size=2, max_size=30
)


def split(cases: list[tuple[bool, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([truth for truth, _ in cases]), np.array([score for _, score in cases])


@settings(max_examples=200, deadline=None)
@given(CASES.filter(lambda cases: len({truth for truth, _ in cases}) == 2), st.sampled_from([0.1, 0.5, 0.8, 0.9, 1.0]))
def test_every_rule_gives_what_trying_all_thresholds_gives(cases: list[tuple[bool, float]], share: float) -> None:
    positive, scores = split(cases)
    false, true, _ = roc_curve(positive, scores, drop_intermediate=False)

    def rates(limit: float) -> tuple[float, float]:
        return float((scores[positive] >= limit).mean()), float((scores[~positive] < limit).mean())

    assert sum(rates(lock_threshold("youden", positive, scores))) == pytest.approx((1 + true - false).max())
    sensitivity, specificity = rates(lock_threshold(f"sensitivity:{share}", positive, scores))
    assert sensitivity >= share
    assert specificity == pytest.approx((1 - false)[true >= share - 1e-12].max())
    sensitivity, specificity = rates(lock_threshold(f"specificity:{share}", positive, scores))
    assert specificity >= share
    assert sensitivity == pytest.approx(true[1 - false >= share - 1e-12].max())


@pytest.mark.parametrize(
    ("wrong", "count", "rule"), [(7, 100, "0.93"), (18, 20, "0.1"), (28, 35, "0.2"), (1, 20, "0.95")]
)
def test_a_rate_that_is_reached_exactly_is_reached(wrong: int, count: int, rule: str) -> None:
    """1 - 0.07 is less than 0.93 in floating point; counted, it is not."""
    scores = np.concatenate([np.linspace(0.1, 0.2, count - wrong), np.linspace(0.6, 0.7, wrong), [0.5]])
    positive = np.arange(count + 1) == count

    limit = lock_threshold(f"specificity:{rule}", positive, scores)

    assert 0.2 < limit < 0.6
    mirrored = lock_threshold(f"sensitivity:{rule}", ~positive, 1 - scores)
    assert 0.4 < mirrored < 0.8


def test_a_large_validation_split_is_no_burden() -> None:
    """A table of all thresholds by all images would have 40 GB."""
    rng = np.random.default_rng(0)
    positive = rng.random(200_000) < 0.3
    scores = np.clip(0.3 * positive + rng.random(200_000), 0, 1)
    started = time.perf_counter()

    limit = lock_threshold("youden", positive, scores)

    assert 0.2 < limit < 1.0
    assert time.perf_counter() - started < 5


def test_float32_answers_are_locked_between_two_of_them() -> None:
    scores = np.array([0.1, np.nextafter(np.float32(0.1), np.float32(1)), 0.9], np.float32)

    limit = lock_threshold("sensitivity:1.0", np.array([False, True, True]), scores.astype(np.float64))

    assert float(scores[0]) < limit < float(scores[1])


def test_negatives_that_are_certain_are_told_by_a_threshold_just_above_one() -> None:
    scores, positive = np.array([0.2, 1.0, 1.0, 1.0]), np.array([False, False, False, True])

    limit = lock_threshold("specificity:0.9", positive, scores)

    assert 1.0 < limit < 1.0 + 1e-15
    assert lock_threshold("youden", positive, scores) == 0.6
