"""The three window functions of the standard (PS3.3 C.11.2.1.2 and C.11.2.1.3), in float64.

linear(np.array([2047.0]), centre=2048, width=4096)  # 0.4998..., of black 0 and white 1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
Shown = NDArray[np.float64]


def linear(values: Values, centre: float, width: float) -> Shown:
    """LINEAR (C.11.2.1.2.1): integers from centre - width / 2 to centre + width / 2 - 1 take black to white.

    Args:
        values: any numbers.
        centre: Window Center.
        width: Window Width, at least 1; at 1 it is a step, black up to centre - 0.5.
    """
    if width == 1:
        return (np.asarray(values) > centre - 0.5).astype(np.float64)
    return _ramp((values - (centre - 0.5)) / (width - 1) + 0.5)


def linear_exact(values: Values, centre: float, width: float) -> Shown:
    """LINEAR_EXACT (C.11.2.1.3.2): centre - width / 2 is black, centre + width / 2 white; width above 0."""
    return _ramp((values - centre) / width + 0.5)


def sigmoid(values: Values, centre: float, width: float) -> Shown:
    """SIGMOID (C.11.2.1.3.1): 1 / (1 + exp(-4 (x - centre) / width)); width above 0."""
    exponent = np.clip(-4 * (values - centre) / width, -700, 700)  # beyond it a float64 is 0 or infinite
    return np.asarray(1 / (1 + np.exp(exponent)))


def _ramp(shown: Values) -> Shown:
    return np.clip(np.asarray(shown, np.float64), 0, 1)


WINDOWS: dict[str, tuple[Callable[[Values, float, float], Shown], float]] = {  # and the least width
    "LINEAR": (linear, 1.0),
    "LINEAR_EXACT": (linear_exact, 0.0),
    "SIGMOID": (sigmoid, 0.0),
}
