"""Cross-layer equalisation: the same function, with channels of more equal size (Nagel et al., ICCV 2019, sec. 4.1).

Where nothing but a positive-homogeneous operation stands between two layers, f(sx) = s f(x) for s > 0, channel i of
the first can be divided by s_i and the second's weights for it multiplied by s_i. One grid for a whole tensor then
serves all its channels better.

| by | equalised is | s_i | helps |
|---|---|---|---|
| `weights` | the weights of both layers (sec. 4.1, eq. 11) | sqrt(r1 r2) / r2, r the channel's largest weight | weights with one scale a tensor |
| `activations` | the values between them and the second's weights (Xiao et al., ICML 2023, eq. 4) | sqrt(a / r2), a the channel's largest value | weights with a scale a channel, as ours |

Rules:

- homogeneous are ReLU, LeakyReLU, pooling, and nothing at all; ReLU6, hard-swish, SiLU, GELU and the product of a
  squeeze-and-excitation block are not, and a pair around them is skipped (replacing ReLU6 by ReLU, as the paper does,
  would be another network);
- the tensor between has one reader and is no output; a weight that two layers share is left alone;
- channels that are zero throughout keep their scale.

Pairs overlap, so the whole is repeated until nothing moves (sec. 4.1.2).
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from .calibrate import channel_extents
from .integer_weights import group_of, output_axis
from .partial import constant_layers, is_usual

By = Literal["weights", "activations"]
F32 = NDArray[np.float32]

HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool"})
ROUNDS = 40
SETTLED = 1e-3  # largest relative change of a round that ends it
MOST = 1e4  # a channel is scaled at most so much in a round: what is nearly dead stays nearly dead


class Equalised(msgspec.Struct, frozen=True, kw_only=True):
    """What was equalised, for the log.

    Args:
        pairs: names of first and second layer.
        skipped: for each operation that keeps a pair apart, how many pairs; `shared` for weights or values with
            several readers, `shape` where channels are counted otherwise.
        spread: ratio of the largest channel to the median one, over all pairs: median before and after.
    """

    pairs: tuple[tuple[str, str], ...]
    skipped: dict[str, int]
    spread: tuple[float, float]


class _Pair(msgspec.Struct, frozen=True, eq=False):
    first: NodeProto
    second: NodeProto
    tensor: str  # what the second layer reads


def equalise(model: ModelProto, images: Iterable[F32], *, by: By = "activations") -> tuple[ModelProto, Equalised]:
    """Give an equalised copy of a float graph, equal in its answers but for the rounding of float32.

    Args:
        model: float graph, nodes named, in topological order.
        images: inputs (1, C, H, W), drawn once; used `by` activations alone.
        by: see the table above.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    pairs, skipped = _find_pairs(copy.graph)
    weights = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in copy.graph.initializer}
    values = channel_extents(copy, [pair.tensor for pair in pairs], images) if by == "activations" and pairs else {}
    sizes = {pair.tensor: np.array(values[pair.tensor], np.float64) for pair in pairs if pair.tensor in values}
    before = _spread(pairs, weights, sizes)
    for _ in range(ROUNDS):
        if max((_move(pair, weights, sizes) for pair in pairs), default=0.0) < SETTLED:
            break
    for tensor in copy.graph.initializer:
        changed = weights[tensor.name].astype(numpy_helper.to_array(tensor).dtype)
        tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    named = tuple((pair.first.name, pair.second.name) for pair in pairs)
    return copy, Equalised(pairs=named, skipped=skipped, spread=(before, _spread(pairs, weights, sizes)))


def _move(pair: _Pair, weights: dict[str, NDArray[np.float64]], sizes: dict[str, NDArray[np.float64]]) -> float:
    """Scale one pair in place; give the largest relative change."""
    first, second = weights[pair.first.input[1]], weights[pair.second.input[1]]
    axis = output_axis(pair.first, first.ndim)
    if pair.tensor in sizes:
        ahead = sizes[pair.tensor]
    else:
        ahead = np.abs(np.moveaxis(first, axis, 0)).reshape(first.shape[axis], -1).max(1)
    behind = _by_input(pair.second, np.abs(second), len(ahead))
    alive = (ahead > 0) & (behind > 0)
    s = np.where(alive, np.sqrt(ahead / np.where(alive, behind, 1.0)), 1.0)
    s = np.clip(s, 1 / MOST, MOST)
    if pair.tensor in sizes:
        # A factor common to all channels equalises nothing; without it a chain would drift.
        s = np.where(alive, s / np.exp(np.log(s[alive]).mean()), 1.0) if alive.any() else s
        sizes[pair.tensor] = ahead / s
    shape = [1] * first.ndim
    shape[axis] = -1
    first /= s.reshape(shape)
    if len(pair.first.input) > 2 and pair.first.input[2]:
        weights[pair.first.input[2]] /= s
    _scale_inputs(pair.second, second, s)
    return float(np.abs(s - 1).max(initial=0.0))


