"""Do the images and answers of late look like those before? Counts against counts, between the same edges.

- **PSI**, the population stability index: sum of (p - q) ln(p / q) over the bins, each share with half a count added.
  By custom 0.1 is a moderate shift and 0.25 a large one.
- **KS**: the largest distance of the two distribution functions at the edges.

Small samples shift by chance alone. Without any drift PSI is about (1/n + 1/m) times a chi-square with one degree of
freedom less than bins (Yurdakul and Naranjo, Journal of Risk Model Validation 14(4), 2020), and sqrt(nm / (n + m)) KS
follows Kolmogorov's distribution, conservatively where values are binned. n and m are the numbers of patients, as far
as they can be known: a device that keeps no identities takes as many images a patient as the reference has.

A shift is called by its band only if there are enough images and chance is ruled out at 1 % over all that is compared
(Bonferroni); else it is `too few` or `chance`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..histogram import Histogram

MODERATE, LARGE = 0.1, 0.25
HIDDEN = 5  # smaller counts are not told
LEAST = 50  # images below which no shift is called
LEVEL = 0.01  # chance of any false call in one look

Array = NDArray[np.float64]
Verdict = Literal["too few", "steady", "chance", "moderate", "large"]
Basis = Literal["reference", "earlier days"]
_STRONGEST: tuple[Verdict, ...] = ("large", "moderate", "chance", "too few")


class Shift(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One comparison. Figures are rounded, and told of `LEAST` images or more: a few would be given away by them.

    Args:
        what: name of the histogram.
        basis: what it is held against: the bundle's reference, or this device's own earlier days.
        images: of late, rounded to fives; 0 stands for one to four.
        psi: population stability index; this and the following are None where there are too few images.
        ks: Kolmogorov and Smirnov's distance.
        p: chance of a PSI so large without any drift.
        p_ks: chance of a KS so large.
        verdict: what that comes to.
    """

    what: str
    basis: Basis
    images: int
    psi: float | None = None
    ks: float | None = None
    p: float | None = None
    p_ks: float | None = None
    verdict: Verdict


def shift(
    what: str,
    before: Histogram,
    now: Histogram,
    *,
    basis: Basis = "reference",
    images_a_patient: float = 1.0,
    compared: int = 1,
) -> Shift | None:
    """Hold counts against earlier ones.

    Args:
        what: name of it.
        before: the earlier counts.
        now: the later ones, between the same edges.
        basis: where the earlier ones come from.
        images_a_patient: of the reference; taken for both.
        compared: how many comparisons are made in this look.

    Returns:
        None where the edges differ, or there is but one bin, or nothing on one side, or fewer than `LEAST` images on
        this device's own earlier days.
    """
    q, p = np.array(before.counts, np.float64), np.array(now.counts, np.float64)
    if before.edges != now.edges or len(q) < 2 or not q.sum() or not p.sum():
        return None
    if basis == "earlier days":
        q, p = coarser(q, p)
        if len(q) < 2:
            return None
    images = 5 * round(p.sum() / 5) if p.sum() >= HIDDEN else 0
    if basis == "earlier days" and q.sum() < LEAST:
        return None
    if p.sum() < LEAST:
        return Shift(what=what, basis=basis, images=images, verdict="too few")
    n, m = p.sum() / images_a_patient, q.sum() / images_a_patient
    index, apart = stability_index(q, p), distance(q, p)
    chance = chi_square_above(index / (1 / n + 1 / m), len(q) - 1)
    chance_ks = kolmogorov_above(math.sqrt(n * m / (n + m)) * apart)
    return Shift(
        what=what,
        basis=basis,
        images=images,
        psi=round(index, 3),
        ks=round(apart, 2),
        p=_two_digits(chance),
        p_ks=_two_digits(chance_ks),
        verdict=_verdict(index, min(chance, chance_ks) * 2 * compared),
    )


def _verdict(index: float, chance: float) -> Verdict:
    if index < MODERATE:
        return "steady"
    if chance >= LEVEL:
        return "chance"
    return "large" if index >= LARGE else "moderate"


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def stability_index(before: Array, now: Array) -> float:
    """Give the population stability index of two lists of counts (B,)."""
    q, p = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (before, now))
    return float(np.sum((p - q) * np.log(p / q)))


def distance(before: Array, now: Array) -> float:
    """Give the largest distance of the two distribution functions at the edges, counts (B,)."""
    return float(np.abs(np.cumsum(before / before.sum()) - np.cumsum(now / now.sum())).max())


def coarser(before: Array, now: Array, share: float = 0.1) -> tuple[Array, Array]:
    """Join neighbouring bins until each holds its share of the earlier counts; the last takes what is left."""
    least, ends, held = share * before.sum(), [], 0.0
    for index, count in enumerate(before.tolist()):
        held += count
        if held >= least:
            ends.append(index + 1)
            held = 0.0
    ends = [*ends[:-1], len(before)]
    starts = np.array([0, *ends[:-1]])
    return np.add.reduceat(before, starts), np.add.reduceat(now, starts)


def chi_square_above(x: float, degrees: int) -> float:
    """Give the chance that a chi-square is larger (Abramowitz and Stegun 1964, 26.4.4 and 26.4.5).

    >>> round(chi_square_above(16.919, 9), 4)
    0.05
    """
    if x <= 0:
        return 1.0
    half = x / 2
    odd = degrees % 2
    total = math.erfc(math.sqrt(half)) if odd else 0.0
    power = 0.5 if odd else 0.0
    while power < degrees / 2:
        total += math.exp(power * math.log(half) - half - math.lgamma(power + 1))
        power += 1
    return min(1.0, total)


def kolmogorov_above(x: float) -> float:
    """Give the chance that Kolmogorov's statistic is larger: 2 sum (-1)^(k-1) exp(-2 k^2 x^2).

    >>> round(kolmogorov_above(1.3581), 3)
    0.05
    """
    if x < 0.2:  # the sum converges slowly where it is 1 to twelve digits
        return 1.0
    total = sum((1 if k % 2 else -1) * math.exp(-2 * k * k * x * x) for k in range(1, 101))
    return min(1.0, max(0.0, 2 * total))


def worst(shifts: Sequence[Shift]) -> Verdict:
    """Give the strongest verdict among shifts; `steady` where there are none."""
    for verdict in _STRONGEST:
        if any(one.verdict == verdict for one in shifts):
            return verdict
    return "steady"
