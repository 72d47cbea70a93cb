"""Laws of the stage `team`: what a recipe may say of it, what is refused before anything is trained, the whole road."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from foveola.runtime.bundle import read_unverified
from foveola.runtime.errors import ExitCode, FoveolaError
from foveola.toolkit.finished import read_locked
from foveola.toolkit.parity.evidence import decode_evidence
from foveola.toolkit.plan import make_plan
from foveola.toolkit.progress import SilentProgress
from foveola.toolkit.recipe import Recipe, parse_recipe
from foveola.toolkit.speed import read_speeds
from foveola.toolkit.stages.table import STAGES
from foveola.toolkit.work import Work
from foveola.toolkit.yaml12 import FaultsError

INPUT = "{height: 64, width: 64, channels: 1, window: percentile}"
TUNE = f"backbone: resnet10t, input: {INPUT}, width: 8, epochs: 1, batch_size: 8"

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
  places: {{stage: finetune, tasks: [boxes, lungs], {TUNE}}}
  views: {{stage: finetune, tasks: [view], {TUNE}}}
  team: {{stage: team, of: [places, views], hints: views}}
  student:
    {{stage: distill, teacher: team, backbone: mobilenetv4_conv_small_035, input: {INPUT}, width: 8, epochs: 1}}
  int8: {{stage: quantize, of: student, min_images: 2}}
  bundle: {{stage: export, of: int8, precisions: [int8], nncf: "off", engines: [onnxruntime]}}
  proof: {{stage: parity, bundle: bundle, against: team, resamples: 100}}
  ship: {{stage: sign, bundle: bundle, proof: proof, require: any}}
  speed: {{stage: bench, bundle: ship, teacher: team, proof: proof, repeats: 2}}
"""


def recipe(*changes: tuple[str, str]) -> Recipe:
    text = TINY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_recipe(text.encode(), STAGES)


TAKEN_OVER = (
    (f"  views: {{stage: finetune, tasks: [view], {TUNE}}}", "  views: {stage: finetune, of: places, tasks: [view]}"),
    ("[view]}", "[view], input: {height: 96, width: 96, channels: 1, window: percentile}}"),
)


def check_ahead(found: Recipe, folder: Path) -> None:
    (step,) = (step for step in found.steps if step.kind == "team")
    step.stage.check_ahead(
        Work(
            step=step.name,
            digest="0" * 64,
            folder=folder,
            inputs={},
            digests={},
            data=folder,
            cache=folder,
            recipe=found,
            reporter=SilentProgress(),
        )
    )


@pytest.mark.parametrize(
    ("team", "words"),
    [
        ("of: []", "a team has no members; list the steps"),
        ("of: [places, views, places]", "places is named more than once"),
        ("of: [places], hints: views", "hints names views, which is no member; members: places"),
        ("of: [places], only: {views: [view]}", "only names views, which is no member"),
        ("of: [places, view]", "no step 'view'; did you mean 'views'"),
        ("of: [places, student]", "'student' comes later"),
        ("of: [places, views], hint: views", "no field 'hint' in team; did you mean 'hints'"),
        ("of: places", "expected `array`, got `str`"),
        ("hints: views", "field 'of' of team is missing"),
    ],
    ids=["none", "twice", "hints", "only", "unknown", "later", "field", "one", "missing"],
)
def test_a_recipe_with_an_impossible_team_is_refused_with_its_line(team: str, words: str) -> None:
    with pytest.raises(FaultsError) as refused:
        recipe(("of: [places, views], hints: views", team))

    (line,) = [str(fault) for fault in refused.value.faults if words in str(fault)]
    assert line.startswith(f"recipe.yaml:{TINY[: TINY.index('  team:')].count(chr(10)) + 1}: steps.team")


