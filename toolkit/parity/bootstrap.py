"""The paired bootstrap by patient: whole patients are drawn with replacement, both models see the same draw.

One resample says how often each patient was drawn. A statistic that is a function of sums over cases is then a function
of `counts.T @ sums_by_patient`, one matrix product for many resamples (Efron and Tibshirani 1993; Field and Welsh,
JRSS B 2007 for clusters). AUC is no such function; `ranked.py` has it. The rules:

- Draws depend on the seed and the number of patients only, never on models, statistics or the number of threads, so
  that endpoints which are drawn one after another are still paired. More resamples begin with those of fewer.
- `BLOCK` resamples are drawn together, each block from a random state of its own: blocks go to threads.
- Memory is bounded: each thread holds one block, a byte a patient and resample (64 MB for a million patients), and what
  the statistic needs.

The counts are multinomial, as drawing P of P patients one by one gives them, but cost a byte of random bits each. P
independent Poisson counts are multinomial once their sum is known; with a mean a little below 1 they sum to a little
less than P, and the patients still missing are drawn one by one.

The interval is the wider of two: the percentiles of the replicates, and Student's t on the replicates' standard
error with one degree of freedom fewer than there are patients. Percentiles alone are too short with few patients.

    drawn = replicate_sums(sums, resamples=10_000, seed=0, progress=lambda done, total: print(done, total))
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import ceil, exp, factorial

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from .cases import Array

Counts = NDArray[np.uint8]  # (P, r): how often each of P patients was drawn, by resample
Statistic = Callable[[Counts], Array]  # one row a resample: (r,) or (r, ...)
Progress = Callable[[int, int], None]  # resamples done, of how many; called in the caller's thread

BLOCK = 64  # resamples drawn together
CHUNK = 4_000_000  # counts that `resample_counts` gives at a time: 32 MB
SHORT = 4.0  # standard deviations by which the Poisson counts aim below their sum: 1 of 30,000 resamples exceeds it
MOST = 20  # a Poisson count of mean 1 is larger once in 10^19
TILE = 1 << 18  # counts in the making, so that they stay in the cache
ALONE = 1 << 18  # multiplications that BLAS does without threads of its own (OpenBLAS); we have ours
FEW_LEFT = 1 << 10  # numbers that are drawn by 53 bits each
FEW = 1 << 22  # counts that are not worth a second thread


class Interval(msgspec.Struct, frozen=True):
    """A two-sided 1 - 2 alpha interval and the standard error it rests on."""

    low: float
    high: float
    se: float


def replicate(
    statistic: Statistic,
    patients: int,
    resamples: int,
    seed: int,
    *,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Array:
    """Compute a statistic on every resample: (resamples, ...).

    Args:
        statistic: from counts (P, r) to one row a resample; called from several threads at once.
        patients: how many are drawn, of as many.
        resamples: at least 1.
        seed: of the draws.
        progress: told after each block.
        threads: None: one a core that the process may use. They change no number.
    """
    blocks = range(ceil(resamples / BLOCK))
    threads = 1 if patients * resamples < FEW else min(threads or _cores(), len(blocks))

    def one(block: int) -> Array:
        return statistic(draw_counts(patients, seed, block))

    parts: list[Array] = []
    with ThreadPoolExecutor(threads) as pool:
        for part in pool.map(one, blocks) if threads > 1 else map(one, blocks):
            parts.append(part)
            if progress is not None:
                progress(min(len(parts) * BLOCK, resamples), resamples)
    return np.concatenate(parts)[:resamples]


def replicate_sums(
    sums: Array, resamples: int, seed: int, *, progress: Progress | None = None, threads: int | None = None
) -> Array:
    """Sum over the drawn patients: `sums` (patients, k) -> (resamples, k); the rest as in `replicate`."""
    plain = np.ascontiguousarray(sums, dtype=np.float64)
    return replicate(
        lambda counts: weighted_sums(counts, plain), len(sums), resamples, seed, progress=progress, threads=threads
    )


def weighted_sums(counts: Counts, sums: Array) -> Array:
    """Sum (P, k) over patients counted (P, r) times: (r, k).

    By tiles, so that the counts need not all be widened at once.
    """
    columns = sums.shape[1]
    if columns == 1:  # BLAS would take another road for a vector, and share it among threads
        return weighted_sums(counts, np.repeat(sums, 2, axis=1))[:, :columns]
    total = np.zeros((counts.shape[1], columns))
    tile = max(ALONE // max(counts.shape[1] * columns, 1), 1)
    for start in range(0, len(counts), tile):
        total += counts[start : start + tile].T.astype(np.float64) @ sums[start : start + tile]
    return total


def resample_counts(patients: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield blocks (r, patients) of how often each patient was drawn; `resamples` rows in all, those of `replicate`."""
    step = max(1, CHUNK // (max(patients, 1) * BLOCK))
    for first in range(0, ceil(resamples / BLOCK), step):
        blocks = range(first, min(first + step, ceil(resamples / BLOCK)))
        counts = np.concatenate([draw_counts(patients, seed, block).T for block in blocks])
        yield counts[: resamples - first * BLOCK].astype(np.float64)


def draw_counts(patients: int, seed: int, block: int) -> Counts:
    """Draw resamples `block * BLOCK` to `(block + 1) * BLOCK - 1`: (P, BLOCK), each column sums to P.

    A byte is enough: a patient is drawn more than 255 times in one of 10^500 resamples.
    """
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(block,))))
    rate = 1.0 - SHORT / max(patients, 1) ** 0.5
    counts = np.zeros(patients * BLOCK, dtype=np.uint8)
    if rate > 0:
        _draw_poisson(rng, rate, counts)
    table = counts.reshape(patients, BLOCK)
    drawn = table.sum(axis=0, dtype=np.uint32).astype(np.int64)
    table[:, drawn > patients] = 0  # too many were drawn: that resample is drawn one by one
    missing = patients - np.where(drawn > patients, 0, drawn)
    resample = np.repeat(np.arange(BLOCK), missing)
    patient = rng.integers(0, max(patients, 1), size=len(resample))
    np.add.at(counts, patient * BLOCK + resample, np.uint8(1))
    return table


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _draw_poisson(rng: np.random.Generator, rate: float, numbers: NDArray[np.uint8]) -> None:
    """Fill `numbers` with independent Poisson numbers."""
    shares = np.array([exp(-rate) * rate**k / factorial(k) for k in range(MOST)])
    for start in range(0, len(numbers), TILE):
        _draw(rng, shares, numbers[start : start + TILE])


