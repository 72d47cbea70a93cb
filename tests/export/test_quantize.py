"""The int8 graph: what stands in the file, what the engines make of it, and what is refused."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from foveola.export.quantize import Quantized, quantize_onnx
from foveola.runtime.errors import FoveolaError

Graph = tuple[Path, Quantized]


def smooth_images(count: int) -> Iterator[NDArray[np.float32]]:
    random = np.random.default_rng(9)
    for _ in range(count):
        yield random.random((1, 1, 12, 8)).repeat(8, 2).repeat(8, 3).astype(np.float32)


def constants(model: ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def integer_weights(model: ModelProto) -> dict[str, tuple[NodeProto, NodeProto]]:
    """Layer and the node that dequantises its weight, by the layer's name."""
    makers = {name: node for node in model.graph.node for name in node.output}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    found = {node.name: (node, makers[node.input[1]]) for node in layers if node.input[1] in makers}
    assert all(maker.op_type == "DequantizeLinear" for _, maker in found.values())
    return found


def two_layers(weight: NDArray[np.float32], bias: NDArray[np.float32] | None, path: Path) -> Path:
    """A convolution, a ReLU and a head that adds all channels."""
    channels = weight.shape[0]
    value = helper.make_tensor_value_info
    arrays = {"w": weight, "head": np.ones((1, channels, 1, 1), np.float32)} | ({} if bias is None else {"b": bias})
    graph = helper.make_graph(
        [
            helper.make_node(
                "Conv", ["image", "w"] + (["b"] if bias is not None else []), ["c"], name="c", pads=[1] * 4
            ),
            helper.make_node("Relu", ["c"], ["r"], name="r"),
            helper.make_node("Conv", ["r", "head"], ["out"], name="out"),
        ],
        "g",
        [value("image", TensorProto.FLOAT, [1, weight.shape[1], 8, 8])],
        [value("out", TensorProto.FLOAT, [1, 1, 8, 8])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def test_weights_are_signed_bytes_per_channel_and_biases_stay_float(int8_graph: Graph, signed_graph: Graph) -> None:
    for path, done in (int8_graph, signed_graph):
        model = onnx.load(path)
        arrays, layers = constants(model), integer_weights(model)

        assert len(layers) == done.int8_layers > 50
        for layer, dequantiser in layers.values():
            integers, scale, zero = (arrays[name] for name in dequantiser.input)
            assert integers.dtype == np.int8
            assert integers.min() >= -127
            assert scale.shape == zero.shape == (integers.shape[0],)
            assert not zero.any()
            assert [a.i for a in dequantiser.attribute if a.name == "axis"] == [0]
            assert arrays[layer.input[2]].dtype == np.float32


def test_the_last_layer_of_every_head_is_float(int8_graph: Graph) -> None:
    path, done = int8_graph
    model = onnx.load(path)
    makers = {name: node for node in model.graph.node for name in node.output}

    last = [makers[output.name] for output in model.graph.output]

    assert sorted(node.op_type for node in last) == ["Conv", "Conv", "Conv", "Gemm", "Gemm"]
    assert {node.name for node in last} == set(done.float_layers)
    assert all(constants(model)[node.input[1]].dtype == np.float32 for node in last)


def test_the_signed_form_is_what_tensorrt_reads(signed_graph: Graph) -> None:
    model = onnx.load(signed_graph[0])
    arrays = constants(model)

    assert {entry.domain for entry in model.opset_import} == {""}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert arrays[node.input[2]].dtype == np.int8
            assert not arrays[node.input[2]].any()
    quantised = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    readers = Counter(name for node in model.graph.node if node.op_type == "Relu" for name in node.input)
    assert not [name for name in quantised if makers.get(name) == "Conv" and readers[name] == 1]


def test_the_two_forms_have_the_same_grid_where_values_may_be_negative(int8_graph: Graph, signed_graph: Graph) -> None:
    unsigned, signed = (constants(onnx.load(path)) for path, _ in (int8_graph, signed_graph))
    shared = [name for name in signed if name.endswith(".zero") and name in unsigned and not signed[name].shape]

    assert len(shared) > 40
    for name in shared:
        scale = name.removesuffix(".zero") + ".scale"
        steps = 127 if unsigned[name] == 128 else 255
        assert unsigned[name] in (0, 128)
        np.testing.assert_allclose(unsigned[scale] * steps, signed[scale] * 127, rtol=1e-6)


def test_onnxruntime_computes_every_layer_and_addition_on_integers(int8_graph: Graph, tmp_path: Path) -> None:
    import onnxruntime

    path, done = int8_graph
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])

    made = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)

    assert made["QLinearConv"] == done.int8_layers
    assert made["QLinearAdd"] == Counter(node.op_type for node in onnx.load(path).graph.node)["Add"] > 10
    assert made["Conv"] + made["FusedConv"] == 3  # the dense heads' last layers
    assert made["Relu"] + made["Add"] == 0
    assert made["DequantizeLinear"] <= 8  # towards the float layers, and around the bilinear upsampling


