"""What a graph asks of a device, read from its ONNX file: operators, types, and the work of each layer.

`devices.rules` judges the facts, `devices.roofline` turns the work into a time. Shapes are inferred by onnx, so that
nothing runs.

    facts = graph_facts(path, engine="onnxruntime", arithmetic="int8")
    layers = layer_work(path)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from ..devices.graph_facts import GraphFacts, Node, Sign, TensorType
from ..devices.roofline import LayerWork
from ..runtime.manifest import Arithmetic, EngineName
from .placement import LAYERS, RECTIFIERS
from .saturation.integer_layers import unproved_layers

# Operators whose result's shape follows from the data (ONNX operator schemas).
DATA_DEPENDENT = frozenset(
    {"NonZero", "NonMaxSuppression", "Unique", "Compress", "Loop", "If", "Scan", "StringSplit", "RandomNormalLike"}
)
# What costs nothing of its own: engines fold it into the layer beside it, or only rename a tensor.
_FREE = RECTIFIERS | {"QuantizeLinear", "DequantizeLinear", "Constant", "Cast", "Identity", "Reshape", "Flatten"}
_BITS: dict[int, Literal[4, 7, 8]] = {7: 4, 63: 7}  # largest magnitude -> bits


def graph_facts(
    path: Path,
    *,
    engine: EngineName,
    arithmetic: Arithmetic,
    origins: Mapping[str, str] | None = None,
    artefact: str = "",
    plugin: Literal["CPU", "GPU", "NPU"] = "CPU",
    inference_precision: Literal["f32", "f16"] | None = None,
    target: Literal["cpu", "gpu", "npu", "dla", "dpu"] = "cpu",
    saturation_safe: bool = False,
) -> GraphFacts:
    """Read the facts of one graph.

    Args:
        path: ONNX file.
        engine: the engine that it is for.
        arithmetic: of its layers.
        origins: module that each node comes from, as `export_onnx` returns it.
        artefact: how messages name it; by default the file's name.
        plugin: OpenVINO's plugin.
        inference_precision: the hint given to OpenVINO.
        target: kind of accelerator.
        saturation_safe: no 16-bit sum overflows, known from elsewhere; else the weights must prove it.
    """
    model = onnx.load(path)
    graph, places = model.graph, origins or {}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes = tuple(
        Node(_name_of(node), _operator(node), places.get(node.name, ""), _weight_shapes(node, weights))
        for node in every_node(graph)
    )
    quantised = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    zeros = [weights[node.input[2]].data_type for node in quantised if len(node.input) > 2]
    stored = _integer_weights(graph, weights)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    return GraphFacts(
        artefact=artefact or path.name,
        engine=engine,
        arithmetic=arithmetic,
        nodes=nodes,
        opset=opsets.get(""),
        open_axes=tuple(_open_axes(graph)),
        data_dependent=tuple(node.name for node in nodes if node.operator in DATA_DEPENDENT),
        types=_types(model),
        weight_bits=_weight_bits(stored),
        activations=_sign(zeros) if quantised else None,
        weights=_sign([tensor.data_type for tensor in stored]) if stored else None,
        plugin=plugin,
        inference_precision=inference_precision,
        target=target,
        saturation_safe=saturation_safe or not unproved_layers(model),
    )


def every_node(graph: GraphProto) -> Iterator[NodeProto]:
    """All nodes in order, those of inner graphs behind the node that holds them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from every_node(attribute.g)


