"""OpenVINO's files: whole precision, stable names, NNCF's int8."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from foveola.export.nncf_int8 import nncf_default
from foveola.export.openvino_ir import write_ir
from foveola.export.quantize import Quantized
from foveola.runtime.engine import open_session
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import OpenVinoOptions

TENSORS = ("findings", "age", "lungs", "spots.boxes", "spots.scores")


def smooth_image(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((1, 1, 12, 8)).repeat(8, 2).repeat(8, 3).astype(np.float32)


def answers(xml: Path, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    members = {"openvino.xml": xml.read_bytes(), "openvino.bin": xml.with_suffix(".bin").read_bytes()}
    return open_session(OpenVinoOptions(threads=1), members).run(image)


def test_a_float_graph_is_not_rounded_to_sixteen_bits(float_graph: Path, tmp_path: Path, run: Any) -> None:
    write_ir(float_graph, tmp_path / "float.xml")

    image = smooth_image(1)
    given, expected = answers(tmp_path / "float.xml", image), run(float_graph, image)
    assert tuple(given) == TENSORS
    for name in TENSORS:
        np.testing.assert_allclose(given[name], expected[name], atol=1e-4, rtol=1e-4)


def test_an_int8_graph_keeps_its_integers_and_names_its_layers_in_order(
    int8_graph: tuple[Path, Quantized], tmp_path: Path, run: Any, sqnr: Any
) -> None:
    path, done = int8_graph
    write_ir(path, tmp_path / "int8.xml")

    layers = ElementTree.parse(tmp_path / "int8.xml").findall("./layers/layer")
    stored = Counter(layer.findall("data")[0].get("element_type") for layer in layers if layer.get("type") == "Const")
    assert stored["i8"] >= done.int8_layers
    assert stored["f16"] == 0
    assert (tmp_path / "int8.bin").stat().st_size < 1.3 * done.weight_bytes
    assert len({layer.get("name") for layer in layers}) == len(layers) < 1500
    image = smooth_image(2)
    given, expected = answers(tmp_path / "int8.xml", image), run(path, image)
    for name in ("lungs", "spots.boxes", "spots.scores"):
        assert sqnr(expected[name], given[name]) > 20


def test_nncf_makes_an_int8_graph_that_still_answers(float_graph: Path, tmp_path: Path, run: Any, sqnr: Any) -> None:
    nncf_default(float_graph, tmp_path / "nncf.xml", [smooth_image(seed) for seed in range(3)])

    layers = ElementTree.parse(tmp_path / "nncf.xml").findall("./layers/layer")
    stored = Counter(layer.findall("data")[0].get("element_type") for layer in layers if layer.get("type") == "Const")
    assert stored["i8"] > 50
    image = smooth_image(9)
    given, expected = answers(tmp_path / "nncf.xml", image), run(float_graph, image)
    for name in ("lungs", "spots.boxes", "spots.scores"):
        assert sqnr(expected[name], given[name]) > 10


def test_a_graph_that_openvino_cannot_read_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")

    with pytest.raises(FoveolaError, match=r"broken\.onnx: OpenVINO cannot read") as refusal:
        write_ir(tmp_path / "broken.onnx", tmp_path / "broken.xml")

    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.onnx"]
