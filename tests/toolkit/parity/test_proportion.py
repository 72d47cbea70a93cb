from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveola.toolkit.parity.proportion import FEW, compare_proportions, needed_pairs, tango_interval

COUNTS = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 200)).filter(lambda c: sum(c) > 0)


@given(COUNTS)
@settings(deadline=None)
def test_swapping_the_models_mirrors_the_interval(counts: tuple[int, int, int]) -> None:
    gains, losses, same = counts
    pairs = gains + losses + same

    low, high = tango_interval(gains, losses, pairs, 0.025)
    other_low, other_high = tango_interval(losses, gains, pairs, 0.025)

    assert (low, high) == pytest.approx((-other_high, -other_low), abs=1e-9)
    assert -1 <= low <= (gains - losses) / pairs <= high <= 1


@given(st.integers(1, 2000))
@settings(deadline=None)
def test_without_a_discordant_pair_the_interval_is_not_empty(pairs: int) -> None:
    low, high = tango_interval(0, 0, pairs, 0.025)

    wanted = 1.959964**2 / (pairs + 1.959964**2)
    assert (low, high) == pytest.approx((-wanted, wanted), rel=1e-4)


def test_copies_of_a_patients_case_add_no_evidence() -> None:
    rng = np.random.default_rng(0)
    teacher, student = rng.random(300) < 0.9, rng.random(300) < 0.85
    patients = np.arange(300)
    share = np.full(300, 1 / 300)

    one = compare_proportions(teacher, student, share, patients, 0.025)
    four = compare_proportions(
        np.repeat(teacher, 4), np.repeat(student, 4), np.repeat(share, 4) / 4, np.repeat(patients, 4), 0.025
    )

    assert (four.low, four.high) == pytest.approx((one.low, one.high), abs=1e-6)


def test_with_few_discordant_patients_all_cases_of_a_patient_count_as_one() -> None:
    teacher = np.ones(400, dtype=bool)
    student = teacher.copy()
    student[: FEW - 1] = False

    compared = compare_proportions(teacher, student, np.full(400, 1 / 400), np.arange(400) % 100, 0.025)

    assert compared.pairs == pytest.approx(100)


def test_the_order_of_the_cases_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    teacher, student, patients = rng.random(200) < 0.8, rng.random(200) < 0.8, rng.integers(0, 80, 200)
    weights = rng.random(200)
    weights /= weights.sum()
    order = rng.permutation(200)

    one = compare_proportions(teacher, student, weights, patients, 0.025)
    other = compare_proportions(teacher[order], student[order], weights[order], patients[order], 0.025)

    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-9)


def test_a_single_patient_is_worth_one_pair() -> None:
    right = np.ones(8, dtype=bool)

    compared = compare_proportions(right, right, np.full(8, 1 / 8), np.zeros(8, dtype=np.intp), 0.025)

    assert compared.low == pytest.approx(-(1.96**2) / (1 + 1.96**2), rel=1e-3)


def test_so_many_pairs_as_needed_pass_without_a_discordant_pair() -> None:
    pairs = needed_pairs(0.0, 0.02, 0.025)

    assert tango_interval(0, 0, pairs * 1.001, 0.025)[0] > -0.02
    assert tango_interval(0, 0, pairs * 0.999, 0.025)[0] < -0.02
