"""Small networks with random weights, written straight as ONNX, whose layers are measured to calibrate a machine.

Together they hold the kinds of layers that students are made of (dense, pointwise and depthwise convolutions, matrix
products, additions, pooling, upsampling, hard-swish gates) from tiny to large. Their answers mean nothing. The same
seed gives the same bytes.

    for name, model in probe_networks().items(): ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ...runtime.engine import INPUT

OPSET, IR = 20, 9
SIDE = 128  # of the probes' input
LARGE_SIDE = 56  # of the layers that show the peak
STREAM = (8, 512, 1024)  # of the addition that shows the bandwidth: 16 MiB, beyond most caches


class _Writer:
    """A graph in the making; each operation takes and gives a tensor's name, whose channels it remembers."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.channels: dict[str, int] = {}

    def start(self, channels: int) -> str:
        self.channels[INPUT] = channels
        return INPUT

    def add(self, operator: str, inputs: list[str], channels: int, **attributes: Any) -> str:
        name = f"{operator.lower()}_{len(self.nodes)}"
        output = f"{name}.out"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=name, **attributes))
        self.channels[output] = channels
        return output

    def constant(self, name: str, values: np.ndarray[Any, Any]) -> str:
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def conv(
        self, x: str, channels: int, kernel: int, *, stride: int = 1, depthwise: bool = False, act: str = "Relu"
    ) -> str:
        groups = self.channels[x] if depthwise else 1
        channels = self.channels[x] if depthwise else channels
        shape = (channels, self.channels[x] // groups, kernel, kernel)
        number = len(self.nodes)
        spread = float(np.sqrt(2.0 / np.prod(shape[1:])))
        weight = self.constant(f"w{number}", self.random.normal(0, spread, shape).astype(np.float32))
        bias = self.constant(f"b{number}", self.random.normal(0, 0.1, channels).astype(np.float32))
        sides = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": groups}
        y = self.add("Conv", [x, weight, bias], channels, **sides)
        return self.add(act, [y], channels) if act else y

    def sum(self, a: str, b: str) -> str:
        return self.add("Add", [a, b], self.channels[a])

    def twice(self, x: str) -> str:
        """Twice the side, nearest neighbour."""
        scales = self.constant(f"s{len(self.nodes)}", np.array([1, 1, 2, 2], np.float32))
        return self.add("Resize", [x, "", scales], self.channels[x], mode="nearest", nearest_mode="floor",
                        coordinate_transformation_mode="asymmetric")  # fmt: skip

    def gate(self, x: str) -> str:
        """Squeeze and excitation."""
        mean = self.add("GlobalAveragePool", [x], self.channels[x])
        inner = self.conv(mean, max(self.channels[x] // 4, 8), 1)
        return self.add("Mul", [x, self.conv(inner, self.channels[x], 1, act="HardSigmoid")], self.channels[x])

    def matrix(self, x: str, channels: int) -> str:
        number = len(self.nodes)
        values = self.random.normal(0, self.channels[x] ** -0.5, (self.channels[x], channels))
        return self.add("MatMul", [x, self.constant(f"w{number}", values.astype(np.float32))], channels)

    def head(self, x: str, answers: int) -> str:
        mean = self.add("GlobalAveragePool", [x], self.channels[x])
        flat = self.add("Flatten", [mean], self.channels[x], axis=1)
        number = len(self.nodes)
        weight = self.constant(
            f"w{number}", self.random.normal(0, 0.05, (answers, self.channels[x])).astype(np.float32)
        )
        return self.add("Gemm", [flat, weight], answers, transB=1)

    def model(self, outputs: list[str], shape: tuple[int, int, int]) -> ModelProto:
        """The finished graph, checked."""
        image = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, *shape])
        ends = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self.nodes, "probe", [image], ends, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        del inferred.graph.value_info[:]
        onnx.checker.check_model(inferred, full_check=True)
        return inferred


def probe_networks() -> Mapping[str, ModelProto]:
    """The networks by name; each takes `image` (1, 1, SIDE, SIDE)."""
    return {
        "separable": _separable(),
        "inverted": _inverted("inverted", 16, gated=False),
        "gated": _inverted("gated", 24, gated=True),
        "residual": _residual("residual", (16, 32, 64, 128)),
        "wide": _residual("wide", (48, 96, 160, 256)),
        "pyramid": _pyramid(),
        "tokens": _tokens(96, 4),
        "mixer": _tokens(160, 3),
    }


def peak_network() -> ModelProto:
    """Large dense and pointwise convolutions, whose best rate is the engine's peak here; input (1, 64, 56, 56)."""
    w = _Writer(1)
    x = w.conv(w.start(64), 256, 1)
    for kernel, channels in ((1, 256), (3, 128), (3, 128), (1, 512), (1, 128)):
        x = w.conv(x, channels, kernel)
    return w.model([w.conv(x, 16, 1, act="")], (64, LARGE_SIDE, LARGE_SIDE))


def stream_network() -> ModelProto:
    """Two additions of large tensors, which the memory's bandwidth bounds; input (1, *STREAM)."""
    w = _Writer(2)
    other = w.constant("other", w.random.normal(0, 1, (1, *STREAM)).astype(np.float32))
    x = w.add("Add", [w.start(STREAM[0]), other], STREAM[0])
    return w.model([w.add("Add", [x, other], STREAM[0])], STREAM)


def _separable() -> ModelProto:
    w = _Writer(3)
    x = w.conv(w.start(1), 24, 3, stride=2)
    for channels, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (192, 2), (256, 1)):
        x = w.conv(w.conv(x, 0, 3, stride=stride, depthwise=True), channels, 1)
    return w.model([w.head(x, 10)], (1, SIDE, SIDE))


