"""Cross-layer equalisation: the paper's formula on numbers, the same function, and pairs that are left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from foveola.export.equalise import By, equalise
from foveola.export.quantize import calibrate_graph, int8_model

from .conftest import images

F32 = NDArray[np.float32]


def chain(weights: dict[str, F32], nodes: list[NodeProto], channels: int = 3) -> ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("image", TensorProto.FLOAT, [1, channels, 6, 6])],
        [value(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(one, name) for name, one in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def node(operator: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs.split(), [output], name=output, **attributes)


def drawn(*shape: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def two(activation: str = "Relu") -> ModelProto:
    weights = {"w1": drawn(4, 3, 1, 1), "b1": drawn(4, seed=1), "w2": drawn(2, 4, 1, 1, seed=2)}
    weights["w1"] *= np.array([0.01, 1, 10, 100], np.float32).reshape(4, 1, 1, 1)
    return chain(weights, [node("Conv", "image w1 b1", "a"), node(activation, "a", "r"), node("Conv", "r w2", "out")])


def stored(model: ModelProto) -> dict[str, F32]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def answer(model: ModelProto, image: F32) -> F32:
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": image})[0])


PICTURES = [np.abs(drawn(1, 3, 6, 6, seed=seed)) for seed in range(3)]


def test_the_scales_of_one_pair_are_those_of_equation_11() -> None:
    before, after = stored(two()), stored(equalise(two(), [], by="weights")[0])
    r1, r2 = np.abs(before["w1"]).max((1, 2, 3)), np.abs(before["w2"]).max((0, 2, 3))

    s = np.sqrt(r1 * r2) / r2

    np.testing.assert_allclose(after["w1"], before["w1"] / s.reshape(4, 1, 1, 1), rtol=1e-5)
    np.testing.assert_allclose(after["b1"], before["b1"] / s, rtol=1e-5)
    np.testing.assert_allclose(after["w2"], before["w2"] * s.reshape(1, 4, 1, 1), rtol=1e-5)
    np.testing.assert_allclose(np.abs(after["w1"]).max((1, 2, 3)), np.abs(after["w2"]).max((0, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("by", ["weights", "activations"])
@pytest.mark.parametrize("second", ["dense", "depthwise", "groups", "pooled"])
def test_the_function_stays_the_same(by: By, second: str) -> None:
    weights = {"w1": drawn(4, 3, 3, 3), "b1": drawn(4), "w3": drawn(2, 4, 1, 1)}
    weights["w1"] *= np.array([0.01, 1, 10, 100], np.float32).reshape(4, 1, 1, 1)
    kinds: dict[str, tuple[F32, dict[str, Any]]] = {
        "dense": (drawn(4, 4, 3, 3), {}), "depthwise": (drawn(4, 1, 3, 3), {"group": 4}),
        "groups": (drawn(4, 2, 3, 3), {"group": 2}), "pooled": (drawn(4, 4, 1, 1), {}),
    }  # fmt: skip
    weights["w2"], settings = kinds[second]
    pool = [node("MaxPool", "r", "p", kernel_shape=[2, 2])] if second == "pooled" else [node("Relu", "r", "p")]
    model = chain(
        weights,
        [node("Conv", "image w1 b1", "a"), node("Relu", "a", "r"), *pool, node("Conv", "p w2", "c", **settings),
         node("LeakyRelu", "c", "d"), node("Conv", "d w3", "out")],
    )  # fmt: skip

    other, found = equalise(model, PICTURES, by=by)

    assert found.pairs == (("a", "c"), ("c", "out"))
    assert np.abs(stored(other)["w2"] - weights["w2"]).max() > 1e-3
    for image in PICTURES:
        clean = answer(model, image)
        np.testing.assert_allclose(answer(other, image), clean, atol=2e-5 * np.abs(clean).max())


def test_matrix_products_are_pairs_too() -> None:
    weights = {"w1": drawn(5, 6, seed=3), "b1": drawn(5), "w2": drawn(5, 2, seed=4)}
    model = chain(
        weights,
        [node("ReduceMean", "image", "m", keepdims=1), node("Gemm", "m w1 b1", "a", transB=1), node("Relu", "a", "r"),
         node("MatMul", "r w2", "out")],
    )  # fmt: skip
    model.graph.node[0].CopyFrom(node("Flatten", "image", "m"))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 2, 1]))
    image = np.abs(drawn(1, 3, 2, 1))

    other, found = equalise(model, [image], by="weights")

    assert found.pairs == (("a", "out"),)
    np.testing.assert_allclose(answer(other, image), answer(model, image), rtol=1e-4)


@pytest.mark.parametrize("activation", ["HardSwish", "Sigmoid", "Gelu"])
def test_what_is_not_homogeneous_keeps_a_pair_apart(activation: str) -> None:
    other, found = equalise(two(activation), PICTURES)

    assert (found.pairs, found.skipped) == ((), {activation: 1, "shared": 1})
    assert stored(other)["w1"].tobytes() == stored(two())["w1"].tobytes()


def test_a_value_with_two_readers_or_a_shared_weight_is_left_alone() -> None:
    weights = {"w1": drawn(3, 3, 1, 1), "w2": drawn(3, 3, 1, 1, seed=1)}
    residual = [node("Conv", "image w1", "a"), node("Conv", "a w2", "b"), node("Add", "a b", "out")]
    shared = [node("Conv", "image w1", "a"), node("Conv", "a w1", "b"), node("Conv", "b w2", "out")]

    assert equalise(chain(weights, residual), PICTURES)[1].pairs == ()
    assert equalise(chain(weights, shared), PICTURES)[1].pairs == ()


def test_a_dead_channel_keeps_its_scale() -> None:
    model = two()
    for tensor in model.graph.initializer:
        if tensor.name in ("w1", "b1"):
            values = numpy_helper.to_array(tensor).copy()
            values[1] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    for by in ("weights", "activations"):
        after = stored(equalise(model, PICTURES, by=by)[0])
        assert all(np.isfinite(one).all() for one in after.values())


def test_a_network_with_uneven_channels_loses_less_in_8_bits(tmp_path: Path) -> None:
    from foveola.export.layer_error import output_sqnr

    # Per-channel weights do not mind; the tensor between, with one scale, does.
    onnx.save(two(), tmp_path / "plain.onnx")
    head = onnx.load(tmp_path / "plain.onnx")
    head.graph.node.append(node("Conv", "out w3", "head"))
    head.graph.initializer.append(numpy_helper.from_array(drawn(1, 2, 1, 1), "w3"))
    small = {tensor.name: tensor for tensor in head.graph.initializer}["w2"]
    values = numpy_helper.to_array(small) * np.array([100, 1, 0.1, 0.01], np.float32).reshape(1, 4, 1, 1)
    small.CopyFrom(numpy_helper.from_array(values, "w2"))
    head.graph.output[0].CopyFrom(helper.make_tensor_value_info("head", TensorProto.FLOAT, [1, 1, 6, 6]))
    noise = {}
    for name, model in (("plain", head), ("equal", equalise(head, PICTURES)[0])):
        onnx.save(model, tmp_path / f"{name}.onnx")
        written = int8_model(calibrate_graph(tmp_path / f"{name}.onnx", PICTURES, min_images=1))
        noise[name] = output_sqnr(head, written, PICTURES)["head"]

    assert noise["equal"] > noise["plain"] + 6


def test_a_whole_network_answers_the_same(float_graph: Path, run: Any, tmp_path: Path) -> None:
    other, found = equalise(onnx.load(float_graph), images(2))
    onnx.save(other, tmp_path / "equal.onnx")

    assert len(found.pairs) > 30
    for image in images(1):
        clean, equal = run(float_graph, image), run(tmp_path / "equal.onnx", image)
        for name, values in clean.items():
            np.testing.assert_allclose(equal[name], values, atol=1e-4 * np.abs(values).max())
