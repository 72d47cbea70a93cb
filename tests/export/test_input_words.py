"""A graph that takes 16-bit words: the same answers as on floats, on both engines, in every arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from foveola.export.input_words import take_words
from foveola.export.openvino_ir import write_ir
from foveola.export.quantize import Quantized
from foveola.runtime.engine import WORDS, as_input, open_session
from foveola.runtime.manifest import OnnxRuntimeOptions, OpenVinoOptions

Raw = Mapping[str, NDArray[np.float32]]


def words() -> NDArray[np.uint16]:
    """A smooth picture in 16 bits with both ends of the range and their neighbours."""
    small = np.random.default_rng(3).integers(0, WORDS + 1, (1, 1, 12, 8))
    picture = small.repeat(8, 2).repeat(8, 3).astype(np.uint16)
    picture[0, 0, 0, :6] = (0, 1, 2, WORDS - 2, WORDS - 1, WORDS)
    return picture


def answers(graph: Path, x: NDArray[Any]) -> dict[str, Raw]:
    """On both engines."""
    xml = graph.with_suffix(".xml")
    write_ir(graph, xml)
    members = {graph.name: graph.read_bytes(), xml.name: xml.read_bytes(), "w": xml.with_suffix(".bin").read_bytes()}
    both = OnnxRuntimeOptions(graph=graph.name, threads=1), OpenVinoOptions(graph=xml.name, weights="w", threads=1)
    sessions = [open_session(options, members) for options in both]
    assert {session.input_type for session in sessions} == {"uint16" if "words" in graph.name else "float32"}
    return {name: session.run(x) for name, session in zip(("onnxruntime", "openvino"), sessions, strict=True)}


@pytest.fixture(scope="module", params=["float32", "int8"])
def pair(
    request: pytest.FixtureRequest,
    float_graph: Path,
    int8_graph: tuple[Path, Quantized],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """A graph of floats and the same of words, in a folder of their own."""
    folder = tmp_path_factory.mktemp("words")
    source = float_graph if request.param == "float32" else int8_graph[0]
    (folder / "floats.onnx").write_bytes(source.read_bytes())
    take_words(folder / "floats.onnx", folder / "words.onnx")
    return folder / "floats.onnx", folder / "words.onnx"


def test_words_are_answered_as_the_floats_that_they_stand_for_on_both_engines(pair: tuple[Path, Path]) -> None:
    floats, graph = pair
    x = words()
    shares = as_input(x, "float32")

    wanted, given, again = answers(floats, shares), answers(graph, x), answers(graph, shares)

    for engine, raw in wanted.items():
        for name, value in raw.items():
            np.testing.assert_allclose(given[engine][name], value, atol=2e-5, rtol=1e-5, err_msg=f"{engine} {name}")
            np.testing.assert_array_equal(again[engine][name], given[engine][name])


def test_a_graph_of_words_is_whole_and_passes_the_checker(pair: tuple[Path, Path]) -> None:
    model = onnx.load(pair[1])

    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert [value.type.tensor_type.elem_type for value in model.graph.input] == [onnx.TensorProto.UINT16]
    assert all(node.name for node in model.graph.node)
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    assert not [path.name for path in pair[1].parent.iterdir() if path.suffix == ".data"]


def test_only_the_front_is_new(pair: tuple[Path, Path]) -> None:
    before, after = (onnx.load(path).graph for path in pair)

    assert [node.op_type for node in after.node[:3]] == ["Cast", "Cast", "Div"]
    assert [node.name for node in after.node[3:]] == [node.name for node in before.node]
    assert after.output == before.output
    assert [tensor.name for tensor in after.initializer][:-1] == [tensor.name for tensor in before.initializer]


def test_a_graph_of_words_stays_as_it_is_and_may_be_written_over_itself(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(pair[0].read_bytes())

    take_words(path, path)
    once = path.read_bytes()
    take_words(path, path)

    assert once == path.read_bytes() == pair[1].read_bytes()


def test_every_word_survives_the_way_to_a_share_and_back() -> None:
    every = np.arange(WORDS + 1, dtype=np.uint16)[None, None, None]

    shares = as_input(every, "float32")

    assert (shares.min(), shares.max()) == (0, 1)
    np.testing.assert_array_equal(as_input(shares, "uint16"), every)
    np.testing.assert_array_equal(as_input(np.array([[[[-0.2, 1.7]]]], np.float32), "uint16"), [[[[0, WORDS]]]])
