"""Learned rounding: the quadratic form against the layer itself, the best rounding by trying all, and what is kept."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from foveola.export.corrections import Corrections, load_corrections, save_corrections
from foveola.export.integer_weights import to_integers
from foveola.export.layer_error import output_sqnr
from foveola.export.quantize import Calibrated, calibrate_graph, int8_model
from foveola.export.rounding import _Moments, _Problem, learn_rounding
from foveola.export.saturation.pairs import cannot_saturate
from foveola.runtime.errors import FoveolaError

from .conftest import images
from .test_quantize import two_layers

F32 = NDArray[np.float32]


def pictures(count: int = 6) -> list[F32]:
    random = np.random.default_rng(3)
    base = random.random((count, 1, 4, 4)).repeat(2, 2).repeat(2, 3)
    return [np.repeat(one[None], 3, 1).astype(np.float32) + 0.05 * i for i, one in enumerate(base)]


@pytest.fixture
def calibrated(tmp_path: Path) -> Calibrated:
    weight = np.random.default_rng(2).standard_normal((5, 3, 3, 3)).astype(np.float32)
    bias = np.random.default_rng(4).standard_normal(5).astype(np.float32)
    return calibrate_graph(two_layers(weight, bias, tmp_path / "float.onnx"), pictures(), min_images=1)


def problem(inputs: int = 8, rows: int = 3, seed: int = 0) -> tuple[_Problem, Any, Any, Any]:
    """A layer whose inputs go together, its int8 inputs, weights in steps, and float answers."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((inputs, 50)) * 0.3 + random.standard_normal((1, 50))
    steps, scales = random.uniform(-20, 20, (rows, inputs)), random.uniform(0.01, 0.1, (rows, 1))
    y = (steps * scales) @ (x + 0.02 * random.standard_normal(x.shape))
    t = torch.from_numpy
    moments = _Moments(t(x @ x.T)[None], t(x @ y.T)[None], float((y**2).sum()))
    return _Problem(t(steps)[None], t(scales)[None], moments, 127), x, steps * scales, y


