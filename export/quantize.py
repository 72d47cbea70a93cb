"""A float ONNX graph as an int8 one in QDQ form, calibrated on images.

Laws of the graph that is written:

- weights are signed 8-bit, symmetric, one scale an output channel, zero point 0; only their integers are stored;
- activations have one scale a tensor, symmetric about zero; biases stay float (TensorRT refuses an int32 bias);
- the last layer of every head is float, found by walking back from the graph's outputs, never by name: there one scale
  would squash boxes and scores together, and ties would blunt every ROC curve;
- residual additions take both inputs quantised; upsampling, pooling, concatenation and reshaping work on the integers;
- equal inputs give equal bytes.

An activation can be written in two forms, from the same ranges:

| form | values that may be negative | values after a ReLU | where |
|---|---|---|---|
| `unsigned` | uint8, zero point 128 | uint8, zero point 0, all 255 steps | ONNX Runtime and OpenVINO |
| `signed` | int8, zero point 0 | int8, zero point 0, 127 steps | TensorRT, which knows no other zero point |

The integers of the first kind are the same but for an offset. The forms exist because ONNX Runtime cannot fold a ReLU
into a signed quantiser whose zero point is 0, and on x86 turns back to float convolutions wherever a signed tensor has
two readers (its QDQS8ToU8 pass, then ConvNodeGroupSelector): there the signed form is slower than float32, while the
unsigned one fuses whole. In the signed form nothing stands between a convolution, its activation and the quantiser, as
TensorRT wants it (NVIDIA, "Working with quantized types", Q/DQ placement).

Weights have 8 bits, and 7 or so where the processor clips the sum of two products at 16 bits (see `pairs`):

| overflow | weights where `weight_bits` is 7 | proved on |
|---|---|---|
| `seven` | every layer has 63 steps | every engine |
| `fit` | an output channel's scale is coarsened only as far as its worst pair of neighbours asks: 64 to 127 steps; depthwise layers keep all 127 | ONNX Runtime, OpenVINO |
| `unsigned` | layers that could clip are stored as uint8 around 128, all 127 steps | ONNX Runtime; OpenVINO computes such layers in float |
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..runtime.errors import FoveolaError
from .calibrate import Method, Range, measure_ranges
from .onnx_graph import encode
from .placement import LAYERS, Placement, place
from .saturation.pairs import FITTED_PAIR, cannot_saturate, is_depthwise, largest_pair

Form = Literal["unsigned", "signed"]
Overflow = Literal["seven", "fit", "unsigned"]
WeightBits = Literal[7, 8]

# The largest integer that a rounded bias may take when an engine stores it as int32 (ONNX Runtime, oneDNN, ARM).
BIAS_STEPS = 2**30


class Quantized(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, for the log and the bundle."""

    images: int
    int8_layers: int  # convolutions and matrix products with integer weights
    float_layers: tuple[str, ...]  # those left in float: the last of every head, and those that were asked for
    weight_bytes: int


class Calibrated(msgspec.Struct, frozen=True, kw_only=True):
    """A float graph whose ranges are known; several int8 graphs can be written from it."""

    model: ModelProto  # left as it is
    placement: Placement
    ranges: dict[str, Range]
    form: Form
    images: int


def quantize_onnx(
    source: Path,
    target: Path,
    images: Iterable[NDArray[np.float32]],
    *,
    method: Method = "minmax",
    form: Form = "unsigned",
    weight_bits: WeightBits = 8,
    overflow: Overflow = "seven",
    float_layers: Collection[str] = (),
    min_images: int = 128,
) -> Quantized:
    """Calibrate a float graph and write its int8 form; nothing is written when the images are too few.

    Args:
        source: float32 graph as `export_onnx` writes it.
        target: file for the int8 graph.
        images: inputs as the device would feed them, float32 (1, C, H, W), apart from training; drawn one at a time.
        method: how a tensor's range follows from its values (see `calibrate`).
        form: see the table above.
        weight_bits: 7 for x86 without VNNI, whose 16-bit sums of two products overflow with 8.
        overflow: the cure where `weight_bits` is 7, see the second table; `seven` is ONNX Runtime's `reduce_range`.
        float_layers: names of layers that stay float, beside the last of each head.
        min_images: refuse fewer.

    Raises:
        FoveolaError: too few images, values that are not finite, or no such layer.
    """
    calibrated = calibrate_graph(
        source, images, method=method, form=form, float_layers=float_layers, min_images=min_images
    )
    return write_int8(calibrated, target, weight_bits=weight_bits, overflow=overflow)


