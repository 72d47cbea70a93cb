"""The whole road by the real command: killed at any point and started again, and the shipped recipes shortened."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from roads import SHARED, bundle_of, command, environment, finish, kill_late
from safetensors.torch import save_file

from foveola.runtime.bundle import open_bundle, read_unverified
from foveola.runtime.errors import ExitCode
from foveola.toolkit.parity.evidence import decode_evidence

INPUT = "{height: 64, width: 64, channels: 1, window: percentile}"

TINY = f"""
name: tiny
device: generic-x86
seed: 3
data: {{stage: phantom, patients: 24, size: 64, shares: {{train: 0.3, val: 0.3, calibration: 0.2, test: 0.2}}}}
tasks:
  view: {{kind: binary, classes: [PA, AP]}}
  lungs: {{kind: segmentation, classes: [right_lung, left_lung], columns: [mask_lungs]}}
  boxes: {{kind: detection, classes: [nodule, effusion, opacity]}}
steps:
  teacher: {{stage: train, backbone: resnet10t, input: {INPUT}, width: 8, output_stride: 32, epochs: 2, batch_size: 8}}
  student:
    {{stage: distill, teacher: teacher, backbone: mobilenetv4_conv_small_035, input: {INPUT}, width: 8, epochs: 2}}
  int8: {{stage: quantize, of: student, min_images: 2}}
  bundle: {{stage: export, of: int8, precisions: [int8], nncf: "off"}}
  proof: {{stage: parity, bundle: bundle, against: teacher, resamples: 100}}
  ship: {{stage: sign, bundle: bundle, proof: proof, require: any}}
"""
SHORT_TEACHER = ("backbone=resnet10t", "epochs=1", "width=8", "output_stride=32", "input.height=64", "input.width=64")
SHORT_STUDENT = ("epochs=1", "width=8", "mask_stride=8", "input.height=64", "input.width=64")


# Where the run is killed: when these words appear in its log.
SIGNS = ("] data: first run", "] teacher: first run", "] student: first run", "] int8: first run", "] proof: first run")


@pytest.mark.parametrize("signs", [SIGNS[1::2]], ids=["short"])
def test_a_run_killed_anywhere_ends_with_the_bundle_of_an_uninterrupted_one(
    tmp_path: Path, signs: tuple[str, ...]
) -> None:
    check_killed(tmp_path, signs)


@pytest.mark.slow
def test_a_run_killed_at_every_step_and_moment_ends_with_the_same_bundle(tmp_path: Path) -> None:
    check_killed(tmp_path, (*SIGNS, "] bundle: first run", "] ship: first run"), delays=(0.0, 0.4, 1.5))


def check_killed(tmp_path: Path, signs: tuple[str, ...], delays: tuple[float, ...] = (0.3,)) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    finish(str(recipe), tmp_path / "whole")
    kills = 0
    for sign in signs:
        for delay in delays:
            kills += kill_late(recipe, tmp_path / "broken", sign.replace("first run", ""), delay)
    finished = {path.name for path in (tmp_path / "broken/tiny").iterdir() if path.is_dir() and "." not in path.name}
    finish(str(recipe), tmp_path / "broken")

    assert kills >= len(signs) - 1
    after = {path.name for path in (tmp_path / "broken/tiny").iterdir()}
    assert finished <= after  # no finished step was lost
    whole, broken = (read_unverified(bundle_of(tmp_path / runs, "tiny")) for runs in ("whole", "broken"))
    assert whole.digest == broken.digest
    assert {n: d for n, d in whole.members.items() if n != "model.sig"} == {
        n: d for n, d in broken.members.items() if n != "model.sig"
    }


@pytest.mark.parametrize(("recipe", "folder"), [("chest-xray", "cxr"), ("fundus", "fundus")])
def test_the_recipe_for_real_images_runs_shortened(recipe: str, folder: str, tmp_path: Path) -> None:
    if not (SHARED / folder / "manifest.csv").is_file():
        pytest.skip(f"the real images ({folder}) are not beside this checkout")
    changes = [f"data.root={SHARED / folder}", "steps.protocol.resamples=200", "steps.speed.repeats=2"]
    changes += [f"steps.teacher.{change}" for change in SHORT_TEACHER]
    changes += [f"steps.student.{change}" for change in SHORT_STUDENT]
    changes += ["steps.bundle.precisions=[int8]"]  # so small a network is faster in float

    done = finish(recipe, tmp_path, *changes)

    bundle = open_bundle(bundle_of(tmp_path, recipe))
    evidence = decode_evidence(bundle.members["parity.json"])
    assert evidence.verdict != "pass"  # one epoch teaches nothing, and the proof must say so
    assert {endpoint.engine for endpoint in evidence.endpoints} == {"onnxruntime", "openvino"}
    assert {endpoint.task for endpoint in evidence.endpoints} == {
        output.task.name for output in bundle.manifest.outputs
    }
    assert bundle.manifest.calibration.images >= bundle.manifest.calibration.min_images
    assert bundle.manifest.calibration.min_images == (128 if recipe == "chest-xray" else 20)
    assert "speed-up" in done.stdout
    assert "report.html" in done.stdout


def test_processes_started_by_torchrun_train_together_and_one_of_them_writes(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY[: TINY.index("  int8:")])
    words = command(str(recipe), tmp_path / "runs")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", *words[2:]]

    done = subprocess.run(launch, env=environment(), capture_output=True, text=True, timeout=600)

    assert done.returncode == 0, done.stderr[-3000:]
    steps = {path.name.split("-")[0] for path in (tmp_path / "runs/tiny").glob("*-*") if (path / "step.json").is_file()}
    assert steps == {"data", "teacher", "student"}
    assert "GLOBAL_RANK: 1" in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("steps.int8.min_images=128", r"steps.int8: .*split 'calibration': \d+ calibration images, 128 are needed"),
        ("steps.student.backbone=mobilenetv4_conv_smal", "steps.student: backbone .*did you mean"),
        ("data.shares={train: 0.5, val: 0.3, calibration: 0.2}", "steps.proof: .*no images to prove anything on"),
    ],
    ids=["calibration", "backbone", "no-test-images"],
)
def test_what_would_fail_hours_later_is_refused_before_any_training(change: str, words: str, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)

    done = subprocess.run(command(str(recipe), tmp_path, change), env=environment(), capture_output=True, text=True)

    assert done.returncode == ExitCode.REFUSED
    assert re.search(words, done.stderr.splitlines()[-1]), done.stderr
    assert not list((tmp_path / "tiny").glob("teacher-*"))


def test_a_teacher_from_elsewhere_goes_the_whole_road(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(timm.create_model("resnet10t", num_classes=1, in_chans=1).state_dict(), tmp_path / "theirs.safetensors")
    load = "{stage: load, library: timm, architecture: resnet10t, weights: theirs.safetensors, tasks: [view], input: "
    load += INPUT + "}"
    start, end = TINY.index("  teacher:"), TINY.index("  student:")
    (tmp_path / "tiny.yaml").write_text(f"{TINY[:start]}  teacher: {load}\n{TINY[end:]}")

    finish(str(tmp_path / "tiny.yaml"), tmp_path)

    bundle = read_unverified(bundle_of(tmp_path, "tiny"))
    # The student answers every task; the proof judges the one that this teacher answers.
    assert [output.task.name for output in bundle.manifest.outputs] == ["view", "lungs", "boxes"]
    assert {endpoint.task for endpoint in decode_evidence(bundle.members["parity.json"]).endpoints} == {"view"}
