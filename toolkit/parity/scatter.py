"""How far an endpoint's difference will scatter, foreseen from the teacher's answers and an assumed correlation.

Nothing of the student is known yet. One number is assumed: the correlation of the two models' scores, on the normal
scale, among cases whose truth is the same. What follows from it, with the teacher's own scatter over patients:

- `auc`: the teacher's standard error (Obuchowski) times sqrt(2 (1 - r)), where r is the correlation of the
  structural components of two equal binormal models whose scores correlate so (`component_correlation`);
- sensitivity, specificity, accuracy: the share of decisions that differ when two normal scores with that correlation
  are right with the teacher's probability each (`discordance`);
- all others: the teacher's standard error times sqrt(2 (1 - correlation)).

Images of one patient vary together. How much is seen in the teacher's answers, and the difference is taken to do
likewise: the design effect is 1 + (m - 1) ICC, with m images a patient (Kish 1965).
"""

from __future__ import annotations

import math
from functools import lru_cache

import msgspec
import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from scipy.special import owens_t
from scipy.stats import norm

from .delong import Components, spread
from .tilted import Spread

NODES = 64  # of the quadrature


class MeanScatter(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint that is a mean or behaves like one.

    Args:
        spread: of the teacher's value, by patient.
        independent: its standard error if every image had a patient of its own; 0 where that is not known.
        images: a patient, as the design effect counts them: sum of squares over sum.
    """

    spread: Spread
    independent: float
    images: float

    def of_difference(self, correlation: float) -> Spread:
        """Give the spread of student minus teacher."""
        return _between(self.spread, 2.0 * (1.0 - correlation))


class AreaScatter(MeanScatter, frozen=True, kw_only=True):
    """A (macro) AUC: the labels' areas and structural components."""

    areas: tuple[float, ...]
    parts: tuple[Components, ...]

    def of_difference(self, correlation: float) -> Spread:
        """Give the spread of student minus teacher."""
        alike = np.array([component_correlation(area, correlation) for area in self.areas])
        scale = np.sqrt(2.0 * (1.0 - alike)) / len(self.parts)
        return _between(spread(self.parts, np.stack([scale, np.zeros_like(scale)], axis=1)), 1.0)


class RateScatter(msgspec.Struct, frozen=True, kw_only=True):
    """A share of right decisions, or the mean of several labels' shares.

    Args:
        right: the teacher's share by label.
        pairs: decisions that the cases are worth if all are independent.
        design: the design effect of the teacher's right decisions, at least 1.
        largest: the design effect when all decisions of a patient are one.
        images: a patient, as in `MeanScatter`.
        patients: that have such decisions.
    """

    right: tuple[float, ...]
    pairs: float
    design: float
    largest: float
    images: float
    patients: int

    def discordance(self, correlation: float) -> float:
        """Give the share of decisions that only one of the two models has right."""
        return float(np.mean([discordance(share, correlation) for share in self.right]))


class LossScatter(RateScatter, frozen=True, kw_only=True):
    """Critical positives: `right` is how many of them the teacher finds; the pairs are those found."""

    def lost(self, discordance: float) -> float:
        """Give the share of the found ones that the student loses by chance."""
        return discordance / 2.0 / self.right[0]


Scatter = MeanScatter | RateScatter


def discordance(right: float, correlation: float) -> float:
    """Give the share of decisions that only one of two equal models has right.

    Args:
        right: share of right decisions of each, inside 0..1.
        correlation: of the normal scores behind the decisions.
    """
    # P(both right) of a bivariate normal by Owen's T (1956): Phi(h) - 2 T(h, sqrt((1 - rho) / (1 + rho))).
    slope = ((1.0 - correlation) / (1.0 + correlation)) ** 0.5
    return 4.0 * float(owens_t(norm.ppf(right), slope))


@lru_cache(maxsize=4096)
def component_correlation(area: float, correlation: float) -> float:
    """Turn the correlation of two models' scores into that of their structural components.

    Args:
        area: AUC of both, as two normal distributions of equal width give it.
        correlation: of the scores within each class.
    """
    nodes, weights = hermegauss(NODES)
    weights = weights / weights.sum()
    shift = 2.0**0.5 * float(norm.ppf(np.clip(area, 1e-6, 1.0 - 1e-6)))
    first = norm.cdf(shift + nodes)  # the component of a positive case: the share of negatives below its score
    student = shift + correlation * nodes[:, None] + (1.0 - correlation**2) ** 0.5 * nodes[None]
    mean = float(weights @ first)
    variance = float(weights @ first**2) - mean**2
    shared = float((weights * first) @ norm.cdf(student) @ weights) - mean**2
    return float(np.clip(shared / variance, -1.0, 1.0))


def design_effect(scatter: Scatter) -> float | None:
    """Give how many times more cases it takes because images of one patient vary together; None where not known."""
    if isinstance(scatter, RateScatter):
        return scatter.design
    return scatter.spread.variance / scatter.independent**2 if scatter.independent > 0 else None


def intraclass(scatter: Scatter) -> float | None:
    """Give the intra-class correlation that the design effect means; None with one image a patient."""
    design = design_effect(scatter)
    return None if design is None or scatter.images <= 1.0 else (design - 1.0) / (scatter.images - 1.0)


def _between(teacher: Spread, share: float) -> Spread:
    """Give the spread of a difference of two equal models, from that of one: `share` of its variance, and no skew."""
    heaviest = max(-teacher.lowest, teacher.highest) * math.sqrt(share)
    return Spread(
        variance=teacher.variance * share, third=0.0, lowest=-heaviest, highest=heaviest, freedom=teacher.freedom
    )
