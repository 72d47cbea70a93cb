"""The student that a bundle was made of, found again: in torch, and as a float graph exported anew.

A bundle names its student by digest (`manifest.provenance.student_digest`). Beside a bundle that still lies in its run,
the student lies in a folder of another step.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn

from ...devices.profile import load_profile
from ...export.onnx_graph import Origins, export_onnx
from ...runtime.bundle import Bundle
from ...runtime.engine import as_input
from ...runtime.errors import FoveolaError
from ...runtime.manifest import InputType, Manifest, OnnxRuntimeOptions
from ..data.hashing import file_sha256
from ..models.network import load_network

WEIGHTS, PLAN = "model.safetensors", "model.json"


class Student:
    """A network in torch, in evaluation mode, and the float graph that the exporter writes of it.

    Args:
        folder: of the finished student.
        bundle: names the outputs, and the opset of the graph.
    """

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        manifest = bundle.manifest
        network = load_network(folder)
        self.network: nn.Module = network.eval()
        if network.architecture.role == "teacher":
            from ..models.dense_teacher import DenseTeacher

            self.network = DenseTeacher(network).eval()
        self.spec = manifest.input
        self.input_type: InputType = manifest.input_type
        tensors = [tensor for output in manifest.outputs for tensor in output.tensors]
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / "float.onnx"
            self.origins: Origins = export_onnx(self.network, manifest.input, tensors, path, opset=_opset(bundle))
            self.graph = path.read_bytes()

    def run(self, x_1CHW: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Answer to one input, by tensor name."""
        with torch.inference_mode():
            raw: dict[str, torch.Tensor] = self.network(torch.from_numpy(self.fed(x_1CHW)))
        return {name: tensor.numpy() for name, tensor in raw.items()}

    def fed(self, x_1CHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Round the input as the graph's own type does."""
        rounded = as_input(as_input(x_1CHW, self.input_type), "float32")
        return np.array(rounded, np.float32)


def find_student(path: Path, manifest: Manifest, given: Path | None) -> Path | None:
    """Find the folder of a bundle's student; None where there is none beside it.

    Args:
        path: of the bundle, in the folder of a step.
        manifest: names the student.
        given: the folder, where the user says it.

    Raises:
        FoveolaError: the given folder holds another student, or none.
    """
    wanted = manifest.provenance.student_digest
    if given is not None:
        if not (given / WEIGHTS).is_file() or not (given / PLAN).is_file():
            raise FoveolaError(str(given), f"holds no {WEIGHTS} and {PLAN}", "give the folder of a finished student")
        digest = file_sha256(given / WEIGHTS)
        if digest != wanted:
            fault = f"holds student {digest[:12]}, the bundle was made of {wanted[:12]}"
            raise FoveolaError(str(given), fault, "give the folder of that one")
        return given
    for weights in sorted(path.resolve().parent.parent.glob(f"*/{WEIGHTS}")):
        if (weights.parent / PLAN).is_file() and file_sha256(weights) == wanted:
            return weights.parent
    return None


def _opset(bundle: Bundle) -> int:
    """Give the opset of the bundle's own graph, so that the exporter writes the same nodes; else the device's."""
    for options in bundle.manifest.engines:
        if isinstance(options, OnnxRuntimeOptions):
            model = ModelProto.FromString(bundle.members[options.graph])
            versions: dict[str, int] = {entry.domain: entry.version for entry in model.opset_import}
            return versions[""]
    return load_profile(bundle.manifest.device).export.opset
