"""What a graph asks of a device: counted here, and counted by others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from foveola.export.graph_facts import graph_facts, layer_work
from foveola.export.input_words import take_words
from foveola.export.onnx_graph import export_onnx
from foveola.export.quantize import Quantized
from foveola.export.tensorrt.typed import type_float16
from foveola.runtime.manifest import InputSpec

F, I64 = TensorProto.FLOAT, TensorProto.INT64


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    output: Sequence[int | str],
    constants: dict[str, Any] | None = None,
    image: Sequence[int | str] = (1, 3, 8, 8),
) -> Path:
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", F, image)],
        [helper.make_tensor_value_info("out", F, output)],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def facts(path: Path, **others: Any) -> Any:
    return graph_facts(path, **{"engine": "onnxruntime", "arithmetic": "float32", **others})


def test_the_multiply_adds_of_a_network_are_those_that_torch_counts(
    network: Any, float_graph: Path, int8_graph: tuple[Path, Quantized]
) -> None:
    # An oracle that nobody here wrote: torch counts two operations for each multiply-add as the operators run.
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, 96, 64))

    for path in (float_graph, int8_graph[0]):
        assert 2 * sum(layer.macs for layer in layer_work(path)) == counter.get_total_flops()


def test_the_work_of_a_convolution_and_a_product_is_that_of_paper(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], name="dense", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "d"], ["c"], name="depthwise", group=16, pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "g", "bias"], ["out"], name="gemm", transB=1),
    ]
    random = np.random.default_rng(0)
    shapes = {"w": (16, 3, 3, 3), "d": (16, 1, 3, 3), "g": (5, 16), "bias": (5,)}
    path = write(tmp_path / "g.onnx", nodes, (1, 5), {k: random.random(v, dtype=np.float32) for k, v in shapes.items()})

    found = {layer.name: layer for layer in layer_work(path)}

    assert list(found) == ["dense", "depthwise", "pool", "gemm"]  # a rectifier and a change of name cost nothing
    assert found["dense"].macs == 16 * 4 * 4 * 3 * 3 * 3
    assert found["dense"].bytes_moved == 4 * (3 * 8 * 8 + 16 * 3 * 9 + 16 * 4 * 4)
    assert found["dense"].channels == (3, 16)
    assert found["depthwise"].macs == 16 * 4 * 4 * 9
    assert found["depthwise"].channels == (0, 0)
    assert found["pool"].macs == 0
    assert found["pool"].bytes_moved == 4 * (16 * 4 * 4 + 16)
    assert found["gemm"].macs == 5 * 16
    assert found["gemm"].bytes_moved == 4 * (16 + 5 * 16 + 5 + 5)
    assert sorted(found["gemm"].channels) == [5, 16]
    assert {layer.arithmetic for layer in found.values()} == {"float32"}


def test_layers_with_integer_weights_move_bytes_and_the_heads_move_floats(
    float_graph: Path, int8_graph: tuple[Path, Quantized]
) -> None:
    path, done = int8_graph

    floats, integers = layer_work(float_graph), layer_work(path)

    kinds = [layer.arithmetic for layer in integers if layer.macs]
    assert kinds.count("int8") == done.int8_layers
    assert kinds.count("float32") == len(done.float_layers)
    before = {layer.name: layer for layer in floats}
    for layer in integers:
        if layer.arithmetic == "int8":
            assert layer.macs == before[layer.name].macs
            assert before[layer.name].bytes_moved == pytest.approx(4 * layer.bytes_moved, rel=0.05)


def test_a_typed_graph_moves_two_bytes_a_number(float_graph: Path, tmp_path: Path) -> None:
    model = onnx.load(float_graph)
    type_float16(model)
    onnx.save(model, tmp_path / "half.onnx")

    halves = [layer for layer in layer_work(tmp_path / "half.onnx") if layer.macs]

    assert {layer.arithmetic for layer in halves} == {"float16"}
    whole = {layer.name: layer.bytes_moved for layer in layer_work(float_graph)}
    assert sum(layer.bytes_moved for layer in halves) == pytest.approx(
        sum(whole[layer.name] for layer in halves if layer.name in whole) / 2, rel=0.02
    )


def test_the_facts_of_the_portable_int8_graph(int8_graph: tuple[Path, Quantized]) -> None:
    found = facts(int8_graph[0], arithmetic="int8")

    assert (found.opset, found.static, found.open_axes, found.data_dependent) == (20, True, (), ())
    assert (found.activations, found.weights, found.weight_bits) == ("unsigned", "signed", 8)
    assert {"float32", "int8", "uint8"} <= set(found.types)
    assert "float64" not in found.types
    assert not found.saturation_safe
    assert len(found.nodes) == len(onnx.load(int8_graph[0]).graph.node)


def test_the_facts_of_the_signed_graph_and_of_a_float_one(
    signed_graph: tuple[Path, Quantized], float_graph: Path
) -> None:
    signed, plain = facts(signed_graph[0], arithmetic="int8"), facts(float_graph)

    assert (signed.activations, signed.weights) == ("signed", "signed")
    assert (plain.activations, plain.weights, plain.weight_bits) == (None, None, None)
    assert set(plain.types) <= {"float32", "int64"}


def test_an_open_axis_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "g.onnx", [helper.make_node("Relu", ["image"], ["out"], name="r")], ("n", 3, 8, 8),
                 image=("n", 3, 8, 8))  # fmt: skip

    assert facts(path).open_axes == ("image[0]", "out[0]")
    assert not facts(path).static


def test_an_operator_whose_result_s_shape_follows_from_the_data_is_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["image"], ["where"], name="find"),
        helper.make_node("Cast", ["where"], ["out"], name="cast", to=F),
    ]
    found = facts(write(tmp_path / "g.onnx", nodes, (4, "n")))

    assert found.data_dependent == ("find",)
    assert "out[1]" in found.open_axes


def test_nodes_of_inner_graphs_and_of_other_domains_are_seen(tmp_path: Path) -> None:
    inner = [
        helper.make_graph(
            [helper.make_node(kind, ["image"], [f"{kind}.out"], name=kind)], kind, [],
            [helper.make_tensor_value_info(f"{kind}.out", F, (1, 3, 8, 8))],
        )
        for kind in ("Selu", "Mish")
    ]  # fmt: skip
    node = helper.make_node("If", ["yes"], ["a"], name="if", then_branch=inner[0], else_branch=inner[1])
    other = helper.make_node("Gelu", ["a"], ["out"], domain="com.microsoft")
    path = write(tmp_path / "g.onnx", [node, other], (1, 3, 8, 8), {"yes": np.array(True)})

    found = facts(path)

    assert [one.operator for one in found.nodes] == ["If", "Mish", "Selu", "com.microsoft.Gelu"]
    assert found.nodes[-1].name == "Gelu that makes out"
    assert found.data_dependent == ("if",)


@pytest.mark.parametrize(("largest", "bits"), [(127, 8), (64, 8), (63, 7), (8, 7), (7, 4)])
def test_the_bits_of_the_weights_are_those_of_the_largest(tmp_path: Path, largest: int, bits: int) -> None:
    weights = np.zeros((4, 3, 1, 1), np.int8)
    weights[0, 0] = -largest
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], name="weights"),
        helper.make_node("Conv", ["image", "d"], ["out"], name="conv"),
    ]
    constants = {"w": weights, "s": np.array(0.5, np.float32)}

    assert facts(write(tmp_path / "g.onnx", nodes, (1, 4, 8, 8), constants)).weight_bits == bits


def test_words_are_a_type_of_their_own(float_graph: Path, tmp_path: Path) -> None:
    take_words(float_graph, tmp_path / "words.onnx")

    found = facts(tmp_path / "words.onnx")

    assert "uint16" in found.types
    assert sum(layer.macs for layer in layer_work(tmp_path / "words.onnx")) == sum(
        layer.macs for layer in layer_work(float_graph)
    )


def test_every_node_has_the_module_that_it_comes_from(tmp_path: Path) -> None:
    from torch import Tensor, nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardswish())

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.body(x)}

    path = tmp_path / "net.onnx"
    origins = export_onnx(Net().eval(), InputSpec(height=8, width=8, channels=3), ["out"], path, opset=20)

    found = facts(path, origins=origins, artefact="tiny")

    assert [(node.operator, node.origin) for node in found.nodes] == [("Conv", "body.0"), ("HardSwish", "body.1")]
    assert found.nodes[0].shapes[0] == (4, 3, 3, 3)
    assert found.artefact == "tiny"
