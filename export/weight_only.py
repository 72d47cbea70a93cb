"""A float graph whose weights are stored as bytes: a quarter of the size, computed in float.

Weights have one scale an output channel, symmetric, and are turned back by DequantizeLinear; activations are float, so
no image is needed and nothing saturates. The last layer of every head keeps its float weights, as do small ones, where
there is nothing to save. An engine may turn the weights back once, when it opens the graph (then it answers as fast as
the float graph), or at every answer.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from .integer_weights import dequantiser, to_integers
from .onnx_graph import encode
from .partial import constant_layers
from .placement import place
from .quantize import replace, require_layers

LEAST_WEIGHTS = 256  # of a layer; a scale a channel takes as much as it saves below


def weight_only(source: Path, target: Path, float_layers: Collection[str] = ()) -> tuple[str, ...]:
    """Write a float graph with its weights as bytes.

    Args:
        source: float32 graph as `export_onnx` writes it.
        target: file for the new one.
        float_layers: layers that keep their float weights, beside the last of each head.

    Returns:
        Names of the layers whose weights are bytes.

    Raises:
        FoveolaError: no such layer.
    """
    model = onnx.load(source)
    require_layers(model.graph, float_layers)
    written = store_weights(model, float_layers)
    onnx.checker.check_model(model, full_check=True)
    target.write_bytes(encode(model))
    return written


def store_weights(model: ModelProto, float_layers: Collection[str] = ()) -> tuple[str, ...]:
    """Do it in place; arguments and result as of `weight_only`."""
    graph = model.graph
    kept = {*place(graph, after_layers=True, keep_float=float_layers).float_layers, *float_layers}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    layers = {
        node.name: node
        for node in constant_layers(graph)
        if node.name not in kept and stored[node.input[1]].size >= LEAST_WEIGHTS
    }
    nodes: list[NodeProto] = []
    new: list[TensorProto] = []
    for node in graph.node:
        if node.name in layers:
            weight = to_integers(node, np.array(stored[node.input[1]]), None, np.float32(1), "full")
            back, constants = dequantiser(node, weight, "full")
            nodes.append(back)
            node.input[1] = back.output[0]
            new += constants
        nodes.append(node)
    replace(graph, nodes, new)
    return tuple(layers)
