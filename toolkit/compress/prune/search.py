"""The share of channels to take for a wanted speed-up, found by measuring.

Time is no smooth function of the channels: widths come in multiples, and kernels like some of them better. So the
search follows a power law as long as it closes in, then halves, and at last tries the neighbourhood; what came nearest
wins.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log

import msgspec

TOLERANCE = 0.10  # of the wanted speed-up
CLOSE = 0.03  # near enough to stop; after `SOME` ratios half of the tolerance is
SOME = 5
MOST = 0.9  # share of the channels that a search takes at most
TRIES = 12  # ratios that are measured, without the neighbourhood
NARROW = 0.004  # ratios that differ by less give the same widths
NEIGHBOURS = (0.01, -0.01, 0.02, -0.02, 0.04, -0.04)


class Found(msgspec.Struct, frozen=True):
    """The nearest that was measured."""

    ratio: float
    speedup: float
    tried: dict[float, float]  # ratio -> speed-up, of all that was measured

    def meets(self, wanted: float) -> bool:
        """Whether it is within the tolerance."""
        return off(self.speedup, wanted) <= TOLERANCE


def off(speedup: float, wanted: float) -> float:
    """By what share a speed-up misses the wanted one."""
    return abs(speedup / wanted - 1)


def find_ratio(wanted: float, measure: Callable[[float], float], *, rough: bool = False) -> Found:
    """Find the ratio whose speed-up is nearest to the wanted one.

    Args:
        wanted: times faster, above 1.
        measure: speed-up at a ratio; called once for each.
        rough: the first few ratios will do.
    """
    tried: dict[float, float] = {}

    def ask(ratio: float) -> float:
        if ratio not in tried:
            tried[ratio] = measure(ratio)
        return tried[ratio]

    def best() -> Found:
        ratio = min(tried, key=lambda one: (off(tried[one], wanted), one))
        return Found(ratio, tried[ratio], tried)

    low, high = 0.0, 1.0
    ratio = min(MOST, 1 - wanted**-0.5)  # multiply-adds go with the square of the channels
    while len(tried) < (SOME if rough else TRIES) and high - low > NARROW:
        speedup = ask(ratio)
        enough = TOLERANCE / 2 if len(tried) >= SOME else CLOSE
        if off(best().speedup, wanted) <= enough or (speedup < wanted and ratio >= MOST):
            break
        low, high = (ratio, high) if speedup < wanted else (low, ratio)
        ratio = _next(ratio, speedup, wanted, low, high)
    for step in NEIGHBOURS:
        if rough or best().meets(wanted):
            break
        near = round(best().ratio + step, 4)
        if 0 < near <= MOST:
            ask(near)
    return best()


def _next(ratio: float, speedup: float, wanted: float, low: float, high: float) -> float:
    """Speedup = (1 - ratio)^-a through the last point; the middle of what is left where that leads out of it."""
    top = min(high, MOST)
    if speedup > 1:
        guess = 1 - float((1 - ratio) ** (log(wanted) / log(speedup)))
        if low < guess < high:
            return round(min(guess, MOST), 4)
    return MOST if high > MOST and low > 0.8 * MOST else round((low + top) / 2, 4)
