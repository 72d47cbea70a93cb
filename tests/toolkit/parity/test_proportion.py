from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from foveola.toolkit.parity.proportion import (
    compare_proportions,
    event_size,
    events_of,
    needed_growth,
    tango_interval,
    wilson_bound,
)
from foveola.toolkit.parity.rate_power import pairs_for

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


def test_without_a_change_all_cases_of_a_patient_count_as_one() -> None:
    right = np.ones(400, dtype=bool)

    compared = compare_proportions(right, right, np.full(400, 1 / 400), np.arange(400) % 100, 0.025)

    assert compared.pairs == pytest.approx(100)


def test_patients_lost_wholly_count_as_patients_and_single_images_as_nearly_images() -> None:
    right, patients, share = np.ones(400, dtype=bool), np.arange(400) % 100, np.full(400, 1 / 400)
    whole, scattered = right.copy(), right.copy()
    whole[patients < 12] = False
    scattered[:48] = False  # one image of each of 48 patients

    assert compare_proportions(right, whole, share, patients, 0.025).pairs == pytest.approx(100)
    assert compare_proportions(right, scattered, share, patients, 0.025).pairs > 390


def test_with_one_case_a_patient_the_interval_is_tangos() -> None:
    teacher, student = np.ones(200, dtype=bool), np.ones(200, dtype=bool)
    teacher[:5], student[3:14] = False, False

    compared = compare_proportions(teacher, student, np.full(200, 1 / 200), np.arange(200), 0.025)

    assert (compared.low, compared.high) == pytest.approx(tango_interval(3, 9, 200, 0.025))


def test_a_rare_label_that_never_changed_may_still_have_lost() -> None:
    # Label 0 has 12 patients, label 1 has 300; 30 changes in label 1 say nothing about label 0.
    labels = np.repeat([0, 1], [12, 300])
    weights = np.where(labels == 0, 1 / 24, 1 / 600)
    teacher = np.ones(312, dtype=bool)
    student = teacher.copy()
    student[-30:] = False

    found = compare_proportions(teacher, student, weights, np.arange(312), 0.025, labels)
    pooled = compare_proportions(teacher, student, weights, np.arange(312), 0.025)

    assert found.pairs < pooled.pairs


@given(st.integers(1, 60), st.integers(0, 60))
@settings(deadline=None)
def test_the_students_own_bound_is_wilsons(right: int, wrong: int) -> None:
    total = right + wrong

    low = wilson_bound(right / total, 1 / total, 0.025)

    assert low == pytest.approx(binomtest(right, total).proportion_ci(0.95, method="wilson").low, abs=1e-9)


def test_the_students_own_bound_takes_patients_as_clusters() -> None:
    right = np.arange(400) >= 40
    alone = compare_proportions(right, right, np.full(400, 1 / 400), np.arange(400), 0.025)
    fours = compare_proportions(right, right, np.full(400, 1 / 400), np.arange(400) // 4, 0.025)

    assert alone.student_low == pytest.approx(wilson_bound(0.9, 1 / 400, 0.025))
    assert fours.student_low == pytest.approx(wilson_bound(0.9, 1 / 100, 0.025))


def test_the_pairs_planned_give_the_power_planned() -> None:
    pairs = round(pairs_for(0.04, 0.03, 0.025, 0.8))
    changes = np.random.default_rng(0).multinomial(pairs, [0.02, 0.02, 0.96], size=1500)

    passed = [tango_interval(gains, losses, pairs, 0.025)[0] > -0.03 for gains, losses, _ in changes]

    assert np.mean(passed) == pytest.approx(0.8, abs=0.05)


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
    pairs = pairs_for(0.0, 0.02, 0.025, 0.8)

    assert tango_interval(0, 0, pairs, 0.025)[0] > -0.02
    assert tango_interval(0, 0, pairs * 0.97, 0.025)[0] < -0.02


def test_with_twice_the_patients_an_event_weighs_what_it_weighs_in_a_doubled_sample() -> None:
    rng = np.random.default_rng(5)
    patients = np.repeat(np.arange(60), rng.integers(1, 9, 60))
    labels = rng.integers(0, 2, len(patients))
    change = np.where(rng.random(len(patients)) < 0.1, -1.0, 0.0)
    weights = np.full(len(patients), 1 / len(patients))
    twice = [np.tile(weights, 2) / 2, np.concatenate([patients, patients + 60]), np.tile(labels, 2)]

    foreseen = events_of(change, weights, patients, labels).size(2.0)

    assert foreseen == pytest.approx(event_size(np.tile(change, 2), twice[0], twice[1], twice[2]), rel=1e-9)


def test_single_cases_need_what_independent_pairs_need() -> None:
    teacher = np.arange(500) >= 10
    student = (np.arange(500) < 5) | (np.arange(500) >= 15)
    alone = compare_proportions(teacher, student, np.full(500, 1 / 500), np.arange(500), 0.025)

    wanted = pairs_for(alone.discordance, 0.02, 0.025, 0.8)

    assert needed_growth(alone.events, alone.discordance, 0.02, 0.025, 0.8) == pytest.approx(wanted / 500, rel=1e-3)


def test_unlike_patients_ask_for_more_because_few_events_tell_how_large_events_are() -> None:
    images = np.array([1, 7] * 60)
    change = np.concatenate([np.arange(n) < (k % 20 == 0) for k, n in enumerate(images)])
    patients = np.repeat(np.arange(len(images)), images)
    right = np.ones(len(patients), dtype=bool)
    compared = compare_proportions(right, ~change, np.full(len(right), 1 / len(right)), patients, 0.025)

    times = needed_growth(compared.events, compared.discordance, 0.05, 0.025, 0.8)

    assert compared.events.scatter() > 0
    assert 1 / compared.events.size(times) > pairs_for(compared.discordance, 0.05, 0.025, 0.8)