def test_openvino_computes_every_layer_on_integers(int8_graph: Graph) -> None:
    import openvino

    path, done = int8_graph
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    precisions: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        if facts["layerType"].astype(str) in ("Convolution", "GroupConvolution"):
            precisions[facts["runtimePrecision"].astype(str)] += 1

    assert precisions["u8"] + precisions["i8"] == done.int8_layers
    assert precisions["f32"] == 3


@pytest.mark.parametrize("form", ["int8_graph", "signed_graph"])
def test_both_engines_answer_close_to_the_float_graph(
    form: str, float_graph: Path, request: pytest.FixtureRequest, run: Any, sqnr: Any
) -> None:
    import openvino

    path = request.getfixturevalue(form)[0]
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    dense = ("lungs", "spots.boxes", "spots.scores")
    for image in smooth_images(2):
        clean, ours = run(float_graph, image), run(path, image)
        theirs = {output.any_name: value for output, value in compiled({"image": image}).items()}
        for name in dense:
            assert sqnr(clean[name], ours[name]) > 20, name
            assert sqnr(clean[name], theirs[name]) > 20, name
            assert sqnr(ours[name], theirs[name]) > 20, name


def test_integers_of_weights_are_those_of_onnxruntimes_own_quantiser(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    from foveola.export.onnx_graph import quiet

    random = np.random.default_rng(3)
    images = [random.random((1, 3, 8, 8), dtype=np.float32) for _ in range(4)]

    class Reader:
        def __init__(self) -> None:
            self.waiting = iter(images)

        def __iter__(self) -> Iterator[dict[str, NDArray[np.float32]]]:
            return ({"image": image} for image in self.waiting)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            image = next(self.waiting, None)
            return None if image is None else {"image": image}

    weight = random.standard_normal((6, 3, 3, 3)).astype(np.float32) * np.array([3.0, 0.1] * 3, np.float32).reshape(
        6, 1, 1, 1
    )
    source = two_layers(weight, random.standard_normal(6).astype(np.float32), tmp_path / "float.onnx")
    options = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    reader: Any = Reader()
    with quiet():
        quantize_static(
            str(source), str(tmp_path / "theirs.onnx"), reader, quant_format=QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=["Conv"], nodes_to_exclude=["out"], activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8, extra_options=options,
        )  # fmt: skip

    quantize_onnx(source, tmp_path / "ours.onnx", images, form="signed", min_images=4)

    theirs, ours = constants(onnx.load(tmp_path / "theirs.onnx")), constants(onnx.load(tmp_path / "ours.onnx"))
    np.testing.assert_array_equal(ours["c.weight"], theirs["w_quantized"])
    np.testing.assert_allclose(ours["c.weight.scale"], theirs["w_scale"], rtol=1e-6)
    np.testing.assert_allclose(ours["image.scale"], theirs["image_scale"], rtol=1e-6)


def test_a_channel_that_training_switched_off_keeps_its_bias(tmp_path: Path, run: Any) -> None:
    weight = np.random.default_rng(4).standard_normal((4, 3, 3, 3)).astype(np.float32)
    weight[1] *= 1e-12
    weight[2] = 0
    bias = np.array([0.1, 2.0, 3.0, -0.2], np.float32)
    source = two_layers(weight, bias, tmp_path / "float.onnx")
    image = np.random.default_rng(5).random((1, 3, 8, 8), dtype=np.float32)

    quantize_onnx(source, tmp_path / "int8.onnx", [image], min_images=1)

    clean = run(source, image)["out"]
    for level in ("ORT_ENABLE_ALL", "ORT_DISABLE_ALL"):
        np.testing.assert_allclose(run(tmp_path / "int8.onnx", image, level)["out"], clean, atol=0.02 * clean.max())


def test_seven_bit_weights_cannot_overflow_sixteen_bit_sums(tmp_path: Path) -> None:
    weight = np.random.default_rng(4).standard_normal((4, 3, 3, 3)).astype(np.float32)
    source = two_layers(weight, None, tmp_path / "float.onnx")

    quantize_onnx(source, tmp_path / "int8.onnx", [np.ones((1, 3, 8, 8), np.float32)], weight_bits=7, min_images=1)

    integers = constants(onnx.load(tmp_path / "int8.onnx"))["c.weight"].astype(int)
    assert np.abs(integers).max() == 63
    assert 2 * 255 * 63 < 2**15


def test_too_few_images_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    source = two_layers(np.ones((4, 3, 3, 3), np.float32), None, tmp_path / "float.onnx")
    images = [np.ones((1, 3, 8, 8), np.float32)] * 5

    with pytest.raises(FoveolaError, match="5 images, 128 are needed"):
        quantize_onnx(source, tmp_path / "int8.onnx", images)
    with pytest.raises(FoveolaError, match="0 images, 1 are needed"):
        quantize_onnx(source, tmp_path / "int8.onnx", [], min_images=1)

    assert [path.name for path in tmp_path.iterdir()] == ["float.onnx"]


def test_a_network_that_answers_nan_is_refused(tmp_path: Path) -> None:
    weight = np.ones((4, 3, 3, 3), np.float32)
    weight[0, 0, 0, 0] = np.nan
    source = two_layers(weight, None, tmp_path / "float.onnx")

    with pytest.raises(FoveolaError, match="calibration image 1"):
        quantize_onnx(source, tmp_path / "int8.onnx", [np.ones((1, 3, 8, 8), np.float32)], min_images=1)

    assert not (tmp_path / "int8.onnx").exists()


def test_a_network_of_one_layer_is_refused(tmp_path: Path) -> None:
    model = onnx.load(two_layers(np.ones((4, 3, 3, 3), np.float32), None, tmp_path / "float.onnx"))
    del model.graph.node[1:]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("c", TensorProto.FLOAT, [1, 4, 8, 8]))
    onnx.save(model, tmp_path / "float.onnx")

    with pytest.raises(FoveolaError, match="no layer can be quantised"):
        quantize_onnx(
            tmp_path / "float.onnx", tmp_path / "int8.onnx", [np.ones((1, 3, 8, 8), np.float32)], min_images=1
        )


