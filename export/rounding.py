"""Learned rounding: each weight up or down, as the layer's answer asks and not as the number lies (AdaRound).

Nagel et al., ICML 2020. The nearest integer is not the best one: errors of neighbouring weights can cancel. Layer by
layer from the input on, rounding is learned so that the layer, reading what the int8 graph gives it, comes nearest to
what it answers in float (their asymmetric reconstruction, eq. 25, without the activation).

As a layer is linear, its squared error on all positions of all images is a quadratic form of the rounding, D H D' +
2 D A + constant, with D the rounding errors, H the Gram matrix of the int8 inputs and A the error that they bring. So
the whole calibration set is in two matrices, and memory does not grow with the images; K inputs of one output channel
take K x K numbers, and a layer with more than MOST_INPUTS of them is left to the nearest.

1. Continuous: rectified sigmoids with an annealed pull to 0 or 1 (eq. 21 to 24), by Adam.
2. Discrete: single weights are flipped as long as that lowers the error: from the result of 1, and from the nearest.
3. The better of the two is kept; where neither is better than the nearest, the nearest.

Shapes: G groups, N outputs and K inputs of a group's channel, L positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor
from torch.nn import functional

from .corrections import Corrections
from .integer_weights import Rule, dequantiser, group_of, most_steps, rule_of, to_integers
from .partial import constant_layers, is_usual, open_partial
from .quantize import Calibrated, Overflow, WeightBits, int8_model
from .saturation.pairs import cannot_saturate

F32 = NDArray[np.float32]
Progress = Callable[[int, int], None]

MOST_INPUTS = 4608  # K: a 3x3 convolution of 512 channels; its Gram matrix has 85 MB
STEPS = 300
RATE = 0.02
PULL = 0.02  # weight of the pull to 0 or 1, against an error of 1 for the nearest rounding
STRETCH = (-0.1, 1.1)  # of the rectified sigmoid (eq. 23)
WARM = 0.2  # share of the steps without the pull (sec. 4)
ANNEAL = (20.0, 2.0)  # beta, from first to last (eq. 24)


class Rounded(msgspec.Struct, frozen=True, kw_only=True):
    """What learning did to one layer: squared error relative to that of rounding to the nearest."""

    layer: str
    error: float  # 1: nothing was gained, the nearest is kept
    flipped: float  # share of the weights that are not at the nearest integer
    why: str = ""  # why the nearest is kept


class _Moments(msgspec.Struct, eq=False):
    """The Gram matrix of a layer's int8 inputs (G, K, K), that with its float answers (G, K, N), and these squared."""

    gram: Tensor
    cross: Tensor
    energy: float


def learn_rounding(
    calibrated: Calibrated,
    images: Callable[[], Iterable[F32]],
    *,
    weight_bits: WeightBits = 8,
    overflow: Overflow = "seven",
    progress: Progress | None = None,
) -> tuple[Corrections, tuple[Rounded, ...]]:
    """Learn the rounding of every quantised layer.

    Args:
        calibrated: float graph and ranges.
        images: gives the images (1, C, H, W) again and again, once a layer.
        weight_bits: of the weights that are written.
        overflow: their rule; a rounding that would break the rule's proof is dropped.
        progress: called with (done, layers).

    Returns:
        Corrections with the roundings (and the biases that were there), and what was gained by layer.
    """
    rule = rule_of(weight_bits, overflow)
    layers = [node for node in constant_layers(calibrated.model.graph) if node.name in calibrated.placement.layers]
    biases = calibrated.corrections.under(rule).biases
    calibrated = msgspec.structs.replace(calibrated, corrections=Corrections(biases=biases, rule=rule))
    model = int8_model(
        calibrated,
        weight_bits=weight_bits,
        overflow=overflow,
    )
    rounded: dict[str, NDArray[np.bool_]] = {}
    account = []
    for number, node in enumerate(layers):
        up, gained = _learn_layer(node, calibrated, model, images, rule)
        if up is not None:
            rounded[node.name] = up
        account.append(gained)
        if progress is not None:
            progress(number + 1, len(layers))
    return Corrections(biases=biases, rounded_up=rounded, rule=rule), tuple(account)


