"""Empirical bias correction: each layer's mean error on images, taken out of its bias (Nagel et al., ICCV 2019).

Rounding a layer's weights moves the mean of its output channels, and the layers behind inherit the shift. Section 4.2
takes the shift out of the bias; it is measured here, not derived (appendix D): layer by layer from the input on, the
int8 graph with the layers before already corrected is held against the float graph, channel by channel, before the
activation. The fast form, which measures all layers at once on float inputs, counts shifts twice; it is not here.

The float last layers of the heads are corrected too: a logit's shift is a threshold's shift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from .corrections import Corrections
from .integer_weights import output_axis, rule_of
from .partial import channel_means, constant_layers
from .quantize import Calibrated, Overflow, WeightBits, barred_bias, int8_model

F32 = NDArray[np.float32]
Progress = Callable[[int, int], None]


def correct_biases(
    calibrated: Calibrated,
    images: Callable[[], Iterable[F32]],
    *,
    weight_bits: WeightBits = 8,
    overflow: Overflow = "seven",
    progress: Progress | None = None,
) -> Corrections:
    """Find the bias of every layer with which its output keeps the mean that it has in float.

    Args:
        calibrated: float graph, ranges, and roundings if they were learned; its own biases are started from anew.
        images: gives the images (1, C, H, W) again and again, once a layer.
        weight_bits: of the weights that are written.
        overflow: their rule.
        progress: called with (done, layers).

    Returns:
        Corrections with these biases, and the roundings that were there; a MatMul has no bias and gets none.
    """
    plain = calibrated.model
    layers = [node for node in constant_layers(plain.graph) if node.op_type != "MatMul"]
    biases = {node.name: _bias(plain.graph, node) for node in layers}
    targets = channel_means(plain, layers, images())
    rule = rule_of(weight_bits, overflow)
    started = Corrections(biases=biases, rounded_up=calibrated.corrections.under(rule).rounded_up, rule=rule)
    model = int8_model(
        msgspec.structs.replace(calibrated, corrections=started), weight_bits=weight_bits, overflow=overflow
    )
    known = {node.name: node for node in model.graph.node}
    for number, node in enumerate(layers):
        found = channel_means(model, [known[node.name]], images())[node.name]
        biases[node.name] = (biases[node.name] + targets[node.name] - found).astype(np.float32)
        _put(model, node.name, biases[node.name])
        if progress is not None:
            progress(number + 1, len(layers))
    return msgspec.structs.replace(started, biases=biases)


def _bias(graph: GraphProto, node: NodeProto) -> F32:
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.name in node.input}
    if len(node.input) > 2 and node.input[2] in weights:
        return np.array(numpy_helper.to_array(weights[node.input[2]]), np.float32)
    weight = weights[node.input[1]]
    return np.zeros(weight.dims[output_axis(node, len(weight.dims))], np.float32)


def _put(model: ModelProto, layer: str, bias: F32) -> None:
    """Give a layer of the int8 graph another bias, in the form in which it has one."""
    new = {
        tensor.name: tensor for tensor in (*barred_bias(layer, bias), numpy_helper.from_array(bias, f"{layer}.bias"))
    }
    for tensor in model.graph.initializer:
        if tensor.name in new:
            tensor.CopyFrom(new[tensor.name])
