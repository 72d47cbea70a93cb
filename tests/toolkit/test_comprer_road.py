"""After COMPRER by the real command: refused ahead, killed midway, on two processes, and the whole road."""

from __future__ import annotations

import hashlib
import json
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
data:
  stage: phantom
  anatomy: twins
  patients: 24
  size: 32
  shares: {train: 0.6, val: 0.2, test: 0.2}
  only: {modality: fundus}
tasks:
  age: {kind: regression, classes: [age], unit: years, plausible: [0, 130]}
  hypertension: {kind: binary, classes: ["no|0", "yes|1"], columns: [prevalent_hypertension]}
  code: {kind: embedding, size: 8}
steps:
  teacher:
    stage: comprer
    modality: fundus
    encoders:
      fundus: {backbone: test_byobnet, input: {height: 32, width: 32, channels: 3}}
      carotid: {backbone: test_byobnet, input: {height: 32, width: 32, channels: 1}}
    aims: {measured: [age], decoder_width: 16}
    epochs: 20
    batch_size: 6
"""


def digest(runs: Path) -> str:
    (path,) = (path for path in (runs / "tiny").glob("teacher-*/model.safetensors") if ".partial" not in str(path))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.only={}", "steps.teacher: data.only: the device sees pictures of carotid too"),
        ("tasks.age.plausible=[0, 10]", "manifest.csv.*age.*lies outside of 0 to 10 years"),
    ],
)
def test_what_cannot_succeed_is_refused_in_one_line_before_any_training(
    change: str, words: str, tmp_path: Path
) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)

    refuse(recipe, tmp_path, change, words)

    assert not list((tmp_path / "tiny").glob("teacher-*"))


@pytest.mark.slow
def test_a_teacher_killed_midway_ends_with_the_weights_of_an_uninterrupted_run(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    finish(str(recipe), tmp_path / "whole")

    assert kill_late(recipe, tmp_path / "broken", "] teacher: learns from", 2.0) == 1
    finish(str(recipe), tmp_path / "broken")

    assert digest(tmp_path / "whole") == digest(tmp_path / "broken")


@pytest.mark.slow
def test_two_processes_pretrain_together(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    words = command(str(recipe), tmp_path / "runs")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", *words[2:]]

    done = subprocess.run(launch, env=environment(), capture_output=True, text=True, timeout=600)

    assert done.returncode == 0, done.stderr[-3000:]
    assert digest(tmp_path / "runs")


SHORT = (
    "steps.teacher.epochs=1",
    "steps.student.epochs=1",
    "steps.int8.min_images=10",
    "steps.proof.resamples=200",
    "steps.review.resamples=100",
    "steps.speed.repeats=2",
)


@pytest.mark.slow
def test_the_small_recipe_runs_shortened_and_ships_a_fundus_student_alone(tmp_path: Path) -> None:
    done = finish("comprer-small", tmp_path, *SHORT, "data.patients=60")

    assert done.returncode in PROVED
    outputs = {
        output.task.name: output for output in open_bundle(bundle_of(tmp_path, "comprer-small")).manifest.outputs
    }
    assert set(outputs) == {
        "age", "blood_pressure", "vessel_density", "imt", "hypertension", "stroke_to_come", "code",
    }  # fmt: skip
    (pairing,) = (tmp_path / "comprer-small").glob("teacher-*/pairing.json")
    assert set(json.loads(pairing.read_text())["test"]["across"]) == {"fundus to carotid", "carotid to fundus"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "data"), [("comprer-real", "fundus"), ("comprer-xray-real", "cxr")])
def test_the_recipes_for_real_pictures_run_shortened(name: str, data: str, tmp_path: Path) -> None:
    if not (SHARED / data / "manifest.csv").is_file():
        pytest.skip("the real images are not beside this checkout")

    done = finish(name, tmp_path, *SHORT, f"data.root={SHARED / data}")

    assert done.returncode in PROVED
    assert "code" in {output.task.name for output in open_bundle(bundle_of(tmp_path, name)).manifest.outputs}
