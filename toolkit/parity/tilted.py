"""How far the bound of a skewed estimate lies from it, with patients as clusters.

A student that loses little on most patients and much on a few has a difference with a long tail below. A sample that
missed those few looks both better and surer than it is, and Student's t then passes far too often (in simulations up
to 13 % instead of 2.5 %). Four corrections, each of which vanishes for many patients alike:

- **lean**: the bound lies x below the estimate where x = t sqrt(V + lean x). The variance at the bound is not the
  variance seen: had the truth been so much lower, heavy losses would have been so much more frequent. Its slope is the
  third cumulant over the second, exactly so in an exponential family (Efron 1981, exponential tilting). For counts of
  losses this is the score interval: with k of them, (k + z^2/2 + z sqrt(k + z^2/4)) / n.
- **one more**: the lean is taken as if the heaviest loss of any patient had been seen once more.
- **leverage**: each patient's contribution is divided by 1 - its share of the images (the jackknife's variance, CR3).
- **freedom**: one less than Kish's effective number of patients, (sum of images)^2 / sum of squares (Kish 1965).

The third cumulant has a part from the single patients and a part from the curvature of the statistic (Hall, The
Bootstrap and Edgeworth Expansion, 1992, section 2.3): kappa and AUC are no means.

And what was never seen has a bound too: with no loss among n patients up to z^2 / (n + z^2) of them may be lost
(`unseen`). An endpoint whose metric lets a loss hide says how much each would cost, and the interval reaches so far.

Planning (`power_at_zero`, `growth`) counts what such a bound does at a true difference of zero: it scatters more than
the estimate, and whichever lies farther, the reach or what may be hidden, decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import norm
from scipy.stats import t as student_t

from .cases import Array

METHOD = "Student's t, corrected for skewness by exponential tilting"
MORE = 1  # times the heaviest loss is added to those seen
LEAST_FREEDOM = 0.5  # below it nothing is estimated
STEP = 1e-4  # of the sums, for derivatives
SCATTER = 4.0  # of the squared reach over its freedom, see `Spread.scatter`
GUMBEL = np.pi**2 / 6.0  # variance of Gumbel's distribution
QUANTILES = ndtri((np.arange(400) + 0.5) / 400)  # of the estimate, over which power is averaged


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """What an estimate's interval is made from.

    Args:
        variance: of the estimate; NaN where it cannot be estimated.
        third: its third cumulant, negative with a tail below.
        lowest: the heaviest loss that one patient contributes, not positive.
        highest: the largest gain, not negative.
        freedom: of Student's t.
    """

    variance: float
    third: float
    lowest: float
    highest: float
    freedom: float

    def below(self, alpha: float) -> float:
        """Tell how far the one-sided lower bound lies below the estimate; NaN where nothing can be estimated."""
        return self._reach(-self.third, -self.lowest, alpha)

    def above(self, alpha: float) -> float:
        """Tell the same for the upper bound."""
        return self._reach(self.third, self.highest, alpha)

    def grown(self, times: float) -> Spread:
        """Give the spread with so many times the patients."""
        return Spread(
            variance=self.variance / times,
            third=self.third / times**2,
            lowest=self.lowest / times,
            highest=self.highest / times,
            freedom=(self.freedom + 1.0) * times - 1.0,
        )

    def scatter(self, alpha: float) -> float:
        """Tell how far the lower bound scatters beyond the estimate itself: the variance of its reach.

        The reach scatters too, and it is long when the estimate is low. What it rests on (variance, lean, freedom)
        together scatters some eight times as the variance alone would let it (found by simulation).
        """
        t = float(student_t.ppf(1.0 - alpha, self.freedom))
        together = t * self._lean(-self.third, -self.lowest) * self.variance**0.5
        return float(SCATTER * self.below(alpha) ** 2 / self.freedom + together)

    def _lean(self, third: float, heaviest: float) -> float:
        seen = self.variance + MORE * heaviest**2
        return max((third + MORE * heaviest**3) / seen, 0.0) if seen > 0 else 0.0

    def _reach(self, third: float, heaviest: float, alpha: float) -> float:
        if not (np.isfinite(self.variance) and self.freedom >= LEAST_FREEDOM):
            return float("nan")
        t = float(student_t.ppf(1.0 - alpha, self.freedom))
        half = t * t * self._lean(third, heaviest) / 2.0
        return half + float(np.sqrt(half**2 + t * t * self.variance))


class Hidden(msgspec.Struct, frozen=True, kw_only=True):
    """What losses too rare to be seen may cost, and how that changes with the patients.

    Args:
        cost: with these patients; it falls as their number grows.
        share: of the patients that may be lost unseen, see `unseen`; 0 where they are so many that it is next to none.
        scatter: variance of the cost over samples of these patients, as a share of its square.
        swell: what e times the patients add to the cost apart from that fall: among more errors a larger one is found.
    """

    cost: float = 0.0
    share: float = 0.0
    scatter: float = 0.0
    swell: float = 0.0

    def grown(self, times: float) -> Hidden:
        """Give it with so many times the patients."""
        fall = self.share + (1.0 - self.share) * times  # (n times + z^2) / (n + z^2)
        return Hidden(
            cost=max(self.cost + self.swell * float(np.log(times)), 0.0) / fall,
            share=self.share / fall,
            scatter=self.scatter / times,
            swell=self.swell / fall,
        )

    @property
    def variance(self) -> float:
        """The cost's variance; a largest error follows Gumbel's distribution, with pi/sqrt 6 of its scale."""
        return self.cost**2 * self.scatter + self.swell**2 * GUMBEL


NOTHING = Spread(variance=float("nan"), third=0.0, lowest=0.0, highest=0.0, freedom=0.0)


def effective(images: Array) -> float:
    """Give Kish's effective number of patients of their (weighted) images (P,): as many alike would tell as much."""
    square = float(images @ images)
    return float(images.sum()) ** 2 / square if square > 0 else 0.0


