"""The rules of TensorRT about quantisers, integer layers and residual additions; table in `rules.py`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto, TensorProto

from ...devices.finding import Finding
from ..onnx_graph import WEIGHTED
from .typed import DEQUANTISE, QUANTISE, dequantise_axis
from .view import View, attribute

SMALL = 16  # rows or columns of a product


def quantisers(graph: View) -> Iterator[Finding]:
    """Integers, zero points, scales and axes of every Q and DQ."""
    for node in graph.nodes:
        if node.op_type in (QUANTISE, DEQUANTISE):
            yield from _integer_type(graph, node)
            yield from _scale(graph, node)
            yield from _axis(graph, node)


def _integer_type(graph: View, node: NodeProto) -> Iterator[Finding]:
    integers = node.output[0] if node.op_type == QUANTISE else node.input[0]
    kind = graph.types.get(integers, TensorProto.UNDEFINED)
    if kind == TensorProto.INT32:
        yield graph.error("integer-type", node, "its input is int32, as of a bias", "keep biases float")
    elif kind != TensorProto.INT8:
        word = TensorProto.DataType.Name(kind).lower()
        yield graph.error("integer-type", node, f"its integers are {word}, not int8", "quantise in the signed form")
    if len(node.input) > 2 and node.input[2]:
        zero = graph.array(node.input[2])
        if zero is None or np.any(np.asarray(zero, np.int64)):
            fault = "its zero point is not 0" if zero is not None else "its zero point is no constant"
            yield graph.error("zero-point", node, fault, "quantise in the signed form")


def _scale(graph: View, node: NodeProto) -> Iterator[Finding]:
    name = node.input[1]
    scale = graph.array(name)
    if scale is None:
        yield graph.error("scale", node, f"its scale {name} is no constant", "calibrate before the export")
        return
    values = np.asarray(scale, np.float64)
    if not np.all(np.isfinite(values) & (values > 0)):
        yield graph.error("scale", node, "a scale is not a positive number", "type the graph with type_float16")
    value = node.input[0] if node.op_type == QUANTISE else node.output[0]
    ours, its = graph.types.get(name), graph.types.get(value)
    if ours != its and its is not None:
        yield graph.error("scale", node, f"its scale is of another type than {value}", "type both alike")


def _axis(graph: View, node: NodeProto) -> Iterator[Finding]:
    scale = graph.array(node.input[1])
    if scale is None or scale.size == 1:
        return
    if any(attribute.name == "block_size" and attribute.i for attribute in node.attribute):
        yield graph.error("axis", node, "scales by block are for int4 and float8", "one scale an output channel")
        return
    if node.op_type == QUANTISE or node.input[0] not in graph.tensors:
        yield graph.error("axis", node, "an activation has several scales", "one scale a tensor")
        return
    rank = len(graph.tensors[node.input[0]].dims)
    axis = dequantise_axis(node) % rank
    for reader in graph.readers.get(node.output[0], []):
        wanted = _output_axis(reader, rank)
        if wanted is not None and axis != wanted:
            fault = f"its scales count axis {axis}, {reader.op_type} has its output channels on axis {wanted}"
            yield graph.error("axis", node, fault, "one scale an output channel")


def _output_axis(node: NodeProto, rank: int) -> int | None:
    """Axis of a layer's weight that counts its output channels; None where the node is no layer."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": rank - 1}.get(node.op_type)


def layers(graph: View) -> Iterator[Finding]:
    """Whether inputs, weights and biases of a layer go together."""
    for node in graph.nodes:
        if node.op_type not in WEIGHTED or len(node.input) < 2:
            continue
        maker = graph.maker.get(node.input[1])
        weights = maker is not None and maker.op_type == DEQUANTISE
        inputs = graph.quantised(node.input[0])
        if inputs != weights:
            fault = "its input is int8 and its weight float" if inputs else "its weight is int8 and its input float"
            yield graph.warning("weight", node, f"{fault}, so that it computes in float", "quantise both or neither")
        shape = graph.shapes.get(node.input[1])
        if (
            inputs
            and weights
            and node.op_type in ("Gemm", "MatMul")
            and shape
            and min(x or SMALL for x in shape) < SMALL
        ):
            fault = f"int8 products of {'x'.join(map(str, shape))} are slower than float16"
            yield graph.warning("small-gemm", node, fault, "keep it float")
        if len(node.input) > 2 and graph.quantised(node.input[2]):
            yield graph.error("integer-type", node, "its bias comes from a dequantiser", "keep biases float")


def residuals(graph: View) -> Iterator[Finding]:
    """Whether additions have both inputs quantised, or none."""
    for node in graph.nodes:
        if node.op_type != "Add" or any(name in graph.tensors for name in node.input):
            continue
        plain = [name for name in node.input if not graph.quantised(name)]
        if len(plain) != 1:
            continue
        fault = f"one of its inputs is quantised and {plain[0]} is not"
        if graph.int8_layer(graph.maker.get(plain[0])):
            yield graph.error("residual", node, f"{fault}, though an int8 layer makes it", "quantise both inputs")
        else:
            yield graph.warning("residual", node, fault, "quantise both inputs, or neither")
