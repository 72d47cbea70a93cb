from __future__ import annotations

import threading
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, chisquare, multinomial
from scipy.stats import t as student_t

from foveola.toolkit.parity import bootstrap
from foveola.toolkit.parity.bootstrap import (
    BLOCK,
    Counts,
    draw_counts,
    interval,
    replicate,
    replicate_sums,
    resample_counts,
    weighted_sums,
)


@pytest.mark.parametrize("patients", [1, 2, 16, 17, 37, 1000])
def test_each_resample_draws_as_many_patients_as_there_are(patients: int) -> None:
    blocks = list(resample_counts(patients, 101, seed=5))

    counts = np.concatenate(blocks)
    assert counts.shape == (101, patients)
    assert (counts.sum(axis=1) == patients).all()


def test_draws_do_not_depend_on_what_is_summed() -> None:
    one = replicate_sums(np.eye(20), 50, seed=3)

    np.testing.assert_array_equal(one, np.concatenate(list(resample_counts(20, 50, seed=3))))


def test_more_resamples_begin_with_those_of_fewer() -> None:
    sums = np.random.default_rng(0).normal(size=(300, 3))

    few, many = replicate_sums(sums, 100, seed=1), replicate_sums(sums, 333, seed=1)

    np.testing.assert_array_equal(few, many[:100])
    assert len(np.unique(many[:, 0])) == 333


def test_other_seeds_give_other_draws() -> None:
    assert not np.array_equal(draw_counts(100, 0, 0), draw_counts(100, 1, 0))


def test_the_draws_of_a_seed_never_change() -> None:
    # Evidence that was written years ago must come out again: a change of numpy or of this file must show.
    assert zlib.crc32(draw_counts(1000, 7, 2).tobytes()) == 888023663
    words = np.random.Generator(np.random.SFC64(5)).integers(0, 2**64 - 1, 9, dtype=np.uint64, endpoint=True)
    np.testing.assert_array_equal(words, np.random.SFC64(5).random_raw(9))


def test_a_patient_is_drawn_as_often_as_the_binomial_law_says() -> None:
    patients = 500

    counts = np.concatenate([draw_counts(patients, 11, block) for block in range(40)], axis=1)

    times = np.bincount(np.minimum(counts, 6).ravel(), minlength=7)
    wanted = binom.pmf(np.arange(6), patients, 1 / patients)
    assert chisquare(times, counts.size * np.append(wanted, 1 - wanted.sum())).pvalue > 1e-3
    # Patients take each other's place: the covariance of two is -1/P, so their sum over a half varies by P/4.
    assert counts[: patients // 2].sum(axis=0).var() == pytest.approx(patients / 4, rel=0.1)


@pytest.mark.parametrize("patients", [3, 18])
def test_the_counts_together_are_multinomial(patients: int) -> None:
    counts = np.concatenate([draw_counts(patients, 3, block) for block in range(300)], axis=1)

    # The first two patients and the rest, all outcomes up to three each.
    seen = [(a, b, patients - a - b) for a in range(4) for b in range(4) if a + b <= patients]
    times = [int(((counts[0] == a) & (counts[1] == b)).sum()) for a, b, _ in seen]
    share = multinomial.pmf(seen, patients, [1 / patients, 1 / patients, 1 - 2 / patients])
    total = counts.shape[1]
    wanted = np.append(total * share, total * (1 - share.sum()))
    observed = np.append(times, total - sum(times))
    large = wanted > 5
    assert chisquare(observed[large], wanted[large] / wanted[large].sum() * observed[large].sum()).pvalue > 1e-3


def test_resamples_that_began_with_too_many_are_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "SHORT", 0.0)  # half of them have too many

    counts = np.concatenate([draw_counts(400, 2, block) for block in range(30)], axis=1)

    assert (counts.sum(axis=0, dtype=np.int64) == 400).all()
    assert counts.var(axis=0).mean() == pytest.approx(1 - 1 / 400, rel=0.01)


@pytest.mark.parametrize("columns", [0, 1, 2, 7])
def test_sums_are_those_of_the_counts(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "ALONE", 1 << 11)  # many tiles
    sums = np.random.default_rng(0).normal(size=(300, columns))
    counts = draw_counts(300, 0, 0)

    found = weighted_sums(counts, sums)

    np.testing.assert_allclose(found, counts.T.astype(np.float64) @ sums, rtol=0, atol=1e-11)


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "FEW", 0)
    sums = np.random.default_rng(0).normal(size=(1000, 3))

    one, three, some = (replicate_sums(sums, 500, seed=9, threads=threads) for threads in (1, 3, None))

    np.testing.assert_array_equal(one, three)
    np.testing.assert_array_equal(one, some)


def test_progress_is_told_in_order_and_ends_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "FEW", 0)
    told: list[tuple[int, int]] = []
    threads = set()

    def progress(done: int, total: int) -> None:
        told.append((done, total))
        threads.add(threading.current_thread())

    replicate_sums(np.ones((50, 1)), 3 * BLOCK - 1, seed=0, progress=progress, threads=2)

    assert told == [(BLOCK, 191), (2 * BLOCK, 191), (191, 191)]
    assert threads == {threading.main_thread()}


def test_a_fault_in_a_thread_is_raised_and_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "FEW", 0)
    calls: list[int] = []

    def broken(counts: Counts) -> NDArray[np.float64]:
        calls.append(1)
        raise FloatingPointError("no")

    with pytest.raises(FloatingPointError):
        replicate(broken, 10, 1000 * BLOCK, 0, threads=2)
    assert len(calls) < 1000


def test_a_statistic_may_have_any_shape() -> None:
    found = replicate(lambda counts: np.stack([counts.T[:, :2], counts.T[:, 2:4]], axis=1).astype(float), 8, 100, 0)

    assert found.shape == (100, 2, 2)


def test_the_mean_of_independent_values_has_the_textbook_interval() -> None:
    values = np.random.default_rng(0).normal(size=80)
    drawn = replicate_sums(values[:, None], 20_000, seed=0)[:, 0] / 80

    found = interval(values.mean(), drawn, 80, 0.025)

    assert found is not None
    se = values.std(ddof=1) / 80**0.5
    assert found.se == pytest.approx(se, rel=0.02)
    assert found.low == pytest.approx(values.mean() - student_t.ppf(0.975, 79) * se, abs=0.03 * se + 0.02)
    assert found.low <= values.mean() - 1.9 * se


@pytest.mark.parametrize(("patients", "drawn"), [(1, np.zeros(50)), (5, np.full(50, np.nan))])
def test_where_no_width_can_be_estimated_there_is_no_interval(patients: int, drawn: np.ndarray) -> None:
    assert interval(0.0, drawn, patients, 0.025) is None
