"""Brings one round to its part of the target: ratios are tried, each is pruned, exported and timed.

The search times briefly; the few that came nearest are timed at length, and the nearest of these is taken.
"""

from __future__ import annotations

from collections.abc import Callable

from ....runtime.errors import FoveolaError
from ...models.network import Network
from .graph import Removals
from .meter import QUICK, Meter
from .record import Reading, Target
from .search import CLOSE, TOLERANCE, find_ratio, off
from .shrink import shrink

AGAIN = 3  # ratios that are timed at length


class Fit:
    """One round's search.

    Args:
        network: as the round before left it.
        at: which channels go at a ratio.
        meter: times against the network before all rounds.
        target: of all rounds; a speed-up or a latency.
    """

    def __init__(self, network: Network, at: Callable[[float], Removals], meter: Meter, target: Target) -> None:
        self.network, self.at, self.meter, self.target = network, at, meter, target
        self.base_ms = meter.read(meter.unpruned).before_ms if target.goal == "latency_ms" else 0.0
        self.known: dict[tuple[tuple[str, int], ...], Reading] = {}

    def nearest(self, part: float, reached: float) -> tuple[float, Reading]:
        """The ratio of this round, and the time of the network that it gives.

        Args:
            part: of the target, 1 in the last round.
            reached: speed-up of the rounds before.

        Raises:
            FoveolaError: the last round misses the target by more than a tenth (the nearest is named), or there is
                nothing to do.
        """
        whole = self.wanted()
        wanted = whole**part
        if wanted / reached <= 1 + CLOSE:
            reading = self.meter.read(self.network)
            return self._checked(0.0, reading, whole, last=part == 1)
        found = find_ratio(wanted / reached, lambda ratio: self.speedup(self.quick(ratio)) / reached, rough=part < 1)
        near = sorted(found.tried, key=lambda ratio: off(found.tried[ratio] * reached, wanted))[:AGAIN]
        ratio, reading = near[0], self.slow(near[0])
        for other in near[1:]:
            if off(self.speedup(reading), wanted) <= CLOSE:
                break
            again = self.slow(other)
            if off(self.speedup(again), wanted) < off(self.speedup(reading), wanted):
                ratio, reading = other, again
        return self._checked(ratio, reading, whole, last=part == 1)

    def wanted(self) -> float:
        """The target as a speed-up.

        Raises:
            FoveolaError: the network is as fast already.
        """
        value = self.target.value
        wanted = self.base_ms / value if self.target.goal == "latency_ms" else value
        if wanted <= 1:
            has = f"the network takes {self.base_ms:.3g} ms already" if self.base_ms else "that is no speed-up"
            raise FoveolaError(f"{self.target.goal}: {value:g}", f"nothing to prune: {has}", "ask for more")
        return wanted

    def speedup(self, reading: Reading) -> float:
        """Times faster; for a latency against the time that was measured at the start."""
        return self.base_ms / reading.after_ms if self.base_ms else reading.speedup

    def quick(self, ratio: float) -> Reading:
        """Time the network at a ratio briefly; equal widths are timed once."""
        removals = self.at(ratio)
        key = tuple((root, len(channels)) for root, channels in removals.items())
        if key not in self.known:
            self.known[key] = self.meter.read(shrink(self.network, removals), rounds=QUICK)
        return self.known[key]

    def slow(self, ratio: float) -> Reading:
        """Time the network at a ratio at length; a prediction would be the same again."""
        if self.quick(ratio).source == "predicted":
            return self.quick(ratio)
        return self.meter.read(shrink(self.network, self.at(ratio)))

    def _checked(self, ratio: float, reading: Reading, wanted: float, *, last: bool) -> tuple[float, Reading]:
        if last and off(self.speedup(reading), wanted) > TOLERANCE:
            how = f"{reading.engine} {reading.arithmetic}, {reading.source}"
            nearest = f"{self.speedup(reading):.2f} times faster, {reading.after_ms:.3g} ms ({how})"
            place = f"{self.target.goal}: {self.target.value:g}"
            mend = "ask for that, or for a smaller channel_multiple, or begin with another network"
            raise FoveolaError(place, f"cannot be met within {TOLERANCE:.0%}: the nearest is {nearest}", mend)
        return ratio, reading
