"""SQNR of layers and outputs, against the definition worked out by hand and by numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from foveola.export.layer_error import MOST_DB, decibels, layer_sqnr, output_sqnr, overall
from foveola.export.quantize import Quantized, quantize_onnx
from foveola.runtime.errors import FoveolaError

from .conftest import images
from .test_quantize import two_layers

Graph = tuple[Path, Quantized]


def watched(path: Path, tensor: str) -> onnx.ModelProto:
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    return model


def values(path: Path, tensor: str, image: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = watched(path, tensor).SerializeToString()
    session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run([tensor], {"image": image})[0].astype(np.float64)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path, list[Any]]:
    random = np.random.default_rng(2)
    source = two_layers(random.standard_normal((6, 3, 3, 3)).astype(np.float32), None, tmp_path / "float.onnx")
    pictures = [random.random((1, 3, 8, 8), dtype=np.float32) for _ in range(3)]
    quantize_onnx(source, tmp_path / "int8.onnx", pictures, min_images=1)
    return source, tmp_path / "int8.onnx", pictures


def test_decibels_are_ten_times_the_logarithm_of_the_ratio_of_energies() -> None:
    assert decibels(100.0, 1.0) == pytest.approx(20)
    assert decibels(1.0, 4.0) == pytest.approx(-6.0206, abs=1e-4)
    assert decibels(3.0, 0.0) == decibels(0.0, 0.0) == MOST_DB
    assert decibels(0.0, 1.0) == -MOST_DB


def test_a_layers_sqnr_is_that_of_its_rectified_and_quantised_result(small: tuple[Path, Path, list[Any]]) -> None:
    source, int8, pictures = small

    found = layer_sqnr(source, int8, pictures)

    clean = np.stack([values(source, "r", image) for image in pictures])
    noisy = np.stack([values(int8, "r.dequantized", image) for image in pictures])
    assert list(found) == ["c", "out"]
    assert found["c"] == pytest.approx(10 * np.log10((clean**2).sum() / ((clean - noisy) ** 2).sum()), abs=1e-3)


def test_the_noise_that_a_layer_inherits_is_not_its_own(small: tuple[Path, Path, list[Any]]) -> None:
    source, int8, pictures = small

    together, alone = (layer_sqnr(source, int8, pictures, alone=one) for one in (False, True))

    assert alone["c"] == pytest.approx(together["c"], abs=1e-3)  # nothing stands before it but its own input
    assert alone["out"] > together["out"]  # a float layer, whose input alone is quantised


def test_every_layer_of_a_multitask_network_is_told_in_order(float_graph: Path, int8_graph: Graph) -> None:
    path, done = int8_graph
    together = layer_sqnr(float_graph, path, images(2))
    alone = layer_sqnr(onnx.load(float_graph), onnx.load(path), images(2), alone=True)

    assert len(together) == done.int8_layers + len(done.float_layers)
    assert together.keys() == alone.keys()
    assert all(15 < value <= MOST_DB for value in alone.values())
    assert np.mean(list(alone.values())) > np.mean(list(together.values())) + 3
    assert (
        all(alone[name] == MOST_DB or name not in done.float_layers for name in alone)
        or min(alone[name] for name in done.float_layers) > 30
    )


def test_outputs_are_told_about_the_mean_of_each_channel(tmp_path: Path) -> None:
    source = two_layers(np.ones((2, 1, 3, 3), np.float32), None, tmp_path / "float.onnx")
    shifted = onnx.load(source)
    (head,) = (one for one in shifted.graph.initializer if one.name == "head")
    head.CopyFrom(numpy_helper.from_array(1.1 * numpy_helper.to_array(head), "head"))
    pictures = [np.full((1, 1, 8, 8), level, np.float32) for level in (0.5, 1.0)]

    found = output_sqnr(source, shifted, pictures)["out"]

    clean = np.stack([values(source, "out", image) for image in pictures])
    signal, noise = ((clean - clean.mean()) ** 2).sum(), ((0.1 * clean) ** 2).sum()
    assert found == pytest.approx(10 * np.log10(signal / noise), abs=1e-3)


def test_the_worst_output_counts_most() -> None:
    assert overall({"a": 20.0}) == pytest.approx(20)
    assert overall({"a": 10.0, "b": 60.0}) == pytest.approx(13.01, abs=0.01)


def test_without_an_image_and_with_graphs_of_two_networks_nothing_is_told(
    small: tuple[Path, Path, list[Any]], float_graph: Path
) -> None:
    source, int8, pictures = small

    with pytest.raises(FoveolaError, match="no image"):
        layer_sqnr(source, int8, [])
    with pytest.raises(FoveolaError, match="no image"):
        output_sqnr(source, int8, [])
    with pytest.raises(FoveolaError, match="is not in the int8 graph"):
        layer_sqnr(float_graph, int8, pictures)
