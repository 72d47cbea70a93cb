"""MTPret by the real command: killed in each of its stages, over two processes, and on real radiographs."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from roads import PROVED, SHARED, bundle_of, command, environment, finish, kill_late, refuse

from foveola.runtime.bundle import open_bundle

TINY = """
name: tiny
device: generic-x86
seed: 3
data: {stage: phantom, patients: 24, size: 64, shares: {train: 0.4, val: 0.3, calibration: 0.2, test: 0.1}}
tasks:
  view: {kind: binary, classes: [PA, AP]}
  lungs: {kind: segmentation, classes: [right_lung, left_lung], columns: [mask_lungs]}
  boxes: {kind: detection, classes: [nodule, effusion, opacity]}
steps:
  contrast:
    stage: pretrain
    backbone: resnet10t
    input: {height: 64, width: 64, channels: 1}
    by: site
    sampling: balanced
    batch_size: 4
    queue: 8
    epochs: 3
    splits: 2
  visits: {stage: continual, of: contrast, rounds: 2, batch_size: 4, width: 8}
  tuned: {stage: finetune, of: visits, tasks: [view], epochs: 3, batch_size: 4}
"""
KEPT = ("contrast/backbone.safetensors", "visits/model.safetensors", "tuned/model.safetensors")


def digests(runs: Path) -> dict[str, str]:
    """What each training left, by step."""
    found = {}
    for name in KEPT:
        step, file = name.split("/")
        (path,) = (path for path in (runs / "tiny").glob(f"{step}-*/{file}") if ".partial" not in str(path))
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def test_each_stage_killed_midway_ends_with_the_weights_of_an_uninterrupted_run(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    finish(str(recipe), tmp_path / "whole")

    kills = [
        kill_late(recipe, tmp_path / "broken", f"] {step}: ", delay)
        for step, delay in (("contrast", 1.0), ("visits", 1.5), ("tuned", 0.8))
    ]
    finish(str(recipe), tmp_path / "broken")

    assert sum(kills) >= 2
    assert digests(tmp_path / "whole") == digests(tmp_path / "broken")


def test_two_processes_pretrain_learn_and_tune_together(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    words = command(str(recipe), tmp_path / "runs")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", *words[2:]]

    done = subprocess.run(launch, env=environment(), capture_output=True, text=True, timeout=600)

    assert done.returncode == 0, done.stderr[-3000:]
    assert set(digests(tmp_path / "runs")) == set(KEPT)
    assert "GLOBAL_RANK: 1" in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("steps.contrast.queue=9", "steps.contrast: queue: 9 keys are no multiple of 4 images a step; give 8 or 12"),
        ("steps.contrast.only=[nowhere]", "steps.contrast: only: no train image of nowhere"),
        ("steps.visits.backbone=resnet14t", "steps.visits: backbone: resnet14t, but contrast leaves a resnet10t"),
        ("steps.visits.alpha=1000", "steps.visits: alpha: .*overshoot"),
        ("steps.visits.task_low={vieww: 0.1}", "steps.visits: .*vieww"),
        ("steps.tuned.tasks=[lung]", "steps.tuned: tasks: no task 'lung'"),
    ],
)
def test_what_cannot_succeed_is_refused_in_one_line_before_any_training(
    change: str, words: str, tmp_path: Path
) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)

    refuse(recipe, tmp_path, change, words)

    assert not list((tmp_path / "tiny").glob("contrast-*"))


SHORT = ("epochs=1", "width=8", "input.height=64", "input.width=64")


def test_the_recipe_for_real_radiographs_runs_shortened(tmp_path: Path) -> None:
    if not (SHARED / "msk/manifest.csv").is_file():
        pytest.skip("the real images are not beside this checkout")
    changes = [f"data.root={SHARED}", "steps.proof.resamples=200", "steps.review.resamples=100"]
    changes += ["steps.contrast.backbone=resnet10t", "steps.contrast.epochs=1", "steps.visits.rounds=1"]
    changes += [f"steps.contrast.input.{side}=64" for side in ("height", "width")]
    changes += ["steps.visits.steps=2", "steps.visits.width=8", "steps.contrast.probe_every=0"]
    changes += [f"steps.{step}.epochs=1" for step in ("findings", "bones", "lungs")]
    changes += ["steps.bones.width=8", *(f"steps.student.{change}" for change in SHORT), "steps.speed.repeats=2"]

    done = finish("mtpret-real", tmp_path, *changes)

    assert done.returncode in PROVED
    bundle = open_bundle(bundle_of(tmp_path, "mtpret-real"))
    assert {output.task.name for output in bundle.manifest.outputs} >= {"findings", "lungs", "fractured", "fracture"}