def _learn_layer(
    node: NodeProto, calibrated: Calibrated, model: ModelProto, images: Callable[[], Iterable[F32]], rule: Rule
) -> tuple[NDArray[np.bool_] | None, Rounded]:
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    plain = {
        t.name: np.array(numpy_helper.to_array(t)) for t in calibrated.model.graph.initializer if t.name in node.input
    }
    weight = plain[node.input[1]]
    bias = calibrated.corrections.biases.get(node.name, plain.get(node.input[2]) if len(node.input) > 2 else None)
    step = np.float32(numpy_helper.to_array(stored[f"{node.input[0]}.scale"]))
    nearest = to_integers(node, weight, bias, step, rule)
    axis, groups = nearest.axis, group_of(node)
    rows = np.moveaxis(weight / nearest.scale, axis, 0)
    kept = Rounded(layer=node.name, error=1.0, flipped=0.0)
    if rows[0].size > MOST_INPUTS or not is_usual(node):
        return None, msgspec.structs.replace(kept, why="too large, or of an unusual kind")
    moments = _moments(node, calibrated.model, model, images, groups)
    problem = _Problem(_by_group(rows, groups), _by_group(nearest.scales, groups), moments, most_steps(rule))
    best = problem.solve()
    before, after = problem.error(problem.nearest), problem.error(best)
    if not after < before:
        return None, msgspec.structs.replace(kept, why="the nearest is best")
    up = np.moveaxis(best.numpy().reshape(rows.shape) > 0.5, 0, axis)
    found = to_integers(node, weight, bias, step, rule, up)
    if rule == "fit" and not cannot_saturate(np.moveaxis(found.integers, axis, 0), groups):
        return None, msgspec.structs.replace(kept, why="16-bit sums could overflow")
    for constant in dequantiser(node, found, rule)[1]:
        stored[constant.name].CopyFrom(constant)
    flipped = float((found.integers != nearest.integers).mean())
    return up, Rounded(layer=node.name, error=after / max(before, 1e-30), flipped=flipped)


