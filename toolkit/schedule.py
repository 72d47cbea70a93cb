"""Learning rates: warm-up with a cosine or a constant, and MTPret's cyclic cosine.

t counts steps from 0.
"""

from __future__ import annotations

import math

from .knobs import Plan


def warmed_rate(plan: Plan, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero (Loshchilov and Hutter, ICLR 2017) or the same rate throughout."""
    rising = max(1, round(plan.warmup * steps))
    if step < rising:
        return plan.learning_rate * (step + 1) / rising
    if plan.schedule == "constant":
        return plan.learning_rate
    return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def cyclic_rate(low: float, high: float, t: float, period: float) -> float:
    """MTPret's eq. 4 (Liao et al., IEEE TAI 2024): from `high` down to `low` at half the period, and up again.

    Args:
        low: eta_min, which may be a task's own.
        high: eta_max.
        t: step inside the cycle.
        period: T, steps a cycle.
    """
    return low + 0.5 * (high - low) * (1 + math.cos(2 * math.pi * t / period))