def unseen(patients: float, alpha: float) -> float:
    """Give the share of patients that may be lost though none was: Tango's (1998) bound at no change."""
    z = float(norm.ppf(1.0 - alpha))
    return z**2 / (patients + z**2)


def spread_of(contributions: Array, curvature: float, freedom: float) -> Spread:
    """Put a spread together from the patients' centred contributions (P,), corrected for leverage.

    Args:
        contributions: their sum of squares is the variance.
        curvature: the second derivative of the statistic in the direction of the contributions.
        freedom: of Student's t.
    """
    squares = contributions**2
    scatter = float(squares @ squares) - float(squares.sum()) ** 2 / max(int((squares > 0).sum()), 1)
    if scatter > 0:
        freedom = min(freedom, 2.0 * float(squares.sum()) ** 2 / scatter)
    return Spread(
        variance=float(squares.sum()),
        third=float(np.sum(contributions**3)) + 3.0 * curvature,
        lowest=min(float(contributions.min()), 0.0),
        highest=max(float(contributions.max()), 0.0),
        freedom=freedom,
    )


def linearised(sums: Array, statistics: Callable[[Array], Array], turn: Sequence[float], images: Array) -> Spread:
    """Give the spread of a combination of smooth functions of sums over cases.

    Args:
        sums: (P, k) each patient's sums.
        statistics: (R, k) totals -> (R, m); they do not change when all totals are multiplied by one number.
        turn: (m,) the combination: -1 and 1 give student minus teacher.
        images: (P,) how many images each patient has.
    """

    def statistic(totals: Array) -> Array:
        turned: Array = statistics(np.atleast_2d(totals)) @ np.asarray(turn)
        return turned

    freedom = effective(images) - 1.0
    if not freedom > 0 or (images > 0).sum() < 2:
        return NOTHING
    total = sums.sum(axis=0)
    size = np.where(total != 0, np.abs(total), 1.0) * STEP
    moved = np.diag(size)
    slope = (statistic(total + moved) - statistic(total - moved)) / (2.0 * size)
    contributions = sums @ slope
    if not np.isfinite(contributions).all():
        return NOTHING
    patients = int((images > 0).sum())
    sharpened = contributions / (1.0 - images / images.sum()) * ((patients - 1) / patients) ** 0.5
    return spread_of(sharpened, _curvature(total, contributions @ sums, statistic), freedom)


