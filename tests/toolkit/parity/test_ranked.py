from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from foveola.toolkit.parity import bootstrap, ranked
from foveola.toolkit.parity.bootstrap import replicate, resample_counts
from foveola.toolkit.parity.delong import compare_auc
from foveola.toolkit.parity.ranked import auc_statistic, replicate_auc, replicate_macro_auc

Array = NDArray[np.float64]
Drawn = tuple[NDArray[np.bool_], Array, NDArray[np.intp]]


def draw(seed: int, cases: int, patients: int, levels: int, prevalence: float) -> Drawn:
    """Truth (n,), scores of two models (n, 2) with that many different values, patients (n,) without a gap."""
    rng = np.random.default_rng(seed)
    truth = rng.random(cases) < prevalence
    scores = np.round(rng.random((cases, 2)) * levels) / levels + 0.2 * truth[:, None]
    return truth, scores, np.unique(rng.integers(0, patients, cases), return_inverse=True)[1].reshape(-1)


def areas_one_by_one(truth: NDArray[np.bool_], scores: Array, counts: Array, patients: NDArray[np.intp]) -> Array:
    """What scikit-learn gives for each resample and model; NaN with one class."""
    found = np.full((len(counts), scores.shape[1]), np.nan)
    for row, weights in enumerate(counts[:, patients]):
        if (weights * truth).any() and (weights * ~truth).any():
            found[row] = [roc_auc_score(truth, column, sample_weight=weights) for column in scores.T]
    return found


@given(
    seed=st.integers(0, 2**32 - 1),
    cases=st.integers(1, 40),
    patients=st.integers(1, 40),
    levels=st.sampled_from([1, 2, 7, 10**6]),
    prevalence=st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.8, 1.0]),
)
@settings(max_examples=150, deadline=None)
def test_every_resample_has_the_weighted_auc_of_scikit_learn(
    seed: int, cases: int, patients: int, levels: int, prevalence: float
) -> None:
    truth, scores, codes = draw(seed, cases, patients, levels, prevalence)

    drawn = replicate_auc(truth, scores, codes, 8, seed)

    counts = np.concatenate(list(resample_counts(codes.max() + 1, 8, seed)))
    np.testing.assert_allclose(drawn, areas_one_by_one(truth, scores, counts, codes), rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", [255, 10**9])
def test_many_cases_are_counted_as_exactly_as_few(levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, scores, codes = draw(0, 20_000, 6000, levels, 0.1)
    counts = np.concatenate(list(resample_counts(codes.max() + 1, 3, 0)))
    wanted = areas_one_by_one(truth, scores, counts, codes)

    single = replicate_auc(truth, scores, codes, 3, 0)
    monkeypatch.setattr(ranked, "EXACT", 0)  # in float64
    monkeypatch.setattr(ranked, "WIDE", 30_000)  # few resamples at a time
    double = replicate_auc(truth, scores, codes, 3, 0)

    np.testing.assert_allclose(single, wanted, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(single, double)


@given(seed=st.integers(0, 2**32 - 1), levels=st.sampled_from([3, 10**6]))
@settings(max_examples=25, deadline=None)
def test_any_increasing_map_of_the_scores_and_any_order_of_the_cases_give_the_same_bits(seed: int, levels: int) -> None:
    truth, scores, codes = draw(seed, 60, 25, levels, 0.3)
    order = np.random.default_rng(seed).permutation(60)
    drawn = replicate_auc(truth, scores, codes, 20, 1)

    mapped = replicate_auc(truth, np.exp(2.0 * scores), codes, 20, 1)
    shuffled = replicate_auc(truth[order], scores[order], codes[order], 20, 1)
    turned = replicate_auc(~truth, -scores, codes, 20, 1)

    np.testing.assert_array_equal(drawn, mapped)
    np.testing.assert_array_equal(drawn, shuffled)
    np.testing.assert_array_equal(drawn, turned)


def test_swapping_the_models_swaps_the_columns_and_equal_models_do_not_differ() -> None:
    truth, scores, codes = draw(3, 300, 100, 50, 0.2)

    drawn = replicate_auc(truth, scores, codes, 64, 0)

    np.testing.assert_array_equal(replicate_auc(truth, scores[:, ::-1], codes, 64, 0), drawn[:, ::-1])
    same = replicate_auc(truth, scores[:, [0, 0]], codes, 64, 0)
    np.testing.assert_array_equal(same[:, 0], same[:, 1])


def test_threads_and_progress_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "FEW", 0)
    truth, scores, codes = draw(1, 500, 200, 10**6, 0.3)
    told: list[tuple[int, int]] = []

    one = replicate_auc(truth, scores, codes, 300, 4, threads=1)
    two = replicate_auc(truth, scores, codes, 300, 4, threads=2, progress=lambda *done: told.append(done))

    np.testing.assert_array_equal(one, two)
    assert told[-1] == (300, 300)


def test_the_standard_error_is_that_of_delong_by_patient() -> None:
    truth, scores, codes = draw(5, 3000, 900, 10**6, 0.3)

    drawn = replicate_auc(truth, scores, codes, 4000, 0)

    exact = compare_auc(truth, scores[:, 0], scores[:, 1], codes)
    assert (drawn[:, 1] - drawn[:, 0]).std(ddof=1) == pytest.approx(exact.se, rel=0.05)
    assert drawn[:, 0].std(ddof=1) == pytest.approx(exact.teacher_se, rel=0.05)
    assert drawn.mean(axis=0) == pytest.approx([exact.teacher, exact.student], abs=0.2 * exact.teacher_se)


def test_the_macro_mean_leaves_out_what_is_not_known_and_labels_without_both_classes() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((40, 3)) < [0.4, 0.05, 0.5]).astype(np.float64)
    truth[rng.random(truth.shape) < 0.2] = np.nan
    models = [rng.random((40, 3)) + np.nan_to_num(truth) for _ in range(2)]
    codes = np.arange(40) // 2

    drawn = replicate_macro_auc(truth, models, codes, 30, 2)

    counts = np.concatenate(list(resample_counts(20, 30, 2)))
    by_label = []
    for k in range(3):
        known = ~np.isnan(truth[:, k])
        scores = np.stack([model[known, k] for model in models], axis=1)
        by_label.append(areas_one_by_one(truth[known, k] > 0.5, scores, counts, codes[known]))
    assert np.isnan(by_label).any()
    np.testing.assert_allclose(drawn, np.nanmean(by_label, axis=0), rtol=0, atol=1e-12)


def test_auc_is_drawn_together_with_other_statistics_in_one_pass() -> None:
    truth, scores, codes = draw(2, 200, 80, 100, 0.4)
    patients = int(codes.max()) + 1
    area = auc_statistic(truth, scores, codes, patients)

    drawn = replicate(lambda counts: np.concatenate([area(counts), counts.T.astype(float)], axis=1), patients, 100, 6)

    np.testing.assert_array_equal(drawn[:, :2], replicate_auc(truth, scores, codes, 100, 6))
    np.testing.assert_array_equal(drawn[:, 2:], np.concatenate(list(resample_counts(patients, 100, 6))))


def test_one_class_only_has_no_area() -> None:
    truth, scores, codes = np.ones(5, dtype=bool), np.arange(10.0).reshape(5, 2), np.arange(5)

    assert np.isnan(replicate_auc(truth, scores, codes, 3, 0)).all()
    assert np.isnan(replicate_auc(~truth, scores, codes, 3, 0)).all()
