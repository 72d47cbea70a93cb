"""ONNX operators as torch functions, for graphs that are run, and trained, in torch.

- Only operators that the graphs of our networks have stand in the table; any other is refused by name.
- What an operator takes as a constant (a shape, axes, scales) is read once, when the graph is built.
- The graph is written for one image and runs for many: where a shape begins with 1, the batch is meant.

Shapes are those of ONNX, B first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import NodeProto, helper
from torch import Tensor
from torch.nn import functional

from ..runtime.errors import FoveolaError

Given = Sequence[Tensor | None]  # an operator's inputs in order; None where it has none, or took it as a constant
Function = Callable[[Given], Tensor]
Attributes = Mapping[str, Any]
Constants = Sequence[NDArray[Any] | None]  # the same inputs, where they are constants
Build = Callable[[Attributes, Constants], Function]


def build_operator(node: NodeProto, constants: Constants) -> Function:
    """Make the torch function of a node.

    Args:
        node: of opset 18 or newer, with one output.
        constants: value of each of its inputs that is a constant, None for all others.

    Raises:
        FoveolaError: an operator, or a form of it, that is not known here.
    """
    build = OPERATORS.get(node.op_type) if not node.domain and len(node.output) == 1 else None
    if build is None:
        raise _unknown(f"the operator {node.op_type}")
    return build({entry.name: helper.get_attribute_value(entry) for entry in node.attribute}, constants)


def _unknown(what: str) -> FoveolaError:
    return FoveolaError("graph in torch", f"{what} is not known", "take another backbone, or leave out qat")


def _at(given: Given, place: int) -> Tensor:
    value = given[place]
    assert value is not None
    return value


def _optional(given: Given, place: int) -> Tensor | None:
    return given[place] if place < len(given) else None


def _constant(constants: Constants, place: int) -> NDArray[Any] | None:
    return constants[place] if place < len(constants) else None


def _required(constants: Constants, place: int, what: str) -> NDArray[Any]:
    found = _constant(constants, place)
    if found is None:
        raise _unknown(f"{what} that depends on the image")
    return found


def _one(function: Callable[[Tensor], Tensor]) -> Build:
    return lambda attributes, constants: lambda given: function(_at(given, 0))


def _two(function: Callable[[Tensor, Tensor], Tensor]) -> Build:
    return lambda attributes, constants: lambda given: function(_at(given, 0), _at(given, 1))


def _sides(attributes: Attributes, dimensions: int) -> tuple[list[int], list[int]]:
    """Padding before and after, axis by axis."""
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise _unknown(f"auto_pad {attributes['auto_pad'].decode()}")
    pads = list(attributes.get("pads", [0] * 2 * dimensions))
    return pads[:dimensions], pads[dimensions:]


def _padded(x: Tensor, before: list[int], after: list[int], value: float) -> Tensor:
    flat = [side for pair in reversed(list(zip(before, after, strict=True))) for side in pair]
    return functional.pad(x, flat, value=value)


def _conv(attributes: Attributes, constants: Constants) -> Function:
    dimensions = len(attributes["kernel_shape"])
    if dimensions != 2:
        raise _unknown(f"a convolution in {dimensions} dimensions")
    before, after = _sides(attributes, dimensions)
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    group, even = attributes.get("group", 1), before == after

    def run(given: Given) -> Tensor:
        x = _at(given, 0) if even else _padded(_at(given, 0), before, after, 0.0)
        padding = before if even else [0, 0]
        return functional.conv2d(x, _at(given, 1), _optional(given, 2), strides, padding, dilations, group)

    return run


def _gemm(attributes: Attributes, constants: Constants) -> Function:
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    trans_a, trans_b = attributes.get("transA", 0), attributes.get("transB", 0)

    def run(given: Given) -> Tensor:
        a = _at(given, 0).T if trans_a else _at(given, 0)
        b = _at(given, 1).T if trans_b else _at(given, 1)
        product, bias = a @ b, _optional(given, 2)
        product = product if alpha == 1.0 else alpha * product
        return product if bias is None else product + (bias if beta == 1.0 else beta * bias)

    return run


def _clip(attributes: Attributes, constants: Constants) -> Function:
    low, high = _constant(constants, 1), _constant(constants, 2)
    ends = [None if end is None else float(end) for end in (low, high)]
    return lambda given: _at(given, 0).clamp(ends[0], ends[1])


def _hard_sigmoid(attributes: Attributes, constants: Constants) -> Function:
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    return lambda given: (_at(given, 0) * alpha + beta).clamp(0, 1)


def _gelu(attributes: Attributes, constants: Constants) -> Function:
    how = attributes.get("approximate", b"none").decode()
    return lambda given: functional.gelu(_at(given, 0), approximate=how)


def _softmax(attributes: Attributes, constants: Constants) -> Function:
    return lambda given: _at(given, 0).softmax(attributes.get("axis", -1))


def _concat(attributes: Attributes, constants: Constants) -> Function:
    return lambda given: torch.cat([_at(given, place) for place in range(len(given))], attributes["axis"])


def _max_pool(attributes: Attributes, constants: Constants) -> Function:
    kernel = list(attributes["kernel_shape"])
    before, after = _sides(attributes, len(kernel))
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    up = bool(attributes.get("ceil_mode", 0))
    even = before == after and all(2 * side <= size for side, size in zip(before, kernel, strict=True))

    def run(given: Given) -> Tensor:
        x = _at(given, 0) if even else _padded(_at(given, 0), before, after, -torch.inf)
        return functional.max_pool2d(x, kernel, strides, before if even else 0, dilations, up)

    return run


def _average_pool(attributes: Attributes, constants: Constants) -> Function:
    kernel = list(attributes["kernel_shape"])
    before, after = _sides(attributes, len(kernel))
    if before != after or attributes.get("dilations", [1, 1]) != [1, 1]:
        raise _unknown("an average pool with uneven padding or dilation")
    strides, up = attributes.get("strides", [1, 1]), bool(attributes.get("ceil_mode", 0))
    counted = bool(attributes.get("count_include_pad", 0))
    return lambda given: functional.avg_pool2d(_at(given, 0), kernel, strides, before, up, counted)


def _pad(attributes: Attributes, constants: Constants) -> Function:
    sides = [int(side) for side in _required(constants, 1, "a padding")]
    value = _constant(constants, 2)
    if attributes.get("mode", b"constant") != b"constant" or _constant(constants, 3) is not None or len(sides) != 8:
        raise _unknown("a padding other than with a constant")
    fill = 0.0 if value is None or not value.size else float(value)
    return lambda given: _padded(_at(given, 0), sides[:4], sides[4:], fill)


def _reduce_mean(attributes: Attributes, constants: Constants) -> Function:
    axes = [int(axis) for axis in _required(constants, 1, "axes")]
    keep = bool(attributes.get("keepdims", 1))
    return lambda given: _at(given, 0).mean(axes, keepdim=keep)


def _resize(attributes: Attributes, constants: Constants) -> Function:
    scales, sizes = _constant(constants, 2), _constant(constants, 3)
    mode = attributes.get("mode", b"nearest").decode()
    place = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    nearest = mode == "nearest" and place == "asymmetric" and attributes.get("nearest_mode") == b"floor"
    linear = mode == "linear" and place in ("half_pixel", "pytorch_half_pixel", "align_corners")
    if not (nearest or linear) or attributes.get("antialias", 0):
        raise _unknown(f"a resize by {mode} and {place}")
    if scales is None and sizes is None:
        raise _unknown("a resize that depends on the image")

    def run(given: Given) -> Tensor:
        x = _at(given, 0)
        wanted = sizes if scales is None or not len(scales) else np.floor(np.array(x.shape) * scales)
        assert wanted is not None
        size = [int(side) for side in wanted[2:]]
        if nearest:
            return functional.interpolate(x, size, mode="nearest")
        return functional.interpolate(x, size, mode="bilinear", align_corners=place == "align_corners")

    return run


def _reshape(attributes: Attributes, constants: Constants) -> Function:
    shape = [int(side) for side in _required(constants, 1, "a shape")]
    if shape[:1] != [1] or 0 in shape:
        raise _unknown(f"a reshape to {shape}")
    return lambda given: _at(given, 0).reshape(len(_at(given, 0)), *shape[1:])


def _flatten(attributes: Attributes, constants: Constants) -> Function:
    if attributes.get("axis", 1) != 1:
        raise _unknown(f"a flatten at axis {attributes['axis']}")
    return lambda given: _at(given, 0).flatten(1)


def _transpose(attributes: Attributes, constants: Constants) -> Function:
    return lambda given: _at(given, 0).permute(attributes["perm"])


def _slice(attributes: Attributes, constants: Constants) -> Function:
    starts, ends = (_required(constants, place, "a slice") for place in (1, 2))
    axes, steps = _constant(constants, 3), _constant(constants, 4)
    if steps is not None and (steps < 1).any():
        raise _unknown("a slice that runs backwards")
    over = range(len(starts)) if axes is None else axes
    strides = [1] * len(starts) if steps is None else steps

    def run(given: Given) -> Tensor:
        x = _at(given, 0)
        for axis, start, end, step in zip(over, starts, ends, strides, strict=True):
            x = x[_window(int(axis), int(start), int(end), int(step))]
        return x

    return run


def _window(axis: int, start: int, end: int, step: int) -> tuple[slice, ...]:
    if axis < 0:
        raise _unknown("a slice along an axis counted from the end")
    return (*[slice(None)] * axis, slice(start, min(end, 2**31), step))


def _squeeze(attributes: Attributes, constants: Constants) -> Function:
    axes = tuple(int(axis) for axis in _required(constants, 1, "axes"))
    return lambda given: _at(given, 0).squeeze(axes)


def _unsqueeze(attributes: Attributes, constants: Constants) -> Function:
    axes = sorted(int(axis) for axis in _required(constants, 1, "axes"))

    def run(given: Given) -> Tensor:
        x = _at(given, 0)
        for axis in axes:
            x = x.unsqueeze(axis)
        return x

    return run


OPERATORS: Mapping[str, Build] = {
    "Add": _two(torch.add),
    "AveragePool": _average_pool,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _two(torch.div),
    "Erf": _one(torch.erf),
    "Flatten": _flatten,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _one(lambda x: x.mean((2, 3), keepdim=True)),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _one(functional.hardswish),
    "Identity": _one(lambda x: x),
    "MatMul": _two(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _two(torch.mul),
    "Pad": _pad,
    "Pow": _two(torch.pow),
    "ReduceMean": _reduce_mean,
    "Relu": _one(functional.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _one(torch.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax,
    "Sqrt": _one(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _two(torch.sub),
    "Tanh": _one(torch.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
