"""After MT-CooL by the real command: the shipped recipes shortened, killed midway, and what is refused beforehand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from roads import PROVED, SHARED, bundle_of, finish, kill_late, refuse

from foveola.runtime.bundle import open_bundle

TINY = """
name: tiny
device: generic-x86
seed: 3
data:
  {stage: phantom, anatomy: organ, patients: 40, size: 32, shares: {train: 0.5, val: 0.3, calibration: 0.1, test: 0.1}}
tasks:
  organ_group: {kind: multiclass, classes: [bladder, femur, heart, kidney, liver, lung, pancreas, spleen]}
  outline: {kind: segmentation, classes: [organ], columns: [mask_organ]}
steps:
  teacher:
    stage: cooperate
    backbone: test_efficientnet
    input: {height: 32, width: 32, channels: 1}
    width: 8
    epochs: 6
    alone: 1
    batch_size: 8
    back: 1
"""


def weights(runs: Path) -> str:
    (path,) = (path for path in (runs / "tiny").glob("teacher-*/model.safetensors") if ".partial" not in str(path))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_cooperation_killed_midway_ends_with_the_weights_of_an_uninterrupted_run(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    finish(str(recipe), tmp_path / "whole")

    kill_late(recipe, tmp_path / "broken", "] teacher: ", 2.5)
    finish(str(recipe), tmp_path / "broken")

    assert weights(tmp_path / "whole") == weights(tmp_path / "broken")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("steps.teacher.alone=6", "steps.teacher: alone: 6 of 6 epochs are spent alone.*at most 5"),
        ("steps.teacher.backbones={outlin: test_resnet}", "steps.teacher: backbones: 'outlin' is no task"),
        ("steps.teacher.backbones={outline: test_resne}", "backbone 'test_resne': timm has no such network"),
        ("steps.teacher.tasks=[outlin]", "steps.teacher: tasks: no task 'outlin'"),
    ],
)
@pytest.mark.slow
def test_what_cannot_succeed_is_refused_in_one_line_before_any_training(
    change: str, words: str, tmp_path: Path
) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)

    refuse(recipe, tmp_path, change, words)

    assert not list((tmp_path / "tiny").glob("teacher-*"))


SHORT = [
    "steps.teacher.backbone=test_efficientnet",
    "steps.teacher.epochs=2",
    "steps.teacher.alone=1",
    "steps.teacher.back=1",
    "steps.student.epochs=1",
    "steps.speed.repeats=2",
    "steps.proof.resamples=200",
    "steps.review.resamples=100",
]
SMALL = [f"steps.{step}.input.{side}=64" for step in ("teacher", "student") for side in ("height", "width")]
RECIPES = {
    "mtcool-organ-small": ["data.patients=400", "steps.int8.min_images=8"],
    "mtcool-fundus-small": ["data.patients=160", "data.size=64", "steps.int8.min_images=8", "steps.teacher.width=8"],
    "mtcool-real": [f"data.root={SHARED / 'fundus'}", "steps.teacher.width=8"],
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_a_shipped_recipe_runs_shortened_down_to_the_speed_of_a_signed_bundle(recipe: str, tmp_path: Path) -> None:
    if recipe == "mtcool-real" and not (SHARED / "fundus/manifest.csv").is_file():
        pytest.skip("the real images are not beside this checkout")

    done = finish(recipe, tmp_path, *SHORT, *SMALL, *RECIPES[recipe])

    assert done.returncode in PROVED
    bundle = open_bundle(bundle_of(tmp_path, recipe))
    assert len(bundle.manifest.outputs) == 3
    (page,) = (tmp_path / recipe).glob("speed-*/report.html")
    assert "test_efficientnet + test_efficientnet + test_efficientnet" in page.read_text(encoding="utf-8")
    (told,) = (tmp_path / recipe).glob("teacher-*/cooperation.json")
    costs = json.loads(told.read_text())["costs"]
    assert costs["teacher"]["multiply_adds"] > 2 * costs["one_encoder"]["multiply_adds"]
