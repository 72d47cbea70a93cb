"""The road from a network to every exported file, for a test that runs it twice; sockets are closed on a fresh run."""

from __future__ import annotations

import socket
import sys
from pathlib import Path


def make(folder: Path) -> None:
    """Every form of one small network."""
    import numpy as np
    import torch
    from torch import Tensor, nn

    from foveola.export.input_words import take_words
    from foveola.export.nncf_int8 import nncf_default, nncf_int8
    from foveola.export.onnx_graph import export_onnx
    from foveola.export.openvino_ir import write_ir
    from foveola.export.quantize import quantize_onnx
    from foveola.export.tensorrt.kit import write_kit
    from foveola.runtime.manifest import InputSpec

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
            self.body = nn.Conv2d(8, 8, 3, padding=1)
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = self.stem((x - 0.5) / 0.25)
            x = torch.relu(x + self.body(x))
            return {"finding": self.head(x.mean((2, 3)))}

    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = Net().eval()
    export_onnx(network, InputSpec(height=16, width=16, channels=3), ["finding"], folder / "float.onnx", opset=20)
    random = np.random.default_rng(2)
    images = [random.random((1, 3, 16, 16), dtype=np.float32) for _ in range(4)]
    quantize_onnx(folder / "float.onnx", folder / "int8.onnx", images, min_images=4)
    write_ir(folder / "int8.onnx", folder / "int8.xml")
    nncf_default(folder / "float.onnx", folder / "nncf.xml", images)
    nncf_int8(folder / "float.onnx", folder / "own.xml", images)
    take_words(folder / "int8.onnx", folder / "words.onnx")
    write_ir(folder / "float.onnx", folder / "half.xml", half=True)
    write_kit(folder / "float.onnx", folder, arithmetic="int8", images=images)
    (folder / "tensorrt.onnx").rename(folder / "typed8.onnx")
    write_kit(folder / "float.onnx", folder, arithmetic="float16", images=images)


def refuse(*_: object) -> None:
    raise RuntimeError("a connection was tried")


if __name__ == "__main__":
    socket.socket.connect = refuse  # type: ignore[method-assign]
    make(Path(sys.argv[1]))
