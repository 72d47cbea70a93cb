"""A graph that takes a detector's 16-bit words: `image` as uint16 in 0..65535 in place of float32 in 0..1.

The graph is made, calibrated and quantised on floats; this comes last and adds three nodes in front. ONNX Runtime and
OpenVINO know the type; TensorRT knows no 16-bit integer (NVIDIA, "Data types"), so that its graph keeps float32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..runtime.engine import INPUT, WORDS
from .onnx_graph import encode

SHARES = f"{INPUT}.shares"  # the words as float32 in 0..1


def take_words(source: Path, target: Path) -> None:
    """Write a graph again with an input of 16-bit words; `target` may be `source`.

    Args:
        source: graph with the float32 input `image`, float or quantised.
        target: file for the same graph with a uint16 input.
    """
    model = onnx.load(source)
    graph = model.graph
    (image,) = graph.input
    assert image.name == INPUT, image.name
    if image.type.tensor_type.elem_type == TensorProto.UINT16:
        target.write_bytes(source.read_bytes())
        return
    image.type.tensor_type.elem_type = TensorProto.UINT16
    for node in graph.node:
        node.input[:] = [SHARES if name == INPUT else name for name in node.input]
    # By way of int32: straight from uint16 to float, OpenVINO's int8 passes take cast and division for a dequantiser
    # and hand the words to a convolution, which no kernel knows ("does not support u16 for use with oneDNN", 2026.4).
    front = [
        helper.make_node("Cast", [INPUT], [f"{INPUT}.whole"], name=f"{INPUT}.widen", to=TensorProto.INT32),
        helper.make_node("Cast", [f"{INPUT}.whole"], [f"{INPUT}.float"], name=f"{INPUT}.cast", to=TensorProto.FLOAT),
        helper.make_node("Div", [f"{INPUT}.float", f"{INPUT}.words"], [SHARES], name=f"{INPUT}.divide"),
    ]
    nodes = [*front, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(numpy_helper.from_array(np.array(WORDS, np.float32), f"{INPUT}.words"))
    onnx.checker.check_model(model, full_check=True)
    target.write_bytes(encode(model))
