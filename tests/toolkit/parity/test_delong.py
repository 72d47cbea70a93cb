from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from foveola.toolkit.parity.delong import (
    auc,
    compare_auc,
    compare_macro_auc,
    hidden_loss,
    lower_bound_of_perfect_auc,
)

# A variance of zero comes out as rounding, 1e-18 or so, and its root as 1e-9: standard errors agree to 1e-7.
Array = NDArray[np.float64]
Paired = tuple[NDArray[np.bool_], Array, Array, NDArray[np.intp]]


@st.composite
def paired(draw: st.DrawFn) -> Paired:
    """Truth with both classes, scores of two models with many ties, patients with up to four cases."""
    count = draw(st.integers(8, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    truth = rng.random(count) < 0.4
    assume(2 <= truth.sum() <= count - 2)
    teacher = rng.integers(0, draw(st.integers(2, 30)), count).astype(np.float64)
    student = np.where(rng.random(count) < 0.5, teacher, rng.integers(0, 20, count).astype(np.float64))
    patients = np.unique(rng.integers(0, max(4, count // 2), count), return_inverse=True)[1]
    return truth, teacher, student, patients


def naive_variance(truth: NDArray[np.bool_], a: Array, b: Array, patients: NDArray[np.intp]) -> float:
    """Obuchowski's (1997) variance of the difference, from the kernel of all pairs, term by term."""

    def kernel(scores: Array) -> Array:
        positive, negative = scores[truth][:, None], scores[~truth][None]
        return np.asarray((positive > negative) + 0.5 * (positive == negative))

    difference = kernel(b) - kernel(a)
    v10, v01, d = difference.mean(axis=1), difference.mean(axis=0), difference.mean()
    m, n = difference.shape
    everyone = np.unique(patients)
    positive = [v10[patients[truth] == p] for p in everyone]
    negative = [v01[patients[~truth] == p] for p in everyone]
    i10, i01, i = sum(len(x) > 0 for x in positive), sum(len(x) > 0 for x in negative), len(everyone)
    s10 = i10 / ((i10 - 1) * m) * sum((x.sum() - len(x) * d) ** 2 for x in positive)
    s01 = i01 / ((i01 - 1) * n) * sum((x.sum() - len(x) * d) ** 2 for x in negative)
    pairs = zip(positive, negative, strict=True)
    s11 = i / (i - 1) * sum((x.sum() - len(x) * d) * (y.sum() - len(y) * d) for x, y in pairs)
    return float(s10 / m + s01 / n + 2 * s11 / (m * n))


@given(paired())
@settings(deadline=None)
def test_the_variance_is_obuchowskis_of_all_pairs(
    data: Paired,
) -> None:
    truth, teacher, student, patients = data
    assume(min(len(np.unique(patients[truth])), len(np.unique(patients[~truth]))) > 1)

    compared = compare_auc(truth, teacher, student, patients)

    assert compared.se**2 == pytest.approx(naive_variance(truth, teacher, student, patients), abs=1e-12)


@given(paired())
@settings(deadline=None)
def test_with_one_case_a_patient_it_is_delongs_variance(
    data: Paired,
) -> None:
    truth, teacher, student, _ = data

    compared = compare_auc(truth, teacher, student, np.arange(len(truth)))

    kernel = [
        (s[truth][:, None] > s[~truth][None]) + 0.5 * (s[truth][:, None] == s[~truth][None]) for s in (teacher, student)
    ]
    v10, v01 = (kernel[1] - kernel[0]).mean(axis=1), (kernel[1] - kernel[0]).mean(axis=0)
    assert compared.se**2 == pytest.approx(v10.var(ddof=1) / len(v10) + v01.var(ddof=1) / len(v01), abs=1e-12)


@given(paired(), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_the_order_of_the_cases_does_not_matter(data: Paired, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(data[0]))

    truth, teacher, student, patients = data
    one = compare_auc(*data)
    other = compare_auc(truth[order], teacher[order], student[order], patients[order])

    assert one.difference == pytest.approx(other.difference, abs=1e-12)
    assert one.se == pytest.approx(other.se, abs=1e-7, nan_ok=True)


@given(paired())
@settings(deadline=None)
def test_swapping_the_models_negates_the_difference(
    data: Paired,
) -> None:
    truth, teacher, student, patients = data

    one, other = compare_auc(truth, teacher, student, patients), compare_auc(truth, student, teacher, patients)

    assert one.difference == -other.difference
    assert one.se == pytest.approx(other.se, abs=1e-7, nan_ok=True)


@given(paired())
@settings(deadline=None)
def test_an_increasing_map_of_the_scores_changes_nothing(
    data: Paired,
) -> None:
    truth, teacher, student, patients = data

    one = compare_auc(truth, teacher, student, patients)
    other = compare_auc(truth, np.exp(teacher / 10), 3 * student - 7, patients)

    assert (one.difference, one.se) == pytest.approx((other.difference, other.se), abs=1e-7, nan_ok=True)
    assert compare_auc(truth, teacher, np.exp(teacher / 10), patients).same_ranks


@given(paired())
@settings(max_examples=30, deadline=None)
def test_a_macro_auc_of_copies_of_one_label_is_that_label(
    data: Paired,
) -> None:
    truth, teacher, student, patients = data

    one = compare_auc(truth, teacher, student, patients)
    copies = [np.stack([array.astype(np.float64)] * 3, axis=1) for array in (truth, teacher, student)]
    three = compare_macro_auc(copies[0], copies[1], copies[2], patients)

    assert (three.difference, three.se) == pytest.approx((one.difference, one.se), abs=1e-7, nan_ok=True)


def test_a_label_not_known_leaves_only_that_label() -> None:
    rng = np.random.default_rng(1)
    truth = (rng.random((60, 2)) < 0.5).astype(np.float64)
    truth[:20, 1] = np.nan
    scores = rng.random((60, 2))

    compared = compare_macro_auc(truth, scores, rng.random((60, 2)), np.arange(60))

    wanted = np.mean([auc(truth[:, 0] > 0.5, scores[:, 0]), auc(truth[20:, 1] > 0.5, scores[20:, 1])])
    assert compared.teacher == pytest.approx(wanted)


def test_one_patient_alone_gives_no_standard_error() -> None:
    truth, scores = np.array([True, False, True]), np.array([0.9, 0.1, 0.8])

    assert np.isnan(compare_auc(truth, scores, scores, np.zeros(3, dtype=np.intp)).se)


def test_the_auc_of_one_class_is_not_a_number() -> None:
    assert np.isnan(auc(np.ones(3, dtype=bool), np.arange(3.0)))


def test_the_bound_of_a_perfect_auc_rises_with_the_cases() -> None:
    bounds = [lower_bound_of_perfect_auc(n, n, 0.025) for n in (10, 30, 100, 400)]

    assert bounds == sorted(bounds)
    # 1 - t = z sqrt(V(t)) with V(t) about (1 - t) / (2 n) near 1.
    assert 1 - bounds[-1] == pytest.approx(1.96**2 / 800, rel=0.02)


@given(paired())
@settings(deadline=None)
def test_with_one_case_a_patient_the_intervals_variance_is_delongs(data: Paired) -> None:
    truth, teacher, student, _ = data

    compared = compare_auc(truth, teacher, student, np.arange(len(truth)))

    assert compared.spread.variance == pytest.approx(compared.se**2, abs=1e-12)


@given(paired())
@settings(deadline=None)
def test_swapping_the_models_mirrors_the_interval(data: Paired) -> None:
    truth, teacher, student, patients = data

    one, other = compare_auc(truth, teacher, student, patients), compare_auc(truth, student, teacher, patients)

    assert one.spread.below(0.025) == pytest.approx(other.spread.above(0.025), abs=1e-7, nan_ok=True)
    assert hidden_loss(one, 0.025) == hidden_loss(other, 0.025)


@given(paired(), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_neither_order_nor_an_increasing_map_moves_the_bound(data: Paired, seed: int) -> None:
    truth, teacher, student, patients = data
    order = np.random.default_rng(seed).permutation(len(truth))

    one = compare_auc(*data)
    other = compare_auc(truth[order], np.exp(teacher[order] / 10), 3 * student[order] - 7, patients[order])

    assert one.spread.below(0.025) == pytest.approx(other.spread.below(0.025), abs=1e-7, nan_ok=True)


@given(paired())
@settings(deadline=None)
def test_the_third_cumulant_is_that_of_all_pairs(data: Paired) -> None:
    """The fast form against derivatives of the weighted U-statistic, pair by pair."""
    truth, teacher, student, patients = data
    assume(min(len(np.unique(patients[truth])), len(np.unique(patients[~truth]))) > 1)

    found = compare_auc(*data).spread

    def kernel(scores: Array) -> Array:
        positive, negative = scores[truth][:, None], scores[~truth][None]
        return np.asarray((positive > negative) + 0.5 * (positive == negative))

    pairs = kernel(student) - kernel(teacher)

    def weighted(weights: Array) -> float:
        a, b = weights[patients[truth]], weights[patients[~truth]]
        return float(a @ pairs @ b / (a.sum() * b.sum()))

    count = int(patients.max()) + 1
    step = 1e-4
    eye = np.eye(count)
    plain = np.array([(weighted(1 + step * e) - weighted(1 - step * e)) / (2 * step) for e in eye])
    h = 1e-2 / max(float(np.abs(plain).max()), 1e-9)
    second = (weighted(1 + h * plain) - 2 * weighted(np.ones(count)) + weighted(1 - h * plain)) / h**2
    shares = [np.bincount(patients[side], minlength=count) / side.sum() for side in (truth, ~truth)]
    split = [
        np.bincount(patients[truth], (pairs.mean(axis=1) - pairs.mean()) / truth.sum(), count),
        np.bincount(patients[~truth], (pairs.mean(axis=0) - pairs.mean()) / (~truth).sum(), count),
    ]
    some = [len(np.unique(patients[side])) for side in (truth, ~truth)]
    sharp = sum(x / (1 - s) * ((n - 1) / n) ** 0.5 for x, s, n in zip(split, shares, some, strict=True))
    assert found.third == pytest.approx(float(np.sum(np.asarray(sharp) ** 3)) + 3 * second, rel=1e-2, abs=1e-7)


def test_what_forgetting_may_cost_falls_with_the_patients() -> None:
    costs = []
    for patients in (20, 80, 320):
        truth = np.arange(2 * patients) % 2 == 0
        scores = truth + 0.3 * np.random.default_rng(0).standard_normal(2 * patients)
        costs.append(hidden_loss(compare_auc(truth, scores, scores, np.arange(2 * patients)), 0.025))

    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == pytest.approx(1.96**2 / 324 * 0.5, rel=0.05)  # a positive that is forgotten loses a half
