from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from foveola.export.quantize import Quantized
from foveola.export.tensorrt.operators import LINES, OPERATORS, OPSETS, Line
from foveola.export.tensorrt.rules import check_tensorrt, require_tensorrt
from foveola.export.tensorrt.typed import type_float16
from foveola.runtime.errors import FoveolaError

F = TensorProto.FLOAT


def pair(source: str, target: str, scale: str = "s", zero: str = "z") -> list[NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [source, scale, zero], [f"{source}.q"], name=f"{source}.quantize"),
        helper.make_node("DequantizeLinear", [f"{source}.q", scale, zero], [target], name=f"{source}.dequantize"),
    ]


def good() -> ModelProto:
    """A residual block in int8: two layers, an addition with both inputs quantised, a float last layer."""
    nodes = [
        *pair("image", "x"),
        helper.make_node("DequantizeLinear", ["i1", "ws", "wz"], ["w1"], name="w1.dequantize", axis=0),
        helper.make_node("Conv", ["x", "w1", "b"], ["a"], name="conv_1"),
        *pair("a", "y"),
        helper.make_node("Add", ["x", "y"], ["sum"], name="add_2"),
        helper.make_node("Conv", ["sum", "w2"], ["out"], name="conv_3"),
    ]
    constants: dict[str, Any] = {
        "s": np.array(0.02, np.float32),
        "z": np.array(0, np.int8),
        "i1": np.ones((4, 4, 1, 1), np.int8),
        "ws": np.full(4, 0.01, np.float32),
        "wz": np.zeros(4, np.int8),
        "b": np.zeros(4, np.float32),
        "w2": np.ones((2, 4, 1, 1), np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "good",
        [helper.make_tensor_value_info("image", F, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("out", F, [1, 2, 8, 8])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def node(model: ModelProto, name: str) -> NodeProto:
    found: NodeProto = next(one for one in model.graph.node if one.name == name)
    return found


def put(model: ModelProto, name: str, array: Any) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(array, name))
            return
    model.graph.initializer.append(numpy_helper.from_array(array, name))


def before(model: ModelProto, name: str, *new: NodeProto) -> None:
    """Put nodes before a node."""
    nodes = list(model.graph.node)
    at = next(i for i, one in enumerate(nodes) if one.name == name)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:at], *new, *nodes[at:]])


@pytest.mark.parametrize("line", LINES)
def test_a_good_graph_has_no_fault(line: Line) -> None:
    assert check_tensorrt(good(), line) == ()
    assert require_tensorrt(good()) == ()


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("form", ["float16", "int8"])
def test_a_typed_student_has_no_fault(
    float_graph: Path, signed_graph: tuple[Path, Quantized], line: Line, form: str
) -> None:
    model = onnx.load(float_graph if form == "float16" else signed_graph[0])
    type_float16(model)

    errors = [finding for finding in check_tensorrt(model, line) if finding.severity == "error"]

    assert errors == []


def test_the_portable_graph_is_refused_by_its_zero_points(int8_graph: tuple[Path, Quantized]) -> None:
    with pytest.raises(FoveolaError, match="its zero point is not 0.*quantise in the signed form"):
        require_tensorrt(int8_graph[0])


def asymmetric(model: ModelProto) -> None:
    put(model, "z", np.array(3, np.int8))


def unsigned(model: ModelProto) -> None:
    put(model, "z", np.array(0, np.uint8))


def zero_from_the_graph(model: ModelProto) -> None:
    before(model, "image.quantize", helper.make_node("Identity", ["z"], ["z.copy"], name="copy"))
    node(model, "image.quantize").input[2] = "z.copy"


def bias_of_int32(model: ModelProto) -> None:
    put(model, "b.i", np.zeros(4, np.int32))
    before(model, "conv_1", helper.make_node("DequantizeLinear", ["b.i", "ws"], ["b.f"], name="bias", axis=0))
    node(model, "conv_1").input[2] = "b.f"


def scale_of_zero(model: ModelProto) -> None:
    put(model, "s", np.array(0, np.float32))


def scale_from_the_pixels(model: ModelProto) -> None:
    before(
        model,
        "image.quantize",
        helper.make_node("ReduceMax", ["image"], ["s.now"], name="largest", keepdims=0),
    )
    node(model, "image.quantize").input[1] = "s.now"


