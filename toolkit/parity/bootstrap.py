"""The paired bootstrap by patient: whole patients are drawn with replacement, both models see the same draw.

One resample is a row of counts: how often each patient was drawn. A statistic that is a function of sums over cases is
then a function of `counts @ sums_by_patient`, one matrix product for all resamples (Efron and Tibshirani 1993; Field
and Welsh, JRSS B 2007 for clusters). Draws depend on the seed and the number of patients only, never on the models.

The interval is the wider of two: the percentiles of the replicates, and Student's t on the replicates' standard
error with one degree of freedom fewer than there are patients. Percentiles alone are too short with few patients.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from .cases import Array

CHUNK = 4_000_000  # counts held at a time: 32 MB


class Interval(msgspec.Struct, frozen=True):
    """A two-sided 1 - 2 alpha interval and the standard error it rests on."""

    low: float
    high: float
    se: float


def resample_counts(patients: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield blocks (r, patients) of how often each patient was drawn; `resamples` rows in all."""
    rng = np.random.default_rng(seed)
    block = max(1, CHUNK // max(patients, 1))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.integers(0, patients, size=(rows, patients), dtype=np.int32)
        place = drawn + (np.arange(rows, dtype=np.int64) * patients)[:, None]
        yield np.bincount(place.ravel(), minlength=rows * patients).reshape(rows, patients).astype(np.float64)


def replicate_sums(sums: Array, resamples: int, seed: int) -> Array:
    """Sum over the drawn patients: `sums` (patients, k) -> (resamples, k)."""
    return np.concatenate([counts @ sums for counts in resample_counts(len(sums), resamples, seed)])


def interval(estimate: float, replicates: NDArray[np.floating], patients: int, alpha: float) -> Interval | None:
    """Give the interval of `estimate`; None where no width can be estimated (one patient, or no finite replicate).

    Args:
        estimate: the statistic on the cases themselves.
        replicates: (R,) the statistic on the resamples; NaN where it does not exist, left out.
        patients: how many clusters were drawn.
        alpha: one-sided error.
    """
    finite = replicates[np.isfinite(replicates)]
    if patients < 2 or len(finite) < 2 or not np.isfinite(estimate):
        return None
    low, high = np.quantile(finite, [alpha, 1.0 - alpha])
    # The replicates' variance is that of patients / (patients - 1) clusters too many (sample, not unbiased, variance).
    se = float(finite.std(ddof=1)) * (patients / (patients - 1)) ** 0.5
    reach = float(student_t.ppf(1.0 - alpha, patients - 1)) * se
    return Interval(min(float(low), estimate - reach), max(float(high), estimate + reach), se)
