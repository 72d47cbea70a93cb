"""The saturation lint: what processors without VNNI would clip in an int8 graph, layer by layer.

Laws of the lint:

- it looks at the integers of the file: weights as stored, activations as the graph's own quantisers give them on the
  images, layer by layer; a layer's answer is not carried on into the next, so each is judged alone;
- a layer is *proved* when no input whatever can clip one of its sums (see `pairs`); a proof needs no image. What is
  only measured on images is a sample: positions are drawn with a fixed seed, and all are taken where they are few;
- where engines may pair products in two ways, the worse one counts;
- memory does not grow with the images: they are drawn one at a time, and of each layer only sums are kept.

    report = lint_saturation(Path("model.onnx"), images)
    [(one.layer, one.share, one.error) for one in report.layers if not one.proved]

Cures, each of which `quantize_onnx` writes: `fit` coarsens the scale of an output channel just as far as its worst pair
asks, `seven` halves every scale, `unsigned` stores weights with zero point 128, which ONNX Runtime multiplies in 16
bits, and a layer can be left in float. NNCF's overflow fix is `seven` for the first layer or for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from ...runtime.errors import FoveolaError
from ...runtime.offline import forbid_telemetry
from ..onnx_graph import INPUT
from .integer_layers import IntegerLayer, Sums, integer_layers
from .pairs import Bytes, Order, Weights, multiply, orders_of, rows_of
from .patches import Window, sample_rows

POSITIONS = 64  # of each layer on each image


class LayerSaturation(msgspec.Struct, frozen=True, kw_only=True):
    """What the lint says of one layer."""

    layer: str  # name of the node
    module: str  # of the network, where it is known
    operator: str
    sums: Sums
    order: Order  # the worse one, where engines differ
    products: int  # of one output
    steps: int  # the largest integer among the weights
    proved: bool
    positions: int  # looked at; 0 where the proof made it needless
    share: float  # of the 16-bit sums that are clipped
    overshoot: int  # the most that one of them loses
    error: float  # RMS error of the output over its standard deviation, channels together in real units
    cure: Literal["none", "fit"]  # fit, or one of the other cures above


class Saturation(msgspec.Struct, frozen=True, kw_only=True):
    """The lint's report on one graph."""

    layers: tuple[LayerSaturation, ...]
    images: int

    @property
    def unproved(self) -> tuple[str, ...]:
        """Layers whose sums an unlucky input could clip."""
        return tuple(one.layer for one in self.layers if not one.proved)

    @property
    def clipped(self) -> tuple[LayerSaturation, ...]:
        """Layers in which the images did clip sums, the worst first."""
        return tuple(sorted((one for one in self.layers if one.share > 0), key=lambda one: -one.error))


def lint_saturation(
    graph: Path | ModelProto,
    images: Iterable[NDArray[np.float32]],
    *,
    positions: int = POSITIONS,
    origins: Mapping[str, str] | None = None,
) -> Saturation:
    """Emulate the 16-bit sums of an int8 graph on images.

    Args:
        graph: QDQ graph as `quantize_onnx` writes it, in either form.
        images: float32 (1, C, H, W) each, as the device would feed them; drawn once, one at a time. With none, only
            the proofs are made.
        positions: of the output that are looked at in each layer on each image.
        origins: module of each node, as `export_onnx` gives it.

    Raises:
        FoveolaError: a convolution whose padding is not written out.
    """
    model = onnx.load(graph) if isinstance(graph, Path) else graph
    layers = integer_layers(model)
    open_layers = [layer for layer in layers if not layer.proved]
    tallies = {layer.name: [_Tally(layer, order) for order in orders_of(layer.weight.shape)] for layer in open_layers}
    count = 0
    run = _tapped(model, sorted({layer.activation for layer in open_layers}))
    for image in images:
        values = run(image)
        for index, layer in enumerate(open_layers):
            for tally in tallies[layer.name]:
                tally.add(values[layer.activation], positions, np.random.default_rng([count, index]))
        count += 1
    found = origins or {}
    told = (_summary(layer, tallies.get(layer.name, []), found.get(layer.name, "")) for layer in layers)
    return Saturation(layers=tuple(told), images=count)


