"""A float ONNX graph as an int8 one in QDQ form, calibrated on images.

Laws of the graph that is written:

- weights are signed 8-bit, symmetric, one scale an output channel, zero point 0; only their integers are stored;
- activations have one scale a tensor, symmetric about zero; biases stay float (TensorRT refuses an int32 bias);
- the last layer of every head is float, found by walking back from the graph's outputs, never by name: there one scale
  would squash boxes and scores together, and ties would blunt every ROC curve;
- what is float stays float in the engine: the bias of such a layer is barred from ONNX Runtime's own rounding;
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

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..runtime.errors import FoveolaError
from .calibrate import Method, Range, measure_ranges
from .corrections import Corrections as Corrections
from .integer_weights import BIAS_STEPS, Rule, dequantiser, rule_of, to_integers
from .integer_weights import Overflow as Overflow
from .integer_weights import WeightBits as WeightBits
from .integer_weights import output_axis as output_axis
from .onnx_graph import encode
from .placement import LAYERS, Placement, place

Form = Literal["unsigned", "signed"]


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
    corrections: Corrections = Corrections()


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
    ranges: Mapping[str, Range] | None = None,
    corrections: Corrections | None = None,
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
        ranges: those that are known, by tensor; where they are all that is needed, no image is drawn.
        corrections: of biases and roundings.

    Raises:
        FoveolaError: too few images, values that are not finite, or no such layer.
    """
    calibrated = calibrate_graph(
        source, images, method=method, form=form, float_layers=float_layers, min_images=min_images, ranges=ranges
    )
    calibrated = msgspec.structs.replace(calibrated, corrections=corrections or Corrections())
    return write_int8(calibrated, target, weight_bits=weight_bits, overflow=overflow)


def calibrate_graph(
    source: Path,
    images: Iterable[NDArray[np.float32]],
    *,
    method: Method = "minmax",
    form: Form = "unsigned",
    float_layers: Collection[str] = (),
    min_images: int = 128,
    ranges: Mapping[str, Range] | None = None,
) -> Calibrated:
    """Plan the quantisers of a float graph and measure their ranges; arguments and errors as of `quantize_onnx`."""
    model = onnx.load(source)
    require_layers(model.graph, float_layers)
    placement = place(model.graph, after_layers=form == "unsigned", keep_float=float_layers)
    if not placement.layers:
        raise FoveolaError("quantize", "no layer can be quantised: each is the last of a head", "use a deeper network")
    known = dict(ranges or {})
    if placement.measured <= known.keys():
        return Calibrated(model=model, placement=placement, ranges=known, form=form, images=0)
    measured, count = measure_ranges(model, sorted(placement.measured - known.keys()), images, method)
    if count < min_images:
        mend = f"set more patients apart, or name a smaller min_images than {min_images}"
        raise FoveolaError("calibration", f"{count} images, {min_images} are needed", mend)
    return Calibrated(model=model, placement=placement, ranges=measured | known, form=form, images=count)


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
    rule = rule_of(weight_bits, overflow)
    if rule == "unsigned" and calibrated.form == "signed":
        raise FoveolaError("overflow: unsigned", "weights of the signed form have zero point 0", "take fit or seven")
    model = ModelProto()
    model.CopyFrom(calibrated.model)
    _rewrite(model, calibrated, rule)
    onnx.checker.check_model(model, full_check=True)
    return model


def require_layers(graph: GraphProto, names: Collection[str]) -> None:
    """Refuse names of layers that are not in a graph.

    Raises:
        FoveolaError: the first of them, with the nearest name that is.
    """
    layers_named(graph, {}, sorted(names))


def layers_named(graph: GraphProto, origins: Mapping[str, str], names: Collection[str]) -> tuple[str, ...]:
    """Give the layers of a graph that are meant: by their own names, or by those of the modules that they come from.

    Args:
        graph: as exported.
        origins: module of each node.
        names: such as `conv_2` or `backbone.conv_stem`; a module may have several layers.

    Raises:
        FoveolaError: the first name that is neither, with the nearest one that is.
    """
    layers = [node.name for node in graph.node if node.op_type in LAYERS]
    found: dict[str, None] = {}
    for name in names:
        meant = [layer for layer in layers if name in (layer, origins.get(layer))]
        if not meant:
            modules = [origins[layer] for layer in layers if layer in origins]
            near = get_close_matches(name, [*layers, *modules], 1)
            mend = f"did you mean {near[0]!r}?" if near else f"layers are {layers[0]} to {layers[-1]}" if layers else ""
            raise FoveolaError(f"float_layers: {name!r}", "there is no such layer in the graph", mend)
        found |= dict.fromkeys(meant)
    return tuple(found)


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