def calibrate_graph(
    source: Path,
    images: Iterable[NDArray[np.float32]],
    *,
    method: Method = "minmax",
    form: Form = "unsigned",
    float_layers: Collection[str] = (),
    min_images: int = 128,
) -> Calibrated:
    """Plan the quantisers of a float graph and measure their ranges; arguments and errors as of `quantize_onnx`."""
    model = onnx.load(source)
    _require_layers(model.graph, float_layers)
    placement = place(model.graph, after_layers=form == "unsigned", keep_float=float_layers)
    if not placement.layers:
        raise FoveolaError("quantize", "no layer can be quantised: each is the last of a head", "use a deeper network")
    ranges, count = measure_ranges(model, sorted(placement.measured), images, method)
    if count < min_images:
        mend = f"set more patients apart, or name a smaller min_images than {min_images}"
        raise FoveolaError("calibration", f"{count} images, {min_images} are needed", mend)
    return Calibrated(model=model, placement=placement, ranges=ranges, form=form, images=count)


def write_int8(
    calibrated: Calibrated, target: Path, *, weight_bits: WeightBits = 8, overflow: Overflow = "seven"
) -> Quantized:
    """Write an int8 graph from known ranges; arguments and errors as of `int8_model`."""
    model = int8_model(calibrated, weight_bits=weight_bits, overflow=overflow)
    target.write_bytes(encode(model))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = [stored[f"{name}.weight"] for name in calibrated.placement.layers]
    return Quantized(
        images=calibrated.images,
        int8_layers=len(calibrated.placement.layers),
        float_layers=calibrated.placement.float_layers,
        weight_bytes=sum(int(np.prod(weight.dims)) for weight in weights),
    )


def int8_model(calibrated: Calibrated, *, weight_bits: WeightBits = 8, overflow: Overflow = "seven") -> ModelProto:
    """Make an int8 graph from known ranges, checked in full; arguments as of `quantize_onnx`.

    Raises:
        FoveolaError: unsigned weights were asked for in the signed form.
    """
    rule: _Rule = "full" if weight_bits == 8 else overflow
    if rule == "unsigned" and calibrated.form == "signed":
        raise FoveolaError("overflow: unsigned", "weights of the signed form have zero point 0", "take fit or seven")
    model = ModelProto()
    model.CopyFrom(calibrated.model)
    _rewrite(model, calibrated.placement, calibrated.ranges, calibrated.form, rule)
    onnx.checker.check_model(model, full_check=True)
    return model


def _require_layers(graph: GraphProto, names: Collection[str]) -> None:
    known = [node.name for node in graph.node if node.op_type in LAYERS]
    for name in sorted(set(names) - set(known)):
        near = get_close_matches(name, known, 1)
        mend = f"did you mean {near[0]!r}?" if near else f"layers are {known[0]} to {known[-1]}" if known else ""
        raise FoveolaError(f"float_layers: {name!r}", "there is no such layer in the graph", mend)


_Rule = Literal["full", "seven", "fit", "unsigned"]


class _Grid(msgspec.Struct, frozen=True):
    """How one activation tensor becomes integers."""

    scale: np.float32
    zero: np.int8 | np.uint8


def _grid(extent: Range, form: Form) -> _Grid:
    if form == "unsigned" and extent.low >= 0:
        return _Grid(_step(extent.high, 255), np.uint8(0))
    zero = np.int8(0) if form == "signed" else np.uint8(128)
    return _Grid(_step(extent.magnitude, 127), zero)


def _step(magnitude: float, steps: int) -> np.float32:
    # A tensor that is zero throughout gets a step that is harmless.
    return np.float32(magnitude / steps) if magnitude > np.finfo(np.float32).tiny * steps else np.float32(1.0)


