"""How likely Tango's interval is to prove a margin, and how many pairs it takes.

The usual count for paired proportions, (z_alpha + z_power)^2 psi / margin^2, is short where few pairs are discordant:
the test's own variance is that at the margin, which is larger, and counts are whole. With psi = 0.01 and a margin of
0.02 its 196 pairs have a power of 47 % instead of 80 %. Here outcomes are summed one by one as long as they are few.

The same for critical positives that are lost, whose bound is Clopper and Pearson's.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc, gammaln, xlog1py, xlogy
from scipy.stats import beta, binom, norm

MOST_EXACT = 400.0  # expected discordant pairs above which the normal approximation is good
STEP, STEADY = 1.02, 8  # the power must hold over eight steps of 2 %: with few discordant pairs it goes up and down


def tango_power(pairs: float, discordance: float, margin: float, alpha: float) -> float:
    """Give the probability that Tango's bound lies above minus the margin when the true difference is zero.

    Args:
        pairs: independent pairs.
        discordance: share of them that only one model decides rightly; each of the two as often.
        margin: positive.
        alpha: one-sided error.
    """
    if pairs * discordance > MOST_EXACT:
        z = float(norm.ppf(1.0 - alpha))
        even = np.array([pairs * discordance / 2.0])
        at_margin = float(_variance_at_margin(even, even, pairs, margin)[0]) ** 0.5 / pairs
        return float(norm.cdf((margin - z * at_margin) / (discordance / pairs) ** 0.5))
    whole = max(round(pairs), 1)
    mean = whole * discordance
    reach = 8.0 * (mean * (1.0 - discordance)) ** 0.5 + 20.0  # what lies beyond has a chance of 1e-9 at most
    few, many = max(int(mean - reach), 0), min(int(mean + reach) + 1, whole)
    discordant = np.arange(few, many + 1)
    enough = _enough(discordant, whole, margin, float(norm.ppf(1.0 - alpha)))
    chance = np.where(enough > 0, bdtrc(np.maximum(enough - 1, 0), discordant, 0.5), 1.0)
    return float(np.sum(_binomial(discordant, whole, discordance) * chance))


def _enough(discordant: NDArray[np.intp], whole: int, margin: float, z: float) -> NDArray[np.intp]:
    """Give the fewest gains (k,) with which the bound passes, one more than all where none do; by halving."""
    low, high = np.full_like(discordant, -1), discordant + 1
    while (high - low > 1).any():
        gains = (low + high) // 2
        losses = discordant - gains
        statistic = (gains - losses + whole * margin) / np.sqrt(_variance_at_margin(gains, losses, whole, margin))
        passes = statistic > z
        open_still = high - low > 1
        high = np.where(open_still & passes, gains, high)
        low = np.where(open_still & ~passes, gains, low)
    return np.asarray(high)


def _binomial(number: NDArray[np.integer], whole: int, share: float) -> NDArray[np.float64]:
    """Give the binomial probabilities (k,) of numbers out of a whole."""
    ways = gammaln(whole + 1.0) - gammaln(number + 1.0) - gammaln(whole - number + 1.0)
    return np.asarray(np.exp(ways + xlogy(number, share) + xlog1py(whole - number, -share)), dtype=np.float64)


def pairs_for(discordance: float, margin: float, alpha: float, power: float) -> float:
    """Give the independent pairs for which Tango's bound passes with the planned power when the difference is zero.

    Never fewer than the usual count, nor than without a single discordant pair: z^2 (1 - margin) / margin.
    """
    z, more = float(norm.ppf(1.0 - alpha)), float(norm.ppf(power))
    least = max((z + more) ** 2 * discordance / margin**2, z**2 * (1.0 - margin) / margin)
    return _steady(lambda pairs: tango_power(pairs, discordance, margin, alpha), least, power)


def loss_power(pairs: float, share: float, margin: float, alpha: float) -> float:
    """Give the probability that Clopper and Pearson's upper bound of a lost share lies below the margin.

    Args:
        pairs: independent positives that the teacher finds.
        share: of them that the student loses, in truth.
        margin: positive.
        alpha: one-sided error.
    """
    whole = max(round(pairs), 1)
    counts = np.arange(int(whole * margin) + 1)
    below = np.flatnonzero(beta.ppf(1.0 - alpha, counts + 1.0, whole - counts) < margin)
    return float(binom.cdf(below[-1], whole, share)) if len(below) else 0.0


def founds_for(share: float, margin: float, alpha: float, power: float) -> float | None:
    """Give the independent found positives for which that bound passes; None where the share itself is too large."""
    if share >= 0.9 * margin:  # nearer than that takes more positives than anybody has
        return None
    least = log(alpha) / log(1.0 - margin)
    return _steady(lambda pairs: loss_power(pairs, share, margin, alpha), least, power)


def _steady(power_at: Callable[[float], float], least: float, power: float) -> float:
    """Find the first number, in steps, from which the power stays."""
    steady, pairs, found = 0, least, least
    while steady < STEADY:
        if power_at(pairs) >= power:
            steady += 1
            found = pairs if steady == 1 else found
        else:
            steady = 0
        pairs *= STEP
    return found


def smallest_margin(power_at: Callable[[float], float], power: float) -> float | None:
    """Find the smallest margin with the planned power, by halving; None where 1/2 has it not.

    Args:
        power_at: power by margin, for the cases at hand.
        power: planned.
    """
    low, high = 0.0, 0.5
    if power_at(high) < power:
        return None
    for _ in range(20):
        middle = (low + high) / 2.0
        low, high = (low, middle) if power_at(middle) >= power else (middle, high)
    return high


def _variance_at_margin(
    gains: NDArray[np.number], losses: NDArray[np.number], pairs: float, margin: float
) -> NDArray[np.float64]:
    """Give the variance of gains - losses if the true difference were minus the margin (Tango 1998)."""
    delta = -margin
    b = -gains - losses + (2.0 * pairs - gains + losses) * delta
    root = np.sqrt(np.maximum(b * b + 8.0 * pairs * losses * delta * (1.0 - delta), 0.0))
    least = np.maximum((root - b) / (4.0 * pairs), 0.0)
    return np.asarray(np.maximum(pairs * (2.0 * least + delta * (1.0 - delta)), 1e-300), dtype=np.float64)