def _rewrite(model: ModelProto, calibrated: Calibrated, rule: Rule) -> None:
    """Put quantisers on the placed tensors and integers in place of the layers' weights."""
    graph, placement = model.graph, calibrated.placement
    fixes = calibrated.corrections.under(rule)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    grids = {name: _grid(calibrated.ranges[origin], calibrated.form) for name, origin in placement.tensors.items()}
    nodes: list[NodeProto] = []
    new: list[TensorProto] = []
    for name in (value.name for value in graph.input if value.name in grids):
        nodes += _quantisers(name, grids[name], new)
    for node in graph.node:
        entry = node.input[0] if node.input else ""
        node.input[:] = [f"{name}.dequantized" if name in grids else name for name in node.input]
        quantised = node.name in placement.layers
        barred = calibrated.form == "unsigned" and entry in grids and node.op_type in ("Conv", "Gemm") and not quantised
        if node.name in fixes.biases and not barred:
            _set_bias(node, fixes.biases[node.name], new)
        if quantised:
            bias = fixes.biases.get(node.name)
            if bias is None and len(node.input) > 2 and node.input[2]:
                bias = constants[node.input[2]]
            weight = to_integers(
                node, constants[node.input[1]], bias, grids[entry].scale, rule, fixes.rounded_up.get(node.name)
            )
            back, stored = dequantiser(node, weight, rule)
            node.input[1] = back.output[0]
            nodes.append(back)
            new += stored
        elif barred:
            nodes.append(_barred(node, constants, fixes.biases.get(node.name), new))
        nodes.append(node)
        for name in (output for output in node.output if output in grids):
            nodes += _quantisers(name, grids[name], new)
    replace(graph, nodes, new)


def _set_bias(node: NodeProto, bias: NDArray[np.float32], constants: list[TensorProto]) -> None:
    """Give a convolution or a Gemm a bias of its own."""
    name = f"{node.name}.bias"
    constants.append(numpy_helper.from_array(bias, name))
    node.input[:] = [*node.input[:2], name]


def _barred(
    node: NodeProto, constants: dict[str, NDArray[Any]], bias: NDArray[np.float32] | None, new: list[TensorProto]
) -> NodeProto:
    """Keep a float layer float: give it a bias that is computed, exact to float32.

    ONNX Runtime rounds the float weights of a layer behind a DequantizeLinear to 8 bits, one scale for all of them,
    wherever its bias is a constant or absent (its WeightBiasQuantization pass, 1.20 to 1.31 at least).
    """
    if bias is None:
        given = len(node.input) > 2 and bool(node.input[2])
        axis = 1 if node.op_type == "Gemm" and not any(one.name == "transB" and one.i for one in node.attribute) else 0
        width = constants[node.input[1]].shape[axis]
        bias = constants[node.input[2]] if given else np.zeros(width, np.float32)
    stored = barred_bias(node.name, bias)
    new += stored
    back = f"{node.name}.bias.dequantized"
    node.input[:] = [*node.input[:2], back]
    names = [tensor.name for tensor in stored]
    return helper.make_node("DequantizeLinear", names, [back], name=f"{node.name}.bias.dequantize")


def barred_bias(layer: str, bias: NDArray[np.float32]) -> tuple[TensorProto, TensorProto]:
    """The constants of a float layer's computed bias: integers of 32 bits, and their step."""
    step = _step(float(np.abs(bias).max(initial=0.0)), BIAS_STEPS)
    integers = np.round(bias.astype(np.float64) / step).astype(np.int32)
    return (
        numpy_helper.from_array(integers, f"{layer}.bias.integers"),
        numpy_helper.from_array(np.asarray(step), f"{layer}.bias.scale"),
    )


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


def replace(graph: GraphProto, nodes: list[NodeProto], constants: list[TensorProto]) -> None:
    """Give a graph these nodes, further constants, and of its own constants those that are still read."""
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used] + constants
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