def test_a_team_of_a_team_and_features_of_a_loaded_teacher_are_refused() -> None:
    load = f"stage: load, library: timm, architecture: resnet10t, weights: w, tasks: [view], input: {INPUT}"

    words = "'views' is a load step; name a step of: train, sepl, cooperate, comprer, finetune, continual"
    with pytest.raises(FaultsError, match=words):
        recipe((f"stage: finetune, tasks: [view], {TUNE}", load))
    with pytest.raises(FaultsError, match="'team' is a team step"):
        recipe(("  student:", "  more: {stage: team, of: [team]}\n  student:"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("tasks: [view]", "tasks: [view, lungs]", "task 'lungs' by places and views"),
        ("stage: finetune, tasks: [view]", "stage: train", "'boxes' by places and views, task 'lungs'"),
        ("tasks: [view], backbone: resnet10t, input: {height: 64, width: 64", None, "'views' has height 96, width 96"),
        ("hints: views", "hints: views, only: {places: [view]}", "'view' is no task of this member"),
    ],
    ids=["two-answers", "train-answers-all", "inputs", "only"],
)
def test_what_cannot_be_one_teacher_is_refused_before_any_training(
    old: str, new: str | None, words: str, tmp_path: Path
) -> None:
    found = recipe((old, old.replace("64", "96") if new is None else new))

    with pytest.raises(FoveolaError, match=words):
        check_ahead(found, tmp_path)


def test_an_input_that_is_taken_over_from_another_step_is_the_one_that_counts(tmp_path: Path) -> None:
    check_ahead(recipe(TAKEN_OVER[0]), tmp_path)
    with pytest.raises(FoveolaError, match="'views' has height 96, width 96, 'places' height 64"):
        check_ahead(recipe(*TAKEN_OVER), tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("stage: finetune, tasks: [view]", "stage: finetune, tasks: [view]"),
        ("places, views], hints: views", "places, views], hints: views, only: {views: [view]}"),
        (
            "window: percentile}, width: 8, epochs: 1, batch_size: 8}\n  team",
            "window: percentile, mean: [0.4]}}\n  team",
        ),
    ],
    ids=["as-it-is", "only", "mean"],
)
def test_members_that_fit_pass_the_check_ahead(old: str, new: str, tmp_path: Path) -> None:
    check_ahead(recipe((old, new)), tmp_path)


def test_a_renamed_member_makes_no_new_team_unless_its_name_is_a_knob(tmp_path: Path) -> None:
    renamed = (("views", "sides"),)
    only = ("hints: views", "hints: views, only: {views: [view]}")

    def identity(*changes: tuple[str, str]) -> str:
        plan = make_plan(recipe(*changes), tmp_path)
        return next(planned.digest for planned in plan if planned.step.name == "team")

    assert identity(*renamed) == identity()
    assert identity(("hints: views", "hints: places")) != identity()
    assert identity(only, *renamed) != identity(only)


def test_two_teachers_of_different_tasks_end_in_one_bundle(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    words = [sys.executable, "-m", "foveola.toolkit", "run", str(tmp_path / "tiny.yaml"), "--runs", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)

    assert done.returncode in {ExitCode.DONE, ExitCode.PROOF_FAILED, ExitCode.UNDERPOWERED}, done.stderr[-3000:]
    (path,) = (tmp_path / "tiny").glob("ship-*/tiny.foveola")
    bundle = read_unverified(path)
    evidence = decode_evidence(bundle.members["parity.json"])
    assert [output.task.name for output in bundle.manifest.outputs] == ["view", "lungs", "boxes"]
    assert {endpoint.task for endpoint in evidence.endpoints} == {"view", "lungs", "boxes"}
    (team,) = (tmp_path / "tiny").glob("team-*")
    assert re.fullmatch("team-[0-9a-f]{12}", team.name)
    assert evidence.teacher_digest.startswith(team.name[5:])
    assert bundle.manifest.provenance.teacher_digest == evidence.teacher_digest
    parts = [read_locked(path) for name in ("places", "views") for path in (tmp_path / "tiny").glob(f"{name}-*")]
    assert read_locked(team) == parts[0] | parts[1]
    (speeds,) = (tmp_path / "tiny").glob("speed-*")
    first = read_speeds(speeds)[0]
    assert first.artefact == "team of 2 teachers, torch eager, network alone"
    assert first.size_bytes == (team / "model.safetensors").stat().st_size
