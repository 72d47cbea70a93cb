from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from foveola.export.calibrate import Range
from foveola.export.onnx_graph import encode
from foveola.export.quantize import Quantized
from foveola.export.tensorrt.typed import type_float16
from foveola.runtime.errors import FoveolaError

F32 = NDArray[np.float32]


def image() -> F32:
    return np.random.default_rng(2).random((1, 1, 96, 64), np.float32)


def typed(path: Path, **more: Any) -> ModelProto:
    model = onnx.load(path)
    type_float16(model, **more)
    return model


def values(model: ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    known = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return known | {tensor.name: tensor.data_type for tensor in graph.initializer}


def small(
    nodes: list[Any], constants: dict[str, Any], opset: int = 20, shape: tuple[int, ...] = (1, 2, 8, 8)
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def conv(number: int, source: str, target: str, weight: str = "") -> Any:
    return helper.make_node("Conv", [source, weight or f"w{number}"], [target], name=f"conv_{number}")


EYE = np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1)


def test_a_typed_graph_keeps_float32_at_its_face_and_is_half_as_large(float_graph: Path) -> None:
    model = typed(float_graph)

    face = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert face == {TensorProto.FLOAT}
    assert len(encode(model)) < 0.55 * float_graph.stat().st_size


@pytest.mark.parametrize("form", ["float", "signed"])
def test_equal_graphs_give_equal_bytes(float_graph: Path, signed_graph: tuple[Path, Quantized], form: str) -> None:
    path = float_graph if form == "float" else signed_graph[0]

    assert encode(typed(path)) == encode(typed(path))


def test_a_float16_graph_answers_as_the_float32_graph(float_graph: Path, run: Any, sqnr: Any, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    path.write_bytes(encode(typed(float_graph)))

    whole, half = run(float_graph, image()), run(path, image())

    for name, answer in whole.items():
        assert half[name].dtype == np.float32
        assert sqnr(answer, half[name]) > 45 if answer.size > 1 else abs(answer - half[name]).max() < 1e-2


def test_an_int8_graph_has_every_scale_in_the_type_of_what_it_scales(signed_graph: tuple[Path, Quantized]) -> None:
    model = typed(signed_graph[0])
    kinds = values(model)

    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in pairs:
        value = node.input[0] if node.op_type == "QuantizeLinear" else node.output[0]
        assert kinds[node.input[1]] == kinds[value], node.name
    half = [node for node in pairs if kinds[node.input[1]] == TensorProto.FLOAT16]
    assert len(half) > 0.9 * len(pairs)


def test_an_int8_graph_stays_as_close_to_float32_as_its_integers_allow(
    float_graph: Path, signed_graph: tuple[Path, Quantized], run: Any, tmp_path: Path
) -> None:
    path = tmp_path / "half.onnx"
    path.write_bytes(encode(typed(signed_graph[0])))

    exact, whole = (run(one, image()) for one in (float_graph, signed_graph[0]))
    half = run(path, image(), level="ORT_DISABLE_ALL")  # see `reference_options`

    for name, answer in exact.items():
        before, after = (float(np.sqrt(((answer - other[name]) ** 2).mean())) for other in (whole, half))
        assert after < 1.25 * before + 0.005


def test_both_sides_of_an_activation_have_the_same_grid(signed_graph: tuple[Path, Quantized]) -> None:
    model = typed(signed_graph[0])
    scales = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}
    maker = {node.output[0]: node for node in model.graph.node}

    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in maker:
            assert scales[node.input[1]] == scales[maker[node.input[0]].input[1]], node.name


def test_what_comes_before_the_first_layer_stays_float32(float_graph: Path) -> None:
    model = onnx.load(float_graph)

    kept = type_float16(model).float32_nodes

    first = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Conv")
    before = {node.name for node in model.graph.node[:first] if node.op_type != "Cast"}
    assert before
    assert {name for name, reason in kept.items() if reason == "before the first layer"} == before


def test_reductions_and_last_matrix_products_stay_float32(float_graph: Path) -> None:
    model = onnx.load(float_graph)

    kept = type_float16(model).float32_nodes

    kinds = values(model)
    for node in model.graph.node:
        if node.op_type in ("ReduceMean", "GlobalAveragePool", "Gemm"):
            assert node.name in kept
            assert kinds[node.input[0]] == TensorProto.FLOAT


@pytest.mark.parametrize("magnitude", [20_000.0, 1e6])
def test_a_layer_whose_values_leave_float16_on_real_images_stays_float32(magnitude: float) -> None:
    nodes = [conv(1, "image", "a"), conv(2, "a", "b"), conv(3, "b", "out")]
    model = small(nodes, {"w1": EYE, "w2": EYE, "w3": EYE})

    kept = type_float16(model, {"a": Range(0, 1), "b": Range(-magnitude, 1)}).float32_nodes

    assert set(kept) == {"conv_2", "conv_3"}
    assert f"b reaches {magnitude:.3g}" in kept["conv_2"]


def test_a_weight_that_float16_cannot_hold_keeps_its_layer_in_float32() -> None:
    model = small([conv(1, "image", "a"), conv(2, "a", "out")], {"w1": EYE, "w2": EYE * 1e5})

    assert list(type_float16(model).float32_nodes) == ["conv_2"]


def test_a_constant_that_both_types_read_is_stored_once_for_each() -> None:
    nodes = [conv(1, "image", "a", "w"), conv(2, "a", "b", "w"), conv(3, "b", "out")]
    model = small(nodes, {"w": EYE, "w3": EYE})

    type_float16(model, {"a": Range(0, 1), "b": Range(0, 1e6)})  # conv_2 and conv_3 stay float32

    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds == {"w": TensorProto.FLOAT, "w.float16": TensorProto.FLOAT16, "w3": TensorProto.FLOAT}


def test_an_output_that_is_also_read_inside_keeps_its_name_and_type(run: Any, tmp_path: Path) -> None:
    nodes = [conv(1, "image", "out"), conv(2, "out", "second")]
    model = small(nodes, {"w1": EYE, "w2": EYE * 2})
    model.graph.output.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, [1, 2, 8, 8]))
    type_float16(model)
    path = tmp_path / "two.onnx"
    path.write_bytes(encode(model))
    x = np.random.default_rng(1).random((1, 2, 8, 8), np.float32)

    answer = run(path, x)

    assert np.allclose(answer["second"], 2 * x, atol=4e-3)
    assert answer["out"].dtype == np.float32


