from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student_t

from foveola.toolkit.parity.tilted import (
    NOTHING,
    Hidden,
    Spread,
    effective,
    growth,
    linearised,
    of_images,
    power_at_zero,
    provable,
    spread_of,
    tail_of,
    unseen,
)

Array = NDArray[np.float64]
ALPHA = 0.025


def mean_difference(totals: Array) -> Array:
    """Totals of count, teacher, student -> the two means."""
    return totals[:, 1:] / totals[:, :1]


def drawn(count: int, seed: int = 0, most: int = 8) -> tuple[Array, Array]:
    """Sums (P, 3) of count, teacher, student, and images (P,)."""
    rng = np.random.default_rng(seed)
    images = rng.integers(1, most + 1, count).astype(np.float64)
    return np.stack([images, images * rng.normal(1, 0.2, count), images * rng.normal(1, 0.2, count)], axis=1), images


def test_a_tail_of_losses_makes_the_lower_reach_the_score_interval_of_a_poisson_count() -> None:
    # 7 lost of 1000 patients, all alike: (k + z^2/2 + z sqrt(k + z^2/4)) / n, the classical score bound.
    z, lost, patients = float(norm.ppf(1 - ALPHA)), 7.0, 1000.0
    spread = Spread(
        variance=lost / patients**2, third=-lost / patients**3, lowest=-1 / patients, highest=0.0, freedom=1e9
    )

    assert spread.below(ALPHA) == pytest.approx((z**2 / 2 + z * (lost + z**2 / 4) ** 0.5) / patients, rel=1e-6)
    assert spread.above(ALPHA) == pytest.approx(z * lost**0.5 / patients, rel=1e-6)


def test_without_a_tail_the_reach_is_students_t() -> None:
    spread = Spread(variance=4.0, third=0.0, lowest=0.0, highest=0.0, freedom=11.0)

    assert spread.below(ALPHA) == spread.above(ALPHA) == pytest.approx(2.0 * float(student_t.ppf(1 - ALPHA, 11)))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_turning_the_difference_round_mirrors_the_interval(seed: int) -> None:
    sums, images = drawn(30, seed)

    one = linearised(sums, mean_difference, (-1.0, 1.0), images)
    other = linearised(sums, mean_difference, (1.0, -1.0), images)

    assert one.below(ALPHA) == pytest.approx(other.above(ALPHA), rel=1e-5)
    assert one.above(ALPHA) == pytest.approx(other.below(ALPHA), rel=1e-5)


def test_the_variance_of_a_mean_is_the_jackknifes_over_patients() -> None:
    sums, images = drawn(40)
    total = sums.sum(axis=0)

    found = linearised(sums, mean_difference, (-1.0, 1.0), images)

    rest = mean_difference(total - sums)
    left_out = rest[:, 1] - rest[:, 0]
    wanted = 39 / 40 * np.sum((left_out - (total[2] - total[1]) / total[0]) ** 2)
    assert found.variance == pytest.approx(wanted, rel=1e-6)


def test_a_statistic_that_is_no_mean_brings_its_curvature() -> None:
    # The square of a mean: its third cumulant is 8 mu^3 k3 + 24 mu^2 s^4, of which the last is curvature.
    values = np.random.default_rng(1).normal(2.0, 1.0, 4000)
    sums = np.stack([np.ones_like(values), values], axis=1)

    found = linearised(sums, lambda totals: (totals[:, 1:] / totals[:, :1]) ** 2, (1.0,), np.ones_like(values))

    mean, count = values.mean(), len(values)
    centred = values - mean
    third = (8 * mean**3 * np.mean(centred**3) + 24 * mean**2 * values.var() ** 2) / count**2
    assert found.third == pytest.approx(third, rel=0.01)


def test_equal_patients_count_as_many_as_they_are_and_one_large_one_as_little() -> None:
    assert effective(np.full(12, 3.0)) == pytest.approx(12)
    assert effective(np.array([300.0, 1.0, 1.0])) < 1.02
    assert effective(np.zeros(3)) == 0.0


def test_what_was_never_seen_has_tangos_bound() -> None:
    assert unseen(100, ALPHA) == pytest.approx(1.959964**2 / (100 + 1.959964**2), rel=1e-5)


@pytest.mark.parametrize("patients", [0, 1])
def test_one_patient_gives_no_interval(patients: int) -> None:
    sums, images = drawn(patients)

    assert np.isnan(linearised(sums, mean_difference, (-1.0, 1.0), images).below(ALPHA))
    assert growth([NOTHING], Hidden(), 0.02, ALPHA, 0.8) is None