class _Tally:
    """Sums over the images for one layer in one order; of the outputs only moments are kept."""

    def __init__(self, layer: IntegerLayer, order: Order) -> None:
        self.layer = layer
        self.order: Order = order
        convolution = layer.node.op_type == "Conv"
        self.window = Window.of(layer.node, layer.weight.shape, layer.zero) if convolution else None
        self.rows: Weights = rows_of(layer.weight, order)
        self.positions = self.pairs = self.saturated = self.overshoot = 0
        outputs = len(self.rows)
        self.sum_N, self.square_N, self.error_N = (np.zeros(outputs, np.float64) for _ in range(3))

    def add(self, values: Bytes, positions: int, random: np.random.Generator) -> None:
        """Take in one image's activations of the layer."""
        outputs = len(self.rows) // self.layer.group
        for index, rows_MK in enumerate(sample_rows(values, self.window, self.order, positions, random)):
            mine = slice(index * outputs, (index + 1) * outputs)
            product = multiply(rows_MK, self.rows[mine])
            self.saturated += product.saturated
            self.overshoot = max(self.overshoot, product.overshoot)
            self.pairs += len(rows_MK) * outputs * ((rows_MK.shape[1] + 1) // 2)
            exact = product.exact.astype(np.float64)
            self.sum_N[mine] += exact.sum(0)
            self.square_N[mine] += (exact**2).sum(0)
            self.error_N[mine] += ((product.clipped - product.exact).astype(np.float64) ** 2).sum(0)
            self.positions += len(rows_MK) if index == 0 else 0

    @property
    def share(self) -> float:
        return self.saturated / max(self.pairs, 1)

    @property
    def error(self) -> float:
        """RMS error over the standard deviation of the output, each channel about its own mean, in real units."""
        unit_N = self.layer.scales.astype(np.float64) ** 2
        variance_N = self.square_N / max(self.positions, 1) - (self.sum_N / max(self.positions, 1)) ** 2
        spread = float(unit_N @ np.maximum(variance_N, 0))
        wrong = float(unit_N @ self.error_N) / max(self.positions, 1)
        # A layer that answers the same everywhere has no spread; one step of each accumulator stands in for it.
        return float(np.sqrt(wrong / max(spread, float(unit_N.sum()))))


def _summary(layer: IntegerLayer, tallies: list[_Tally], module: str) -> LayerSaturation:
    worst = max(tallies, key=lambda one: (one.error, one.share), default=None)
    return LayerSaturation(
        layer=layer.name,
        module=module,
        operator=layer.node.op_type,
        sums=layer.sums,
        order=worst.order if worst else "im2col",
        products=int(np.prod(layer.weight.shape[1:])),
        steps=int(np.abs(layer.weight.astype(np.int32) - (128 if layer.weight.dtype == np.uint8 else 0)).max()),
        proved=layer.proved,
        positions=worst.positions if worst else 0,
        share=worst.share if worst else 0.0,
        overshoot=worst.overshoot if worst else 0,
        error=worst.error if worst else 0.0,
        cure="none" if layer.proved else "fit",
    )


class _Tapped:
    def __init__(self, session: Any, names: list[str]) -> None:
        self.session, self.names = session, names

    def __call__(self, image: NDArray[np.float32]) -> dict[str, Bytes]:
        values = self.session.run(self.names, {INPUT: image}) if self.names else []
        return {name: _unsigned(value) for name, value in zip(self.names, values, strict=True)}


def _unsigned(values: NDArray[Any]) -> Bytes:
    """Move signed activations to unsigned ones, as ONNX Runtime and oneDNN do on x86."""
    moved = values.astype(np.int16) + 128 if values.dtype == np.int8 else values
    return np.asarray(moved.astype(np.uint8))


def _tapped(model: ModelProto, names: list[str]) -> _Tapped:
    """Open the graph with its integer activations as outputs, on float arithmetic, which clips nothing."""
    forbid_telemetry()
    import onnxruntime

    tapped = ModelProto()
    tapped.CopyFrom(model)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    del tapped.graph.output[:]
    for name in names:
        quantiser = makers.get(name)
        if quantiser is None or quantiser.op_type != "QuantizeLinear":
            raise FoveolaError("lint", f"{name} is not made by a quantiser", "give the graph that quantize_onnx wrote")
        tapped.graph.output.append(onnx.helper.make_tensor_value_info(name, types[quantiser.input[2]], None))
    if not names:
        return _Tapped(None, names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(tapped.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return _Tapped(session, names)