def _by_group(rows: NDArray[np.floating], groups: int) -> Tensor:
    """Channels (C, ...) as (G, N, K)."""
    return torch.from_numpy(np.array(rows, np.float64)).reshape(groups, len(rows) // groups, -1)


def _moments(
    node: NodeProto, plain: ModelProto, model: ModelProto, images: Callable[[], Iterable[F32]], groups: int
) -> _Moments:
    """Sum a layer's products of int8 inputs and float answers over all images and positions."""
    (twin,) = (one for one in model.graph.node if one.name == node.name)
    inside, outside = open_partial(model, [twin.input[0]]), open_partial(plain, [node.output[0]])
    biases = {t.name: numpy_helper.to_array(t) for t in plain.graph.initializer if t.name in node.input[2:3]}
    bias = next(iter(biases.values()), np.zeros(1, np.float32))
    gram, cross, energy = torch.zeros(1), torch.zeros(1), 0.0
    for image in images():
        x_GKL = _columns(node, inside(image)[twin.input[0]], plain, groups)
        y_NL = _answers(node, outside(image)[node.output[0]], bias)
        y_GNL = torch.from_numpy(y_NL).reshape(groups, -1, y_NL.shape[1])
        gram = gram + (x_GKL @ x_GKL.mT).double()
        cross = cross + (x_GKL @ y_GNL.mT).double()
        energy += float(y_GNL.double().square().sum())
    return _Moments(gram, cross, energy)


def _columns(node: NodeProto, x: F32, plain: ModelProto, groups: int) -> Tensor:
    """A layer's input as (G, K, L): what each position of the answer is a product with."""
    if node.op_type != "Conv":
        return torch.from_numpy(np.ascontiguousarray(x.reshape(-1, x.shape[-1]).T))[None]
    settings = {a.name: tuple(a.ints) for a in node.attribute if a.ints}
    (kernel,) = (tuple(t.dims[2:]) for t in plain.graph.initializer if t.name == node.input[1])
    top, left, bottom, right = settings.get("pads", (0, 0, 0, 0))
    padded = functional.pad(torch.from_numpy(np.array(x)), (left, right, top, bottom))
    columns = functional.unfold(
        padded, kernel, dilation=settings.get("dilations", (1, 1)), stride=settings.get("strides", (1, 1))
    )
    return columns.reshape(groups, -1, columns.shape[-1])


def _answers(node: NodeProto, y: F32, bias: F32) -> F32:
    """A layer's answer without its bias as (N, L)."""
    if node.op_type == "Conv":
        return np.ascontiguousarray(y[0].reshape(y.shape[1], -1) - bias.reshape(-1, 1))
    return np.ascontiguousarray((y.reshape(-1, y.shape[-1]) - bias).T)


class _Problem:
    """The rounding of one layer as a quadratic form; a rounding is u (G, N, K), 1 where up and 0 where down."""

    def __init__(self, steps: Tensor, scales: Tensor, moments: _Moments, most: int) -> None:
        self.floor, self.steps, self.scales = steps.floor(), steps, scales
        self.gram = moments.gram
        weight = steps * scales
        self.linear = weight @ moments.gram - moments.cross.mT  # (G, N, K)
        self.constant = moments.energy + float(((weight @ moments.gram - 2 * moments.cross.mT) * weight).sum())
        self.fixed = (self.floor < -most) | (self.floor + 1 > most)  # one way only
        self.nearest = (steps.round() > self.floor).double()

    def error(self, up: Tensor) -> float:
        """Squared error of the layer's answer on all positions of all images."""
        off = self._off(up)
        return float(((off @ self.gram + 2 * self.linear) * off).sum()) + self.constant

    def solve(self) -> Tensor:
        """The best rounding found; see the steps at the head of this file."""
        found = [self.flip(self.nearest), self.flip(self.anneal())]
        return min([*found, self.nearest], key=self.error)

    def anneal(self) -> Tensor:
        """AdaRound proper: rectified sigmoids pulled to 0 or 1."""
        low, high = STRETCH
        share = (self.steps - self.floor).clamp(0.01, 0.99)
        v = torch.logit((share - low) / (high - low)).float().requires_grad_()
        gram, linear, floor = self.gram.float(), self.linear.float(), self.floor - self.steps
        offset, scales = floor.float(), self.scales.float()
        unit = max(self.error(self.nearest), 1e-30)
        adam = torch.optim.Adam([v], RATE)
        for step in range(STEPS):
            h = (torch.sigmoid(v) * (high - low) + low).clamp(0, 1)
            off = (offset + h) * scales
            loss = ((off @ gram + 2 * linear) * off).sum() / unit
            past = (step / STEPS - WARM) / (1 - WARM)
            if past > 0:
                beta = ANNEAL[1] + 0.5 * (ANNEAL[0] - ANNEAL[1]) * (1 + math.cos(math.pi * past))
                loss = loss + PULL * (1 - (2 * h - 1).abs() ** beta).mean() * 100
            adam.zero_grad()
            loss.backward()
            adam.step()
        up = (v.detach() > 0).double()
        return torch.where(self.fixed, self.nearest, up)

    def flip(self, up: Tensor) -> Tensor:
        """Flip the one weight of each channel that lowers its error most, as long as one does."""
        up = up.clone()
        off = self._off(up)
        slope = 2 * (off @ self.gram + self.linear)
        own = self.gram.diagonal(dim1=1, dim2=2)[:, None]  # (G, 1, K)
        group = torch.arange(len(up))[:, None]
        for _ in range(up.shape[-1]):
            move = self.scales * (1 - 2 * up)
            change = (slope * move + own * move.square()).masked_fill(self.fixed, 0)
            best, place = change.min(-1)
            if not (best < 0).any():
                break
            step = torch.where(best < 0, move.gather(-1, place[..., None])[..., 0], torch.zeros_like(best))
            slope += 2 * step[..., None] * self.gram[group, place]
            flipped = 1 - up.gather(-1, place[..., None])
            up.scatter_(-1, place[..., None], torch.where(best[..., None] < 0, flipped, 1 - flipped))
        return up

    def _off(self, up: Tensor) -> Tensor:
        return (self.floor + up - self.steps) * self.scales
