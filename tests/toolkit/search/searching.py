"""The tiny recipe with a space, shared by the tests of the search."""

from __future__ import annotations

from pathlib import Path

from foveola.toolkit.recipe import Recipe
from foveola.toolkit.search.draft import Draft, read_draft
from foveola.toolkit.search.row import Cost, Row
from foveola.toolkit.search.section import Scalar

INPUT = "{height: 64, width: 64, channels: 1, window: percentile}"
BACKBONES = "[mobilenetv4_conv_small_035, mobilenetv4_conv_small_050]"
RECIPE = f"""
name: tiny
device: generic-x86
seed: 3
data: {{stage: phantom, patients: 48, size: 64, shares: {{train: 0.25, val: 0.2, calibration: 0.1, test: 0.45}}}}
tasks:
  lungs:
    {{kind: segmentation, classes: [right_lung, left_lung], columns: [mask_lungs], margins: {{dice: 0.9}}}}
steps:
  protocol: {{stage: protocol, resamples: 100}}
  teacher: {{stage: train, backbone: resnet10t, input: {INPUT}, width: 8, output_stride: 32, epochs: 1, batch_size: 8}}
  student:
    stage: distill
    teacher: teacher
    backbone: mobilenetv4_conv_small_035
    input: {INPUT}
    width: 8
    epochs: 2
    batch_size: 8
  more: {{stage: finetune, backbone: mobilenetv4_conv_small_035, input: {INPUT}, of: teacher, epochs: 1}}
  int8: {{stage: quantize, of: student, min_images: 2, images: 4}}
  bundle: {{stage: export, of: int8, precisions: [int8], nncf: "off", engines: [onnxruntime], compare: 4, golden: 1}}
  proof: {{stage: parity, bundle: bundle, against: teacher, protocol: protocol, pictures: 0}}
  ship: {{stage: sign, bundle: bundle, proof: proof, require: any}}
search:
  space:
    steps.student.backbone: {BACKBONES}
    steps.student.width: {{low: 8, high: 16, step: 8}}
    steps.student.input.height, steps.student.input.width: [32, 64]
  short: {{steps.student.epochs: 1}}
  trials: 2
  finalists: 1
  least_slack: -50
"""
BUDGET = ("latency_ms=25,size_mb=8",)


def write_recipe(folder: Path, *changes: tuple[str, str]) -> Path:
    """The recipe as a file, some of its text changed."""
    text = RECIPE
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def draft(folder: Path, *changes: tuple[str, str]) -> Draft:
    return read_draft(write_recipe(folder, *changes))


def knob(recipe: Recipe, step: str, field: str) -> object:
    """One knob of a recipe's step; `input.height` looks inside."""
    found: object = next(one.stage for one in recipe.steps if one.name == step)
    for part in field.split("."):
        found = getattr(found, part)
    return found


def row(number: int, ms: float | None, slack: float | None, **fields: object) -> Row:
    """A finished trial, or one that was given up where there is no slack."""
    cost = None if ms is None else Cost(latency_ms=ms, size_mb=1.0, form="onnxruntime int8", source="measured")
    state = "done" if slack is not None else "over"
    values: dict[str, Scalar] = {"steps.student.width": number}
    known = {"state": state, "values": values, "slacks": {} if slack is None else {"lungs": slack}, **fields}
    return Row(number=number, cost=cost, **known)  # type: ignore[arg-type]
