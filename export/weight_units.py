"""Units in which a graph's weights are trained, so that one learning rate suits all channels.

Adam's steps have one size whatever the weight. Once normalisation is folded into them, the channels of a layer differ
by orders of magnitude, and such a step moves some by a thousandth and others by a half. Each weight is therefore held
in units of its channel: a learning rate of 0.001 then means steps of a thousandth of the channel's own weights, and a
network whose channels were scaled against each other trains like the one that it came from.

Units are powers of two: holding a weight in them loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from .calibrate import Range
from .integer_weights import output_axis
from .placement import LAYERS

Array = NDArray[np.float32]

LEAST = 1e-5  # of the layer's root mean square: a dead channel keeps a unit in which it can come back
ACTIVE = 0.25  # share of its range that a value usually has


def weight_units(model: ModelProto, ranges: Mapping[str, Range]) -> dict[str, Array]:
    """Give the unit of every float tensor that the graph stores; each can be multiplied with the tensor.

    Args:
        model: float graph.
        ranges: of its activations, as far as they are known: a bias has the unit of what the channel's weights make
            of such a value.
    """
    stored = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    found = {name: power_of_two(np.array(_rms(x))) for name, x in stored.items() if x.dtype == np.float32 and x.ndim}
    for node in model.graph.node:
        if node.op_type in LAYERS and node.input[1] in found:
            found |= _layer_units(node, stored, ranges)
    return found


def _layer_units(
    node: NodeProto, stored: Mapping[str, NDArray[np.generic]], ranges: Mapping[str, Range]
) -> dict[str, Array]:
    weight = np.asarray(stored[node.input[1]], np.float64)
    axis = output_axis(node, weight.ndim)
    others = tuple(place for place in range(weight.ndim) if place != axis)
    typical = np.sqrt((weight**2).mean(axis=others, keepdims=True))
    typical = np.maximum(typical, LEAST * _rms(weight))
    units = {node.input[1]: power_of_two(typical)}
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias in stored and stored[bias].shape == (weight.shape[axis],):
        extent = ranges.get(node.input[0])
        size = ACTIVE * extent.magnitude if extent is not None and extent.magnitude > 0 else 1.0
        fan_in = weight.size / weight.shape[axis]
        units[bias] = power_of_two(typical.reshape(-1) * np.sqrt(fan_in) * size)
    return units


def power_of_two(values: NDArray[np.float64]) -> Array:
    """The nearest power of two, element by element; 1 for zero."""
    safe = np.where(values > 0, values, 1.0)
    return np.asarray(np.exp2(np.clip(np.rint(np.log2(safe)), -60, 60)), np.float32)


def _rms(values: NDArray[np.generic]) -> np.float64:
    return np.float64(np.sqrt((np.asarray(values, np.float64) ** 2).mean())) if values.size else np.float64(0)
