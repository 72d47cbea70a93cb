"""The logistic function, and exponentials of 64 bits that are the same to the last bit in every runtime.

numpy asks the C library for them, or, where the processor has AVX-512, a library of its own: two answers that differ in
the last bit of about one number in twenty. Here they are made of sums, products, quotients, a rounding and a shift of
the exponent alone, each of which IEEE 754 settles to the last bit; `exp64` in runtime/cpp/numbers.cpp has them in the
same order. The formula is that of Sun's fdlibm (e_exp.c, 1993): exp(x) = 2^k exp(r) with |r| <= ln 2 / 2, and exp(r) by
the rational function of r^2 that the Remez algorithm gives; its error is below one unit in the last place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = -746.0, 710.0  # beyond them the result is 0 or infinity
_LOG2_E = 1.44269504088896338700
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # the first has 21 zeros at its end
_P = (
    1.66666666666666019037e-01,
    -2.77777777770155933842e-03,
    6.61375632143793436117e-05,
    -1.65339022054652515390e-06,
    4.13813679705723846039e-08,
)


def exp64(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(x) of finite numbers."""
    x = np.clip(x, LOWEST, HIGHEST)
    k = np.rint(x * _LOG2_E)
    high, low = x - k * _LN2_HIGH, k * _LN2_LOW
    r = high - low
    square = r * r
    series = np.full_like(square, _P[-1])
    for factor in reversed(_P[:-1]):
        series = series * square + factor
    c = r - series * square
    power = 1.0 - ((low - (r * c) / (2.0 - c)) - high)
    with np.errstate(over="ignore", under="ignore"):
        whole: NDArray[np.float64] = np.ldexp(power, k.astype(np.int32))
    return whole


def sigmoid64(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)) without overflow."""
    small = exp64(-np.abs(x))
    result: NDArray[np.float64] = np.where(x >= 0, 1 / (1 + small), small / (1 + small))
    return result


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    """1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(x))
    result: NDArray[Any] = np.where(x >= 0, 1 / (1 + small), small / (1 + small))
    return result