def layer_work(path: Path) -> tuple[LayerWork, ...]:
    """Count the multiply-adds and the bytes of each layer of a float graph or of a QDQ one.

    Bytes are those of the weights and of the activations in and out, in the numbers that the layer computes with: an
    engine that keeps a tensor in its cache moves fewer.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True)
    graph = model.graph
    shapes = {value.name: _shape(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    works = []
    for node in graph.node:
        if node.op_type in _FREE:
            continue
        back = "DequantizeLinear"  # behind both inputs; a layer of which only the weights are integers is a float one
        integer = node.op_type in LAYERS and all(_comes_from(maker, name, back) for name in node.input[:2])
        size = 1 if integer else _float_bytes(model)
        moved = sum(prod(shapes.get(name, ())) for name in (*node.input, *node.output) if name)
        works.append(
            LayerWork(
                name=_name_of(node),
                operator=node.op_type,
                arithmetic="int8" if integer else "float16" if size == 2 else "float32",
                macs=_macs(node, shapes),
                bytes_moved=size * moved,
                channels=_channels(node, shapes),
                kernel=prod(shapes.get(node.input[1], ())[2:]) if node.op_type == "Conv" else 1,
            )
        )
    return tuple(works)


def _macs(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-adds of a layer; 0 for what is none."""
    if node.op_type not in LAYERS:
        return 0
    weight, result = shapes.get(node.input[1], ()), shapes.get(node.output[0], ())
    if node.op_type == "Conv":
        return prod(result) * prod(weight[1:])
    inner = shapes.get(node.input[0], (0,))[-1]
    return prod(result) * inner


def _channels(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """Input and output channels of a layer; (0, 0) for what is none, and for a depthwise convolution."""
    weight = shapes.get(node.input[1], ()) if node.op_type in LAYERS else ()
    if len(weight) < 2 or (node.op_type == "Conv" and weight[1] == 1 and weight[0] > 1):
        return (0, 0)
    return (weight[1], weight[0]) if node.op_type == "Conv" else (weight[0], weight[1])


def _comes_from(maker: Mapping[str, NodeProto], name: str, operator: str) -> bool:
    return name in maker and maker[name].op_type == operator


def _float_bytes(model: ModelProto) -> int:
    halves = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return 2 if halves else 4


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _name_of(node: NodeProto) -> str:
    return node.name or f"{node.op_type} that makes {node.output[0]}"


def _operator(node: NodeProto) -> str:
    own = node.domain in ("", "ai.onnx")
    return node.op_type if own else f"{node.domain}.{node.op_type}"


def _weight_shapes(node: NodeProto, weights: Mapping[str, TensorProto]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(weights[name].dims) for name in node.input if name in weights)


def _integer_weights(graph: GraphProto, weights: Mapping[str, TensorProto]) -> list[TensorProto]:
    """Constants that a DequantizeLinear turns back: the layers' integer weights."""
    named = [node.input[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in weights]
    return [weights[name] for name in named]


def _weight_bits(stored: list[TensorProto]) -> Literal[4, 7, 8] | None:
    if not stored:
        return None
    largest = 0
    for tensor in stored:
        values = numpy_helper.to_array(tensor).astype(np.int16)
        centre = 128 if tensor.data_type == TensorProto.UINT8 else 0
        largest = max(largest, int(np.abs(values - centre).max(initial=0)))
    for most, bits in _BITS.items():
        if largest <= most:
            return bits
    return 8


def _sign(types: list[int]) -> Sign:
    return "unsigned" if TensorProto.UINT8 in types else "signed"


def _types(model: ModelProto) -> tuple[TensorType, ...]:
    """Types of inputs, outputs, constants and casts."""
    graph = model.graph
    found = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    found |= {tensor.data_type for tensor in graph.initializer}
    for node in every_node(graph):
        found |= {attribute.i for attribute in node.attribute if node.op_type == "Cast" and attribute.name == "to"}
    return tuple(sorted({_type_name(number) for number in found if number}))


def _type_name(number: int) -> TensorType:
    word = TensorProto.DataType.Name(number).lower()
    word = {"float": "float32", "double": "float64"}.get(word, word)
    return next(name for name in get_args(TensorType) if word == name or word.startswith(name))


def _open_axes(graph: GraphProto) -> Iterator[str]:
    for value in (*graph.input, *graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                yield f"{value.name}[{axis}]"
