from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from foveola.export.tensorrt.kit import write_kit
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import Arithmetic, TensorRtOptions
from foveola.runtime.tensorrt.plan import decode_plan, encode_plan, read_kit


def images(count: int = 4) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(4)
    return [random.random((1, 1, 12, 8)).repeat(8, 2).repeat(8, 3).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("arithmetic", ["float32", "float16", "int8"])
def test_a_kit_is_a_checked_graph_and_its_plan_the_same_bytes_each_time(
    float_graph: Path, tmp_path: Path, arithmetic: Arithmetic
) -> None:
    first = write_kit(float_graph, tmp_path, arithmetic=arithmetic, images=iter(images()))
    second = write_kit(float_graph, tmp_path, arithmetic=arithmetic, images=images())

    kit = read_kit(TensorRtOptions(arithmetic=arithmetic), first)
    assert first == second
    assert {name: (tmp_path / name).read_bytes() for name in first} == first
    assert kit.plan.graph_sha256 == hashlib.sha256(first["tensorrt.onnx"]).hexdigest()
    assert kit.plan.input.shape == (1, 1, 96, 64)
    assert [output.name for output in kit.plan.outputs] == ["findings", "age", "lungs", "spots.boxes", "spots.scores"]
    assert kit.plan.checked == ("10.3", "11")
    assert (kit.plan.int8_layers > 0) == (arithmetic == "int8")
    assert not kit.plan.tf32


def test_the_types_of_a_kit_are_those_of_its_arithmetic(float_graph: Path, tmp_path: Path) -> None:
    kinds = {}
    for arithmetic in ("float32", "float16", "int8"):
        members = write_kit(float_graph, tmp_path, arithmetic=arithmetic, images=images())
        model = onnx.load_model_from_string(members["tensorrt.onnx"])
        kinds[arithmetic] = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4}

    assert kinds["float32"] == {TensorProto.FLOAT}
    assert TensorProto.FLOAT16 in kinds["float16"]
    assert TensorProto.INT8 not in kinds["float16"]
    assert TensorProto.INT8 in kinds["int8"]


def test_a_plan_is_read_as_it_was_written(float_graph: Path, tmp_path: Path) -> None:
    data = write_kit(float_graph, tmp_path, arithmetic="float16", images=images())["tensorrt.json"]

    assert encode_plan(decode_plan(data)) == data


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((b'"tf32": false', b'"tf32": true'), "tf32"),
        ((b'"format": 1', b'"format": 2'), "format 2 is unknown"),
        ((b'"optimization_level": 3', b'"optimization_level": 9'), "optimization_level"),
        ((b'"workspace_mib": 1024', b'"workspace_mib": 10240000'), "workspace_mib"),
        ((b'"opset"', b'"opcet"'), "opcet"),
        ((b"{", b"["), "cannot be read"),
    ],
)
def test_a_plan_that_was_bent_is_refused(
    float_graph: Path, tmp_path: Path, change: tuple[bytes, bytes], words: str
) -> None:
    data = write_kit(float_graph, tmp_path, arithmetic="float16", images=images())["tensorrt.json"]

    with pytest.raises(FoveolaError, match=words):
        decode_plan(data.replace(*change, 1))


def test_too_few_calibration_images_are_refused(float_graph: Path, tmp_path: Path) -> None:
    with pytest.raises(FoveolaError, match="4 images, 64 are needed"):
        write_kit(float_graph, tmp_path, arithmetic="int8", images=images(), min_images=64)


def test_a_network_that_tensorrt_does_not_take_is_refused_with_its_module(tmp_path: Path) -> None:
    import torch
    from torch import Tensor, nn

    from foveola.export.onnx_graph import export_onnx
    from foveola.runtime.manifest import InputSpec

    class Sorted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.interpolate(x, scale_factor=2.0, mode="bicubic")

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.odd, self.last = nn.Conv2d(1, 4, 1), Sorted(), nn.Conv2d(4, 1, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.last(self.odd(self.first(x)))}

    path = tmp_path / "float.onnx"
    origins: Any = export_onnx(Network().eval(), InputSpec(height=8, width=8, channels=1), ("out",), path, opset=20)

    with pytest.raises(FoveolaError, match=r"of odd: its mode is neither nearest nor linear"):
        write_kit(path, tmp_path, arithmetic="float32", images=[], origins=origins)
