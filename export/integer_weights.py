"""A layer's weight as integers: its scales, its rounding, and the constants that stand in the graph.

One scale an output channel, symmetric, the zero point 0 (128 where stored unsigned). The rules:

| rule | largest integer | scale |
|---|---|---|
| `full` | 127 | the channel's largest weight takes all steps |
| `seven` | 63 | the same |
| `fit` | 127 | coarsened until the worst pair of neighbours cannot overflow 16 bits (see `saturation.pairs`) |
| `unsigned` | 127 | as `full`; a layer that could overflow is stored as uint8 around 128 |

Weights are rounded to the nearest step, or up or down as learned (see `rounding`).
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from .saturation.pairs import FITTED_PAIR, cannot_saturate, is_depthwise, largest_pair

Overflow = Literal["seven", "fit", "unsigned"]
WeightBits = Literal[7, 8]
Rule = Literal["full", "seven", "fit", "unsigned"]

# The largest integer that a rounded bias may take when an engine stores it as int32 (ONNX Runtime, oneDNN, ARM).
BIAS_STEPS = 2**30


class IntegerWeight(msgspec.Struct, frozen=True, eq=False):
    """A weight in steps of its scale."""

    integers: NDArray[np.int8]  # the shape of the weight
    scales: NDArray[np.float32]  # (C,), one an output channel
    axis: int  # that counts the output channels

    @property
    def scale(self) -> NDArray[np.float32]:
        """The scale, shaped to be multiplied with the integers."""
        shape = [1] * self.integers.ndim
        shape[self.axis] = -1
        return self.scales.reshape(shape)

    @property
    def values(self) -> NDArray[np.float32]:
        """What the integers stand for."""
        return np.asarray(self.integers * self.scale, np.float32)


def rule_of(weight_bits: WeightBits, overflow: Overflow) -> Rule:
    """Name the rule of a device whose weights have so many bits."""
    return "full" if weight_bits == 8 else overflow


def most_steps(rule: Rule) -> int:
    """Largest integer of a weight."""
    return 63 if rule == "seven" else 127


def output_axis(node: NodeProto, dimensions: int) -> int:
    """Name the axis of a layer's weight that counts its output channels."""
    rows = node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if rows else dimensions - 1


def group_of(node: NodeProto) -> int:
    """How many groups a layer's channels fall into."""
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)


def weight_scale(rows_N: NDArray[np.float32], rule: Rule, group: int) -> NDArray[np.float64]:
    """Give each output channel's scale: its largest weight takes all steps, or its worst pair all that are safe."""
    largest = np.abs(rows_N).max(axis=tuple(range(1, rows_N.ndim))).astype(np.float64)
    scale = largest / most_steps(rule)
    if rule == "fit" and not is_depthwise(rows_N.shape, group):
        scale = np.maximum(scale, largest_pair(rows_N.astype(np.float64)) / FITTED_PAIR)
    return np.asarray(scale)


def to_integers(
    node: NodeProto,
    values: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    input_scale: np.float32,
    rule: Rule,
    rounded_up: NDArray[np.bool_] | None = None,
) -> IntegerWeight:
    """Round a layer's weight to its grid.

    Args:
        node: the layer.
        values: its weight.
        bias: its bias, whose integer bounds the scale from below.
        input_scale: step of its input.
        rule: see the table above.
        rounded_up: which weights are rounded up, the others down; None: each to the nearest.
    """
    axis = output_axis(node, values.ndim)
    scale = weight_scale(np.moveaxis(values, axis, 0), rule, group_of(node))
    if bias is not None and bias.shape == scale.shape:
        # A channel that training has switched off has a tiny weight and a plain bias, whose integer would overflow.
        scale = np.maximum(scale, np.abs(bias.astype(np.float64)) / (float(input_scale) * BIAS_STEPS))
    scales = np.where(scale > np.finfo(np.float32).tiny, scale, 1.0).astype(np.float32)
    shape = [1] * values.ndim
    shape[axis] = -1
    steps = values / scales.reshape(shape)
    whole = np.rint(steps) if rounded_up is None else np.floor(steps) + rounded_up
    most = most_steps(rule)
    return IntegerWeight(np.clip(whole, -most, most).astype(np.int8), scales, axis)


def dequantiser(node: NodeProto, weight: IntegerWeight, rule: Rule) -> tuple[NodeProto, list[TensorProto]]:
    """Give the node that turns a layer's integers back, and its constants; the layer then reads that node's output.

    Constants carry the layer's name, as two layers may share a weight but not the scale of their inputs.
    """
    rows = np.moveaxis(weight.integers, weight.axis, 0)
    zero: NDArray[np.int8] | NDArray[np.uint8] = np.zeros(weight.scales.shape, np.int8)
    stored: NDArray[np.int8] | NDArray[np.uint8] = weight.integers
    if rule == "unsigned" and not cannot_saturate(rows, group_of(node)):
        stored = (weight.integers.astype(np.int16) + 128).astype(np.uint8)
        zero = np.full(weight.scales.shape, 128, np.uint8)
    names = [f"{node.name}.weight", f"{node.name}.weight.scale", f"{node.name}.weight.zero"]
    constants = [
        numpy_helper.from_array(array, name) for array, name in zip((stored, weight.scales, zero), names, strict=True)
    ]
    back = helper.make_node(
        "DequantizeLinear", names, [f"{node.name}.weight.dequantized"], name=f"{node.name}.weight.dequantize",
        axis=weight.axis,
    )  # fmt: skip
    return back, constants
