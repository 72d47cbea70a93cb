"""SePL by the real command: refused ahead, killed midway, and the whole road on phantoms and real eyes."""

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
data: {stage: phantom, anatomy: cardiometabolic, patients: 16, size: 64, shares: {train: 0.5, val: 0.25, test: 0.25}}
tasks:
  sex: {kind: binary, classes: [female|F, male|M]}
  age: {kind: regression, classes: [age], unit: years, plausible: [0, 120]}
  sbp: {kind: regression, classes: [sbp], unit: mmHg, plausible: [50, 300]}
steps:
  teacher:
    stage: sepl
    simple: [sex, age]
    backbone: test_resnet
    input: {height: 32, width: 32, channels: 3}
    hidden: 8
    epochs: 4
    batch_size: 4
"""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("steps.teacher.simple=[sex, agee]", "steps.teacher: simple: no task 'agee'.*did you mean 'age'"),
        ("steps.teacher.experts=0", "steps.teacher: experts: plain heads take no priors"),
        ("tasks.age.plausible=[0, 10]", "manifest.csv.*age.*lies outside of 0 to 10 years"),
    ],
)
def test_what_cannot_succeed_is_refused_in_one_line_before_any_training(
    change: str, words: str, tmp_path: Path
) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)

    refuse(recipe, tmp_path, change, words)

    assert not [path for path in (tmp_path / "tiny").glob("teacher-*") if ".partial" not in path.name]


@pytest.mark.slow
def test_a_teacher_killed_midway_ends_with_the_weights_of_an_uninterrupted_run(tmp_path: Path) -> None:
    recipe, found = tmp_path / "tiny.yaml", {}
    recipe.write_text(TINY.replace("epochs: 4", "epochs: 30"))
    killed = kill_late(recipe, tmp_path / "broken", "] teacher: ", 1.0)
    for runs in ("whole", "broken"):
        finish(str(recipe), tmp_path / runs)
        (path,) = (tmp_path / runs / "tiny").glob("teacher-*/model.safetensors")
        found[runs] = hashlib.sha256(path.read_bytes()).hexdigest()

    assert killed
    assert found["whole"] == found["broken"]


SHORT = ("teacher.epochs=1", "student.epochs=1", "proof.resamples=200", "review.resamples=100", "speed.repeats=2")


@pytest.mark.slow
def test_the_small_recipe_runs_shortened_and_its_bundle_answers_in_units(tmp_path: Path) -> None:
    changes = [f"steps.{change}" for change in SHORT]
    changes += ["data.patients=60", "data.size=64", "steps.int8.min_images=8", "steps.teacher.backbone=test_resnet"]

    done = finish("sepl-small", tmp_path, *changes)

    assert done.returncode in PROVED
    bundle = open_bundle(bundle_of(tmp_path, "sepl-small"))
    outputs = {output.task.name: output for output in bundle.manifest.outputs}
    assert len(outputs) == 16
    (folder,) = (path for path in (tmp_path / "sepl-small").glob("teacher-*") if path.is_dir())
    plan = json.loads((folder / "model.json").read_text())
    assert outputs["sbp"].task.unit == "mmHg"
    assert outputs["glucose"].task.unit == "mg/dL"
    for name, output in outputs.items():
        assert list(output.mean) == plan["target_mean"].get(name, [])
        assert list(output.std) == plan["target_std"].get(name, [])
    assert 100 < outputs["sbp"].mean[0] < 150


@pytest.mark.slow
def test_the_recipe_for_real_fundus_photographs_runs_shortened(tmp_path: Path) -> None:
    if not (SHARED / "fundus/manifest.csv").is_file():
        pytest.skip("the real images are not beside this checkout")
    changes = [f"data.root={SHARED / 'fundus'}", *(f"steps.{change}" for change in SHORT)]
    changes += ["steps.teacher.backbone=test_resnet"]
    changes += [f"steps.{step}.input.{side}=64" for step in ("teacher", "student") for side in ("height", "width")]

    done = finish("sepl-real", tmp_path, *changes)

    assert done.returncode in PROVED
    bundle = open_bundle(bundle_of(tmp_path, "sepl-real"))
    kinds = {output.task.kind for output in bundle.manifest.outputs}
    assert kinds == {"binary", "regression", "ordinal", "multiclass"}
