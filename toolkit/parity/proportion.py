"""Two models' share of right decisions on the same cases: Tango's score interval, for patients with several cases.

A student that differs from its teacher in few decisions, or in none, leaves a bootstrap or Wald interval with width
zero, which would prove any margin from a dozen cases. Tango's interval (Statistics in Medicine 1998) inverts the score
test and keeps an honest width: with no discordant pair among n its bounds are +-z^2 / (n + z^2).

Several cases of one patient, and several labels of one case, carry less than independent pairs. The interval is that of
as many pairs as the cases are worth (after Rao and Scott, Biometrics 1992): one over the size of an event. An event is
what changes in one patient, as a share of the whole: 1/n where each patient has one case, more where one patient loses
several images. Three things are seen of it and used (`event_size`):

- its mean, weighted by size: squares over sums; this gives the variance that is seen;
- cubes over squares: how the variance would grow if there were more such events (see `tilted.py`); heavy events that
  were missed by chance make a sample look sure. `LEAN` of the size is this one;
- one event more than was seen, in a patient of usual weight who changes as large a share of the images as those seen
  do; all of them where no change was seen. Without any change, Tango's bound is then that of the number of patients.

Of several labels each adds its own event more: a rare label weighs more a case, and its loss may not have been seen.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from .cases import Array, ratio, sum_by_patient
from .rate_power import pairs_for

FEW = 10  # patients that change, below which a variance is said to rest on next to nothing
UNEVEN = 1.6  # times the variance of the weights over the number of events is the scatter of their size; simulated
LEAN = 0.7  # of an event's size is cubes over squares, the rest squares over sums; found by simulation


class Events(msgspec.Struct, frozen=True, kw_only=True):
    """What changes, summed over patients: from it comes the weight of one event, also with more patients alike.

    Args:
        moved: (C,) weight that changed, by label.
        movers: (C,) weight of the patients in which something changed.
        usual: (C,) weight of a label's usual patient.
        single: (C,) weight of a label's single case.
        squares: sum over patients of the square of the weight that changed.
        cubes: of its cube.
        least: weight of one event if all cases are independent.
        uneven: how much the patients' weights differ: their variance as a share of the squared mean.
    """

    moved: Array
    movers: Array
    usual: Array
    single: Array
    squares: float
    cubes: float
    least: float
    uneven: float

    def size(self, times: float = 1.0) -> float:
        """Give the weight of one event with so many times the patients; one over it is the number of pairs."""
        usual = self.usual / times
        of_movers = self.movers + usual
        more = usual * ratio(self.moved + usual, np.where(of_movers > 0, of_movers, 1.0))
        squares = self.squares / times + float(np.sum(more**2))
        cubes = self.cubes / times**2 + float(np.sum(more**3))
        seen = (1.0 - LEAN) * squares / float(self.moved.sum() + more.sum()) + LEAN * cubes / squares
        return max(seen, self.least / times)

    def expecting(self, discordance: float, together: float) -> Events:
        """Give what is to be expected of these patients when the share `discordance` of decisions changes.

        Args:
            discordance: of each label.
            together: correlation of the changes in two cases of a patient.
        """
        moved = np.full(len(self.usual), discordance / len(self.usual))
        cases = 1.0 + (ratio(self.usual, self.single) - 1.0) * together  # of one event
        event = self.single * cases
        number = ratio(moved, event)
        return msgspec.structs.replace(
            self,
            moved=moved,
            movers=number * self.usual,
            squares=float(np.sum(number * event**2)),
            cubes=float(np.sum(number * event**3)),
        )

    def scatter(self, times: float = 1.0) -> float:
        """Give the variance of the size's logarithm; more than 1/5 was not met with in simulations."""
        seen = float(self.moved.sum()) / self.size(times)
        return min(UNEVEN * self.uneven / (seen + 1.0), 0.2)


class ProportionComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two models' (weighted) share of right decisions; `difference` is student minus teacher."""

    teacher: float
    student: float
    difference: float
    low: float
    high: float
    discordance: float  # weighted share of cases that only one of the two decides rightly
    pairs: float  # independent pairs that the cases are worth
    events: Events  # from which that number comes
    student_low: float  # one-sided lower bound of the student's share


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
        variance = pairs * restricted_variance(gains / pairs, losses / pairs, delta)
        # No variance at the edge: the hypothesis is either exactly what was seen or impossible.
        return float((gains - losses - pairs * delta) / max(variance, 1e-300) ** 0.5)

    edge = 1e-12
    low, high = -1.0, 1.0
    if seen > -1.0 + edge and score(-1.0 + edge) > z:
        low = _root(lambda delta: score(delta) - z, -1.0 + edge, seen)
    if seen < 1.0 - edge and score(1.0 - edge) < -z:
        high = _root(lambda delta: score(delta) + z, seen, 1.0 - edge)
    return low, high


def restricted_variance(gains: float, losses: float, delta: float) -> float:
    """Give the variance of a pair's change when the difference is `delta`, by Tango's restricted maximum likelihood.

    Args:
        gains: share of pairs that only the student decides rightly.
        losses: share that only the teacher decides rightly.
        delta: the difference supposed.
    """
    b = -gains - losses + (2.0 - gains + losses) * delta
    root = max(b * b + 8.0 * losses * delta * (1.0 - delta), 0.0) ** 0.5
    return float(2.0 * max((root - b) / 4.0, 0.0) + delta * (1.0 - delta))


def wilson_bound(share: float, size: float, alpha: float) -> float:
    """Give Wilson's (1927) one-sided lower bound of a share seen in pairs of the given size (one over their number)."""
    z2 = float(norm.ppf(1.0 - alpha)) ** 2 * size
    middle, half = share + z2 / 2.0, (z2 * share * (1.0 - share) + z2**2 / 4.0) ** 0.5
    return float(max((middle - half) / (1.0 + z2), 0.0))


def compare_proportions(
    teacher: NDArray[np.bool_],
    student: NDArray[np.bool_],
    weights: Array,
    patients: NDArray[np.intp],
    alpha: float,
    labels: NDArray[np.intp] | None = None,
    widening: tuple[float, float] = (1.0, 1.0),
) -> ProportionComparison:
    """Compare right decisions, with patients as clusters.

    Args:
        teacher: (n,) the teacher's decision is right.
        student: (n,) the student's decision is right.
        weights: (n,) positive weights with sum 1; a macro mean over labels gives each label the same sum.
        patients: (n,) numbers of the patients.
        alpha: one-sided error.
        labels: (n,) numbers of the labels; None when there is one.
        widening: design effects beyond that of the patients, where patients are not independent: of the difference,
            and of the student's own share.
    """
    change = student.astype(np.float64) - teacher.astype(np.float64)
    difference = float(weights @ change)
    gains, losses = float(weights @ (change > 0)), float(weights @ (change < 0))
    label = np.zeros(len(change), dtype=np.intp) if labels is None else labels
    events = events_of(change, weights, patients, label)
    pairs = 1.0 / (events.size() * widening[0])
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
        events=events,
        student_low=_lower_bound(student, weights, patients, label, alpha, widening[1]),
    )


def clustered_se(centred: Array, patients: NDArray[np.intp]) -> float:
    """Estimate the standard error of a sum of centred contributions (n,), clustered; NaN for one patient."""
    clusters = len(np.unique(patients))
    if clusters < 2:
        return float("nan")
    sums = np.bincount(patients, weights=centred)
    return float(np.sqrt(np.sum(sums**2) * clusters / (clusters - 1)))