def test_a_variance_that_rests_on_few_patients_has_few_degrees_of_freedom() -> None:
    many = np.random.default_rng(0).normal(size=200)
    few = np.append(0.01 * many, [-1.0, 1.2, -0.9])

    assert spread_of(many - many.mean(), 0.0, 199.0).freedom > 100
    assert spread_of(few, 0.0, 202.0).freedom < 8


@given(st.floats(1e-6, 1e-2), st.floats(0.005, 0.2), st.floats(0.0, 0.5), st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_with_the_patients_it_asks_for_the_power_is_the_planned(
    variance: float, margin: float, cost: float, sides: int
) -> None:
    spread = Spread(variance=variance, third=-(variance**1.5), lowest=-0.01, highest=0.01, freedom=60.0)
    hidden = Hidden(cost=cost, scatter=0.01)

    times = growth([spread] * sides, hidden, margin, ALPHA, 0.8)

    assert times is not None
    if times > 0.1:
        grown = [spread.grown(times)] * sides, hidden.grown(times)
        assert power_at_zero(*grown, margin, ALPHA) == pytest.approx(0.8, abs=0.01)
        assert provable(*grown, ALPHA, 0.8) == pytest.approx(margin, rel=0.01)
        assert hidden.grown(times).cost < margin


def test_many_patients_alike_need_what_the_textbook_says() -> None:
    # 80 % power at one-sided 2.5 %: the margin is 1.960 + 0.842 standard errors; on two sides 1.960 + 1.282 (Chow, Shao
    # and Wang, Sample Size Calculations in Clinical Research, 2008, section 3.1: half of the type II error on each).
    spread = Spread(variance=1.0, third=0.0, lowest=0.0, highest=0.0, freedom=1e7)

    assert growth([spread], Hidden(), 0.1, ALPHA, 0.8) == pytest.approx((2.8016 / 0.1) ** 2, rel=0.01)
    assert growth([spread] * 2, Hidden(), 0.1, ALPHA, 0.8) == pytest.approx((3.2415 / 0.1) ** 2, rel=0.01)


def test_what_may_be_hidden_can_dictate_the_number() -> None:
    calm = Spread(variance=1e-10, third=0.0, lowest=0.0, highest=0.0, freedom=1e7)

    still = growth([calm], Hidden(cost=0.1), 0.02, ALPHA, 0.8)
    uneven = growth([calm], Hidden(cost=0.1, scatter=0.04), 0.02, ALPHA, 0.8)

    assert still == pytest.approx(5.0, rel=0.01)  # the cost falls with the number of patients
    assert uneven is not None
    assert uneven > 5.3


def test_what_was_never_seen_falls_as_tangos_bound_does() -> None:
    here, there = (Hidden(cost=0.9 * unseen(n, ALPHA), share=unseen(n, ALPHA)) for n in (10, 90))

    assert here.grown(9.0).cost == pytest.approx(there.cost)
    assert here.grown(9.0).share == pytest.approx(there.share)


def test_the_largest_error_grows_with_the_patients_and_scatters() -> None:
    # The largest of n exponential errors is log n + 0.577 on average with variance pi^2 / 6 (Gumbel).
    rng = np.random.default_rng(0)
    largest = rng.exponential(size=(4000, 400)).max(axis=1)
    foreseen = Hidden(cost=float(np.log(50.0) + 0.5772), swell=1.0).grown(8.0)

    assert foreseen.cost * 8.0 == pytest.approx(largest.mean(), abs=0.1)
    assert foreseen.variance**0.5 * 8.0 == pytest.approx(largest.std(), abs=0.1)


def test_the_effective_number_of_patients_scatters_as_foreseen() -> None:
    rng = np.random.default_rng(1)
    drawn = [rng.integers(1, 9, 400) * (rng.random(400) < 0.1) for _ in range(2000)]
    numbers = [effective(images.astype(np.float64)) for images in drawn]

    foreseen = np.mean([of_images(images.astype(np.float64)) for images in drawn[:50]])

    assert foreseen**0.5 == pytest.approx(np.std(numbers) / np.mean(numbers), rel=0.1)


def test_the_scale_of_a_tail_is_found_and_a_ceiling_has_none() -> None:
    errors = np.random.default_rng(3).exponential(2.0, size=(300, 400))
    at_ceiling = np.concatenate([errors[0], np.full(12, 200.0)])

    assert np.mean([tail_of(one) for one in errors]) == pytest.approx(2.0, rel=0.15)
    assert tail_of(at_ceiling) == 0.0
    assert tail_of(np.append(errors[0], 200.0)) < 4.0  # one that lies a step above says nothing about the tail
    assert tail_of(np.ones(1)) == 0.0
