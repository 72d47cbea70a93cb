"""Two models' share of right decisions on the same cases: Tango's score interval, for patients with several cases.

A student that differs from its teacher in few decisions, or in none, leaves a bootstrap or Wald interval with width
zero, which would prove any margin from a dozen cases. Tango's interval (Statistics in Medicine 1998) inverts the score
test and keeps an honest width: with no discordant pair among n its bounds are +-z^2 / (n + z^2).

Several cases of one patient, and several labels of one case, carry less than independent pairs. The number of pairs
is therefore divided by the design effect (Rao and Scott, Biometrics 1992): the patient-clustered variance of the
difference over the variance that independent equal pairs would have. With fewer than `FEW` discordant patients the data
cannot show the design effect, and its largest value is taken: all cases of a patient count as one.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from .cases import Array, sum_by_patient

FEW = 10  # discordant patients below which the design effect is taken at its largest


class ProportionComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two models' (weighted) share of right decisions; `difference` is student minus teacher."""

    teacher: float
    student: float
    difference: float
    low: float
    high: float
    discordance: float  # weighted share of cases that only one of the two decides rightly
    pairs: float  # independent pairs that the cases are worth


def tango_interval(gains: float, losses: float, pairs: float, alpha: float) -> tuple[float, float]:
    """Give the two-sided 1 - 2 alpha score interval of (gains - losses) / pairs, Tango 1998; counts need not be whole.

    Args:
        gains: pairs that only the student decides rightly.
        losses: pairs that only the teacher decides rightly.
        pairs: all pairs.
        alpha: one-sided error, 0.025 for the 95 % interval.
    """
    z = float(norm.ppf(1.0 - alpha))
    seen = (gains - losses) / pairs

    def score(delta: float) -> float:
        b = -gains - losses + (2.0 * pairs - gains + losses) * delta
        root = max(b * b + 8.0 * pairs * losses * delta * (1.0 - delta), 0.0) ** 0.5
        variance: float = pairs * (2.0 * max((root - b) / (4.0 * pairs), 0.0) + delta * (1.0 - delta))
        # No variance at the edge: the hypothesis is either exactly what was seen or impossible.
        return float((gains - losses - pairs * delta) / max(variance, 1e-300) ** 0.5)

    edge = 1e-12
    low, high = -1.0, 1.0
    if seen > -1.0 + edge and score(-1.0 + edge) > z:
        low = _root(lambda delta: score(delta) - z, -1.0 + edge, seen)
    if seen < 1.0 - edge and score(1.0 - edge) < -z:
        high = _root(lambda delta: score(delta) + z, seen, 1.0 - edge)
    return low, high


def compare_proportions(
    teacher: NDArray[np.bool_], student: NDArray[np.bool_], weights: Array, patients: NDArray[np.intp], alpha: float
) -> ProportionComparison:
    """Compare right decisions, with patients as clusters.

    Args:
        teacher: (n,) the teacher's decision is right.
        student: (n,) the student's decision is right.
        weights: (n,) positive weights with sum 1; a macro mean over labels gives each label the same sum.
        patients: (n,) numbers of the patients.
        alpha: one-sided error.
    """
    change = student.astype(np.float64) - teacher.astype(np.float64)
    difference = float(weights @ change)
    gains, losses = float(weights @ (change > 0)), float(weights @ (change < 0))
    pairs = 1.0 / float(weights @ weights) / _design_effect(change, weights, patients)
    low, high = tango_interval(gains * pairs, losses * pairs, pairs, alpha)
    return ProportionComparison(
        # The weights' sum is 1 up to rounding; a share of 1 should be one.
        teacher=round(float(weights @ teacher), 12),
        student=round(float(weights @ student), 12),
        difference=difference,
        low=min(low, difference),
        high=max(high, difference),
        discordance=gains + losses,
        pairs=pairs,
    )


def clustered_se(centred: Array, patients: NDArray[np.intp]) -> float:
    """Estimate the standard error of a sum of centred contributions (n,), clustered; NaN for one patient."""
    clusters = len(np.unique(patients))
    if clusters < 2:
        return float("nan")
    sums = np.bincount(patients, weights=centred)
    return float(np.sqrt(np.sum(sums**2) * clusters / (clusters - 1)))


def needed_pairs(discordance: float, margin: float, alpha: float, power: float = 0.8) -> float:
    """Give the independent pairs for which a true difference of zero passes with the given power.

    The larger of the usual count for paired proportions, (z_alpha + z_power)^2 psi / margin^2, and the count below
    which Tango's bound cannot pass even without a single discordant pair.
    """
    z, z_power = float(norm.ppf(1.0 - alpha)), float(norm.ppf(power))
    return max((z + z_power) ** 2 * discordance / margin**2, z**2 * (1.0 - margin) / margin)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(brentq(function, low, high))  # pyright: ignore[reportArgumentType]


def _design_effect(change: Array, weights: Array, patients: NDArray[np.intp]) -> float:
    """Estimate it, at least 1; see the head of the file."""
    count = int(patients.max()) + 1
    square = float(weights @ weights)
    largest = float(np.sum(sum_by_patient(weights[:, None], patients, count) ** 2)) / square
    mean = float(weights @ change)
    independent = (float(weights @ np.abs(change)) - mean**2) * square
    seen = clustered_se(weights * (change - mean), patients) ** 2 / independent if independent > 0 else 1.0
    few = len(np.unique(patients[change != 0])) < FEW
    return max(1.0, seen if np.isfinite(seen) else 1.0, largest if few else 1.0)
