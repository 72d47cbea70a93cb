"""The float graph: answers as torch does, whole in one file, with no trace of the machine."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import onnx
import pytest

import foveola
from foveola.export.onnx_graph import export_onnx
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import InputSpec

SPEC = InputSpec(height=96, width=64, channels=1)
TENSORS = ("findings", "age", "lungs", "spots.boxes", "spots.scores")
TINY = InputSpec(height=16, width=16, channels=3)


def test_the_graph_answers_as_torch_does(network: Any, float_graph: Path, run: Any) -> None:
    import torch

    image = np.random.default_rng(1).random((1, 1, 96, 64), dtype=np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(image))

    answer = run(float_graph, image)

    assert tuple(answer) == TENSORS
    for name in TENSORS:
        np.testing.assert_allclose(answer[name], expected[name].numpy(), atol=1e-4, rtol=1e-4)


def test_the_graph_is_one_file_with_one_static_input(float_graph: Path) -> None:
    model = onnx.load(float_graph, load_external_data=False)

    assert [entry.domain for entry in model.opset_import] == [""]
    assert [value.name for value in model.graph.input] == ["image"]
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 1, 96, 64]
    assert all(d.HasField("dim_value") for v in model.graph.output for d in v.type.tensor_type.shape.dim)
    assert not [path for path in float_graph.parent.iterdir() if path.suffix == ".data"]
    assert not [node.op_type for node in model.graph.node if node.op_type == "BatchNormalization"]


def test_a_fresh_process_writes_the_same_bytes_as_this_one_without_a_trace_of_the_machine(tmp_path: Path) -> None:
    road = Path(__file__).with_name("road.py")
    here, there, home = tmp_path / "one", tmp_path / "another" / "place", tmp_path / "home"
    for folder in (here, there, home):
        folder.mkdir(parents=True)
    environment = os.environ | {"PYTHONHASHSEED": "7", "HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(road), str(there)]

    fresh = subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, cwd=there, env=environment)
    runpy.run_path(str(road))["make"](here)
    said, complained = fresh.communicate(timeout=300)

    assert fresh.returncode == 0, complained
    assert said == ""
    assert list(home.iterdir()) == [], "usage statistics were set up"
    files = sorted(path.name for path in here.iterdir())
    assert files == [
        "float.onnx", "half.bin", "half.xml", "int8.bin", "int8.onnx", "int8.xml", "nncf.bin", "nncf.xml", "own.bin",
        "own.xml", "tensorrt.json", "tensorrt.onnx", "typed8.onnx", "words.onnx",
    ]  # fmt: skip
    traces = [
        str(Path(foveola.__file__).parent),
        str(tmp_path),
        sys.prefix,
        "site-packages",
        'File "',
        str(Path.home()),
    ]
    for name in files:
        data = (here / name).read_bytes()
        assert data == (there / name).read_bytes(), name
        assert not [trace for trace in traces if trace.encode() in data], name


def test_exporting_leaves_the_network_as_it_was_and_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())

        def forward(self, x: Any) -> Any:
            return {"out": self.layer(x)}

    network = Net().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    export_onnx(network, TINY, ["out"], tmp_path / "net.onnx", opset=18)

    assert network.training
    assert all(module.training for module in network.modules())
    assert all(tensor.requires_grad for tensor in network.parameters())
    assert all((tensor == before[name]).all() for name, tensor in network.state_dict().items())
    assert capfd.readouterr() == ("", "")
    assert [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node] == ["Conv"]


def test_a_network_that_branches_on_pixels_is_refused_in_one_line(tmp_path: Path) -> None:
    from torch import nn

    class Net(nn.Module):
        def forward(self, x: Any) -> Any:
            return {"out": x if x.sum() > 0 else -x}

    with pytest.raises(FoveolaError, match="cannot be traced") as refusal:
        export_onnx(Net(), TINY, ["out"], tmp_path / "net.onnx", opset=20)

    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_an_opset_that_the_exporter_cannot_write_is_refused(tmp_path: Path) -> None:
    from torch import nn

    class Net(nn.Module):
        def forward(self, x: Any) -> Any:
            return {"out": nn.functional.interpolate(x, scale_factor=2.0)}

    with pytest.raises(FoveolaError, match="opset 17"):
        export_onnx(Net(), TINY, ["out"], tmp_path / "net.onnx", opset=17)

    assert not list(tmp_path.iterdir())


def test_every_node_is_told_with_the_module_it_comes_from_and_the_file_says_nothing_of_it(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()

        def forward(self, x: Any) -> Any:
            return x + self.act(self.norm(self.conv(x)))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(Block(), Block())
            self.head = nn.Linear(3, 2)

        def forward(self, x: Any) -> Any:
            return {"out": torch.tanh(self.head(self.blocks(x / 2).mean((2, 3))))}

    origins = export_onnx(Net(), TINY, ["out"], tmp_path / "net.onnx", opset=20)

    nodes = onnx.load(tmp_path / "net.onnx").graph.node
    told = [(node.op_type, origins.get(node.name, "")) for node in nodes]
    assert told == [
        ("Div", ""),
        ("Conv", "blocks.0.conv"),
        ("Relu", "blocks.0.act"),
        ("Add", "blocks.0"),
        ("Conv", "blocks.1.conv"),
        ("Relu", "blocks.1.act"),
        ("Add", "blocks.1"),
        ("ReduceMean", ""),
        ("Gemm", "head"),
        ("Tanh", ""),
    ]
    assert not any(node.metadata_props for node in nodes)


def test_a_teacher_with_a_dilated_backbone_and_a_deeplab_head_is_exported(tmp_path: Path, run: Any) -> None:
    import timm
    import torch
    from torch import nn
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead

    class Teacher(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = timm.create_model(
                "resnet18", features_only=True, in_chans=1, output_stride=16, out_indices=(4,)
            )
            self.lungs, self.findings = DeepLabHead(512, 3), nn.Linear(512, 5)

        def forward(self, x: Any) -> Any:
            (features,) = self.backbone((x - 0.5) / 0.25)
            return {"lungs": self.lungs(features), "findings": self.findings(features.mean((2, 3)))}

    teacher = Teacher().eval()
    image = torch.rand(1, 1, 64, 64)

    export_onnx(
        teacher, InputSpec(height=64, width=64, channels=1), ["findings", "lungs"], tmp_path / "t.onnx", opset=20
    )

    answer = run(tmp_path / "t.onnx", image.numpy())
    with torch.no_grad():
        expected = teacher(image)
    for name in ("findings", "lungs"):
        np.testing.assert_allclose(answer[name], expected[name].numpy(), atol=1e-4, rtol=1e-3)
