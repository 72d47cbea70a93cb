"""Quantisation in float: a graph that computes what its int8 form computes, and can be trained.

Laws:

- quantisers stand where `place` puts them, with the grids of `int8_model`; nothing is added, nothing left out;
- a layer's weights are rounded by the very rule of `int8_model`: one symmetric scale an output channel, coarser where
  the device or a bias asks for it; the scale follows the weights and is not learned;
- a gradient passes a rounding as if it were not there (Bengio et al., arXiv 1308.3432), and stops where a value is
  clipped;
- a tensor's step starts from calibration and is learned (LSQ, Esser et al., ICLR 2020, eq. 3), as its logarithm, since
  Adam's steps have one size for all parameters (TQT, Jain et al., MLSys 2020, sec. 5.2), or follows the extremes of
  the batches (Jacob et al., CVPR 2018, sec. 3.1), or stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import torch
from onnx import NodeProto
from torch import Tensor, nn

from .calibrate import Range
from .integer_weights import BIAS_STEPS, Overflow, Rule, WeightBits, group_of, most_steps, output_axis, rule_of
from .quantize import Calibrated
from .saturation.pairs import FITTED_PAIR, is_depthwise, orders_of
from .torch_graph import Step, TorchGraph
from .weight_units import weight_units

Steps = Literal["learned", "average", "fixed"]

UNSIGNED = (0, 255)  # after a rectifier: zero point 0
CENTRED = (-128, 127)  # zero point 128 of a uint8, seen from zero
FOLLOW = 0.01  # share of a batch's extreme in the moving average


class _Layer(msgspec.Struct, frozen=True):
    """A layer with integer weights."""

    entry: str  # tensor that it reads
    weight: str
    bias: str
    axis: int  # of the weight's output channels
    group: int


class QuantisedGraph(TorchGraph):
    """A calibrated graph with fake quantisers; its answers are those of the int8 graph but for rounding.

    Args:
        calibrated: in the unsigned form; its ranges are where the steps start.
        weight_bits: of the device.
        overflow: the cure where they are 7.
        steps: whether the activations' steps are `learned`, follow an `average` of the extremes, or stay `fixed`.
        trained: which initializers are parameters, by name.

    Raises:
        FoveolaError: an operator that is not known.
    """

    def __init__(
        self,
        calibrated: Calibrated,
        *,
        weight_bits: WeightBits = 8,
        overflow: Overflow = "seven",
        steps: Steps = "learned",
        trained: Callable[[str], bool] = lambda name: True,
    ) -> None:
        super().__init__(calibrated.model, trained, weight_units(calibrated.model, calibrated.ranges))
        if calibrated.form != "unsigned":
            raise ValueError("the signed form has other grids")
        self.rule: Rule = rule_of(weight_bits, overflow)
        self.how: Steps = steps
        placement = calibrated.placement
        dimensions = {tensor.name: len(tensor.dims) for tensor in calibrated.model.graph.initializer}
        self.layers = {
            node.name: _layer(node, dimensions[node.input[1]])
            for node in calibrated.model.graph.node
            if node.name in placement.layers
        }
        origins = sorted(placement.measured)
        self.place = {name: origins.index(origin) for name, origin in placement.tensors.items()}
        self.unsigned = [calibrated.ranges[origin].low >= 0 for origin in origins]
        starts = [_step_of(calibrated.ranges[origin]) for origin in origins]
        self.log_steps = nn.Parameter(torch.tensor(starts, dtype=torch.float64).log2().float(), steps == "learned")
        self._origins = set(origins)

    def see(self, name: str, value: Tensor) -> Tensor:
        """The value on its grid, where a quantiser stands behind it."""
        place = self.place.get(name)
        if place is None:
            return value
        low, high = UNSIGNED if self.unsigned[place] else CENTRED
        if self.training and self.how == "average" and name in self._origins:
            self._follow(place, value.detach(), high)
        if self.how != "learned":
            return rounded(value, self.log_steps[place].detach(), low, high)
        return rounded(value, self.log_steps[place], low, high)

    def stored(self, step: Step, name: str) -> Tensor | None:
        """A layer's weight on its grid; anything else as it is."""
        found = super().stored(step, name)
        layer = self.layers.get(step.name)
        if layer is None or name != layer.weight or found is None:
            return found
        bias = super().stored(step, layer.bias) if layer.bias else None
        with torch.no_grad():
            scale = self._weight_scale(found, bias, layer)
            most = most_steps(self.rule)
            near = torch.round(found / scale).clamp_(-most, most).mul_(scale)
        return near + (found - found.detach())  # exactly `near`, with the gradient of the weight

    def ranges(self) -> dict[str, Range]:
        """The range of every tensor that has a quantiser, as `int8_model` takes them."""
        found = {}
        for name, place in self.place.items():
            step = float(self.log_steps[place].detach().exp2())
            found[name] = Range(0.0, step * 255) if self.unsigned[place] else Range(-step * 127, step * 127)
        return found

    def _weight_scale(self, weight: Tensor, bias: Tensor | None, layer: _Layer) -> Tensor:
        """Scale of each output channel, shaped as the weight; the rule of `integer_weights`."""
        rows = weight.movedim(layer.axis, 0)
        largest = rows.abs().amax(tuple(range(1, rows.dim()))).double()
        scale = largest / most_steps(self.rule)
        if self.rule == "fit" and not is_depthwise(tuple(rows.shape), layer.group):
            scale = torch.maximum(scale, largest_pair(rows.double()) / FITTED_PAIR)
        if bias is not None and bias.shape == scale.shape:
            entry = self.log_steps[self.place[layer.entry]].exp2().double()
            scale = torch.maximum(scale, bias.double().abs() / (entry * BIAS_STEPS))
        tiny = torch.finfo(torch.float32).tiny
        scale = torch.where(scale > tiny, scale, torch.ones_like(scale)).float()
        shape = [1] * weight.dim()
        shape[layer.axis] = -1
        return scale.reshape(shape)

    @torch.no_grad()
    def _follow(self, place: int, value: Tensor, steps: int) -> None:
        seen = value.amax() if self.unsigned[place] else value.abs().amax()
        wanted = (seen / steps).clamp(min=1e-12)
        step = self.log_steps[place].exp2()
        self.log_steps[place] = (step + FOLLOW * (wanted - step)).log2()