def event_size(change: Array, weights: Array, patients: NDArray[np.intp], labels: NDArray[np.intp]) -> float:
    """Give the weight of one event; one over it is the number of pairs that the cases are worth.

    Args:
        change: (n,) -1, 0 or 1.
        weights: (n,) with sum 1.
        patients: (n,) numbers of the patients.
        labels: (n,) numbers of the labels.
    """
    return events_of(change, weights, patients, labels).size()


def events_of(change: Array, weights: Array, patients: NDArray[np.intp], labels: NDArray[np.intp]) -> Events:
    """Sum up what changes; see `event_size`."""
    count, width = int(patients.max()) + 1, int(labels.max()) + 1
    cells = patients * width + labels
    held = np.bincount(cells, weights=weights, minlength=count * width).reshape(count, width)
    moved = np.bincount(cells, weights=weights * np.abs(change), minlength=count * width).reshape(count, width)
    net = np.abs(sum_by_patient((weights * change)[:, None], patients, count)[:, 0])
    whole = held.sum(axis=1)
    single = np.bincount(labels, weights=weights**2, minlength=width).astype(np.float64)
    return Events(
        moved=moved.sum(axis=0),
        movers=(held * (moved > 0)).sum(axis=0),
        usual=np.nan_to_num(ratio((held**2).sum(axis=0), held.sum(axis=0))),
        single=np.nan_to_num(ratio(single, held.sum(axis=0))),
        squares=float(np.sum(net**2)),
        cubes=float(np.sum(net**3)),
        least=float(weights @ weights),
        uneven=max(float((whole > 0).sum() * (whole @ whole) / whole.sum() ** 2 - 1.0), 0.0),
    )


def _lower_bound(
    right: NDArray[np.bool_],
    weights: Array,
    patients: NDArray[np.intp],
    labels: NDArray[np.intp],
    alpha: float,
    widening: float,
) -> float:
    """Bound a share of right decisions; the events are what is rarer, wrong decisions or right ones."""
    share = float(weights @ right)
    rarer = ~right if share >= 0.5 else right
    return wilson_bound(share, event_size(rarer.astype(np.float64), weights, patients, labels) * widening, alpha)


def needed_growth(events: Events, discordance: float, margin: float, alpha: float, power: float) -> float:
    """Give how many times these cases are needed for the planned power when the true difference is zero.

    The pairs that a sample is worth rest on the few events in it and scatter, more where patients are unlike: with v
    the variance of their logarithm, so many more are planned that the power averaged over it is the planned one.

    Args:
        events: in the cases at hand.
        discordance: share of decisions that only one of the two models has right.
        margin: positive.
        alpha: one-sided error.
        power: planned.
    """
    wanted = pairs_for(discordance, margin, alpha, power)
    steep = _steepness(wanted, discordance, margin)

    def short(logarithm: float) -> float:
        times = float(np.exp(logarithm))
        return float(np.log(wanted * events.size(times))) + _more_for(events.scatter(times), steep, power)

    return float(np.exp(_root(short, -12.0, 24.0)))


def pairs_on_average(events: Events, discordance: float, margin: float, power: float) -> float:
    """Give the fixed number of pairs that has the power which those of such samples have on average."""
    pairs = 1.0 / events.size()
    return pairs * float(np.exp(-_more_for(events.scatter(), _steepness(pairs, discordance, margin), power)))


def _steepness(pairs: float, discordance: float, margin: float) -> float:
    """Tell what e times the pairs add to the quantile of power: half of the margin in standard errors."""
    return float(margin * (pairs / max(discordance, 1e-9)) ** 0.5 / 2.0)


def _more_for(scatter: float, steep: float, power: float) -> float:
    """Give the logarithm of how many more pairs keep the average power when that logarithm has this variance.

    Power is Phi(z + steep x) with e^x times the pairs; over a normal x its mean is Phi(z / sqrt(1 + steep^2 v)).
    """
    return float(norm.ppf(power) * ((1.0 + steep**2 * scatter) ** 0.5 - 1.0) / steep)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(brentq(function, low, high))  # pyright: ignore[reportArgumentType]
