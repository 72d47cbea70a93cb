"""A small multitask network of the kind that is shipped, and graphs made of it once for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from foveola.export.onnx_graph import export_onnx
from foveola.export.quantize import Quantized, quantize_onnx
from foveola.runtime.manifest import InputSpec
from foveola.runtime.offline import forbid_telemetry

forbid_telemetry()

SPEC = InputSpec(height=96, width=64, channels=1)
TENSORS = ("findings", "age", "lungs", "spots.boxes", "spots.scores")


def images(count: int, spec: InputSpec = SPEC) -> Iterator[NDArray[np.float32]]:
    """Blurred noise with a bright blob: not a radiograph, but as smooth as one."""
    random = np.random.default_rng(5)
    y, x = np.mgrid[: spec.height, : spec.width]
    for _ in range(count):
        noise = random.random((spec.height // 8, spec.width // 8)).repeat(8, 0).repeat(8, 1)
        cy, cx = random.integers(10, spec.height - 10), random.integers(10, spec.width - 10)
        blob = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 80.0)
        image = np.clip(0.6 * noise + 0.5 * blob + 0.02 * random.standard_normal(noise.shape), 0, 1)
        yield image[None, None].astype(np.float32)


@pytest.fixture(scope="session")
def network() -> Any:
    import timm
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import interpolate

    def separable(channels: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )

    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone: Any = timm.create_model(
                "mobilenetv4_conv_small", features_only=True, in_chans=1, out_indices=(2, 3, 4)
            )
            self.lateral = nn.ModuleList(nn.Conv2d(c, 32, 1) for c in self.backbone.feature_info.channels())
            self.smooth = nn.ModuleList([separable(32), separable(32)])
            self.mask, self.spots = separable(32), separable(32)
            self.findings, self.age = nn.Linear(960, 6), nn.Linear(960, 1)
            self.lungs, self.boxes, self.scores = (nn.Conv2d(32, channels, 1) for channels in (3, 4, 2))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            fine, middle, coarse = self.backbone((x - 0.5) / 0.25)
            features = coarse.mean((2, 3))
            map5 = self.lateral[2](coarse)
            map4 = self.smooth[0](self.lateral[1](middle) + interpolate(map5, scale_factor=2.0, mode="bilinear"))
            map3 = self.smooth[1](self.lateral[0](fine) + interpolate(map4, scale_factor=2.0, mode="nearest"))
            spots = self.spots(map3)
            return {
                "spots.scores": self.scores(spots),
                "spots.boxes": self.boxes(spots),
                "lungs": self.lungs(self.mask(map3)),
                "findings": self.findings(features),
                "age": self.age(features),
            }

    torch.manual_seed(3)
    student = Student().train()
    batch = torch.cat([torch.from_numpy(image) for image in images(12)])
    with torch.no_grad():
        for _ in range(5):
            student(batch)  # statistics for the normalisation layers, as training leaves them
    return student.eval()


@pytest.fixture(scope="session")
def float_graph(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "float.onnx"
    export_onnx(network, SPEC, TENSORS, path, opset=20)
    return path


@pytest.fixture(scope="session")
def int8_graph(float_graph: Path) -> tuple[Path, Quantized]:
    path = float_graph.with_name("int8.onnx")
    return path, quantize_onnx(float_graph, path, images(12), min_images=12)


@pytest.fixture(scope="session")
def signed_graph(float_graph: Path) -> tuple[Path, Quantized]:
    path = float_graph.with_name("signed.onnx")
    return path, quantize_onnx(float_graph, path, images(12), form="signed", min_images=12)


@pytest.fixture
def run() -> Any:
    def run_onnx(
        path: Path, image: NDArray[np.float32], level: str = "ORT_ENABLE_ALL"
    ) -> dict[str, NDArray[np.float32]]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session: Any = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {"image": image}), strict=True))

    return run_onnx


@pytest.fixture
def sqnr() -> Any:
    """Signal to quantisation noise in decibels; 20 means that the noise has a tenth of the signal's amplitude."""

    def decibels(clean: NDArray[np.float32], noisy: NDArray[np.float32]) -> float:
        centred = clean - clean.mean()
        return float(10 * np.log10((centred**2).mean() / ((clean - noisy) ** 2).mean()))

    return decibels
