"""Levers in any sensible order: what a recipe may chain, what it may not and why, and one long chain that runs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from roads import finish

from foveola.runtime.errors import FoveolaError, UsageError
from foveola.toolkit.compress.rehearse import REHEARSED, Rehearsed
from foveola.toolkit.models.network import load_network
from foveola.toolkit.pipeline import run
from foveola.toolkit.recipe import parse_recipe
from foveola.toolkit.stages.table import STAGES
from foveola.toolkit.yaml12 import FaultsError

INPUT = "{height: 64, width: 64, channels: 1, window: percentile}"
HEAD = f"""
name: levers
device: generic-x86
seed: 3
data: {{stage: phantom, patients: 48, size: 64, shares: {{train: 0.4, val: 0.3, calibration: 0.2, test: 0.1}}}}
tasks:
  view: {{kind: binary, classes: [PA, AP]}}
  lungs: {{kind: segmentation, classes: [right_lung, left_lung], columns: [mask_lungs]}}
steps:
  teacher: {{stage: train, backbone: resnet10t, input: {INPUT}, width: 8, output_stride: 32, epochs: 1, batch_size: 8}}
  student:
    {{stage: distill, teacher: teacher, backbone: mobilenetv4_conv_small_035, input: {INPUT}, width: 16, epochs: 1,
      batch_size: 8}}
