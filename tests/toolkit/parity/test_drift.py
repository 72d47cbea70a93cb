"""Drift: the index by a published example and by scipy, and how often no drift is called one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy, ks_2samp

from foveola.runtime.histogram import Histogram, counted, histograms
from foveola.runtime.task import Task
from foveola.toolkit.parity.cases import Answers
from foveola.toolkit.parity.drift import chance_level, distance, drifts, score_columns, stability_index
from foveola.toolkit.parity.evidence import Drift

from .conftest import BINARY, Array

COUNTS = st.lists(st.integers(0, 500), min_size=2, max_size=12).filter(lambda counts: sum(counts) > 0)


def drift(before: Array, now: Array, *, patients: tuple[int, int] | None = None) -> Drift:
    """One comparison of values with values; patients before and now, by default one a value."""
    first, second = patients or (len(before), len(now))
    (found,) = drifts(
        "", histograms({"a": before}), {"a": now}, prefix="input", patients=second, reference_patients=first
    )
    return found


# --- the index and the distance


def test_the_index_of_a_published_example() -> None:
    """GeeksforGeeks, Population Stability Index (2025): incomes of 2020 and 2021 in three classes.

    By hand: -0.05 ln(0.35 / 0.40) - 0.05 ln(0.25 / 0.30) + 0.10 ln(0.40 / 0.30) = 0.00668 + 0.00912 + 0.02877.
    """
    before, now = np.array([0.40, 0.30, 0.30]) * 1e9, np.array([0.35, 0.25, 0.40]) * 1e9

    assert stability_index(before, now) == pytest.approx(0.04456, abs=5e-6)


def shares(counts: list[int]) -> Array:
    return (np.array(counts) + 0.5) / (sum(counts) + 0.5 * len(counts))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_index_is_the_sum_of_both_relative_entropies(data: st.DataObject) -> None:
    before = data.draw(COUNTS)
    now = data.draw(st.lists(st.integers(0, 500), min_size=len(before), max_size=len(before)).filter(any))

    index = stability_index(np.array(before, float), np.array(now, float))

    q, p = shares(before), shares(now)
    assert index == pytest.approx(float(entropy(p, q) + entropy(q, p)), abs=1e-12)
    assert index >= 0
    assert index == pytest.approx(stability_index(np.array(now, float), np.array(before, float)))


def test_the_distance_is_that_of_kolmogorov_and_smirnov_at_the_edges() -> None:
    rng = np.random.default_rng(2)
    before, now, edges = rng.integers(0, 8, 300), rng.integers(2, 9, 120), tuple(np.arange(0.5, 9))

    counts = [np.array(counted(one.astype(float), edges), float) for one in (before, now)]

    statistic, _ = ks_2samp(before, now)
    assert distance(*counts) == pytest.approx(statistic)


def test_an_empty_bin_gives_a_number() -> None:
    found = drift(np.arange(100.0), np.full(100, 200.0))

    assert np.isfinite(found.psi)
    assert found.psi > 3
    assert found.ks == pytest.approx(0.9)


# --- what is called a drift

DRAWS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "a bell": lambda rng, n: rng.normal(size=n),
    "probabilities near 0 and 1": lambda rng, n: rng.beta(0.2, 0.2, n),
    "four values": lambda rng, n: rng.integers(0, 4, n).astype(np.float64),
    "mostly zero": lambda rng, n: np.where(rng.random(n) < 0.9, 0.0, rng.random(n)),
}


def flagged(before: int, now: int, runs: int, draw: Callable[[np.random.Generator, int], Array], images: int) -> float:
    """How often two draws of the same patients' kind are called a drift; each patient has so many equal images."""
    rng = np.random.default_rng(before + now)
    values = ((np.repeat(draw(rng, before), images), np.repeat(draw(rng, now), images)) for _ in range(runs))
    return float(np.mean([drift(one, other, patients=(before, now)).flagged for one, other in values]))


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(("before", "now"), [(30, 1), (30, 3), (20, 10), (50, 50), (300, 50), (30, 200)])
@pytest.mark.parametrize("images", [1, 4])
def test_no_drift_is_called_one_at_most_once_in_a_hundred(draw: str, before: int, now: int, images: int) -> None:
    assert flagged(before, now, 200, DRAWS[draw], images) <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(("before", "now"), [(20, 5), (60, 30), (200, 100), (1000, 300)])