def _rewrite(model: ModelProto, placement: Placement, ranges: dict[str, Range], form: Form, rule: _Rule) -> None:
    """Put quantisers on the placed tensors and integers in place of the layers' weights."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    grids = {name: _grid(ranges[origin], form) for name, origin in placement.tensors.items()}
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []
    for name in (value.name for value in graph.input if value.name in grids):
        nodes += _quantisers(name, grids[name], constants)
    for node in graph.node:
        entry = node.input[0] if node.input else ""
        node.input[:] = [f"{name}.dequantized" if name in grids else name for name in node.input]
        if node.name in placement.layers:
            grid = grids[entry]
            bias = numpy_helper.to_array(weights[node.input[2]]) if len(node.input) > 2 and node.input[2] else None
            weight = weights[node.input[1]]
            nodes.append(_integer_weight(node, weight, bias, grid.scale, rule, constants))
        nodes.append(node)
        for name in (output for output in node.output if output in grids):
            nodes += _quantisers(name, grids[name], constants)
    _replace(graph, nodes, constants)


def _quantisers(name: str, grid: _Grid, constants: list[TensorProto]) -> list[NodeProto]:
    """Make the pair of QuantizeLinear and DequantizeLinear behind a tensor."""
    scale, zero = f"{name}.scale", f"{name}.zero"
    constants += [
        numpy_helper.from_array(np.asarray(grid.scale), scale),
        numpy_helper.from_array(np.asarray(grid.zero), zero),
    ]
    integers, back = f"{name}.quantized", f"{name}.dequantized"
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero], [integers], name=f"{name}.quantize"),
        helper.make_node("DequantizeLinear", [integers, scale, zero], [back], name=f"{name}.dequantize"),
    ]


def _integer_weight(
    node: NodeProto,
    weight: TensorProto,
    bias: NDArray[np.float32] | None,
    input_scale: np.float32,
    rule: _Rule,
    constants: list[TensorProto],
) -> NodeProto:
    """Store a layer's weight as integers and give the node that turns them back; the layer then reads that node.

    Constants carry the layer's name, as two layers may share a weight but not the scale of their inputs.
    """
    values: NDArray[np.float32] = numpy_helper.to_array(weight)
    axis = output_axis(node, values.ndim)
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    rows_N = np.moveaxis(values, axis, 0)
    scale = _weight_scale(rows_N, rule, group)
    if bias is not None and bias.shape == scale.shape:
        # A channel that training has switched off has a tiny weight and a plain bias, whose integer would overflow.
        scale = np.maximum(scale, np.abs(bias.astype(np.float64)) / (float(input_scale) * BIAS_STEPS))
    scale_C = np.where(scale > np.finfo(np.float32).tiny, scale, 1.0).astype(np.float32)
    shape = [1] * values.ndim
    shape[axis] = -1
    steps = _steps(rule)
    integers = np.clip(np.rint(values / scale_C.reshape(shape)), -steps, steps).astype(np.int8)
    zero: NDArray[np.int8] | NDArray[np.uint8] = np.zeros(scale_C.shape, np.int8)
    stored: NDArray[np.int8] | NDArray[np.uint8] = integers
    if rule == "unsigned" and not cannot_saturate(np.moveaxis(integers, axis, 0), group):
        stored, zero = (integers.astype(np.int16) + 128).astype(np.uint8), np.full(scale_C.shape, 128, np.uint8)
    names = [f"{node.name}.weight", f"{node.name}.weight.scale", f"{node.name}.weight.zero"]
    constants += [
        numpy_helper.from_array(array, name) for array, name in zip((stored, scale_C, zero), names, strict=True)
    ]
    node.input[1] = f"{node.name}.weight.dequantized"
    return helper.make_node(
        "DequantizeLinear", names, [node.input[1]], name=f"{node.name}.weight.dequantize", axis=axis
    )


def _steps(rule: _Rule) -> int:
    return 63 if rule == "seven" else 127


def _weight_scale(rows_N: NDArray[np.float32], rule: _Rule, group: int) -> NDArray[np.float64]:
    """Give each output channel's scale: its largest weight takes all steps, or its worst pair all that are safe."""
    largest = np.abs(rows_N).max(axis=tuple(range(1, rows_N.ndim))).astype(np.float64)
    scale = largest / _steps(rule)
    if rule == "fit" and not is_depthwise(rows_N.shape, group):
        scale = np.maximum(scale, largest_pair(rows_N.astype(np.float64)) / FITTED_PAIR)
    return np.asarray(scale)


def output_axis(node: NodeProto, dimensions: int) -> int:
    """Name the axis of a layer's weight that counts its output channels."""
    rows = node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if rows else dimensions - 1


def _replace(graph: GraphProto, nodes: list[NodeProto], constants: list[TensorProto]) -> None:
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used] + constants
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
