"""From a trained student to the portable int8 graph, calibrated on images set apart from training and proof."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal

from ...export.onnx_graph import export_onnx
from ...export.quantize import Overflow, WeightBits, calibrate_graph, write_int8
from ...runtime.manifest import Calibration
from ..data.arrays import prepare_arrays
from ..data.dataset import Dataset, calibration_set, images_digest
from ..models.dense_teacher import as_graph
from ..models.network import load_network
from ..models.outputs import graph_outputs
from ..train import write_json
from .lessons import TAUGHT
from .overflow import SATURATION, describe, lint_int8, spread

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
    weight_bits: WeightBits,
    overflow: Overflow = "fit",
    float_layers: Collection[str] = (),
    folder: Path,
    cache: Path,
    progress: Callable[[int, int, str], None],
) -> Calibration:
    """Write the float graph, the int8 graph, its calibration and its lint; the student's own files are kept beside.

    Args:
        student: folder of the finished student.
        dataset: holds the calibration images.
        split: which of its splits they are.
        images: at most so many, spread evenly over the split.
        min_images: fewer are refused.
        method: how ranges are set.
        opset: of the ONNX graphs.
        weight_bits: 7 for processors whose 16-bit sums overflow.
        overflow: the cure there (see `export.quantize`).
        float_layers: layers that stay float, beside the last of each head.
        folder: where the results go.
        cache: where decoded images are kept.
        progress: called with (done, total, text).

    Raises:
        FoveolaError: too few calibration images, one that training or the proof uses too, or no such layer.
    """
    chosen = calibration_set(dataset, split, images, min_images)
    network = load_network(student)
    names = graph_outputs(network)
    progress(0, 4, "writing the float graph")
    origins = export_onnx(as_graph(network), network.input, names, folder / FLOAT_GRAPH, opset=opset)
    progress(1, 4, f"calibrating on {len(chosen)} images")
    arrays = prepare_arrays(chosen, network.input, cache=cache)
    calibrated = calibrate_graph(
        folder / FLOAT_GRAPH,
        spread(arrays, len(arrays)),
        method=method,
        float_layers=float_layers,
        min_images=min_images,
    )
    write_int8(calibrated, folder / INT8_GRAPH, weight_bits=weight_bits, overflow=overflow)
    progress(2, 4, "looking for 16-bit sums that overflow")
    saturation = lint_int8(calibrated, arrays, weight_bits, overflow, origins)
    write_json(folder / SATURATION, saturation)
    progress(3, 4, describe(saturation))
    record = Calibration(
        method=method,
        images=len(chosen),
        min_images=min_images,
        images_digest=images_digest(chosen),
    )
    write_json(folder / CALIBRATION, record)
    for name in ("model.json", "model.safetensors", TAUGHT):
        if (student / name).exists():  # a teacher was taught by nobody
            shutil.copyfile(student / name, folder / name)
    progress(4, 4, "int8 graph written")
    return record