def test_sizes_of_a_resize_and_exponents_keep_their_types() -> None:
    nodes = [
        conv(1, "image", "a"),
        helper.make_node("Resize", ["a", "", "scales"], ["b"], name="resize_2", mode="nearest"),
        conv(3, "b", "c"),
        helper.make_node("Pow", ["c", "two"], ["out"], name="pow_4"),
    ]
    scales = np.array([1, 1, 2, 2], np.float32)
    model = small(nodes, {"w1": EYE, "w3": EYE, "scales": scales, "two": np.array(2, np.float32)})

    type_float16(model)

    kinds = values(model)
    assert (kinds["scales"], kinds["b"], kinds["two"]) == (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.FLOAT)


def quantised(scale: F32, integers: NDArray[np.int8], opset: int = 20) -> ModelProto:
    nodes = [
        conv(1, "image", "a"),
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["q"], name="a.quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="a.dequantize"),
        helper.make_node("DequantizeLinear", ["i", "w.scale"], ["w"], name="w.dequantize", axis=0),
        conv(2, "d", "b", "w"),
        conv(3, "b", "out"),
    ]
    constants: dict[str, Any] = {"w1": EYE, "w3": EYE, "s": np.array(0.02, np.float32), "z": np.array(0, np.int8)}
    return small(nodes, {**constants, "i": integers, "w.scale": scale}, opset)


def test_a_channel_that_vanishes_in_float16_becomes_zero_and_not_a_scale_of_zero() -> None:
    integers = np.full((2, 2, 1, 1), 100, np.int8)
    model = quantised(np.array([0.01, 1e-12], np.float32), integers)

    type_float16(model)

    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert arrays["w.scale"].dtype == np.float16
    assert (arrays["w.scale"] > 0).all()
    assert arrays["i"][0].tolist() == integers[0].tolist()
    assert not arrays["i"][1].any()


def test_a_layer_whose_scales_lose_their_digits_in_float16_stays_float32() -> None:
    model = quantised(np.array([0.01, 1.3e-6], np.float32), np.full((2, 2, 1, 1), 100, np.int8))

    kept = type_float16(model).float32_nodes

    assert kept == {"conv_2": "w has scales below float16's"}
    assert values(model)["w.scale"] == TensorProto.FLOAT


def test_quantisers_below_opset_19_are_refused_as_they_have_no_float16_scale() -> None:
    model = quantised(np.array([0.01, 0.01], np.float32), np.ones((2, 2, 1, 1), np.int8), opset=18)

    with pytest.raises(FoveolaError, match="opset 18 has no float16 scales; export with opset 19 or newer"):
        type_float16(model)


def test_the_converter_of_onnx_runtime_agrees_where_it_clamps_nothing(
    float_graph: Path, run: Any, tmp_path: Path
) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    theirs = convert_float_to_float16(onnx.load(float_graph), keep_io_types=True)
    (tmp_path / "theirs.onnx").write_bytes(theirs.SerializeToString())
    (tmp_path / "ours.onnx").write_bytes(encode(typed(float_graph)))

    ours, other = run(tmp_path / "ours.onnx", image()), run(tmp_path / "theirs.onnx", image())

    for name, answer in other.items():
        assert np.allclose(ours[name], answer, atol=0.05 * max(1.0, float(np.abs(answer).max())))
