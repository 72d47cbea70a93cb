from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from foveola.runtime.errors import UsageError
from foveola.toolkit.parity.threshold import lock_threshold

RNG = np.random.default_rng(0)
POSITIVE = RNG.random(200) < 0.4
PROBABILITY = (0.35 * POSITIVE + 0.65 * RNG.random(200)).round(2)


def rates(threshold: float) -> tuple[float, float]:
    yes = threshold <= PROBABILITY
    return float(yes[POSITIVE].mean()), float(1 - yes[~POSITIVE].mean())


def test_youden_finds_the_largest_sum_of_sensitivity_and_specificity() -> None:
    false, true, _ = roc_curve(POSITIVE, PROBABILITY)

    assert sum(rates(lock_threshold("youden", POSITIVE, PROBABILITY))) == pytest.approx((true - false).max() + 1)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95, 1.0])
def test_a_wanted_rate_is_reached_and_no_more_is_given_away_than_needed(share: float) -> None:
    by_sensitivity = lock_threshold(f"sensitivity:{share}", POSITIVE, PROBABILITY)
    by_specificity = lock_threshold(f"specificity:{share}", POSITIVE, PROBABILITY)

    assert rates(by_sensitivity)[0] >= share
    assert rates(by_specificity)[1] >= share
    assert rates(by_sensitivity + 0.01)[0] < share or share == 1.0
    assert rates(by_specificity - 0.01)[1] < share or share == 1.0


def test_a_threshold_stands_between_two_answers() -> None:
    for rule in ("youden", "sensitivity:0.9", "specificity:0.9"):
        assert np.abs(PROBABILITY - lock_threshold(rule, POSITIVE, PROBABILITY)).min() > 1e-4


def test_one_class_alone_locks_the_middle() -> None:
    assert lock_threshold("youden", np.ones(3, bool), np.array([0.1, 0.2, 0.9])) == 0.5
    assert lock_threshold("youden", np.zeros(0, bool), np.zeros(0)) == 0.5


@pytest.mark.parametrize("rule", ["best", "fixed:", "fixed:1.5", "sensitivity:x"])
def test_an_unknown_rule_is_refused(rule: str) -> None:
    with pytest.raises(UsageError, match="operating point"):
        lock_threshold(rule, POSITIVE, PROBABILITY)
