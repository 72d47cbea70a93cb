"""How much noise quantisation puts on each layer: the SQNR of an int8 graph against its float graph.

SQNR is the signal-to-quantisation-noise ratio 10 log10(sum x^2 / sum (x - q)^2) in decibels, over all values of a
layer's result on all images; 20 dB is noise of a tenth of the signal's amplitude. A layer's result is taken behind its
rectifier and its quantiser, as the next operation reads it.

Rules:

- both graphs come of one export: `int8_model` keeps the names of nodes and values;
- accumulated (the usual reading): the int8 graph's own values, with the noise of all layers before;
- `alone`: each layer reads the float graph's values, so that the noise is its own;
- both graphs run as one, which answers two sums a layer and image: memory stays that of one image.

    layer_sqnr(folder / "float.onnx", folder / "model.onnx", images)  # {"conv_2": 31.4, "conv_5": 28.9, ...}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from ..runtime.errors import FoveolaError
from .onnx_graph import INPUT
from .partial import constant_layers, open_plain
from .placement import RECTIFIERS

MOST_DB = 120.0  # told of a layer without noise: about where float32 itself ends
INT8 = "int8/"  # before the names of the int8 graph, where both stand in one

Source = Path | ModelProto


def layer_sqnr(
    float_graph: Source, int8_graph: Source, images: Iterable[NDArray[np.float32]], *, alone: bool = False
) -> dict[str, float]:
    """Measure the SQNR of every layer with constant weights.

    Args:
        float_graph: file or model of the float graph that the int8 one was written from.
        int8_graph: file or model in QDQ form.
        images: inputs (1, C, H, W), float32; drawn one at a time.
        alone: each layer's own noise instead of the accumulated one.

    Returns:
        Decibels by the layer's name, in graph order; the layers left in float are among them.

    Raises:
        FoveolaError: no image, or the graphs are not of one network.
    """
    plain, quantised = _load(float_graph), _load(int8_graph)
    pairs = _results(plain.graph, quantised.graph)
    joined = _joined(plain, quantised, pairs, alone=alone)
    sums_L2 = np.zeros((len(pairs), 2))
    count = 0
    session = open_plain(joined)
    for image in images:
        sums_L2 += np.array(session.run(None, {INPUT: image}), np.float64).reshape(-1, 2)
        count += 1
    if not count:
        raise FoveolaError("SQNR", "there is no image to measure it on", "give a few calibration images")
    return {layer: decibels(*sums) for layer, sums in zip(pairs, sums_L2.tolist(), strict=True)}


def output_sqnr(float_graph: Source, int8_graph: Source, images: Iterable[NDArray[np.float32]]) -> dict[str, float]:
    """Measure the SQNR of a graph's outputs.

    The signal is what varies about the mean of each channel (axis 1), as a logit's offset tells no two images apart.

    Args:
        float_graph: as of `layer_sqnr`.
        int8_graph: as of `layer_sqnr`.
        images: inputs (1, C, H, W), float32; drawn one at a time.

    Raises:
        FoveolaError: no image.
    """
    plain, quantised = _load(float_graph), _load(int8_graph)
    names = [value.name for value in plain.graph.output]
    one, other = open_plain(plain), open_plain(quantised)
    energies = [_Energy() for _ in names]
    count = 0
    for image in images:
        answers = zip(one.run(names, {INPUT: image}), other.run(names, {INPUT: image}), strict=True)
        for energy, (clean, noisy) in zip(energies, answers, strict=True):
            energy.add(clean.astype(np.float64), noisy.astype(np.float64))
        count += 1
    if not count:
        raise FoveolaError("SQNR", "there is no image to measure it on", "give a few calibration images")
    return {name: decibels(energy.signal, energy.noise) for name, energy in zip(names, energies, strict=True)}


def overall(by_output: Mapping[str, float]) -> float:
    """One number for all outputs: the decibels of their mean noise, in which the worst output counts most."""
    return float(-10.0 * np.log10(np.mean([10.0 ** (-value / 10) for value in by_output.values()])))


class _Energy:
    """Sums over the images of one output."""

    def __init__(self) -> None:
        self.count, self.noise = 0, 0.0
        self.sums_C: NDArray[np.float64] = np.zeros(1)
        self.squares_C: NDArray[np.float64] = np.zeros(1)

    def add(self, clean: NDArray[np.float64], noisy: NDArray[np.float64]) -> None:
        rest = tuple(axis for axis in range(clean.ndim) if axis != 1)
        self.count += clean.size // clean.shape[1]
        self.sums_C = self.sums_C + clean.sum(rest)
        self.squares_C = self.squares_C + (clean**2).sum(rest)
        self.noise += float(((clean - noisy) ** 2).sum())

    @property
    def signal(self) -> float:
        return float((self.squares_C - self.sums_C**2 / self.count).sum())


def decibels(signal: float, noise: float) -> float:
    """Tell a ratio of energies in decibels, between -MOST_DB and MOST_DB."""
    least = 10.0 ** (-MOST_DB / 10)
    if noise <= signal * least:
        return MOST_DB
    return -MOST_DB if signal <= noise * least else float(10.0 * np.log10(signal / noise))


def _load(source: Source) -> ModelProto:
    return onnx.load(source) if isinstance(source, Path) else source


def _results(plain: GraphProto, quantised: GraphProto) -> dict[str, tuple[str, str]]:
    """Layer -> the tensor that is its result in the float graph and in the int8 one."""
    known = {name for node in quantised.node for name in node.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in plain.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in plain.output}
    pairs = {}
    for node in constant_layers(plain):
        tensor = node.output[0]
        after = readers.get(tensor, [])
        if len(after) == 1 and after[0].op_type in RECTIFIERS and tensor not in outputs:
            tensor = after[0].output[0]
        if tensor not in known:
            raise FoveolaError("SQNR", f"{node.name} is not in the int8 graph", "give two graphs of one export")
        back = f"{tensor}.dequantized"
        pairs[node.name] = (tensor, back if back in known else tensor)
    return pairs


def _joined(plain: ModelProto, quantised: ModelProto, pairs: dict[str, tuple[str, str]], *, alone: bool) -> ModelProto:
    """Both graphs as one that answers, per layer, the energy of its values and that of their difference."""
    model = ModelProto()
    model.CopyFrom(plain)
    graph = model.graph
    known = {INPUT} | {name for node in plain.graph.node for name in node.output}
    inside = {tensor for tensor, _ in pairs.values()}  # made by the layer itself or by its rectifier
    for tensor in quantised.graph.initializer:
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = INT8 + tensor.name
    for node in quantised.graph.node:
        own = not alone or (node.op_type in RECTIFIERS and node.output[0] in inside)
        copied = graph.node.add()
        copied.CopyFrom(node)
        copied.name = INT8 + node.name
        copied.input[:] = [
            name if name in ("", INPUT) or (name in known and not own) else INT8 + name for name in node.input
        ]
        copied.output[:] = [INT8 + name for name in node.output]
    del graph.output[:]
    for index, (one, other) in enumerate(pairs.values()):
        found = INT8 + other
        if alone and other != one:
            graph.node.extend(_quantised_again(index, one))
            found = f"sum/{index}/dequantized"
        graph.node.extend(_energies(index, one, found))
        graph.output.extend(
            helper.make_tensor_value_info(f"sum/{index}/{which}", TensorProto.FLOAT, None)
            for which in ("signal", "noise")
        )
    return model


def _quantised_again(index: int, tensor: str) -> Sequence[NodeProto]:
    """A second pair of the tensor's quantisers, behind the layer that read the float graph's values."""
    place, grid = f"sum/{index}/", [f"{INT8}{tensor}.scale", f"{INT8}{tensor}.zero"]
    return (
        helper.make_node("QuantizeLinear", [INT8 + tensor, *grid], [f"{place}quantized"], name=f"{place}q"),
        helper.make_node("DequantizeLinear", [f"{place}quantized", *grid], [f"{place}dequantized"], name=f"{place}dq"),
    )


def _energies(index: int, plain: str, quantised: str) -> Sequence[NodeProto]:
    place = f"sum/{index}/"
    return (
        helper.make_node("Sub", [plain, quantised], [f"{place}difference"], name=f"{place}sub"),
        helper.make_node("ReduceSumSquare", [plain], [f"{place}signal"], name=f"{place}of_signal", keepdims=0),
        helper.make_node("ReduceSumSquare", [f"{place}difference"], [f"{place}noise"], name=f"{place}of", keepdims=0),
    )
