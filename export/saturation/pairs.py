"""What x86 processors without VNNI make of a product of bytes: VPMADDUBSW, emulated, and what keeps it harmless.

    vpmaddubsw   two products of an unsigned and a signed byte, added and clipped to 16 bits
    vpmaddwd     two such sums, added in 32 bits; exact from here on

(Intel, Software Developer's Manual, volume 2, PMADDUBSW.) Products of two neighbours are clipped above 32767 although
the whole sum would fit; the clipped sum is an ordinary number that no one notices.

Which products are neighbours, as read in the engines' sources:

| order | neighbours | where |
|---|---|---|
| `im2col` | adjacent in K, which runs over kernel rows, columns, then input channels | ONNX Runtime (QLinearConv, QGEMM), GEMM of oneDNN |
| `channels` | adjacent input channels under the same kernel position, the last padded | ONNX Runtime where channels are a multiple of 4; convolutions of oneDNN |

Where a layer has an even number of channels the two are the same.

Proof without an image: with weights w and v next to each other no byte can clip the sum if |w| + |v| <= 128 where
they have the same sign, as 255 * 128 = 32640.

Shapes: M rows of activations (positions of a convolution), K products a row, N outputs; P = K / 2 pairs.
"""  # noqa: E501

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

Order = Literal["im2col", "channels"]

LEAST, MOST = -(2**15), 2**15 - 1  # of the 16-bit sum
SAFE_PAIR = MOST // 255  # 128: steps that two weights of one sign may have together
# Rounding adds half a step to each of the two; weights scaled to this many steps a pair keep to SAFE_PAIR.
FITTED_PAIR = SAFE_PAIR - 1

Bytes = NDArray[np.uint8]
Weights = NDArray[np.int8]
T = TypeVar("T", np.uint8, np.int8, np.int32, np.float64)


class Clipped(msgspec.Struct, frozen=True, kw_only=True):
    """One product of matrices with its clipped sums.

    `exact` and `clipped` are the sums (M, N), int64; `saturated` counts the 16-bit sums that were clipped, and
    `overshoot` is the most that one of them lost.
    """

    exact: NDArray[np.int64]
    clipped: NDArray[np.int64]
    saturated: int
    overshoot: int


def multiply(activations_MK: Bytes, weights_NK: Weights) -> Clipped:
    """Multiply as VPMADDUBSW and VPMADDWD do; an odd K is padded with a zero, as the engines do.

    Only pairs that could clip are looked at one by one; memory is O(M * P) for one output at a time.
    """
    exact = np.rint(activations_MK.astype(np.float64) @ weights_NK.T.astype(np.float64)).astype(np.int64)  # < 2**53
    a_MP2 = even(activations_MK).reshape(len(activations_MK), -1, 2).astype(np.int32)
    w_NP2 = even(weights_NK).reshape(len(weights_NK), -1, 2).astype(np.int32)
    risky_NP = same_sign(w_NP2) > SAFE_PAIR
    lost = np.zeros_like(exact)
    saturated = overshoot = 0
    for output in np.flatnonzero(risky_NP.any(1)):
        pairs = np.flatnonzero(risky_NP[output])
        sums_MP = (a_MP2[:, pairs] * w_NP2[output, pairs]).sum(2)
        excess = sums_MP - np.clip(sums_MP, LEAST, MOST)
        saturated += int(np.count_nonzero(excess))
        overshoot = max(overshoot, int(np.abs(excess).max(initial=0)))
        lost[:, output] = excess.sum(1)
    return Clipped(exact=exact, clipped=exact - lost, saturated=saturated, overshoot=overshoot)


def even(rows: NDArray[T]) -> NDArray[T]:
    """Pad the last axis with a zero where its length is odd."""
    return np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, rows.shape[-1] % 2)])


def same_sign(pairs: NDArray[T]) -> NDArray[T]:
    """Largest magnitude that bytes can draw from a pair: of its positive weights together, or of its negative ones.

    Args:
        pairs: weights of any type, the last axis of length 2.
    """
    zero = pairs.dtype.type(0)
    return np.asarray(np.maximum(np.maximum(pairs, zero).sum(-1), -np.minimum(pairs, zero).sum(-1)))


def rows_of(weight: NDArray[T], order: Order) -> NDArray[T]:
    """Lay a layer's weight out as the engine does: (N, K) with neighbours next to each other.

    Args:
        weight: (N, C, kernel...) of a convolution, C the channels of one group, or (N, K) of a matrix product.
        order: see the table above.
    """
    last = np.moveaxis(weight, 1, -1)
    return (even(last) if order == "channels" else last).reshape(len(weight), -1)


def orders_of(weight_shape: tuple[int, ...]) -> tuple[Order, ...]:
    """Orders that an engine may take for a weight (N, C, kernel...), those that are the same named once."""
    one = weight_shape[1] % 2 == 0 or int(np.prod(weight_shape[2:])) == 1
    return ("im2col",) if one else ("im2col", "channels")


def largest_pair(weight: NDArray[T]) -> NDArray[T]:
    """Give for each output (N) what its worst pair can draw, over every order that an engine may take."""
    laid = [even(rows_of(weight, order)) for order in orders_of(weight.shape)]
    sums = [same_sign(rows.reshape(len(rows), -1, 2)).max(1) for rows in laid]
    return np.asarray(np.max(sums, axis=0))


def is_depthwise(weight_shape: tuple[int, ...], group: int) -> bool:
    """Tell whether each channel is a group of its own.

    Such layers are exact: ONNX Runtime and oneDNN widen their bytes before they multiply (VPMADDWD on 32-bit lanes, or
    16-bit products in two halves), as there is only one product a lane.
    """
    return group > 1 and weight_shape[1] == 1 and weight_shape[0] == group


def cannot_saturate(weight: Weights, group: int = 1) -> bool:
    """Tell whether no input whatever can clip a sum of this layer."""
    if is_depthwise(weight.shape, group):
        return True
    return bool((largest_pair(weight.astype(np.int32)) <= SAFE_PAIR).all())