def _by_input(node: NodeProto, weight: NDArray[np.float64], channels: int) -> NDArray[np.float64]:
    """Largest entry of a layer's weight for each of its input channels."""
    if node.op_type == "Conv":
        rows_GNC = weight.reshape(group_of(node), -1, *weight.shape[1:])
        return np.asarray(rows_GNC.max(axis=(1, *range(3, rows_GNC.ndim))).reshape(channels))
    return np.asarray(weight.max(axis=output_axis(node, weight.ndim)))


def _scale_inputs(node: NodeProto, weight: NDArray[np.float64], s: NDArray[np.float64]) -> None:
    """Multiply a layer's weight by the factor of each input channel, in place."""
    if node.op_type == "Conv":
        groups = group_of(node)
        rows_GNC = weight.reshape(groups, -1, *weight.shape[1:])  # a view
        rows_GNC *= s.reshape(groups, 1, -1, *([1] * (weight.ndim - 2)))
    else:
        weight *= s if output_axis(node, weight.ndim) == 0 else s[:, None]


def _find_pairs(graph: GraphProto) -> tuple[list[_Pair], dict[str, int]]:
    layers = {node.name: node for node in constant_layers(graph)}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    pairs: list[_Pair] = []
    skipped: dict[str, int] = {}
    for first in layers.values():
        tensor = first.output[0]
        while (after := _only_reader(readers, outputs, tensor)) is not None and after.op_type in HOMOGENEOUS:
            tensor = after.output[0]
        if after is None:
            stop = "shared"
        elif after.name not in layers or after.input[0] != tensor:
            stop = after.op_type
        elif _any_shared(readers, first, after):
            stop = "shared"
        else:
            stop = "" if _matches(graph, first, after) else "shape"
        if after is None or stop:
            skipped[stop] = skipped.get(stop, 0) + 1
        else:
            pairs.append(_Pair(first, after, tensor))
    return pairs, dict(sorted(skipped.items()))


def _only_reader(readers: dict[str, list[NodeProto]], outputs: set[str], tensor: str) -> NodeProto | None:
    found = readers.get(tensor, [])
    return found[0] if len(found) == 1 and tensor not in outputs else None


def _any_shared(readers: dict[str, list[NodeProto]], first: NodeProto, second: NodeProto) -> bool:
    """Whether another layer reads a constant that would be scaled."""
    return any(len(readers[name]) > 1 for name in (*_constants(first), *second.input[1:2]))


def _constants(node: NodeProto) -> list[str]:
    return [name for name in node.input[1:] if name]


def _matches(graph: GraphProto, first: NodeProto, second: NodeProto) -> bool:
    """Whether the channels of both are counted alike, and nothing scales a weight inside of a layer."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    weight, other = shapes[first.input[1]], shapes[second.input[1]]
    if len(weight) < 2 or len(other) < 2 or not (is_usual(first) and is_usual(second)):
        return False
    if any(name not in shapes for name in _constants(first)):
        return False
    channels = weight[output_axis(first, len(weight))]
    if second.op_type == "Conv":
        return first.op_type == "Conv" and other[1] * group_of(second) == channels
    return first.op_type != "Conv" and len(other) == 2 and other[1 - output_axis(second, 2)] == channels


def _spread(
    pairs: list[_Pair], weights: dict[str, NDArray[np.float64]], sizes: dict[str, NDArray[np.float64]]
) -> float:
    """Median over the pairs of the largest channel of the values (or of the first weights) to the median one."""
    found = []
    for pair in pairs:
        first = weights[pair.first.input[1]]
        axis = output_axis(pair.first, first.ndim)
        own = np.abs(np.moveaxis(first, axis, 0)).reshape(first.shape[axis], -1).max(1)
        size = sizes.get(pair.tensor, own)
        alive = np.asarray(size)[np.asarray(size) > 0]
        if len(alive):
            found.append(float(alive.max() / np.median(alive)))
    return float(np.median(found)) if found else 1.0
