"""From a trained student to the portable int8 graph, calibrated on images set apart from training and proof.

1. The calibration images are looked at: their number, what they cover, duplicates, leakage, modality.
2. The float graph is written; its ranges are measured, or taken from a step that learned them.
3. The levers are pulled that were asked for, each kept where it pays (`levers`), and layers go back to float where the
   worst task has too little slack (`sensitivity`).
4. The int8 graph is written, linted for 16-bit sums that overflow, and described layer by layer.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from ...export.calibrate import Range, read_ranges, write_ranges
from ...export.corrections import CORRECTIONS, save_corrections
from ...export.onnx_graph import Origins, export_onnx
from ...export.quantize import Calibrated, Overflow, WeightBits, layers_named, write_int8
from ...runtime.errors import FoveolaError
from ...runtime.manifest import Calibration
from ..data.arrays import Arrays, prepare_arrays
from ..data.dataset import Dataset, calibration_set, images_digest
from ..json_files import write_json
from ..models.dense_teacher import as_graph
from ..models.network import Network, load_network
from ..models.outputs import graph_outputs
from .calibration_quality import QUALITY, check_calibration
from .lessons import TAUGHT
from .levers import LEVERS, Bench, Correction, Equalise, Knobs, Ranges, Rounding, lever_lines, pull_levers
from .overflow import SATURATION, describe, lint_int8
from .sensitivity import SENSITIVITY, Judge, Mixed, Sensitivity, describe_layers, find_mixed, mixed_lines

FLOAT_GRAPH, INT8_GRAPH, CALIBRATION, RANGES = "float.onnx", "model.onnx", "calibration.json", "ranges.json"
# What a student's step hands on beside its artefacts: the network, and the records of what made it what it is.
KEPT = ("model.json", "model.safetensors", TAUGHT, "pruned.json", "rehearsed.json", "qat.json")
SLACK_IMAGES = 128  # validation images at most that judge mixed precision

Progress = Callable[[int, int, str], None]
Say = Callable[[str], None]
UsedMethod = Literal["minmax", "percentile", "entropy", "mse", "learned"]


def quantise_student(
    student: Path,
    dataset: Dataset,
    *,
    split: str,
    images: int,
    min_images: int,
    method: Ranges,
    opset: int,
    weight_bits: WeightBits,
    overflow: Overflow = "fit",
    float_layers: Collection[str] = (),
    equalise: Equalise = "off",
    rounding: Rounding = "nearest",
    bias_correction: Correction = "off",
    least_slack: float | None = None,
    most_float: int = 4,
    folder: Path,
    cache: Path,
    progress: Progress,
    log: Say | None = None,
) -> Calibration:
    """Write the float graph, the int8 graph and what is known of both; the student's own files are kept beside.

    Args:
        student: folder of the finished student; ranges that it has learned (`ranges.json`) are taken as they are.
        dataset: holds the calibration images.
        split: which of its splits they are.
        images: at most so many, spread evenly over the split.
        min_images: fewer are refused.
        method: how ranges are set.
        opset: of the ONNX graphs.
        weight_bits: 7 for processors whose 16-bit sums overflow.
        overflow: the cure there (see `export.integer_weights`).
        float_layers: layers that stay float, beside the last of each head.
        equalise: cross-layer equalisation of the float graph (see `export.equalise`).
        rounding: of the weights (see `export.rounding`).
        bias_correction: see `export.bias_correction`.
        least_slack: layers go back to float until the worst task has so much on validation images; None: none does.
        most_float: layers that may.
        folder: where the results go.
        cache: where decoded images are kept.
        progress: called with (done, total, text).
        log: called with lines about what was found.

    Raises:
        FoveolaError: too few calibration images, of another modality, one that training or the proof uses too, or no
            such layer.
    """
    say = log or (lambda line: None)
    chosen = calibration_set(dataset, split, images, min_images)
    network = load_network(student)
    arrays = prepare_arrays(chosen, network.input, cache=cache)
    _look_at(dataset, chosen, arrays, network, folder, cache, say)
    progress(0, 4, "writing the float graph")
    origins = export_onnx(as_graph(network), network.input, graph_outputs(network), folder / FLOAT_GRAPH, opset=opset)
    progress(1, 4, f"calibrating on {len(chosen)} images")
    bench = Bench(
        graph=folder / FLOAT_GRAPH,
        arrays=arrays,
        min_images=min_images,
        float_layers=layers_named(onnx.load(folder / FLOAT_GRAPH).graph, origins, float_layers),
        weight_bits=weight_bits,
        overflow=overflow,
    )
    knobs = Knobs(method=method, equalise=equalise, rounding=rounding, bias_correction=bias_correction)
    calibrated, used = _calibrated(bench, knobs, _learned(student), folder, progress, say)
    mixed: Mixed | None = None
    if least_slack is not None:
        val = _judging(dataset, network, cache)
        judge = Judge(network, calibrated.model, val)
        calibrated, mixed = find_mixed(bench, calibrated, judge, least_slack, most_float, progress)
        for line in mixed_lines(mixed, origins, least_slack):
            say(line)
    _write(bench, calibrated, mixed, least_slack, origins, folder, progress)
    record = Calibration(method=used, images=len(chosen), min_images=min_images, images_digest=images_digest(chosen))
    write_json(folder / CALIBRATION, record)
    for name in KEPT:
        if (student / name).exists():  # a teacher was taught by nobody
            shutil.copyfile(student / name, folder / name)
    progress(4, 4, "int8 graph written")
    return record


def _look_at(
    dataset: Dataset, chosen: Dataset, arrays: Arrays, network: Network, folder: Path, cache: Path, say: Say
) -> None:
    quality = check_calibration(dataset, chosen, arrays, network.input, cache)
    write_json(folder / QUALITY, quality)
    for line in quality.warnings:
        say(f"warning: {line}")


def _calibrated(
    bench: Bench, knobs: Knobs, learned: Mapping[str, Range] | None, folder: Path, progress: Progress, say: Say
) -> tuple[Calibrated, UsedMethod]:
    """Ranges, roundings and biases, and how the ranges were set."""
    if learned and (knobs.equalise, knobs.method) != ("off", "minmax"):
        say("the ranges were learned in training: method and equalise are left out")
    calibrated, method, account = pull_levers(bench, knobs, progress, learned)
    if account is not None:
        write_json(folder / LEVERS, account)
        for line in lever_lines(account):
            say(line)
    return calibrated, "learned" if learned else method


def _learned(student: Path) -> Mapping[str, Range] | None:
    """Ranges that the student's training has found, if it has."""
    return read_ranges(student / RANGES) if (student / RANGES).exists() else None