def _layer(node: NodeProto, dimensions: int) -> _Layer:
    bias = node.input[2] if len(node.input) > 2 else ""
    return _Layer(node.input[0], node.input[1], bias, output_axis(node, dimensions), group_of(node))


def _step_of(extent: Range) -> float:
    """The step of `quantize._grid`."""
    magnitude, steps = (extent.high, 255) if extent.low >= 0 else (extent.magnitude, 127)
    return magnitude / steps if magnitude > torch.finfo(torch.float32).tiny * steps else 1.0


def largest_pair(rows: Tensor) -> Tensor:
    """`saturation.pairs.largest_pair` in torch: what the worst pair of neighbours of each output can draw, (N,)."""
    found = []
    for order in orders_of(tuple(rows.shape)):
        laid = rows.movedim(1, -1)
        laid = nn.functional.pad(laid, (0, laid.shape[-1] % 2)) if order == "channels" else laid
        flat = laid.reshape(len(rows), -1)
        pairs = nn.functional.pad(flat, (0, flat.shape[-1] % 2)).reshape(len(rows), -1, 2)
        found.append(torch.maximum(pairs.clamp(min=0).sum(-1), -pairs.clamp(max=0).sum(-1)).amax(1))
    return torch.stack(found).amax(0)


def rounded(value: Tensor, log_step: Tensor, low: int, high: int) -> Tensor:
    """The value on the grid of steps `2 ** log_step` from `low` to `high`; see the file's law for its gradients."""
    found: Tensor = _Rounded.apply(value, log_step, low, high)
    return found


class _Rounded(torch.autograd.Function):
    """LSQ: the step's gradient is the rounding error inside the range and the end of the grid outside of it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, log_step: Tensor, low: int, high: int) -> Tensor:
        step = log_step.exp2()
        ctx.save_for_backward(value, step)
        ctx.ends = (low, high)
        return (value / step).round_().clamp_(low, high).mul_(step)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (gradient,) = gradients
        value, step = ctx.saved_tensors
        low, high = ctx.ends
        ratio = value / step
        inside = (ratio >= low) & (ratio <= high)
        passed = torch.where(inside, gradient, torch.zeros_like(gradient))
        if not ctx.needs_input_grad[1]:
            return passed, None, None, None
        error = ratio.round().clamp_(low, high).sub_(torch.where(inside, ratio, torch.zeros_like(ratio)))
        size = 1 / math.sqrt(value.numel() * high)  # LSQ, sec. 2.2
        # A step's logarithm to base 2 has the step's gradient times step * ln 2.
        slope = (gradient * error).sum() * step * math.log(2) * size
        return passed, slope.reshape(()), None, None
