"""A device's budget, `latency_ms=25,size_mb=8`: what a candidate may cost.

The first figure that is named is what the search makes small; the others are limits only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from ...devices.profile import Profile
from ...runtime.errors import UsageError
from ..data.faults import did_you_mean
from .row import Cost

Figure = Literal["latency_ms", "size_mb"]
FIGURES: tuple[Figure, ...] = ("latency_ms", "size_mb")
UNITS: dict[Figure, str] = {"latency_ms": "ms", "size_mb": "MB"}
EXAMPLES: dict[Figure, int] = {"latency_ms": 25, "size_mb": 8}


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """Limits by figure, the one to make small first."""

    limits: dict[Figure, float]

    @property
    def figure(self) -> Figure:
        """What the search makes small."""
        first: Figure = next(iter(self.limits))
        return first

    def over(self, cost: Cost, tolerance: float = 0.0) -> str:
        """Say in words which limit a cost breaks by more than a share; empty where it keeps all."""
        broken = [
            f"{amount(figure, value)}, the budget is {amount(figure, limit)}"
            for figure, limit in self.limits.items()
            if (value := cost_of(cost, figure)) is not None and value > limit * (1 + tolerance)
        ]
        return "; ".join(broken)

    def excess(self, cost: Cost) -> dict[Figure, float]:
        """By figure the share by which a cost is above its limit; below 0 where it keeps it."""
        found: dict[Figure, float] = {}
        for figure, limit in self.limits.items():
            value = cost_of(cost, figure)
            if value is not None:
                found[figure] = value / limit - 1
        return found


def cost_of(cost: Cost, figure: Figure) -> float | None:
    """One figure of a cost."""
    return cost.latency_ms if figure == "latency_ms" else cost.size_mb


def amount(figure: Figure, value: float) -> str:
    """A figure with its unit: `8.14 ms`."""
    return f"{value:.3g} {UNITS[figure]}"


def parse_budget(texts: Sequence[str], device: Profile) -> Budget:
    """Read `--budget`; without one the device's own.

    Args:
        texts: `latency_ms=25,size_mb=8` each.
        device: gives what is not said.

    Raises:
        UsageError: no such figure, one that is given twice, or not a number above zero.
    """
    limits: dict[Figure, float] = {}
    for part in (one.strip() for text in texts for one in text.split(",")):
        name, equals, text = part.partition("=")
        figure: Figure | None = next((one for one in FIGURES if one == name.strip()), None)
        if not equals:
            raise UsageError(f"--budget {part}", "not of the form NAME=NUMBER", "for example latency_ms=25,size_mb=8")
        if figure is None:
            raise UsageError(f"--budget {part}", f"no figure {name.strip()!r}", did_you_mean(name.strip(), FIGURES))
        if figure in limits:
            raise UsageError(f"--budget {part}", f"{figure} is given twice", "give it once")
        try:
            limits[figure] = float(text)
        except ValueError:
            limits[figure] = -1.0
        if not 0 < limits[figure] < float("inf"):
            raise UsageError(
                f"--budget {part}",
                f"{text.strip()!r} is not a number above 0",
                f"for example {figure}={EXAMPLES[figure]}",
            )
    if not limits:
        limits = {"latency_ms": device.budget.latency_ms, "size_mb": device.budget.size_mb}
    return Budget(limits=limits)
