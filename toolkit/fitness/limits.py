"""Limits of measures and of novelty from good images, so that a chosen share of such images is refused, and no more.

All measures share one limit: each is turned into an excess, its distance from the median in units of the spread on its
side, and an image's excess is the largest. The limit is the quantile of the validation images' excess that split
conformal prediction takes (Vovk, Gammerman and Shafer 2005): of exchangeable images at most the chosen share is above
it, however many measures there are and however they hang together. Novelty has a limit of its own, and each of the two
half of the share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import FoveolaError
from ...runtime.fitness.judge import REASONS
from ...runtime.fitness.manifest import Bound, FitnessKind, MeasureName

Array = NDArray[np.float64]
TAIL = 0.01  # on either side: where the spread is read off, so that long tails and short ones are told apart
NORMAL = 2.3263  # standard deviations from the median to that tail of a normal distribution
# Least spread: what is finer than this is chance. Octaves, standard deviations and shares alike.
LEAST: Mapping[MeasureName, float] = {"focus": 0.1, "red_green": 0.05, "disc": 0.1, "polarity": 0.03, "upright": 0.03}
LEAST_OF_ALL = 0.01
WORST = 1e6  # the excess of what cannot be measured


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """The typical values of one measure."""

    middle: float
    below: float  # standard deviation on that side
    above: float


def spreads_of(measures: Sequence[Mapping[str, float]], kind: FitnessKind) -> dict[MeasureName, Spread]:
    """Read off the spread of each measure from good images (N of them)."""
    found: dict[MeasureName, Spread] = {}
    for name in REASONS[kind]:
        values = np.array([one[name] for one in measures if name in one])
        low, middle, high = np.quantile(values, (TAIL, 0.5, 1 - TAIL))
        least = LEAST.get(name, LEAST_OF_ALL)
        below, above = (max(float(side) / NORMAL, least) for side in (middle - low, high - middle))
        found[name] = Spread(middle=float(middle), below=below, above=above)
    return found


def excess(measures: Mapping[str, float], spreads: Mapping[MeasureName, Spread], kind: FitnessKind) -> float:
    """Say how far outside an image is, in spreads: the largest over its measures, on the sides that have a limit."""
    worst = 0.0
    for name, (below, above) in REASONS[kind].items():
        value, spread = measures.get(name, math.nan), spreads[name]
        if math.isnan(value):
            return WORST
        if below:
            worst = max(worst, (spread.middle - value) / spread.below)
        if above:
            worst = max(worst, (value - spread.middle) / spread.above)
    return worst


def bounds_of(spreads: Mapping[MeasureName, Spread], limit: float, kind: FitnessKind) -> tuple[Bound, ...]:
    """Turn the one limit of the excess into a bound of each measure."""
    return tuple(
        Bound(
            measure=name,
            low=spreads[name].middle - limit * spreads[name].below if below else None,
            high=spreads[name].middle + limit * spreads[name].above if above else None,
        )
        for name, (below, above) in REASONS[kind].items()
    )


def least_images(share: float) -> int:
    """Give how many good images it takes to refuse at most this share of them."""
    return math.ceil(1 / share) - 1


def limit_of(values: Array, share: float, place: str) -> float:
    """Give the limit above which at most a share of further such values lies, the largest where they are too few.

    Raises:
        FoveolaError: there is no value.
    """
    if not len(values):
        raise FoveolaError(place, "there is no good image to set a limit", "add images")
    rank = min(len(values), math.ceil((len(values) + 1) * (1 - share)))
    return float(np.sort(values)[rank - 1])
