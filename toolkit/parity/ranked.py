"""The bootstrap of AUC by whole patients: scores are sorted once, resamples only count.

AUC is the share of pairs of a positive and a negative that the scores put in the right order, ties by half. When whole
patients are drawn, each image counts as often as its patient, so the pairs right are

    sum over levels of (positives at the level) * (negatives below it + half of those on it),

where levels are the different scores of the positives, in order. How many images each level has of each patient is a
sparse matrix; times the counts of a block of resamples it gives all levels of all resamples at once, and running sums
over the levels give what is below. Positives with no negative between them share a level. Where positives are the more
common class, the two change roles. All sums are of whole numbers and exact; only the last division rounds.

    drawn = replicate_auc(truth, np.stack([teacher, student], axis=1), patients, resamples=10_000, seed=0)
    interval(difference, drawn[:, 1] - drawn[:, 0], patient_count, alpha)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from .bootstrap import Counts, Progress, Statistic, replicate
from .cases import Array, ratio

EXACT = 1 << 24  # float32 holds all whole numbers up to here
WIDE = 1 << 23  # counts widened, or running sums held, at a time: 32 MB each


class Ranks(msgspec.Struct, frozen=True, kw_only=True):
    """One model's scores of one label in order, L levels and P patients; the rarer class has the levels.

    Args:
        rare: (L, P) images of the rarer class at each level, by patient.
        common: (L, P) images of the other class between the level before and this one, or, with `ties`, (2 L, P):
            those between, and those on it.
        rows: of `common`.
        ties: whether any image of the one class has the score of one of the other.
        steps: running sums go so many levels at a time.
    """

    rare: csr_array
    common: csr_array
    rows: int
    ties: bool
    steps: int

    def areas(self, weights: NDArray[np.floating]) -> Array:
        """Give the AUC (r,) with patients counted (P, r) times; NaN where a class is absent."""
        resamples = weights.shape[1]
        rare, common = np.asarray(self.rare @ weights), np.asarray(self.common @ weights)
        table = common.reshape(-1, self.steps, resamples)
        for step in range(1, self.steps):
            table[:, step] += table[:, step - 1]
        table[1:] += np.cumsum(table[:-1, -1], axis=0)[:, None]
        # Below and tied count half each, so with ties twice the pairs are what the two running sums add up to.
        below = common[0::2] + common[1::2] if self.ties else common
        right = np.einsum("lr,lr->r", rare, below, dtype=np.float64)
        pairs = rare.sum(axis=0, dtype=np.float64) * common[-1]
        return ratio(right, (2.0 if self.ties else 1.0) * pairs)


def replicate_auc(
    truth: NDArray[np.bool_],
    scores: Array,
    patients: NDArray[np.intp],
    resamples: int,
    seed: int,
    *,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Array:
    """Give the AUC of each model on each resample: (resamples, models); NaN where a class is absent.

    Args:
        truth: (N,) whether the case is positive.
        scores: (N, models); larger means more likely.
        patients: (N,) numbers 0..P-1.
        resamples: at least 1.
        seed: of the draws, which are those of `bootstrap.replicate`.
        progress: see `bootstrap.replicate`.
        threads: see `bootstrap.replicate`.
    """
    count = int(patients.max()) + 1
    statistic = auc_statistic(truth, scores, patients, count)
    return replicate(statistic, count, resamples, seed, progress=progress, threads=threads)


def replicate_macro_auc(
    truth: Array,
    models: Sequence[Array],
    patients: NDArray[np.intp],
    resamples: int,
    seed: int,
    *,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Array:
    """Give the mean AUC over labels of each model on each resample: (resamples, models).

    A label that has one class only in a resample is left out of the mean there, for all models alike.

    Args:
        truth: (N, C) 0, 1 or NaN (not known).
        models: scores (N, C) of each model.
        patients: (N,) numbers 0..P-1.
        resamples: at least 1.
        seed: of the draws.
        progress: see `bootstrap.replicate`.
        threads: see `bootstrap.replicate`.
    """
    count = int(patients.max()) + 1
    labels = []
    for k, column in enumerate(truth.T):
        known = ~np.isnan(column)
        scores = np.stack([model[known, k] for model in models], axis=1)
        labels.append(auc_statistic(column[known] > 0.5, scores, patients[known], count))

    def mean(counts: Counts) -> Array:
        areas = np.stack([label(counts) for label in labels])
        known = np.isfinite(areas)
        return ratio(np.where(known, areas, 0.0).sum(axis=0), known.sum(axis=0))

    return replicate(mean, count, resamples, seed, progress=progress, threads=threads)


def auc_statistic(truth: NDArray[np.bool_], scores: Array, patients: NDArray[np.intp], count: int) -> Statistic:
    """Make the statistic that `bootstrap.replicate` takes: counts (P, r) -> AUC (r, models).

    Args:
        truth: (n,) whether the case is positive.
        scores: (n, models), finite.
        patients: (n,) numbers 0..count-1.
        count: patients in all.
    """
    most = int(np.bincount(patients, minlength=1).max())
    # All sums are at most twice the images drawn, which are at most P times the most images of a patient.
    exact = 2 * count * most < EXACT
    dtype: np.dtype[np.floating] = np.dtype(np.float32) if exact else np.dtype(np.float64)
    models = [rank(truth, column, patients, count, dtype) for column in scores.T]
    most_rows = max(count, *(model.rows for model in models))

    def areas(counts: Counts) -> Array:
        step = max(1, min(counts.shape[1], WIDE // most_rows))
        found = []
        for start in range(0, counts.shape[1], step):
            weights = counts[:, start : start + step].astype(dtype)
            found.append(np.stack([model.areas(weights) for model in models], axis=1))
        return np.concatenate(found)

    return areas


def rank(
    truth: NDArray[np.bool_], scores: Array, patients: NDArray[np.intp], count: int, dtype: np.dtype[np.floating]
) -> Ranks:
    """Sort the cases of one label by one model's scores.

    Args:
        truth: (n,) whether the case is positive.
        scores: (n,) finite.
        patients: (n,) numbers 0..count-1.
        count: patients in all.
        dtype: of the sums.
    """
    swapped = 2 * np.count_nonzero(truth) > len(truth)
    is_rare = ~truth if swapped else truth
    value = -scores if swapped else scores  # a positive above a negative is a minus negative above a minus positive
    levels, of_rare = np.unique(value[is_rare], return_inverse=True)
    above = np.searchsorted(levels, value[~is_rare])  # the level that a common case is on, or just below
    tied = levels[np.minimum(above, len(levels) - 1)] == value[~is_rare] if len(levels) else np.zeros(0, dtype=bool)
    apart = _apart(above, tied, len(levels))
    of_rare, above = apart[of_rare.reshape(-1)], apart[above]
    steps = ceil((int(apart[-1]) + 1) ** 0.5)
    height, ties = steps * steps, bool(tied.any())
    wide = 2 if ties else 1
    return Ranks(
        rare=_images(of_rare, patients[is_rare], (height, count), dtype),
        common=_images(2 * above + tied if ties else above, patients[~is_rare], (wide * height, count), dtype),
        rows=wide * height,
        ties=ties,
        steps=wide * steps,
    )


def _apart(above: NDArray[np.intp], tied: NDArray[np.bool_], levels: int) -> NDArray[np.intp]:
    """Number the levels anew (levels + 1,), the last one above all: levels with nothing between them become one."""
    between, on = (np.bincount(above[cases], minlength=levels + 1) for cases in (~tied, tied))
    new = (between > 0) | (on > 0)
    new[1:] |= on[:-1] > 0
    new[0], new[-1] = False, levels > 0
    return np.cumsum(new, dtype=np.intp)


def _images(
    rows: NDArray[np.intp], patients: NDArray[np.intp], shape: tuple[int, int], dtype: np.dtype[np.floating]
) -> csr_array:
    return csr_array((np.ones(len(rows), dtype=dtype), (rows, patients)), shape=shape)
