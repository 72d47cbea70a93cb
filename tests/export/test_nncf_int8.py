"""NNCF's int8 as it ships: heads in float by a walk of the graph, weights by the profile, layers back to float."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from numpy.typing import NDArray

from foveola.export.input_words import take_words
from foveola.export.nncf_int8 import last_layers, nncf_int8
from foveola.export.onnx_graph import export_onnx
from foveola.export.openvino_ir import read_model
from foveola.runtime.engine import WORDS, as_input, open_session
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import InputSpec, OpenVinoOptions

SPEC = InputSpec(height=16, width=16, channels=1)
NAMES = ("finding", "mask")
LAYERS = ("Convolution", "GroupConvolution", "MatMul")
Run = Callable[[NDArray[Any]], dict[str, NDArray[np.float32]]]


def images(count: int = 4) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(4)
    words = random.integers(0, WORDS + 1, (count, 1, 1, 16, 16))
    return [(one / np.float32(WORDS)).astype(np.float32) for one in words]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four inner layers; the head of a mask ends in a resize, that of a finding in a matrix product."""
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import interpolate

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
            self.body = nn.Sequential(*[layer for _ in range(3) for layer in (nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())])
            self.mask, self.finding = nn.Conv2d(16, 2, 1), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = self.body(self.stem((x - 0.5) / 0.25))
            mask = interpolate(self.mask(x), scale_factor=2.0, mode="bilinear")
            return {"finding": self.finding(x.mean((2, 3))), "mask": mask}

    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = Net().eval()
    path = tmp_path_factory.mktemp("nncf") / "float.onnx"
    export_onnx(network, SPEC, NAMES, path, opset=20)
    return path


