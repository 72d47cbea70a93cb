"""The planning half of `typed.py`: which type every node computes in, and why it is not float16 where it is not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from ..calibrate import Range
from ..onnx_graph import WEIGHTED

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
SUFFIX: dict[int, str] = {FLOAT: "float32", HALF: "float16"}
QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"

# Sums over many values, normalisations, and functions that leave the range of float16.
KEPT = frozenset({
    "BatchNormalization", "CumSum", "Exp", "GlobalAveragePool", "GlobalLpPool", "GridSample", "GroupNormalization",
    "InstanceNormalization", "LRN", "LayerNormalization", "Log", "LogSoftmax", "LpNormalization",
    "MeanVarianceNormalization", "NonMaxSuppression", "Pow", "RMSNormalization", "Reciprocal", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softmax",
    "Softplus", "Sqrt",
})  # fmt: skip
SOURCES = frozenset({"ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform", "Range"})  # their type is their own

LARGEST = 65504.0 / 4  # of float16, with room for images that calibration has not seen
SMALLEST = 2.0**-24  # of float16, without all digits
SMALLEST_NORMAL = 2.0**-14  # of float16, with all digits
SCALE_ERROR = 1 / 128  # relative; a step of int8


class TypePlan:
    """Which type every node computes in, and why not float16."""

    def __init__(self, model: ModelProto, ranges: Mapping[str, Range]) -> None:
        graph = model.graph
        self.opset: int = model.opset_import[0].version
        self.ranges = ranges
        self.weights: dict[str, NDArray[np.generic]] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.maker = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.floats = _float_values(model)
        self.quantisers = {node.name for node in graph.node if node.op_type in (QUANTISE, DEQUANTISE)}
        self.reasons: dict[str, str] = {}
        self.types: dict[str, int] = {}
        self._choose(graph)

    def _choose(self, graph: GraphProto) -> None:
        last, after = self._heads(graph)
        behind_layer: set[str] = set()  # values that descend from a layer
        for node in graph.node:
            layer = node.op_type in WEIGHTED
            descends = layer or any(name in behind_layer for name in node.input)
            if descends:
                behind_layer.update(node.output)
            if node.name not in self.quantisers and self._is_float(node):
                reason = "" if descends else "before the first layer"
                reason = reason or self._head(node, last, after) or self._unfit(node)
                self.types[node.name] = FLOAT if reason else HALF
                if reason:
                    self.reasons[node.name] = reason
        for node in graph.node:  # makers come before readers
            if node.op_type == QUANTISE:
                maker = self.maker.get(node.input[0])
                self.types[node.name] = self.types.get(maker.name, FLOAT) if maker is not None else FLOAT
        for node in graph.node:
            if node.op_type == DEQUANTISE:
                kinds = {self.types.get(reader.name, FLOAT) for reader in self.readers.get(node.output[0], [])}
                self.types[node.name] = HALF if HALF in kinds else FLOAT

    def _is_float(self, node: NodeProto) -> bool:
        return any(name in self.floats for name in (*node.input, *node.output))

    def _heads(self, graph: GraphProto) -> tuple[set[str], set[str]]:
        """Names of the last layers, and of the nodes behind them."""
        last: set[str] = set()
        after: set[str] = set()
        waiting = [self.maker[value.name] for value in graph.output if value.name in self.maker]
        while waiting:
            node = waiting.pop()
            if node.name in last or node.name in after:
                continue
            if node.op_type in WEIGHTED:
                last.add(node.name)
            else:
                after.add(node.name)
                waiting += [self.maker[name] for name in node.input if name in self.maker]
        return last, after

    def _head(self, node: NodeProto, last: set[str], after: set[str]) -> str:
        if node.name in after:
            return "behind a head's last layer"
        return "a head's last layer" if node.name in last and node.op_type in ("Gemm", "MatMul") else ""

    def _unfit(self, node: NodeProto) -> str:
        """Why float16 does not do for a node; empty where it does."""
        if node.op_type in KEPT or node.op_type in SOURCES:
            return f"{node.op_type} needs float32"
        if node.op_type == "Div" and node.input[1] not in self.weights:
            return "Div by values that may be small"
        if not any(self.takes_half(node, index) for index, name in enumerate(node.input) if name in self.floats):
            return f"{node.op_type} knows no float16" if any(name in self.floats for name in node.input) else ""
        for name in (*node.input, *node.output):
            reason = self._value_unfit(name)
            if reason:
                return reason
        return ""

    def _value_unfit(self, name: str) -> str:
        """Why a value is not to be float16: seen on real images, a weight, or the scale that made it."""
        array = self.weights.get(name)
        if array is not None and name in self.floats and array.size:
            return _large(name, float(np.abs(array).max()))
        reason = _large(name, self.ranges[name].magnitude) if name in self.ranges else ""
        maker = self.maker.get(name)
        if reason or maker is None or maker.op_type != DEQUANTISE:
            return reason
        scale = np.asarray(self.weights[maker.input[1]], np.float64)
        if maker.input[0] not in self.weights:
            tiny = float(scale.min()) < SMALLEST_NORMAL
            return f"{name} has a step below float16's" if tiny else _large(name, 127 * float(scale.max()))
        alive = scale[~dead_channels(self.weights[maker.input[0]], scale, dequantise_axis(maker))]
        error = np.abs(alive.astype(np.float16).astype(np.float64) / alive - 1) if alive.size else np.zeros(1)
        return f"{name} has scales below float16's" if float(error.max()) > SCALE_ERROR else ""

    def takes_half(self, node: NodeProto, index: int) -> bool:
        """Whether an input is of the type that the node computes in, and that type may be float16."""
        schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        allowed = {one.type_param_str: one.allowed_type_strs for one in schema.type_constraints}
        names = [schema.inputs[min(i, len(schema.inputs) - 1)].type_str for i in range(len(node.input))]
        first = next((names[i] for i, name in enumerate(node.input) if name in self.floats), "")
        return names[index] == first and "tensor(float16)" in allowed.get(first, ())


def _large(name: str, magnitude: float) -> str:
    return f"{name} reaches {magnitude:.3g}" if magnitude > LARGEST else ""


def _float_values(model: ModelProto) -> set[str]:
    """Names of all float32 values and constants."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    found = {value.name for value in values if value.type.tensor_type.elem_type == FLOAT}
    return found | {tensor.name for tensor in model.graph.initializer if tensor.data_type == FLOAT}


def dequantise_axis(node: NodeProto) -> int:
    """Name the axis that a dequantiser's scales count along; ONNX's default is 1."""
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)


def dead_channels(integers: NDArray[np.generic], scale: NDArray[np.float64], axis: int) -> NDArray[np.bool_]:
    """Tell which channels hold only weights that vanish in float16, as those do that training has switched off.

    Returns:
        One bool a channel; for one scale over all, one bool.
    """
    values = np.abs(np.asarray(integers, np.float64))
    if scale.ndim == 0 or scale.size == 1:
        return np.asarray(values.max(initial=0.0) * scale < SMALLEST)
    others = tuple(i for i in range(values.ndim) if i != axis % values.ndim)
    return np.asarray(values.max(axis=others) * scale < SMALLEST)