"""
SLIM = "slim: {stage: prune, of: BEFORE, teacher: teacher, ratio: 0.2, epochs: 1, batch_size: 8}"
TUNED = "tuned: {stage: finetune, of: BEFORE, epochs: 1, batch_size: 8, patience: 1}"
GUIDED = "guided: {stage: finetune, of: BEFORE, teacher: teacher, epochs: 1, batch_size: 8}"
FIRST = "first: {stage: quantize, of: BEFORE, min_images: 2}"
AGAIN = "again: {stage: rehearse, of: BEFORE, compressed: first, teacher: teacher, epochs: 1, batch_size: 8}"
LEARNED = "learned: {stage: qat, of: BEFORE, teacher: teacher, epochs: 1, batch_size: 8, min_images: 2}"
INT8 = "int8: {stage: quantize, of: BEFORE, min_images: 2}"
WARM = "warm: {stage: calibrate, of: int8}"
BUNDLE = 'bundle: {stage: export, of: warm, precisions: [int8], nncf: "off", pick: first, compare: 2, golden: 1}'


def chain(*steps: str) -> str:
    """A recipe whose steps each continue the one before; `first` is looked at, and what follows goes on without it."""
    lines, before = [], "student"
    for step in steps:
        lines.append(f"  {step.replace('BEFORE', before)}")
        name = step.split(":")[0]
        before = before if name == "first" else name
    return HEAD + "\n".join(lines) + "\n"


SENSIBLE = {
    "quantise at once": (INT8, WARM),
    "prune, then quantise": (SLIM, INT8, WARM),
    "prune, fine-tune, quantise": (SLIM, TUNED, INT8, WARM),
    "fine-tune, then prune": (TUNED, SLIM, INT8, WARM),
    "fine-tune twice": (TUNED, GUIDED, INT8),
    "train with rounding": (LEARNED, INT8, WARM),
    "prune, then train with rounding": (SLIM, LEARNED, INT8),
    "fine-tune, then train with rounding": (TUNED, LEARNED, INT8),
    "feed back what was forgotten": (FIRST, AGAIN, INT8, WARM),
    "feed back to a pruned student": (SLIM, FIRST, AGAIN, INT8),
    "feed back, then train with rounding": (FIRST, AGAIN, LEARNED, INT8),
    "feed back, then prune": (FIRST, AGAIN, SLIM, INT8),
}


@pytest.mark.parametrize("steps", SENSIBLE.values(), ids=SENSIBLE)
def test_a_sensible_order_of_levers_is_read(steps: tuple[str, ...]) -> None:
    recipe = parse_recipe(chain(*steps).encode(), STAGES)

    assert [step.name for step in recipe.steps[2:]] == [step.split(":")[0] for step in steps]


# What is refused -> steps, and what the step that is named wrongly is.
INSENSIBLE = {
    "pruning integers": ((INT8, "slim: {stage: prune, of: int8, teacher: teacher, ratio: 0.2}"), "int8", "quantize"),
    "training integers": ((INT8, "more: {stage: finetune, of: int8}"), "int8", "quantize"),
    "rounding integers": ((INT8, "learned: {stage: qat, of: int8, teacher: teacher}"), "int8", "quantize"),
    "quantising twice": ((INT8, "more: {stage: quantize, of: int8}"), "int8", "quantize"),
    "forgetting the learned grids": ((LEARNED, "more: {stage: finetune, of: learned}"), "learned", "qat"),
    "rehearsing after the grids": (
        (LEARNED, INT8, "more: {stage: rehearse, of: learned, compressed: int8, teacher: teacher}"),
        "learned",
        "qat",
    ),
    "rehearsing integers": (
        (INT8, "more: {stage: rehearse, of: int8, compressed: int8, teacher: teacher}"),
        "int8",
        "quantize",
    ),
    "rehearsing without integers": (
        ("more: {stage: rehearse, of: student, compressed: student, teacher: teacher}",),
        "student",
        "distill",
    ),
    "temperatures of a float student": (("warm: {stage: calibrate, of: student}",), "student", "distill"),
    "a student as the teacher": (
        ("more: {stage: finetune, of: student, teacher: student}",),
        "student",
        "distill",
    ),
}


@pytest.mark.parametrize(("steps", "named", "kind"), INSENSIBLE.values(), ids=INSENSIBLE)
def test_an_insensible_order_is_refused_before_anything_runs(steps: tuple[str, ...], named: str, kind: str) -> None:
    with pytest.raises(FaultsError) as error:
        parse_recipe(chain(*steps).encode(), STAGES)

    assert f"{named!r} is a {kind} step" in str(error.value)


REASONS = {
    "train first": ("more: {stage: finetune, of: int8}", "whose integers cannot be trained"),
    "round last": ("more: {stage: finetune, of: learned}", "whose learned ranges would be lost"),
    "prune first": ("more: {stage: prune, of: int8, ratio: 0.2}", "whose integers were chosen for the channels"),
}


@pytest.mark.parametrize(("step", "reason"), REASONS.values(), ids=REASONS)
def test_the_refusal_of_an_order_says_why(step: str, reason: str) -> None:
    with pytest.raises(FaultsError, match=reason):
        parse_recipe(chain(LEARNED, INT8, step).encode(), STAGES)


REFUSED_AHEAD = {
    "the int8 graph of another student": (
        (FIRST, TUNED, "more: {stage: rehearse, of: tuned, compressed: first, teacher: teacher}"),
        "first quantises student, and tuned is to be trained further",
    ),
    "another input for a student": (
        (f"more: {{stage: finetune, of: student, input: {INPUT}}}",),
        "student leaves a student, which keeps its network, input and heads",
    ),
    "some of a student's tasks": (
        (TUNED, "more: {stage: finetune, of: tuned, tasks: [view]}"),
        "tuned leaves a student, which keeps its network, input and heads",
    ),
    "a teacher for a new network": (
        ("more: {stage: finetune, of: teacher, teacher: teacher}",),
        "a teacher guides a student only",
    ),
}


@pytest.mark.parametrize(("steps", "fault"), REFUSED_AHEAD.values(), ids=REFUSED_AHEAD)
def test_what_the_data_show_is_refused_before_the_first_training(
    steps: tuple[str, ...], fault: str, tmp_path: Path
) -> None:
    recipe = parse_recipe(chain(*steps).replace("patients: 48", "patients: 12").encode(), STAGES)

    with pytest.raises((FoveolaError, UsageError), match=fault):
        run(recipe, tmp_path)

    assert not list((tmp_path / "levers").glob("teacher-*"))


@pytest.mark.parametrize("steps", [(TUNED, FIRST, AGAIN, INT8, WARM, BUNDLE)], ids=["short"])
def test_a_chain_of_levers_runs_to_its_bundle(steps: tuple[str, ...], tmp_path: Path) -> None:
    check_chain(steps, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps",
    [
        (SLIM, GUIDED, FIRST, AGAIN, LEARNED, INT8, WARM, BUNDLE),
        (TUNED, SLIM, INT8, WARM, BUNDLE),
        (FIRST, AGAIN, SLIM, TUNED, LEARNED, INT8, WARM, BUNDLE),
    ],
    ids=["all", "fine-tuned first", "fed back first"],
)
def test_every_lever_in_several_orders_runs_to_its_bundle(steps: tuple[str, ...], tmp_path: Path) -> None:
    check_chain(steps, tmp_path)


def check_chain(steps: tuple[str, ...], folder: Path) -> None:
    recipe = folder / "levers.yaml"
    recipe.write_text(chain(*steps))

    finish(str(recipe), folder / "runs")

    def step(name: str) -> Path:
        (found,) = [path for path in (folder / "runs/levers").glob(f"{name}-*") if (path / "step.json").is_file()]
        return found

    assert (step("bundle") / "core.foveola").is_file()
    record = msgspec.json.decode((step("again") / REHEARSED).read_bytes(), type=Rehearsed) if AGAIN in steps else None
    assert record is None or record.after is not None
    shapes = [load_network(step(name)).architecture.structure.resized for name in ("slim", "int8") if SLIM in steps]
    assert not shapes or (shapes[0] and shapes[0].keys() <= shapes[1].keys())
