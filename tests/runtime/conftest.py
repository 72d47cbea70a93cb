"""One tiny valid bundle whose answers can be worked out on paper, for both engines.

The input is 32 x 32; every output is a linear function of the mean of its 4 x 4 blocks (grid 8 x 8):
`findings` of the mean of all, `lungs`, `spots.boxes` and `spots.scores` of each block.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from foveola.export.signing import make_keys, sign_members
from foveola.runtime.bundle import Bundle, read_unverified, write_bundle
from foveola.runtime.manifest import (
    FORMAT,
    Calibration,
    InputSpec,
    Manifest,
    OnnxRuntimeOptions,
    OpenVinoOptions,
    Provenance,
    TaskOutput,
    encode_manifest,
)
from foveola.runtime.predict import Predictor
from foveola.runtime.selftest import make_golden
from foveola.runtime.task import Task

SIDE, CELL = 32, 4
# Output name -> weight and bias of each channel, applied to the mean of the image (pooled) or of each block.
POOLED = {"findings": ([10.0, -10.0], [-2.0, 2.0]), "age": ([2.0], [-1.0]), "grade": ([9.0, 9.0], [-3.0, -6.0])}
BLOCKS = {
    "lungs": ([0.0, 8.0], [0.0, -4.0]),
    "spots.boxes": ([0.0] * 4, [2.0] * 4),  # softplus(2) * 4 = 8.5 pixels each way
    "spots.scores": ([20.0], [-15.0]),
}
OUTPUTS = (
    TaskOutput(
        task=Task(name="findings", kind="multilabel", classes=("bright", "dark")),
        tensors=("findings",),
        thresholds=(0.5, 0.4),
    ),
    TaskOutput(
        task=Task(name="age", kind="regression", classes=("age",), unit="years"),
        tensors=("age",),
        mean=(50.0,),
        std=(10.0,),
    ),
    TaskOutput(task=Task(name="grade", kind="ordinal", classes=("none", "mild", "severe")), tensors=("grade",)),
    TaskOutput(task=Task(name="lungs", kind="segmentation", classes=("lung",)), tensors=("lungs",)),
    TaskOutput(
        task=Task(name="spots", kind="detection", classes=("spot",)),
        tensors=("spots.boxes", "spots.scores"),
        thresholds=(0.9,),
        stride=CELL,
    ),
)


@pytest.fixture(scope="session")
def tiny_graph() -> Callable[..., bytes]:
    """The graph as ONNX bytes; other weights on demand."""

    def make(**changed: tuple[list[float], list[float]]) -> bytes:
        nodes = [
            helper.make_node("AveragePool", ["image"], ["blocks"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
            helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        ]
        constants: list[onnx.TensorProto] = []
        infos: list[Any] = []
        for source, outputs in (("mean", POOLED), ("blocks", BLOCKS)):
            for name, original in outputs.items():
                weight, bias = changed.get(name.replace(".", "_"), original)
                kernel = np.array(weight, np.float32).reshape(-1, 1, 1, 1)
                constants += [
                    numpy_helper.from_array(kernel, f"{name}.weight"),
                    numpy_helper.from_array(np.array(bias, np.float32), f"{name}.bias"),
                ]
                raw = f"{name}.raw" if source == "mean" else name
                nodes.append(helper.make_node("Conv", [source, f"{name}.weight", f"{name}.bias"], [raw]))
                if source == "mean":
                    nodes.append(helper.make_node("Flatten", [raw], [name]))
                grid = [] if source == "mean" else [SIDE // CELL, SIDE // CELL]
                infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, len(weight), *grid]))
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, SIDE, SIDE])
        graph = helper.make_graph(nodes, "tiny", [image], infos, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())

    return make


@pytest.fixture(scope="session")
def tiny_manifest() -> Manifest:
    return Manifest(
        format=FORMAT,
        name="tiny",
        version="1",
        device="generic-x86",
        input=InputSpec(height=SIDE, width=SIDE, channels=1),
        outputs=OUTPUTS,
        engines=(
            OnnxRuntimeOptions(arithmetic="float32", threads=1, spinning=False),
            OpenVinoOptions(arithmetic="float32", threads=1),
        ),
        calibration=Calibration(method="none", images=0, min_images=0, images_digest=""),
        provenance=Provenance(
            recipe="tiny", recipe_digest="", data_digest="", teacher_digest="", student_digest="", seed=0, versions={}
        ),
    )


@pytest.fixture(scope="session")
def tiny_image() -> bytes:
    """A grey 64 x 64 PNG: black, with one square of 16 white pixels a side at (32, 16)."""
    pixels = np.zeros((64, 64), np.uint8)
    pixels[16:32, 32:48] = 255
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def openvino_ir(graph: bytes, folder: Path) -> tuple[bytes, bytes]:
    """The same graph as OpenVINO's pair of files."""
    openvino.save_model(openvino.Core().read_model(graph), folder / "tiny.xml", compress_to_fp16=False)
    return (folder / "tiny.xml").read_bytes(), (folder / "tiny.bin").read_bytes()


@pytest.fixture(scope="session")
def tiny_keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_keys(tmp_path_factory.mktemp("keys") / "maker")


@pytest.fixture(scope="session")
def tiny_members(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_graph: Callable[..., bytes],
    tiny_manifest: Manifest,
    tiny_image: bytes,
) -> dict[str, bytes]:
    """Everything but the signature."""
    folder = tmp_path_factory.mktemp("tiny")
    graph = tiny_graph()
    xml, weights = openvino_ir(graph, folder)
    members = {
        "manifest.json": encode_manifest(tiny_manifest),
        "model.onnx": graph,
        "openvino.xml": xml,
        "openvino.bin": weights,
    }
    bundle = write_bundle(folder / "early.foveola", members)
    predictors = [Predictor(bundle, engine) for engine in ("onnxruntime", "openvino")]
    return {**members, "golden.npz": make_golden(predictors, [tiny_image])}


@pytest.fixture(scope="session")
def tiny_path(
    tmp_path_factory: pytest.TempPathFactory, tiny_members: dict[str, bytes], tiny_keys: tuple[Path, Path]
) -> Path:
    """The signed bundle, with its public key beside it."""
    path = tmp_path_factory.mktemp("bundle") / "tiny.foveola"
    write_bundle(path, {**tiny_members, "model.sig": sign_members(tiny_members, tiny_keys[0].read_bytes())})
    path.with_suffix(".pub").write_bytes(tiny_keys[1].read_bytes())
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tiny_path: Path) -> Bundle:
    return read_unverified(tiny_path)


@pytest.fixture
def bundle_with(tmp_path: Path, tiny_members: dict[str, bytes]) -> Callable[[dict[str, bytes]], Bundle]:
    """The tiny bundle with some members exchanged, not signed."""

    def make(members: dict[str, bytes]) -> Bundle:
        return write_bundle(tmp_path / "changed.foveola", {**tiny_members, **members})

    return make
