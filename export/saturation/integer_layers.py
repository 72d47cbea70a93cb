"""The layers of an int8 graph: their integers, and which of them no input can make clip a 16-bit sum.

[layer.name for layer in integer_layers(model) if not layer.proved]
unproved_layers(Path("model.onnx"))  # the same
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from ..placement import LAYERS
from .pairs import cannot_saturate, is_depthwise

# How a layer's products are summed without VNNI: pairs in 16 bits, or exactly, because it is depthwise or unsigned.
Sums = Literal["pairs", "depthwise", "unsigned"]


class IntegerLayer(msgspec.Struct, frozen=True, kw_only=True):
    """One layer whose weights and activations are integers."""

    name: str
    node: NodeProto
    activation: str  # the tensor of integers that it reads
    zero: int  # the byte of that tensor that stands for zero, once it is unsigned
    weight: NDArray[Any]  # (N, C, kernel...) or (N, K); int8, or uint8 around 128
    scales: NDArray[np.float32]  # (N,)
    group: int

    @property
    def sums(self) -> Sums:
        """How its products are summed."""
        if is_depthwise(self.weight.shape, self.group):
            return "depthwise"
        return "unsigned" if self.weight.dtype == np.uint8 else "pairs"

    @property
    def proved(self) -> bool:
        """Whether no input whatever can clip a sum."""
        return self.sums != "pairs" or cannot_saturate(self.weight)


def unproved_layers(graph: Path | ModelProto) -> tuple[str, ...]:
    """Name the layers of an int8 graph whose 16-bit sums some input could clip; from the weights alone."""
    model = onnx.load(graph) if isinstance(graph, Path) else graph
    return tuple(layer.name for layer in integer_layers(model) if not layer.proved)


def integer_layers(model: ModelProto) -> list[IntegerLayer]:
    """Find the layers with integer weights and integer activations, in graph order."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type not in LAYERS:
            continue
        pair = [makers.get(name) for name in node.input[:2]]
        entry, weight = (one if one is not None and one.op_type == "DequantizeLinear" else None for one in pair)
        if entry is not None and weight is not None and weight.input[0] in constants:
            found.append(_layer(node, entry, weight, constants))
    return found


def _layer(node: NodeProto, entry: NodeProto, weight: NodeProto, constants: Mapping[str, TensorProto]) -> IntegerLayer:
    values = numpy_helper.to_array(constants[weight.input[0]])
    scale = np.atleast_1d(numpy_helper.to_array(constants[weight.input[1]]))
    if node.op_type != "Conv" and not any(a.name == "transB" and a.i for a in node.attribute):
        values = values.T
    return IntegerLayer(
        name=node.name,
        node=node,
        activation=entry.input[0],
        zero=_zero(entry, constants),
        weight=values,
        scales=np.broadcast_to(scale, (len(values),)).astype(np.float32),
        group=next((a.i for a in node.attribute if a.name == "group"), 1),
    )


def _zero(entry: NodeProto, constants: Mapping[str, TensorProto]) -> int:
    """Give the byte for zero, after a signed tensor has been moved to unsigned as engines on x86 do."""
    if len(entry.input) < 3:
        return 0
    zero = numpy_helper.to_array(constants[entry.input[2]])
    return int(zero.ravel()[0]) + (128 if zero.dtype == np.int8 else 0)