def power_at_zero(sides: Sequence[Spread], hidden: Hidden, margin: float, alpha: float) -> float:
    """Foresee how often the margin is kept when the true difference is zero.

    The estimate is common to all that must hold: the bound of either side and, apart from both, what may be hidden.

    Args:
        sides: spread of the difference; and, where the margin holds on both sides, that of the difference turned round.
        hidden: what losses too rare to be seen may cost.
        margin: positive.
        alpha: one-sided error.
    """
    if not all(np.isfinite(side.below(alpha)) and side.freedom >= 1.0 for side in sides):
        return 0.0
    seen = max(side.variance for side in sides) ** 0.5 * QUANTILES
    worst = seen if len(sides) == 1 else -np.abs(seen)
    kept = _chance(margin + worst - hidden.cost, hidden.variance)
    for sign, side in zip((1.0, -1.0), sides, strict=False):
        kept = kept * _chance(margin + sign * seen - side.below(alpha), side.scatter(alpha))
    return float(kept.mean())


def _chance(left: Array, variance: float) -> Array:
    """Give the chance (k,) that something that scatters around 0 stays below what is left (k,)."""
    chance: Array = ndtr(left / max(variance, 1e-30) ** 0.5)
    return chance


def growth(sides: Sequence[Spread], hidden: Hidden, margin: float, alpha: float, power: float) -> float | None:
    """Give how many times these patients are needed for the planned power when the true difference is zero.

    Args:
        sides: see `power_at_zero`.
        hidden: see there.
        margin: positive.
        alpha: one-sided error.
        power: planned.
    """
    if not all(np.isfinite(side.below(alpha)) for side in sides):
        return None

    def short(logarithm: float) -> float:
        times = float(np.exp(logarithm))
        return power - power_at_zero([side.grown(times) for side in sides], hidden.grown(times), margin, alpha)

    low, high = -12.0, 24.0  # natural logarithms
    if short(low) < 0:
        return float(np.exp(low))
    if short(high) > 0:
        return None
    return float(np.exp(brentq(short, low, high, xtol=1e-4)))  # pyright: ignore


def provable(sides: Sequence[Spread], hidden: Hidden, alpha: float, power: float) -> float:
    """Give the smallest margin that is kept with the planned power when the true difference is zero."""
    if not all(np.isfinite(side.below(alpha)) and side.freedom >= 1.0 for side in sides):
        return float("inf")

    def short(margin: float) -> float:
        return power - power_at_zero(sides, hidden, margin, alpha)

    high = max(hidden.cost, *(side.below(alpha) for side in sides), 1e-12)
    while short(high) > 0:
        high *= 2.0
    return float(brentq(short, 0.0, high, xtol=1e-9 * high))  # pyright: ignore


def of_images(images: Array) -> float:
    """Give the variance of Kish's effective number of patients (P,), as a share of its square; some may have none."""
    total, square = float(images.sum()), float(images @ images)
    if not square > 0:
        return 0.0
    return float(np.sum((2.0 * images / total - images**2 / square - 1.0 / len(images)) ** 2))


def tail_of(largest: Array) -> float:
    """Give the scale of the tail of the patients' largest errors (P,): by as much their maximum scatters.

    The tail is taken as exponential (Gumbel's domain; Coles, An Introduction to Statistical Modeling of Extreme Values,
    2001, chapter 4), where each spacing times its rank is exponential too (Renyi 1953). Their median, because a few
    errors may lie a step above all others; two that are equal at the top are a ceiling (the image's diagonal).
    """
    ranked = np.sort(largest)[::-1]
    beyond = int(len(ranked) ** 0.5)
    if len(ranked) < 2 or ranked[0] == ranked[1]:
        return 0.0
    spacings = np.arange(1, beyond + 1) * (ranked[:beyond] - ranked[1 : beyond + 1])
    return float(np.median(spacings) / np.log(2.0))


def _curvature(total: Array, direction: Array, statistic: Callable[[Array], Array]) -> float:
    size = float(np.max(np.abs(direction) / np.where(total != 0, np.abs(total), 1.0)))
    if size == 0.0:
        return 0.0
    step = 1e-3 / size
    low, mid, high = statistic(np.stack([total - step * direction, total, total + step * direction]))
    second = float((high - 2.0 * mid + low) / step**2)
    return second if np.isfinite(second) else 0.0