def _draw(rng: np.random.Generator, shares: Array, numbers: NDArray[np.uint8]) -> None:
    """Fill `numbers` with independent 0, 1, 2 .. drawn by their shares (they sum to 1), to the last digit of these.

    A random byte tells most of them: of its 256 values floor(256 share) mean each number. The few values left over say
    that the number is to be drawn from what is left of the shares, by another byte; where few are left, by 53 bits.
    """
    if len(numbers) < FEW_LEFT:
        totals = np.cumsum(shares)
        numbers[:] = np.searchsorted(totals, rng.random(len(numbers)) * totals[-1], side="right")
        return
    whole = np.floor(256.0 * shares)
    limits = np.cumsum(whole[: np.flatnonzero(whole)[-1] + 1]).astype(np.uint8)
    # Full words are the raw stream of the generator, which numpy keeps the same from version to version.
    words = rng.integers(0, 2**64 - 1, size=ceil(len(numbers) / 8), dtype=np.uint64, endpoint=True)
    byte = words.view(np.uint8)[: len(numbers)]
    above = np.greater_equal(byte, limits[0])
    numbers[:] = above
    for limit in limits[1:]:
        np.greater_equal(byte, limit, out=above)
        numbers += above.view(np.uint8)
    left = np.flatnonzero(above)  # the last limit
    others = np.empty(len(left), dtype=np.uint8)
    rest = 256.0 * shares - whole
    _draw(rng, rest / rest.sum(), others)
    numbers[left] = others


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
