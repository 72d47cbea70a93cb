"""Two data sets with different tasks as one, by the real commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from roads import finish
from small import make_squares

from foveola.toolkit import cli
from foveola.toolkit.plan import make_plan
from foveola.toolkit.recipe import read_recipe
from foveola.toolkit.stages.table import STAGES

RECIPE = """
name: joined
device: generic-x86
seed: 3
data:
  stage: join
  root: data
  sources:
    left: {folder: left, calibration: 0, columns: {attributes: [corner]}, tasks: [bright, square]}
    right: {folder: deep/right, columns: {none: {boxes: bright}}, tasks: [grade, things]}
tasks:
  bright: {kind: binary, classes: ["no", "yes"]}
  square: {kind: segmentation, classes: [square]}
  grade: {kind: ordinal, classes: [none, some, much]}
  things: {kind: detection, classes: [square], columns: [boxes]}
steps:
  teacher:
    stage: train
    backbone: resnet10t
    input: {height: 64, width: 64, channels: 1}
    width: 8
    output_stride: 32
    epochs: 1
    batch_size: 4
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    make_squares(tmp_path / "data/left", seed=0)
    make_squares(tmp_path / "data/deep/right", seed=1)
    path = tmp_path / "joined.yaml"
    path.write_text(RECIPE)
    return path


def planned(recipe: Path) -> str:
    return make_plan(read_recipe(recipe, STAGES), recipe.parent / "runs")[0].digest


def test_a_teacher_is_trained_on_two_data_sets_with_different_tasks(recipe: Path) -> None:
    finish(str(recipe), recipe.parent / "runs")

    (data,) = (recipe.parent / "runs/joined").glob("data-*")
    (teacher,) = (recipe.parent / "runs/joined").glob("teacher-*")
    survey = json.loads((data / "survey.json").read_bytes())
    assert survey["images"] == {"train": 16, "val": 8, "calibration": 4, "test": 4}
    assert survey["targets"]["bright"]["train"]["not known"] == 8
    (epoch,) = json.loads((teacher / "history.json").read_bytes())
    assert set(epoch["scores"]) == {"bright", "square", "grade", "things"}


def test_the_check_of_a_recipe_looks_at_all_sources(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check", "--recipe", str(recipe), "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    (recipe.parent / "data/deep/right/images/3.png").unlink()
    assert cli.main(["data", "check", "--recipe", str(recipe)]) == 1
    told = capsys.readouterr().out

    assert counts["images"]["train"] == 16
    assert [line for line in told.splitlines() if line.startswith("error    right: ") and "images/3.png" in line]


def test_only_the_sources_folders_count(recipe: Path) -> None:
    before = planned(recipe)

    (recipe.parent / "data/notes.txt").write_text("beside the sources")
    (recipe.parent / "data/deep/other.png").write_bytes(b"")
    assert planned(recipe) == before
    (recipe.parent / "data/left/more.txt").write_text("within a source")
    assert planned(recipe) != before


def test_a_root_elsewhere_with_the_same_content_is_the_same_step(recipe: Path) -> None:
    before = planned(recipe)

    (recipe.parent / "data").rename(recipe.parent / "moved")
    recipe.write_text(RECIPE.replace("root: data", "root: moved"))

    assert planned(recipe) == before


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("folder: left", "folder: ../left", "'../left' is not inside of root; choose a root that holds all sources"),
        ("    left:", "    a/b:", "data.sources"),
        ("tasks: [grade, things]", "tasks: [grade, thing]", "right: tasks: no task 'thing'; did you mean 'things'?"),
        ("attributes: [corner]", "attributes: [conrer]", "left: .*no column 'conrer' .*did you mean 'corner'?"),
        ("tasks: [grade, things]", "tasks: [things]", "task 'grade': no source labels it"),
        ("folder: left", "folder: lft", "sources.left: .*lft is not there"),
    ],
    ids=["outside", "name", "task", "column", "unlabelled", "absent"],
)
def test_a_wrong_source_is_refused_before_any_training(
    recipe: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, words: str
) -> None:
    recipe.write_text(RECIPE.replace(old, new))

    assert cli.main(["run", str(recipe), "--runs", str(recipe.parent / "runs")]) in (1, 2)

    assert re.search(words, capsys.readouterr().err)
    assert not list((recipe.parent / "runs").glob("joined/teacher-*"))