def test_the_quadratic_form_is_the_squared_error_of_the_layers_answer() -> None:
    made, x, _, y = problem()
    up = torch.from_numpy(np.random.default_rng(1).integers(0, 2, (1, 3, 8)).astype(np.float64))

    rounded = ((made.floor + up) * made.scales)[0].numpy()

    assert made.error(up) == pytest.approx(float(((rounded @ x - y) ** 2).sum()), rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_rounding_found_is_near_the_best_of_all_and_never_worse_than_the_nearest(seed: int) -> None:
    made, x, _, y = problem(seed=seed)
    best = 0.0
    for row in range(3):
        floor, scale = made.floor[0, row].numpy(), float(made.scales[0, row])
        every = (floor + np.array(list(itertools.product((0, 1), repeat=8)))) * scale
        best += float(((every @ x - y[row]) ** 2).sum(1).min())

    found = made.error(made.solve())

    assert best <= found * (1 + 1e-9)
    assert found < made.error(made.nearest)
    assert found < 1.5 * best


def test_no_single_flip_lowers_the_error_of_what_is_kept() -> None:
    made, *_ = problem(seed=7)
    found = made.solve()

    for place in itertools.product(range(3), range(8)):
        other = found.clone()
        other[0][place] = 1 - other[0][place]
        assert made.error(other) >= made.error(found) - 1e-9


def test_the_layer_comes_nearer_to_its_float_answer_and_the_graph_has_the_integers(calibrated: Calibrated) -> None:
    corrections, (gained,) = learn_rounding(calibrated, pictures)
    fixed = msgspec.structs.replace(calibrated, corrections=corrections)

    assert gained.layer == "c"
    assert gained.error < 0.9
    assert 0 < gained.flipped < 1
    before, after = (output_sqnr(calibrated.model, int8_model(one), pictures())["out"] for one in (calibrated, fixed))
    assert after > before
    plain, other = (
        {t.name: numpy_helper.to_array(t) for t in int8_model(one).graph.initializer} for one in (calibrated, fixed)
    )
    moved = np.abs(plain["c.weight"].astype(int) - other["c.weight"].astype(int))
    assert moved.max() == 1
    np.testing.assert_array_equal(plain["c.weight.scale"], other["c.weight.scale"])


def test_learning_twice_gives_the_same(calibrated: Calibrated) -> None:
    one, other = (learn_rounding(calibrated, pictures)[0] for _ in range(2))

    np.testing.assert_array_equal(one.rounded_up["c"], other.rounded_up["c"])


def kinds(path: Path) -> Path:
    """A layer of each kind: strided, depthwise, grouped, dilated, pointwise, Gemm both ways, MatMul, and a head."""
    from onnx import TensorProto, helper

    shapes = {
        "w1": (8, 3, 3, 3), "w2": (8, 1, 3, 3), "w3": (8, 4, 3, 3), "w4": (8, 8, 3, 3), "w5": (6, 8, 1, 1),
        "w6": (7, 6), "w7": (7, 5), "w8": (5, 4), "w9": (4, 2),
    }  # fmt: skip
    random = np.random.default_rng(8)
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    square: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], name="a", strides=[2, 2], **square),
        helper.make_node("Conv", ["a", "w2"], ["b"], name="b", group=8, **square),
        helper.make_node("Conv", ["b", "w3"], ["c"], name="c", group=2, **square),
        helper.make_node("Relu", ["c"], ["r"], name="r"),
        helper.make_node("Conv", ["r", "w4"], ["d"], name="d", dilations=[2, 2], pads=[2, 2, 2, 2]),
        helper.make_node("Conv", ["d", "w5"], ["e"], name="e"),
        helper.make_node("GlobalAveragePool", ["e"], ["p"], name="p"),
        helper.make_node("Flatten", ["p"], ["f"], name="f"),
        helper.make_node("Gemm", ["f", "w6"], ["g"], name="g", transB=1),
        helper.make_node("Gemm", ["g", "w7"], ["h"], name="h"),
        helper.make_node("MatMul", ["h", "w8"], ["m"], name="m"),
        helper.make_node("MatMul", ["m", "w9"], ["out"], name="out"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("image", TensorProto.FLOAT, [1, 3, 8, 8])], [value("out", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def test_every_kind_of_layer_is_learned(tmp_path: Path) -> None:
    calibrated = calibrate_graph(kinds(tmp_path / "float.onnx"), pictures(), min_images=1)

    corrections, account = learn_rounding(calibrated, pictures)

    assert [one.layer for one in account] == ["a", "b", "c", "d", "e", "g", "h", "m"]
    assert len(corrections.rounded_up) >= 7
    fixed = msgspec.structs.replace(calibrated, corrections=corrections)
    before, after = (output_sqnr(calibrated.model, int8_model(one), pictures())["out"] for one in (calibrated, fixed))
    assert after > before


@pytest.mark.slow
def test_every_layer_of_a_network_is_learned(float_graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foveola.export import rounding

    monkeypatch.setattr(rounding, "STEPS", 3)
    many = list(images(3))
    calibrated = calibrate_graph(float_graph, many, min_images=1)

    corrections, account = learn_rounding(calibrated, lambda: many)

    assert {one.layer for one in account} == set(calibrated.placement.layers)
    assert len(corrections.rounded_up) > 0.8 * len(account)
    assert all(one.error <= 1 for one in account)


def test_a_fitted_weight_stays_proved(calibrated: Calibrated) -> None:
    corrections, _ = learn_rounding(calibrated, pictures, weight_bits=7, overflow="fit")
    fixed = msgspec.structs.replace(calibrated, corrections=corrections)

    model = int8_model(fixed, weight_bits=7, overflow="fit")

    (weight,) = (numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "c.weight")
    assert cannot_saturate(weight)
    assert corrections.rule == "fit"


def test_rounding_up_or_down_stays_within_a_step_and_the_largest_integer() -> None:
    weight = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)
    from onnx import helper

    layer = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)

    for up in (np.zeros((4, 6), np.bool_), np.ones((4, 6), np.bool_)):
        found = to_integers(layer, weight, None, np.float32(1), "full", up)
        assert np.abs(found.values - weight).max() <= found.scale.max() * 1.001
        assert np.abs(found.integers.astype(int)).max() <= 127


def test_corrections_are_read_as_they_were_written(tmp_path: Path) -> None:
    made = Corrections(
        biases={"c": np.array([1.5, -2], np.float32)}, rounded_up={"c": np.array([[True], [False]])}, rule="seven"
    )
    save_corrections(made, tmp_path / "c.safetensors")

    found = load_corrections(tmp_path / "c.safetensors")

    assert found.rule == "seven"
    np.testing.assert_array_equal(found.biases["c"], made.biases["c"])
    np.testing.assert_array_equal(found.rounded_up["c"], made.rounded_up["c"])
    assert not load_corrections(tmp_path / "none.safetensors")


def test_a_file_that_holds_no_corrections_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").write_bytes(b"{}")

    with pytest.raises(FoveolaError, match="holds no corrections"):
        load_corrections(tmp_path / "c.safetensors")
