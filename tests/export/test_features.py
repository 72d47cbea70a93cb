"""The second output: the mean of the deepest map, in every form, and the other outputs as they were."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foveola.export.features import FEATURES, feature_map, tap_ir, tap_onnx
from foveola.export.nncf_int8 import nncf_int8
from foveola.export.onnx_graph import export_onnx
from foveola.export.openvino_ir import write_ir
from foveola.export.quantize import quantize_onnx
from foveola.export.tensorrt.kit import write_kit
from foveola.runtime.engine import open_session
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import InputSpec, OnnxRuntimeOptions, OpenVinoOptions

SPEC = InputSpec(height=32, width=32, channels=1)
Image = NDArray[np.float32]


class Network(nn.Module):
    """Three convolutions of stride 2, a head on the pooled map and one on the map before it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.third, self.side = nn.Conv2d(12, 16, 3, 2, 1), nn.Conv2d(12, 2, 1)
        self.last = nn.Linear(16, 3)

    def deepest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        middle = self.second(self.first(x).relu()).relu()
        return middle, self.third(middle).relu()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        middle, deep = self.deepest(x)
        return {"found": self.last(deep.mean((2, 3))), "map": self.side(middle)}


@pytest.fixture(scope="module")
def images() -> list[Image]:
    rng = np.random.default_rng(0)
    return [rng.random((1, 1, 32, 32), np.float32) for _ in range(4)]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory, images: list[Image]) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    export_onnx(Network(), SPEC, ("found", "map"), folder / "float.onnx", opset=20)
    quantize_onnx(folder / "float.onnx", folder / "int8.onnx", images, min_images=1)
    return folder


def run(graph: Path, image: Image) -> dict[str, Image]:
    options = OnnxRuntimeOptions(graph=graph.name, threads=1, spinning=False)
    return open_session(options, {graph.name: graph.read_bytes()}).run(image)


def run_ir(xml: Path, image: Image) -> dict[str, Image]:
    options = OpenVinoOptions(graph=xml.name, weights=xml.with_suffix(".bin").name, threads=1)
    return open_session(options, {name: (xml.parent / name).read_bytes() for name in options.files}).run(image)


def torch_features(image: Image) -> Image:
    with torch.inference_mode():
        mean: Image = Network().deepest(torch.from_numpy(image))[1].mean((2, 3)).numpy()
    return mean


@pytest.mark.parametrize(("form", "tolerance"), [("float", 1e-5), ("int8", 0.03)])
def test_the_features_are_the_means_of_the_deepest_map_and_nothing_else_moves(
    form: str, tolerance: float, graphs: Path, images: list[Image], tmp_path: Path
) -> None:
    graph = tmp_path / f"{form}.onnx"
    shutil.copy(graphs / graph.name, graph)
    before = run(graph, images[0])

    tap_onnx(graph, feature_map(graphs / "float.onnx"))

    after = run(graph, images[0])
    assert list(after) == [*before, FEATURES]
    assert all(np.array_equal(after[name], values) for name, values in before.items())
    assert after[FEATURES].shape == (1, 16)
    assert np.allclose(after[FEATURES], torch_features(images[0]), atol=tolerance)


def test_equal_graphs_give_equal_bytes(graphs: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copy(graphs / "int8.onnx", tmp_path / name)
        tap_onnx(tmp_path / name, feature_map(graphs / "float.onnx"))

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("form", ["float", "int8"])
def test_openvino_gives_them_too(form: str, graphs: Path, images: list[Image], tmp_path: Path) -> None:
    graph = tmp_path / f"{form}.onnx"
    shutil.copy(graphs / graph.name, graph)
    tap_onnx(graph, feature_map(graphs / "float.onnx"))
    write_ir(graph, tmp_path / "o.xml")

    found = run_ir(tmp_path / "o.xml", images[0])

    assert np.allclose(found[FEATURES], torch_features(images[0]), atol=0.03)


def test_what_nncf_has_rounded_gets_them_in_openvinos_own_format(
    graphs: Path, images: list[Image], tmp_path: Path
) -> None:
    nncf_int8(graphs / "float.onnx", tmp_path / "n.xml", images)
    before = run_ir(tmp_path / "n.xml", images[0])

    tap_ir(tmp_path / "n.xml", feature_map(graphs / "float.onnx"))

    after = run_ir(tmp_path / "n.xml", images[0])
    assert all(np.allclose(after[name], values, atol=1e-5) for name, values in before.items())
    assert np.allclose(after[FEATURES], torch_features(images[0]), atol=0.05)


@pytest.mark.parametrize("arithmetic", ["float32", "float16", "int8"])
def test_the_build_kit_of_tensorrt_gives_them_as_float32(
    arithmetic: str, graphs: Path, images: list[Image], tmp_path: Path
) -> None:
    name = feature_map(graphs / "float.onnx")

    write_kit(graphs / "float.onnx", tmp_path, arithmetic=arithmetic, images=images, features=name)  # type: ignore[arg-type]

    outputs = {value.name: value for value in onnx.load(tmp_path / "tensorrt.onnx").graph.output}
    assert outputs[FEATURES].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    options = OnnxRuntimeOptions(graph="tensorrt.onnx", threads=1, spinning=False, graph_optimization="disable")
    found = open_session(options, {"tensorrt.onnx": (tmp_path / "tensorrt.onnx").read_bytes()}).run(images[0])
    assert np.allclose(found[FEATURES], torch_features(images[0]), atol=0.05)


def test_a_graph_without_a_map_is_refused(tmp_path: Path) -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"found": x.mean((2, 3))}

    make: Callable[..., object] = export_onnx
    make(Flat(), SPEC, ("found",), tmp_path / "flat.onnx", opset=20)

    with pytest.raises(FoveolaError, match="no feature map"):
        feature_map(tmp_path / "flat.onnx")
