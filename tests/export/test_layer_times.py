"""Times of layers: what engines fuse goes to the layer, what they add is told apart, every layer is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from foveola.export.graph_facts import layer_work
from foveola.export.layer_times import _attributed as attributed
from foveola.export.layer_times import _Kernel as Kernel
from foveola.export.layer_times import _middle as middle
from foveola.export.layer_times import layer_times
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import OnnxRuntimeOptions, OpenVinoOptions, TensorRtOptions

ENGINES = [
    pytest.param(OnnxRuntimeOptions(threads=1), id="onnxruntime"),
    pytest.param(OpenVinoOptions(threads=1), id="openvino"),
]
IMAGE = np.random.default_rng(0).random((1, 1, 96, 64), np.float32)


def block() -> onnx.GraphProto:
    """Two convolutions, a rectified addition of both, and quantisers behind it that a hard swish reads."""
    weight = [numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), name) for name in ("w1", "w2")]
    grid = [
        numpy_helper.from_array(np.array(1, np.float32), "scale"),
        numpy_helper.from_array(np.array(0, np.uint8), "zero"),
    ]
    x, steps = "relu_3.out", ("scale", "zero")
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["conv_0.out"], name="conv_0"),
        helper.make_node("Conv", ["conv_0.out", "w2"], ["conv_1.out"], name="conv_1"),
        helper.make_node("Add", ["conv_0.out", "conv_1.out"], ["add_2.out"], name="add_2"),
        helper.make_node("Relu", ["add_2.out"], [x], name="relu_3"),
        helper.make_node("QuantizeLinear", [x, *steps], [f"{x}.quantized"], name=f"{x}.quantize"),
        helper.make_node("DequantizeLinear", [f"{x}.quantized", *steps], [f"{x}.dequantized"], name=f"{x}.dequantize"),
        helper.make_node("HardSwish", [f"{x}.dequantized"], ["end"], name="hardswish_4"),
    ]  # fmt: skip
    shape = [1, 2, 4, 4]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "end")]
    return helper.make_graph(nodes, "block", ends[:1], ends[1:], [*weight, *grid])


def kernel(name: str, operator: str, ms: float = 1.0, *also: str) -> Kernel:
    return Kernel((name, *also), operator, ms)


def test_a_kernel_belongs_to_the_node_that_it_is_named_for() -> None:
    found, own = attributed([kernel("conv_0", "Conv"), kernel("conv_1_token_18", "QLinearConv", 2.0)], block())

    assert (found, own) == ({"conv_0": 1.0, "conv_1": 2.0}, 0.0)


def test_a_convolution_that_is_named_for_what_it_took_in_is_the_one_without_a_kernel_of_its_own() -> None:
    kernels = [kernel("conv_0.out_nchwc", "Conv", 3.0), kernel("relu_3.out_nchwc", "Conv", 4.0)]

    found, own = attributed(kernels, block())

    assert (found, own) == ({"conv_0": 3.0, "conv_1": 4.0}, 0.0)


def test_of_several_fused_layers_the_convolution_is_named() -> None:
    fused = kernel("conv_1/WithoutBiases", "Convolution", 5.0, "add_2", "relu_3.out.quantize")

    found, _ = attributed([kernel("conv_0", "Convolution"), fused], block())

    assert found == {"conv_0": 1.0, "conv_1": 5.0}


def test_a_conversion_is_paid_for_by_who_reads_floats_and_a_change_of_layout_by_the_engine() -> None:
    kernels = [
        kernel("relu_3.out.quantize", "QuantizeLinear", 0.5),
        kernel("relu_3.out.dequantize", "DequantizeLinear", 0.25),
        kernel("hardswish_4", "HardSwish", 1.0),
        kernel("ReorderOutput", "ReorderOutput", 7.0),
        kernel("Transpose", "Transpose", 8.0),
    ]

    found, own = attributed(kernels, block())

    assert found == {"add_2": 0.5, "hardswish_4": 1.25}
    assert own == 15.0


def test_the_middle_half_leaves_out_what_was_disturbed() -> None:
    assert middle([1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 90.0, 0.0]) == pytest.approx(1.75)


@pytest.mark.parametrize("options", ENGINES)
def test_every_layer_of_a_graph_has_its_time_in_an_engine(
    options: Any, float_graph: Path, int8_graph: tuple[Path, object]
) -> None:
    for path in (float_graph, int8_graph[0]):
        found = layer_times(path, options, IMAGE, runs=5)

        work = layer_work(path)
        layers = {one.name for one in work if one.macs}
        assert layers <= found.layers.keys()
        assert found.layers.keys() <= {one.name for one in work}
        assert all(found.layers[name] > 0 for name in layers)
        assert found.whole_ms > 0
        assert (found.engine, found.threads, found.runs) == (_name(options), 1, 5)


def test_an_engine_without_a_profile_by_layers_is_refused(float_graph: Path) -> None:
    with pytest.raises(FoveolaError, match="tells no times of layers here"):
        layer_times(float_graph, TensorRtOptions(), IMAGE)


def test_a_graph_that_an_engine_refuses_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no graph")

    for options in (OnnxRuntimeOptions(threads=1), OpenVinoOptions(threads=1)):
        with pytest.raises(FoveolaError, match="open|read") as told:
            layer_times(path, options, IMAGE)
        assert "\n" not in str(told.value)


def _name(options: object) -> str:
    return "onnxruntime" if isinstance(options, OnnxRuntimeOptions) else "openvino"