def answers(xml: Path, image: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    members = {"openvino.xml": xml.read_bytes(), "openvino.bin": xml.with_suffix(".bin").read_bytes()}
    return open_session(OpenVinoOptions(threads=1), members).run(image)


def stored(xml: Path) -> list[str]:
    """Types of the weights of the layers, behind whatever turns them into float."""
    model = openvino.Core().read_model(xml)
    return [_stored(node.input_value(1).get_node()) for node in model.get_ops() if node.get_type_name() in LAYERS]


def _stored(node: Any) -> str:
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    return str(node.get_element_type().to_string())


def largest(xml: Path) -> int:
    model = openvino.Core().read_model(xml)
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    return max(
        int(np.abs(node.get_data().astype(np.int16)).max())
        for node in constants
        if node.get_element_type().to_string() == "i8"
    )


def test_the_last_layers_are_found_by_walking_back_from_the_results_whatever_stands_behind_them(graph: Path) -> None:
    model = read_model(graph)
    kinds = {node.get_friendly_name(): node for node in model.get_ops()}

    found = [kinds[name] for name in last_layers(model)]

    # The finding's 3 answers and the mask's 2, and nothing of the body.
    assert sorted(tuple(node.output(0).shape)[1] for node in found) == [2, 3]


def test_names_play_no_part_in_what_stays_float(graph: Path, tmp_path: Path) -> None:
    model = read_model(graph)
    for number, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name(f"n{number}")

    assert len(last_layers(model)) == 2
    assert all(name.startswith("n") for name in last_layers(model))


def test_all_layers_but_the_last_of_each_head_are_integers_and_the_rest_is_float32(graph: Path, tmp_path: Path) -> None:
    heads = nncf_int8(graph, tmp_path / "net.xml", images())

    kept = stored(tmp_path / "net.xml")
    assert len(heads) == 2
    assert sorted(kept) == ["f32", "f32", "i8", "i8", "i8", "i8"]
    layers = ElementTree.parse(tmp_path / "net.xml").findall("./layers/layer")
    types = {layer.findall("data")[0].get("element_type") for layer in layers if layer.get("type") == "Const"}
    assert "f16" not in types
    assert answers(tmp_path / "net.xml", images()[0]).keys() == set(NAMES)


def test_weights_have_seven_bits_where_the_processor_saturates_and_eight_elsewhere(graph: Path, tmp_path: Path) -> None:
    nncf_int8(graph, tmp_path / "seven.xml", images(), weight_bits=7)
    nncf_int8(graph, tmp_path / "eight.xml", images(), weight_bits=8)

    assert largest(tmp_path / "seven.xml") <= 64
    assert 2 * 255 * largest(tmp_path / "seven.xml") <= 32767
    assert largest(tmp_path / "eight.xml") >= 127


def test_equal_inputs_give_equal_bytes(graph: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        nncf_int8(graph, tmp_path / f"{name}.xml", images())

    for suffix in (".xml", ".bin"):
        assert (tmp_path / "one").with_suffix(suffix).read_bytes() == (tmp_path / "two").with_suffix(
            suffix
        ).read_bytes()


def test_a_network_of_last_layers_alone_is_refused_in_one_line(tmp_path: Path) -> None:
    from torch import Tensor, nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(1, 2, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.head(x)}

    export_onnx(Net().eval(), SPEC, ["out"], tmp_path / "net.onnx", opset=20)

    with pytest.raises(FoveolaError, match="each is the last of a head"):
        nncf_int8(tmp_path / "net.onnx", tmp_path / "net.xml", images())

    assert not (tmp_path / "net.xml").exists()


def slack_of(graph: Path, least: float) -> tuple[Callable[[Run], float], list[float]]:
    """1 for the float graph's own answers, below 0 beyond an error of `least`; and what it was asked."""
    model = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    wanted = [np.array(model(image)["mask"]) for image in images()]
    asked: list[float] = []

    def slack(run: Run) -> float:
        pairs = zip(images(), wanted, strict=True)
        error = max(float(np.abs(run(image)["mask"] - one).max()) for image, one in pairs)
        asked.append(1 - error / least)
        return asked[-1]

    return slack, asked


def error_of(xml: Path, graph: Path) -> float:
    slack, _ = slack_of(graph, 1.0)
    return 1 - slack(lambda image: answers(xml, image))


def test_under_accuracy_control_layers_go_back_to_float_until_the_slack_is_kept(graph: Path, tmp_path: Path) -> None:
    nncf_int8(graph, tmp_path / "plain.xml", images())
    plain = error_of(tmp_path / "plain.xml", graph)
    slack, asked = slack_of(graph, plain / 3)  # integers everywhere lose three margins

    nncf_int8(graph, tmp_path / "kept.xml", images(), slack=slack)

    assert asked[0] == pytest.approx(1, abs=1e-3)
    assert min(asked) < -1
    assert 0 < stored(tmp_path / "kept.xml").count("i8") < stored(tmp_path / "plain.xml").count("i8")
    assert error_of(tmp_path / "kept.xml", graph) <= plain / 3


def test_accuracy_control_puts_nothing_back_where_the_margin_is_kept(graph: Path, tmp_path: Path) -> None:
    nncf_int8(graph, tmp_path / "plain.xml", images())
    slack, _ = slack_of(graph, 1e3)

    nncf_int8(graph, tmp_path / "kept.xml", images(), slack=slack)

    assert stored(tmp_path / "kept.xml") == stored(tmp_path / "plain.xml")


def test_a_graph_of_words_is_asked_with_words_though_the_validation_images_are_floats(
    graph: Path, tmp_path: Path
) -> None:
    take_words(graph, tmp_path / "words.onnx")
    slack, asked = slack_of(graph, 1e3)

    nncf_int8(
        tmp_path / "words.onnx", tmp_path / "words.xml", [as_input(one, "uint16") for one in images()], slack=slack
    )

    assert asked[0] == pytest.approx(1, abs=1e-6)  # the float graph answers as itself
    nncf_int8(graph, tmp_path / "floats.xml", images())
    for image in images():
        ours, theirs = answers(tmp_path / "words.xml", image), answers(tmp_path / "floats.xml", image)
        for name in NAMES:
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)


def test_without_nncf_the_install_line_is_told(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foveola.runtime.errors import MissingPartError

    monkeypatch.setitem(sys.modules, "nncf", None)

    with pytest.raises(MissingPartError, match=r"nncf: is not installed.*pip install"):
        nncf_int8(graph, tmp_path / "net.xml", images())