def test_images_are_drawn_one_at_a_time_and_let_go(tmp_path: Path) -> None:
    source = two_layers(np.ones((4, 3, 3, 3), np.float32), None, tmp_path / "float.onnx")
    alive: list[weakref.ref[NDArray[np.float32]]] = []
    most = 0

    def stream() -> Iterator[NDArray[np.float32]]:
        nonlocal most
        for _ in range(20):
            image = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
            alive.append(weakref.ref(image))
            most = max(most, sum(ref() is not None for ref in alive))
            yield image

    quantize_onnx(source, tmp_path / "int8.onnx", stream(), method="entropy", min_images=20)

    assert len(alive) == 20
    assert most <= 2


@pytest.mark.parametrize("rectified", [False, True], ids=["bare", "before a ReLU"])
def test_onnxruntime_computes_in_float_what_is_kept_in_float(tmp_path: Path, rectified: bool) -> None:
    # Its WeightBiasQuantization pass rounds a constant float weight behind a DequantizeLinear to 8 bits.
    import onnxruntime

    source, target, optimised = (tmp_path / name for name in ("float.onnx", "int8.onnx", "optimised.onnx"))
    four_layers(source, rectified)
    quantize_onnx(source, target, smooth_images(4), min_images=4, float_layers=["kept"])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimised)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(target, options, providers=["CPUExecutionProvider"])

    operators = Counter(node.op_type for node in onnx.load(optimised).graph.node)
    assert operators["QLinearConv"] == 2
    assert operators["Conv"] + operators["FusedConv"] == 2  # the one that was asked for, and the last


def four_layers(path: Path, rectified: bool) -> None:
    """Four convolutions in a row; the second is called `kept`, and a ReLU may follow it."""
    random, value = np.random.default_rng(3), helper.make_tensor_value_info
    weights = {
        name: random.standard_normal((8, inputs, 1, 1)).astype(np.float32)
        for name, inputs in (("first", 1), ("kept", 8), ("third", 8), ("last", 8))
    }
    biases = {f"{name}_bias": random.standard_normal(8).astype(np.float32) for name in weights}
    nodes, tensor = [], "image"
    for name in weights:
        nodes.append(helper.make_node("Conv", [tensor, f"{name}_weight", f"{name}_bias"], [name], name=name))
        tensor = name
        if name != "last" and (rectified or name != "kept"):
            nodes.append(helper.make_node("Relu", [name], [f"{name}_relu"], name=f"{name}_relu"))
            tensor = f"{name}_relu"
    arrays = {f"{name}_weight": array for name, array in weights.items()} | biases
    graph = helper.make_graph(
        nodes,
        "g",
        [value("image", TensorProto.FLOAT, [1, 1, 96, 64])],
        [value("last", TensorProto.FLOAT, [1, 8, 96, 64])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