def scale_of_another_type(model: ModelProto) -> None:
    put(model, "s.half", np.array(0.02, np.float16))
    node(model, "image.quantize").input[1] = "s.half"


def channels_of_an_activation(model: ModelProto) -> None:
    put(model, "s", np.full(4, 0.02, np.float32))
    put(model, "z", np.zeros(4, np.int8))


def wrong_axis(model: ModelProto) -> None:
    node(model, "w1.dequantize").attribute[0].i = 1


def scales_by_block(model: ModelProto) -> None:
    put(model, "ws", np.full((2, 4, 1, 1), 0.01, np.float32))
    put(model, "wz", np.zeros((2, 4, 1, 1), np.int8))
    node(model, "w1.dequantize").attribute.append(helper.make_attribute("block_size", 2))


def one_sided_addition(model: ModelProto) -> None:
    node(model, "add_2").input[1] = "a"


def rows_of_the_pixels(model: ModelProto) -> None:
    before(model, "conv_3", helper.make_node("NonZero", ["sum"], ["rows"], name="nonzero"))


def open_batch(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "n"


def words(model: ModelProto) -> None:
    model.graph.input[0].name = "image.words"
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT16
    before(model, "image.quantize", helper.make_node("Cast", ["image.words"], ["image"], name="cast", to=F))


def double(model: ModelProto) -> None:
    before(
        model,
        "conv_3",
        helper.make_node("Cast", ["sum"], ["sum.double"], name="cast", to=TensorProto.DOUBLE),
    )


def half_output(model: ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def new_opset(model: ModelProto) -> None:
    model.opset_import[0].version = 25


def foreign_domain(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def foreign_operator(model: ModelProto) -> None:
    before(model, "conv_3", helper.make_node("Det", ["sum"], ["det"], name="det"))


def antialiased(model: ModelProto) -> None:
    put(model, "sizes", np.array([1, 4, 4, 4], np.int64))
    resize = helper.make_node("Resize", ["sum", "", "", "sizes"], ["small"], name="resize", mode="linear", antialias=1)
    before(model, "conv_3", resize)


def pool_with_indices(model: ModelProto) -> None:
    before(model, "conv_3", helper.make_node("MaxPool", ["sum"], ["p", "where"], name="pool", kernel_shape=[2, 2]))


def infinite_weight(model: ModelProto) -> None:
    put(model, "w2", np.full((2, 4, 1, 1), np.inf, np.float32))


def weights_elsewhere(model: ModelProto) -> None:
    tensor = model.graph.initializer[-1]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")


BREAKS: list[tuple[Callable[[ModelProto], None], str, str]] = [
    (asymmetric, "zero-point", "its zero point is not 0"),
    (unsigned, "integer-type", "its integers are uint8, not int8"),
    (zero_from_the_graph, "zero-point", "its zero point is no constant"),
    (bias_of_int32, "integer-type", "its input is int32, as of a bias"),
    (scale_of_zero, "scale", "a scale is not a positive number"),
    (scale_from_the_pixels, "scale", "its scale s.now is no constant"),
    (scale_of_another_type, "scale", "its scale is of another type than image"),
    (channels_of_an_activation, "axis", "an activation has several scales"),
    (wrong_axis, "axis", "its scales count axis 1, Conv has its output channels on axis 0"),
    (scales_by_block, "axis", "scales by block are for int4 and float8"),
    (one_sided_addition, "residual", "one of its inputs is quantised and a is not, though an int8 layer makes it"),
    (rows_of_the_pixels, "static-shape", "the shape of its result depends on the pixels"),
    (open_batch, "static-shape", "the shape of image is not fixed"),
    (words, "type", "is uint16, which TensorRT does not know"),
    (double, "type", "is float64, which TensorRT does not know"),
    (half_output, "type", "is float16, inputs and outputs are float32"),
    (new_opset, "opset", "25 is not within"),
    (foreign_domain, "opset", "operators of com.microsoft are not ONNX's own"),
    (foreign_operator, "operator", "has no such operator"),
    (antialiased, "operator-form", "antialiasing is not supported"),
    (pool_with_indices, "operator-form", "its indices are not supported"),
    (infinite_weight, "range", "holds infinity or NaN"),
    (weights_elsewhere, "external", "is kept in another file"),
]


@pytest.mark.parametrize(("change", "rule", "words"), BREAKS, ids=[change.__name__ for change, _, _ in BREAKS])
def test_one_broken_part_is_refused_by_its_rule(change: Callable[[ModelProto], None], rule: str, words: str) -> None:
    model = good()
    change(model)

    errors = [finding for finding in check_tensorrt(model, "11") if finding.severity == "error"]

    assert rule in {finding.rule for finding in errors}
    assert any(words in finding.fault for finding in errors), [str(finding) for finding in errors]
    with pytest.raises(FoveolaError) as refused:
        require_tensorrt(model)
    assert "\n" not in str(refused.value)


def test_the_module_that_an_operator_comes_from_is_named() -> None:
    model = good()
    foreign_operator(model)

    with pytest.raises(
        FoveolaError, match=r"TensorRT 10\.3: Det det of backbone\.blocks\.3: TensorRT 10\.3 has no such"
    ):
        require_tensorrt(model, origins={"det": "backbone.blocks.3"})


def test_what_11_knows_and_10_3_does_not_is_refused_for_10_3_alone() -> None:
    model = good()
    before(model, "conv_3", helper.make_node("Gelu", ["sum"], ["g"], name="gelu"))
    node(model, "conv_3").input[0] = "g"

    assert check_tensorrt(model, "11") == ()
    assert [finding.rule for finding in check_tensorrt(model, "10.3")] == ["operator"]
    assert OPERATORS["10.3"] < OPERATORS["11"]


@pytest.mark.parametrize(("line", "opset"), [("10.3", 20), ("11", 24)])
def test_the_newest_opset_is_taken_and_the_next_is_not(line: Line, opset: int) -> None:
    model = good()
    model.opset_import[0].version = opset + 1

    assert OPSETS[line][1] == opset
    assert "opset" in {finding.rule for finding in check_tensorrt(model, line)}


@pytest.mark.parametrize(("trans", "axis", "fits"), [(1, 0, True), (1, 1, False), (0, 1, True), (0, 0, False)])
def test_the_scales_of_a_gemm_count_its_outputs(trans: int, axis: int, fits: bool) -> None:
    model = good()
    put(model, "gi", np.ones((32, 32), np.int8))
    put(model, "gs", np.full(32, 0.01, np.float32))
    put(model, "shape", np.array([8, 32], np.int64))
    before(
        model,
        "conv_3",
        helper.make_node("Reshape", ["x", "shape"], ["rows"], name="reshape"),
        helper.make_node("DequantizeLinear", ["gi", "gs"], ["gw"], name="g.dequantize", axis=axis),
        helper.make_node("Gemm", ["rows", "gw"], ["g"], name="gemm", transB=trans),
    )

    assert ("axis" not in {finding.rule for finding in check_tensorrt(model, "11")}) == fits


@pytest.mark.parametrize(("axis", "fits"), [(1, True), (0, False)])
def test_the_scales_of_a_transposed_convolution_count_axis_one(axis: int, fits: bool) -> None:
    model = good()
    before(
        model,
        "conv_3",
        helper.make_node("DequantizeLinear", ["i1", "ws"], ["tw"], name="t.dequantize", axis=axis),
        helper.make_node("ConvTranspose", ["x", "tw"], ["t"], name="transposed"),
    )

    assert ("axis" not in {finding.rule for finding in check_tensorrt(model, "11")}) == fits


def test_slow_forms_are_warnings_and_do_not_refuse() -> None:
    model = good()
    put(model, "gi", np.ones((8, 256), np.int8))
    put(model, "gs", np.full(8, 0.01, np.float32))
    put(model, "shape", np.array([1, 256], np.int64))
    before(
        model,
        "conv_3",
        helper.make_node("Reshape", ["x", "shape"], ["rows"], name="reshape"),
        helper.make_node("DequantizeLinear", ["gi", "gs"], ["gw"], name="g.dequantize", axis=0),
        helper.make_node("Gemm", ["rows", "gw"], ["g"], name="gemm", transB=1),
    )
    node(model, "conv_1").input[1] = "w2b"
    put(model, "w2b", np.ones((4, 4, 1, 1), np.float32))

    warnings = require_tensorrt(model, ["11"])

    assert {finding.rule for finding in warnings} == {"small-gemm", "weight"}


def test_an_addition_of_float_values_is_left_alone() -> None:
    model = good()
    node(model, "add_2").input[:] = ["image", "a"]

    assert "residual" not in {finding.rule for finding in check_tensorrt(model, "11")}
