"""Weights as bytes, activations in float: what stands in the file, and what both engines make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from foveola.export.graph_facts import graph_facts, layer_work
from foveola.export.weight_only import LEAST_WEIGHTS, weight_only
from foveola.runtime.errors import FoveolaError

from .conftest import images


def test_weights_are_bytes_and_nothing_else_is(float_graph: Path, tmp_path: Path) -> None:
    layers = weight_only(float_graph, tmp_path / "small.onnx")

    model = onnx.load(tmp_path / "small.onnx")
    operators = {node.op_type for node in model.graph.node}
    makers = {name: node for node in model.graph.node for name in node.output}
    assert "QuantizeLinear" not in operators
    assert len(layers) > 40
    assert (tmp_path / "small.onnx").stat().st_size < 0.35 * float_graph.stat().st_size
    last = {makers[value.name].name for value in model.graph.output}
    assert not last & set(layers)
    stored = [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.INT8 and len(one.dims) > 1]
    assert min(int(np.prod(one.dims)) for one in stored) >= LEAST_WEIGHTS


def test_both_engines_answer_like_the_float_graph(float_graph: Path, tmp_path: Path, run: Any, sqnr: Any) -> None:
    import openvino

    weight_only(float_graph, tmp_path / "small.onnx")
    compiled = openvino.Core().compile_model(tmp_path / "small.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for image in images(1):
        clean, ours = run(float_graph, image), run(tmp_path / "small.onnx", image)
        theirs = {output.any_name: value for output, value in compiled({"image": image}).items()}
        for name in ("lungs", "spots.boxes", "spots.scores"):
            assert sqnr(clean[name], ours[name]) > 25, name
            assert sqnr(ours[name], theirs[name]) > 60, name


def test_its_layers_count_as_float_and_overflow_nowhere(float_graph: Path, tmp_path: Path) -> None:
    weight_only(float_graph, tmp_path / "small.onnx")

    works = layer_work(tmp_path / "small.onnx")
    facts = graph_facts(tmp_path / "small.onnx", engine="onnxruntime", arithmetic="float32")

    assert {one.arithmetic for one in works} == {"float32"}
    assert facts.saturation_safe
    assert facts.activations is None


def test_a_layer_can_keep_its_weights_and_one_that_does_not_exist_is_refused(float_graph: Path, tmp_path: Path) -> None:
    first, *_ = weight_only(float_graph, tmp_path / "small.onnx")

    assert first not in weight_only(float_graph, tmp_path / "other.onnx", [first])
    with pytest.raises(FoveolaError, match="did you mean"):
        weight_only(float_graph, tmp_path / "none.onnx", [first + "x"])
    assert not (tmp_path / "none.onnx").exists()
