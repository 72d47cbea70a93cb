"""Bias correction: means are what they are in float, and the shift of one layer is that of the paper."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from foveola.export.bias_correction import correct_biases
from foveola.export.partial import channel_means, constant_layers
from foveola.export.quantize import Calibrated, calibrate_graph, int8_model

from .conftest import images
from .test_quantize import two_layers


@pytest.fixture
def calibrated(tmp_path: Path) -> Calibrated:
    random = np.random.default_rng(2)
    weight = random.standard_normal((5, 3, 3, 3)).astype(np.float32) + 0.3
    source = two_layers(weight, random.standard_normal(5).astype(np.float32), tmp_path / "float.onnx")
    return calibrate_graph(source, pictures(), min_images=1)


def pictures() -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    random = np.random.default_rng(3)
    return [random.random((1, 3, 8, 8), dtype=np.float32) for _ in range(4)]


def test_the_first_layers_shift_is_its_weights_error_times_its_mean_input(calibrated: Calibrated) -> None:
    corrected = correct_biases(calibrated, pictures)

    # Section 4.2: the shift is the weights' error times the expected input; here by numpy, over the padded patches.
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in calibrated.model.graph.initializer}
    written = {t.name: numpy_helper.to_array(t) for t in int8_model(calibrated).graph.initializer}
    back = written["c.weight"] * written["c.weight.scale"].reshape(-1, 1, 1, 1)
    step = written["image.scale"]
    shift = np.zeros(5)
    for image in pictures():
        fed = np.pad(np.clip(np.rint(image / step), 0, 255) * step, ((0, 0), (0, 0), (1, 1), (1, 1)))[0]
        clean = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))[0]
        for y in range(8):
            for x in range(8):
                patch, plain = fed[:, y : y + 3, x : x + 3], clean[:, y : y + 3, x : x + 3]
                shift += ((back * patch).sum((1, 2, 3)) - (weights["w"] * plain).sum((1, 2, 3))) / (64 * 4)
    np.testing.assert_allclose(weights["b"] - corrected.biases["c"], shift, atol=2e-5)


def test_every_layers_mean_is_then_that_of_the_float_graph(float_graph: Path) -> None:
    many = list(images(4))
    calibrated = calibrate_graph(float_graph, many, min_images=1)
    layers = [one for one in constant_layers(calibrated.model.graph) if one.op_type != "MatMul"]
    target = channel_means(calibrated.model, layers, many)

    fixed = msgspec.structs.replace(calibrated, corrections=correct_biases(calibrated, lambda: many))

    errors = {}
    for name, one in (("before", calibrated), ("after", fixed)):
        model = int8_model(one)
        known = {node.name: node for node in model.graph.node}
        found = channel_means(model, [known[layer.name] for layer in layers], many)
        errors[name] = max(float(np.abs(found[key] - mean).max()) for key, mean in target.items())
    assert errors["after"] < 1e-3 < 0.02 < errors["before"]


def test_a_layer_without_a_bias_gets_one_and_the_written_graph_has_it(tmp_path: Path) -> None:
    weight = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32)
    calibrated = calibrate_graph(two_layers(weight, None, tmp_path / "float.onnx"), pictures(), min_images=1)

    corrections = correct_biases(calibrated, pictures)
    model = int8_model(msgspec.structs.replace(calibrated, corrections=corrections))

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert corrections.biases.keys() == {"c", "out"}
    np.testing.assert_array_equal(stored["c.bias"], corrections.biases["c"])
    float_bias = stored["out.bias.integers"] * stored["out.bias.scale"]  # exact, and computed (see `quantize`)
    np.testing.assert_allclose(float_bias, corrections.biases["out"], rtol=1e-6)
    assert "out.bias" not in stored
    onnx.checker.check_model(model, full_check=True)


def test_by_another_rule_of_the_weights_no_correction_holds(calibrated: Calibrated) -> None:
    corrections = correct_biases(calibrated, pictures)
    fixed = msgspec.structs.replace(calibrated, corrections=corrections)

    seven, plain = (int8_model(one, weight_bits=7, overflow="seven") for one in (fixed, calibrated))

    assert seven.SerializeToString(deterministic=True) == plain.SerializeToString(deterministic=True)