def _judging(dataset: Dataset, network: Network, cache: Path) -> Arrays:
    """Validation images with a target, spread evenly.

    Raises:
        FoveolaError: there are none.
    """
    val = dataset.subset("val").only([task.name for task in network.tasks])
    if not len(val):
        raise FoveolaError("mixed precision", "no validation image has a target", "leave least_slack out")
    places = np.linspace(0, len(val) - 1, min(SLACK_IMAGES, len(val))).round().astype(int)
    return prepare_arrays(val.take(places), network.input, cache=cache)


def _write(
    bench: Bench,
    calibrated: Calibrated,
    mixed: Mixed | None,
    wanted: float | None,
    origins: Origins,
    folder: Path,
    progress: Progress,
) -> None:
    """Write the int8 graph, what it was written from, its lint, and its account layer by layer."""
    write_int8(calibrated, folder / INT8_GRAPH, weight_bits=bench.weight_bits, overflow=bench.overflow)
    write_ranges(calibrated.ranges, folder / RANGES)
    if calibrated.corrections:
        save_corrections(calibrated.corrections, folder / CORRECTIONS)
    progress(2, 4, "looking for 16-bit sums that overflow")
    saturation = lint_int8(calibrated, bench.arrays, bench.weight_bits, bench.overflow, origins)
    write_json(folder / SATURATION, saturation)
    progress(3, 4, describe(saturation))
    model = onnx.load(folder / INT8_GRAPH)
    layers = describe_layers(calibrated, model, bench.arrays, origins, asked=bench.float_layers, mixed=mixed)
    found = Sensitivity(layers=layers)
    if mixed is not None:
        found = Sensitivity(images=mixed.images, wanted=wanted, before=mixed.before, after=mixed.after, layers=layers)
    write_json(folder / SENSITIVITY, found)