def _inverted(name: str, width: int, *, gated: bool) -> ModelProto:
    w = _Writer(len(name))
    x = w.conv(w.start(1), width, 3, stride=2, act="HardSwish" if gated else "Relu")
    for factor, stride, kernel in (
        (1, 1, 3),
        (2, 2, 5),
        (2, 1, 3),
        (4, 2, 5),
        (4, 1, 3),
        (4, 1, 3),
        (8, 2, 5),
        (8, 1, 3),
    ):
        inner = w.conv(x, 4 * w.channels[x], 1, act="HardSwish" if gated else "Relu")
        inner = w.conv(inner, 0, kernel, stride=stride, depthwise=True)
        y = w.conv(w.gate(inner) if gated else inner, factor * width, 1, act="")
        x = w.sum(x, y) if stride == 1 and w.channels[x] == w.channels[y] else y
    return w.model([w.head(w.conv(x, 3 * w.channels[x], 1), 10)], (1, SIDE, SIDE))


def _residual(name: str, widths: tuple[int, ...]) -> ModelProto:
    w = _Writer(len(name) + 20)
    x = w.conv(w.start(1), widths[0], 7, stride=2)
    x = w.add("MaxPool", [x], w.channels[x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for number, width in enumerate(widths):
        stride = 1 if number == 0 else 2
        short = x if stride == 1 else w.conv(x, width, 1, stride=2, act="")
        y = w.conv(w.conv(x, width, 3, stride=stride), width, 3, act="")
        x = w.add("Relu", [w.sum(y, short)], width)
    return w.model([w.head(x, 10)], (1, SIDE, SIDE))


def _pyramid() -> ModelProto:
    w = _Writer(40)
    levels = [w.conv(w.conv(w.start(1), 24, 3, stride=2), 32, 3, stride=2)]
    for channels in (64, 128, 192):
        levels.append(w.conv(w.conv(levels[-1], 0, 3, stride=2, depthwise=True), channels, 1))
    x = w.conv(levels[-1], 64, 1)
    for level in reversed(levels[:-1]):
        x = w.conv(w.sum(w.twice(x), w.conv(level, 64, 1)), 64, 3)
    return w.model([w.conv(x, 4, 1, act=""), w.head(levels[-1], 4)], (1, SIDE, SIDE))


def _tokens(width: int, blocks: int) -> ModelProto:
    """A transformer's blocks without their attention: matrix products on 8 x 8 cells."""
    w = _Writer(41 + blocks)
    x = w.conv(w.conv(w.start(1), 32, 7, stride=4), width, 5, stride=4, act="")
    x = w.add("Reshape", [x, w.constant("cells", np.array([1, width, 64]))], width)
    x = w.add("Transpose", [x], width, perm=[0, 2, 1])
    for number in range(blocks):
        wide = w.matrix(x, (4 if number % 2 else 2) * width)
        x = w.sum(x, w.matrix(w.add("HardSwish", [wide], w.channels[wide]), width))
    mean = w.add("ReduceMean", [x, w.constant("cell_axis", np.array([1]))], width, keepdims=0)
    return w.model([w.matrix(mean, 10)], (1, SIDE, SIDE))