@pytest.mark.parametrize("images", [1, 4])
def test_no_drift_is_called_one_at_most_once_in_a_hundred_at_length(
    draw: str, before: int, now: int, images: int
) -> None:
    assert flagged(before, now, 3000, DRAWS[draw], images) <= 0.01


def test_images_of_few_patients_are_no_proof_of_a_drift() -> None:
    """Each patient's images are alike: counted as so many patients they would look like a drift far too often."""
    rng = np.random.default_rng(7)
    pairs = [(np.repeat(rng.normal(size=30), 20), np.repeat(rng.normal(size=15), 20)) for _ in range(100)]

    by_patient = [drift(one, other, patients=(30, 15)).flagged for one, other in pairs]
    by_image = [drift(one, other).flagged for one, other in pairs]

    assert np.mean(by_patient) <= 0.01
    assert np.mean(by_image) > 0.5


def test_a_real_drift_is_flagged() -> None:
    rng = np.random.default_rng(3)
    before = rng.normal(size=300)

    for now in (rng.normal(1.2, 1, 100), rng.normal(0, 4, 100), before[:100] * 0):
        found = drift(before, now)
        assert found.flagged
        assert found.psi >= 0.25


def test_a_small_shift_is_not_flagged_however_many_images_show_it() -> None:
    """It is beyond chance, but below 0.25: nobody need act."""
    rng = np.random.default_rng(3)

    found = drift(rng.normal(size=50_000), rng.normal(0.2, 1, 50_000))

    assert 0.02 < found.psi < 0.25
    assert found.psi > chance_level(10, 50_000, 50_000)
    assert not found.flagged


def test_the_level_of_chance_is_what_simulated_indices_reach() -> None:
    """Yurdakul and Naranjo 2020: without a drift the index is about (1 / n + 1 / m) times a chi-square."""
    rng = np.random.default_rng(5)
    share = np.full(10, 0.1)
    indices = [
        stability_index(*(np.asarray(rng.multinomial(n, share), np.float64) for n in (2000, 500))) for _ in range(4000)
    ]

    assert np.mean(np.array(indices) > chance_level(10, 2000, 500)) == pytest.approx(0.001, abs=0.002)
    assert np.mean(indices) == pytest.approx(9 * (1 / 2000 + 1 / 500), rel=0.05)


def test_one_bin_tells_nothing() -> None:
    found = drift(np.zeros(50), np.ones(50))

    assert (found.psi, found.ks, found.flagged) == (0.0, 0.0, False)


# --- what is compared


def test_what_one_side_does_not_have_is_not_compared() -> None:
    reference = histograms({"a": np.arange(9.0), "b": np.arange(9.0)}) | {"c": Histogram(edges=(1.0,), counts=(0, 0))}
    values = {"b": np.array([np.nan, 1.0, np.inf, 2.0]), "c": np.arange(3.0), "d": np.arange(3.0)}

    found = list(drifts("openvino", reference, values, prefix="score", patients=4, reference_patients=9))

    assert [(one.what, one.engine, one.cases, one.reference_cases) for one in found] == [("score/b", "openvino", 2, 9)]
    nothing = {"a": np.array([np.nan]), "b": np.array([])}
    assert list(drifts("", reference, nothing, prefix="input", patients=1, reference_patients=9)) == []


def test_scores_have_the_names_of_the_bundles_histograms() -> None:
    tasks = [
        BINARY,
        Task(name="view", kind="multiclass", classes=("PA", "AP")),
        Task(name="age", kind="regression", classes=("age",)),
        Task(name="lungs", kind="segmentation", classes=("lung",)),
        Task(name="boxes", kind="detection", classes=("nodule",)),
    ]
    scores: dict[str, Array] = {
        "finding": np.array([[0.1], [0.2]]),
        "view": np.array([[0.3, 0.7], [0.6, 0.4]]),
        "age": np.array([[50.0], [60.0]]),
    }

    columns = score_columns(tasks, Answers(scores={**scores}))

    assert {name: column.tolist() for name, column in columns.items()} == {
        "finding/yes": [0.1, 0.2],
        "view/PA": [0.3, 0.6],
        "view/AP": [0.7, 0.4],
        "age/age": [50.0, 60.0],
    }
