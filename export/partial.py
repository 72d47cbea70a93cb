"""A graph run only as far as some of its values: for looking inside of it, and for working on it layer by layer.

Nothing is fused, so that each value is what the graph says it is: a QDQ graph computes in float32 on the integers'
grid, as its definition has it, and not on an engine's integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from ..runtime.offline import forbid_telemetry
from .onnx_graph import INPUT
from .placement import LAYERS

F32 = NDArray[np.float32]
Run = Callable[[F32], dict[str, F32]]  # image (1, C, H, W) -> values by name


def constant_layers(graph: GraphProto) -> list[NodeProto]:
    """The layers of a float graph whose weights are constants, in graph order."""
    constants = {tensor.name for tensor in graph.initializer}
    return [
        node
        for node in graph.node
        if node.op_type in LAYERS and node.input[1] in constants and node.input[0] not in constants
    ]


def is_usual(node: NodeProto) -> bool:
    """Whether a layer is a plain product: no factor, no transposed input, padding in numbers."""
    for a in node.attribute:
        padded = a.name == "auto_pad" and a.s not in (b"", b"NOTSET")
        scaled = a.name in ("alpha", "beta") and a.f != 1.0
        if padded or scaled or (a.name == "transA" and a.i):
            return False
    return True


def partial_model(model: ModelProto, tensors: Sequence[str]) -> ModelProto:
    """The part of a graph that makes the given values, which become its outputs; the input is always there."""
    maker = {name: node for node in model.graph.node for name in node.output}
    used: set[str] = set()
    waiting = list(tensors)
    while waiting:
        node = maker.get(waiting.pop())
        if node is not None and node.output[0] not in used:
            used.add(node.output[0])
            waiting += [name for name in node.input if name]
    part = ModelProto(ir_version=model.ir_version)
    part.opset_import.extend(model.opset_import)
    part.graph.name = model.graph.name
    part.graph.input.extend(model.graph.input)
    part.graph.node.extend(node for node in model.graph.node if node.output and node.output[0] in used)
    read = {name for node in part.graph.node for name in node.input}
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
    part.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors)
    return part


def open_partial(model: ModelProto, tensors: Sequence[str]) -> Run:
    """Open a graph as far as some values; the input may be among them."""
    wanted = list(dict.fromkeys(name for name in tensors if name != INPUT))
    if not wanted:
        return lambda image: {INPUT: image}
    session = open_plain(partial_model(model, wanted))

    def run(image: F32) -> dict[str, F32]:
        return dict(zip(wanted, session.run(wanted, {INPUT: image}), strict=True)) | {INPUT: image}

    return run


def open_plain(model: onnx.ModelProto) -> Any:
    """Open a graph in ONNX Runtime without its optimisations, which would leave values out or add layers up."""
    forbid_telemetry()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = 1  # the same sums in the same order on every run
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def channel_means(model: ModelProto, layers: Sequence[NodeProto], images: Iterable[F32]) -> dict[str, F32]:
    """Mean of each output channel of some layers, over all positions and images; by the layer's name."""
    copy = ModelProto()
    copy.CopyFrom(model)
    names = [f"mean/{node.name}" for node in layers]
    for name, node in zip(names, layers, strict=True):
        copy.graph.node.append(_mean(node, name))
    run = open_partial(copy, names)
    sums: dict[str, NDArray[np.float64]] = {}
    count = 0
    for image in images:
        found = run(image)
        for name in names:
            sums[name] = sums.get(name, 0.0) + found[name].astype(np.float64).reshape(-1)
        count += 1
    return {
        node.name: (sums[name] / max(count, 1)).astype(np.float32) for name, node in zip(names, layers, strict=True)
    }


def _mean(node: NodeProto, name: str) -> NodeProto:
    """Mean over all but the channels: axis 1 of a convolution, the last of a matrix product (of a 2-D input)."""
    if node.op_type == "Conv":
        return helper.make_node("GlobalAveragePool", [node.output[0]], [name], name=name)
    return helper.make_node("Identity", [node.output[0]], [name], name=name)
