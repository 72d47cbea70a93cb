"""Drift by hand and by scipy, and how often no drift is called one."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats

from foveola.runtime.histogram import Histogram, counted, decile_edges
from foveola.runtime.watch import drift
from foveola.runtime.watch.drift import (
    LEAST,
    Shift,
    chi_square_above,
    coarser,
    distance,
    kolmogorov_above,
    shift,
    stability_index,
    worst,
)

Array = NDArray[np.float64]


def compare(before: Array, now: Array, *, many: float = 1.0, compared: int = 1) -> Shift:
    edges = decile_edges(before)
    found = shift(
        "it",
        Histogram(edges=edges, counts=counted(before, edges)),
        Histogram(edges=edges, counts=counted(now, edges)),
        images_a_patient=many,
        compared=compared,
    )
    assert found is not None
    return found


# --- the figures


def test_the_index_is_that_of_its_formula() -> None:
    before, now = np.array([10.0, 20, 30]), np.array([30.0, 20, 10])
    q, p = (before + 0.5) / 61.5, (now + 0.5) / 61.5

    assert stability_index(before, now) == pytest.approx(sum((p - q) * np.log(p / q)))
    assert stability_index(before, 7 * before) == pytest.approx(0, abs=1e-3)


def test_the_distance_is_scipys_on_binned_values() -> None:
    rng = np.random.default_rng(3)
    before, now = rng.integers(0, 8, 400).astype(float), rng.integers(1, 9, 300).astype(float)
    counts = [np.bincount(one.astype(int), minlength=9).astype(float) for one in (before, now)]

    assert distance(*counts) == pytest.approx(stats.ks_2samp(before, now)[0])


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 20, 63])
def test_the_chi_square_is_scipys(degrees: int) -> None:
    for x in (0.0, 1e-6, 0.5, 3.0, 9.0, 40.0, 300.0, 2000.0):
        assert chi_square_above(x, degrees) == pytest.approx(stats.chi2.sf(x, degrees), rel=1e-9, abs=1e-300)


def test_kolmogorovs_distribution_is_scipys() -> None:
    for x in (0.0, 0.1, 0.2, 0.21, 0.5, 0.8276, 1.3581, 2.0, 4.0):
        assert kolmogorov_above(x) == pytest.approx(special.kolmogorov(x), rel=1e-6, abs=1e-12)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=40))
def test_joined_bins_hold_all_counts_and_their_share(counts: list[int]) -> None:
    before = np.array([*counts, 1], np.float64)
    joined, same = coarser(before, before)

    assert joined.sum() == before.sum()
    assert (joined == same).all()
    assert len(joined) <= 10
    assert (joined >= 0.1 * before.sum() - 1e-9).all()


# --- what is called a drift


@pytest.mark.parametrize(("before", "now"), [(800, 60), (800, 800), (100, 5000)])
def test_no_drift_is_called_one_at_most_once_in_a_hundred(before: int, now: int) -> None:
    rng = np.random.default_rng(5)
    called = [
        compare(rng.normal(size=before), rng.normal(size=now)).verdict in ("moderate", "large") for _ in range(400)
    ]

    assert np.mean(called) <= 0.01


def test_a_real_drift_is_called_by_its_band() -> None:
    rng = np.random.default_rng(6)

    assert compare(rng.normal(size=2000), rng.normal(1.0, 1, 2000)).verdict == "large"
    assert compare(rng.normal(size=2000), rng.normal(0.4, 1, 2000)).verdict == "moderate"
    assert compare(rng.normal(size=2000), rng.normal(0.1, 1, 2000)).verdict == "steady"


def test_few_images_are_too_few_however_far_they_lie() -> None:
    rng = np.random.default_rng(8)

    assert compare(rng.normal(size=2000), rng.normal(5, 1, LEAST - 1)).verdict == "too few"
    assert compare(rng.normal(size=2000), rng.normal(5, 1, LEAST)).verdict == "large"


def test_images_of_the_same_patients_count_as_patients() -> None:
    """Ten equal images a patient: counted as so many patients they would look like a drift."""
    rng = np.random.default_rng(9)
    pairs = [(rng.normal(size=800), np.repeat(rng.normal(size=12), 10)) for _ in range(100)]

    naive = np.mean([compare(before, now).verdict == "large" for before, now in pairs])
    honest = np.mean([compare(before, now, many=10).verdict == "large" for before, now in pairs])

    assert naive > 0.5
    assert honest <= 0.02


def test_many_comparisons_ask_for_more_evidence() -> None:
    rng = np.random.default_rng(10)
    before, now = rng.normal(size=800), rng.normal(0.6, 1, 60)

    alone, among = compare(before, now), compare(before, now, compared=10**6)

    assert alone.psi is not None
    assert alone.psi == among.psi
    assert alone.psi >= 0.1
    assert (alone.verdict, among.verdict) == ("large", "chance")


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (Histogram(edges=(1.0,), counts=(1, 1)), Histogram(edges=(2.0,), counts=(1, 1))),
        (Histogram(edges=(), counts=(9,)), Histogram(edges=(), counts=(9,))),
        (Histogram(edges=(1.0,), counts=(0, 0)), Histogram(edges=(1.0,), counts=(1, 1))),
        (Histogram(edges=(1.0,), counts=(1, 1)), Histogram(edges=(1.0,), counts=(0, 0))),
    ],
    ids=["other edges", "one bin", "nothing before", "nothing now"],
)
def test_what_cannot_be_compared_is_not(before: Histogram, now: Histogram) -> None:
    assert shift("it", before, now) is None


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 10**6), min_size=2, max_size=12).filter(any),
    st.lists(st.integers(0, 10**6), min_size=12, max_size=12).filter(lambda many: any(many[:2])),
)
def test_every_figure_is_a_number_whatever_the_counts(before: list[int], now: list[int]) -> None:
    edges = tuple(float(n) for n in range(len(before) - 1))
    found = shift(
        "it",
        Histogram(edges=edges, counts=tuple(before)),
        Histogram(edges=edges, counts=tuple(now[: len(before)])),
    )

    assert found is not None
    if found.verdict == "too few":
        assert (found.psi, found.ks, found.p, found.p_ks) == (None, None, None, None)
        return
    assert found.psi is not None
    assert 0 <= found.psi < math.inf
    for chance in (found.ks, found.p, found.p_ks):
        assert chance is not None
        assert 0 <= chance <= 1


def test_the_examples_in_the_docstrings_run() -> None:
    assert doctest.testmod(drift).failed == 0


def test_the_strongest_verdict_wins() -> None:
    rng = np.random.default_rng(11)
    far, near = compare(rng.normal(size=900), rng.normal(3, 1, 900)), compare(np.arange(900.0), np.arange(900.0))

    assert worst([near, far, near]) == "large"
    assert worst([]) == "steady"
