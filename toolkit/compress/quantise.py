"""From a trained student to the portable int8 graph, calibrated on images set apart from training and proof."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...export.onnx_graph import export_onnx
from ...export.quantize import quantize_onnx
from ...runtime.manifest import Calibration
from ..data.arrays import Arrays, prepare_arrays
from ..data.dataset import Dataset, calibration_set
from ..models.network import Network, load_network, tensor_names
from ..train import write_json
from .lessons import TAUGHT

FLOAT_GRAPH, INT8_GRAPH, CALIBRATION = "float.onnx", "model.onnx", "calibration.json"


def quantise_student(
    student: Path,
    dataset: Dataset,
    *,
    split: str,
    images: int,
    min_images: int,
    method: Literal["minmax", "percentile", "entropy"],
    opset: int,
    weight_bits: Literal[7, 8],
    folder: Path,
    cache: Path,
    progress: Callable[[int, int, str], None],
) -> Calibration:
    """Write the float graph, the int8 graph and the record of its calibration; the student's own files are kept beside.

    Args:
        student: folder of the finished student.
        dataset: holds the calibration images.
        split: which of its splits they are.
        images: at most so many, spread evenly over the split.
        min_images: fewer are refused.
        method: how ranges are set.
        opset: of the ONNX graphs.
        weight_bits: 7 for processors whose 16-bit sums overflow.
        folder: where the results go.
        cache: where decoded images are kept.
        progress: called with (done, total, text).

    Raises:
        FoveolaError: too few calibration images, or one that training or the proof uses too.
    """
    chosen = calibration_set(dataset, split, images, min_images)
    network = load_network(student)
    names = graph_outputs(network)
    progress(0, 3, "writing the float graph")
    export_onnx(network, network.input, names, folder / FLOAT_GRAPH, opset=opset)
    progress(1, 3, f"calibrating on {len(chosen)} images")
    arrays = prepare_arrays(chosen, network.input, cache=cache)
    quantize_onnx(
        folder / FLOAT_GRAPH,
        folder / INT8_GRAPH,
        _one_by_one(arrays),
        method=method,
        weight_bits=weight_bits,
        min_images=min_images,
    )
    hashes = "\n".join(sorted(sample.sha256 for sample in chosen.samples))
    record = Calibration(
        method=method,
        images=len(chosen),
        min_images=min_images,
        images_digest=hashlib.sha256(hashes.encode()).hexdigest(),
    )
    write_json(folder / CALIBRATION, record)
    for name in ("model.json", "model.safetensors", TAUGHT):
        shutil.copyfile(student / name, folder / name)
    progress(3, 3, "int8 graph written")
    return record


def graph_outputs(network: Network) -> tuple[str, ...]:
    """Names of a student's raw outputs, in the order of its tasks."""
    return tuple(name for task in network.tasks for name in tensor_names(task, "student"))


def _one_by_one(arrays: Arrays) -> Iterator[NDArray[np.float32]]:
    for i in range(len(arrays)):
        yield np.array(arrays.images[i : i + 1])
