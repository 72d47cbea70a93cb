"""A tiny search run whole by the real command: trials, front, final, page; and what becomes of it when it is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import searching

from foveola.runtime.bundle import read_unverified
from foveola.runtime.errors import ExitCode
from foveola.toolkit.cli import main
from foveola.toolkit.plan import make_plan
from foveola.toolkit.recipe import read_recipe
from foveola.toolkit.stages.table import STAGES


def line(recipe: Path, runs: Path, *more: str) -> list[str]:
    words = ["search", str(recipe), "--runs", str(runs), "--budget", *searching.BUDGET]
    return [*words, *more]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    folder = tmp_path_factory.mktemp("searched")
    recipe = searching.write_recipe(folder)
    code = main(line(recipe, folder / "runs"))
    return recipe, folder / "runs", code


@pytest.fixture(scope="module")
def found(searched: tuple[Path, Path, int]) -> dict[str, Any]:
    account: dict[str, Any] = json.loads((searched[1] / "tiny/search-generic-x86/found.json").read_bytes())
    return account


def test_the_winner_passes_and_is_signed(searched: tuple[Path, Path, int], found: dict[str, Any]) -> None:
    (one,) = found["finalists"]

    assert searched[2] == ExitCode.DONE
    assert (one["verdict"], one["winner"], one["why"], one["missed"]) == ("pass", True, "", [])
    assert Path(one["bundle"]).name == "tiny.foveola"
    assert read_unverified(Path(one["bundle"])).manifest.name == "tiny"


def test_every_trial_says_what_it_is_and_costs(found: dict[str, Any]) -> None:
    rows = [one["row"] for one in found["trials"]]

    assert [row["number"] for row in rows] == [0, 1]
    assert rows[0]["values"]["steps.student.width"] == 8  # the recipe as written is the first
    for row in rows:
        assert row["state"] == "done"
        assert row["cost"]["source"] == "measured"
        assert row["cost"]["latency_ms"] > 0
        assert set(row["slacks"]) == {"lungs"}
        assert len(row["curves"]["student"]) == 1  # short
    assert found["timing"].startswith("measured on ")


def test_every_trial_is_a_recipe_that_finds_its_steps_done(searched: tuple[Path, Path, int]) -> None:
    folder = searched[1] / "tiny/search-generic-x86"

    for number in ("0000", "0001"):
        trial = read_recipe(folder / f"trials/{number}/trial.yaml", STAGES)
        assert {step.why for step in make_plan(trial, folder / "workers/1")} == {"reused"}
        whole = read_recipe(folder / f"trials/{number}/full.yaml", STAGES)
        why = {step.step.name: step.why for step in make_plan(whole, searched[1])}
        assert why["teacher"] == "reused"  # shared with the recipe's own run


def test_a_finalist_is_trained_at_full_length_and_shares_the_error(
    searched: tuple[Path, Path, int], found: dict[str, Any]
) -> None:
    (one,) = found["finalists"]

    whole = read_recipe(Path(one["recipe"]), STAGES)
    assert searching.knob(whole, "student", "epochs") == 2
    assert searching.knob(whole, "protocol", "alpha") == 0.025  # there is but one finalist
    assert Path(one["report"]).is_file()


def test_the_page_shows_the_front_and_loads_nothing(searched: tuple[Path, Path, int]) -> None:
    folder = searched[1] / "tiny/search-generic-x86"
    page = (folder / "search.html").read_text()

    assert 'class="search"' in page
    assert not re.search(r"<script|src=\"http|href=\"http|/tmp/", page)
    assert (folder / "front.svg").read_text().startswith("<svg")
    assert len((folder / "trials.jsonl").read_text().splitlines()) == 2


def test_the_same_command_reads_the_result_again_and_trains_nothing(
    searched: tuple[Path, Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()

    code = main(line(*searched[:2], "--json"))

    said = json.loads(capsys.readouterr().out)
    assert code == said["exit_code"] == searched[2]
    assert len(said["trials"]) == 2
    assert time.monotonic() - start < 60


def test_the_test_split_is_looked_at_once(searched: tuple[Path, Path, int], capsys: pytest.CaptureFixture[str]) -> None:
    code = main(line(*searched[:2], "--trials", "9"))

    assert code == ExitCode.REFUSED
    assert "confirmed after 2 trials; the test split is looked at once" in capsys.readouterr().err


def test_a_search_resumed_otherwise_says_what_changed(
    searched: tuple[Path, Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(line(*searched[:2], "--set", "steps.student.learning_rate=0.005"))

    assert code == ExitCode.REFUSED
    assert "steps.student.learning_rate 0.001 -> 0.005" in capsys.readouterr().err


def test_a_budget_that_no_candidate_can_meet_names_the_nearest(
    searched: tuple[Path, Path, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    (runs / "tiny").mkdir(parents=True)
    for step in (searched[1] / "tiny").glob("*-*"):
        if step.name.startswith(("data-", "teacher-", "protocol-")):
            (runs / "tiny" / step.name).symlink_to(step)
    words = line(searched[0], runs, "--trials", "1")
    words[words.index(*searching.BUDGET)] = "size_mb=0.001"

    code = main(words)

    said = capsys.readouterr().err
    assert code == ExitCode.REFUSED
    assert "none of 1 candidates keeps the budget; the nearest is trial 0: " in said
    assert "the budget is 0.001 MB" in said


REFUSALS = {
    "a mistyped budget": (["--budget", "latency=3"], "no figure 'latency'; did you mean 'latency_ms'?"),
    "a mistyped device": (["--device", "intel-n10"], "no device 'intel-n10'; did you mean 'intel-n100'?"),
    "a value that is none": (["--set", "search.space={steps.student.width: [x]}"], "expected `int`, got `str`"),
    "a backbone that is none": (["--set", "search.space={steps.student.backbone: [mobilenetv5]}"], "mobilenetv5"),
    "a device without int8": (
        ["--device", "x86-sse42-legacy", "--set", "steps.bundle.precisions=[]"],
        "int8: no engine of x86-sse42-legacy computes int8",
    ),
    "a device that is not here to measure on": (
        ["--device", "rpi5-8gb", "--latency", "measured"],
        "--latency measured: this machine is no rpi5-8gb: ",
    ),
    "a precision that the device lacks": (["--set", "steps.bundle.precisions=[float16]"], "nothing to write for"),
}


@pytest.mark.parametrize(("words", "told"), REFUSALS.values(), ids=REFUSALS)
def test_bad_input_is_one_line_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    recipe = searching.write_recipe(tmp_path)

    code = main(["search", str(recipe), "--runs", str(tmp_path / "runs"), *words])

    said = capsys.readouterr().err
    assert code in (ExitCode.REFUSED, ExitCode.USAGE)
    assert told in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("runs/tiny/teacher-*"))


@pytest.mark.slow
def test_a_killed_search_goes_on_where_it_was(tmp_path: Path) -> None:
    recipe = searching.write_recipe(tmp_path, ("  trials: 2\n", "  trials: 3\n"))
    words = [sys.executable, "-m", "foveola.toolkit", *line(recipe, tmp_path / "runs", "--no-confirm")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        for said in run.stderr:
            if "trial 1, student" in said:
                time.sleep(0.5)
                run.send_signal(signal.SIGKILL)
                break

    again = subprocess.run([*words, "--json"], env=environment, capture_output=True, text=True, timeout=600)

    assert again.returncode == 0, again.stderr[-2000:]
    rows = [one["row"] for one in json.loads(again.stdout)["trials"]]
    assert len(rows) == 3
    assert sorted(row["again"] for row in rows if row["again"] is not None) == [1]


@pytest.mark.slow
def test_two_workers_share_one_search(tmp_path: Path) -> None:
    recipe = searching.write_recipe(tmp_path, ("  trials: 2\n", "  trials: 4\n"))
    words = line(recipe, tmp_path / "runs", "--no-confirm", "--workers", "2", "--json")

    done = subprocess.run(
        [sys.executable, "-m", "foveola.toolkit", *words], capture_output=True, text=True, timeout=600
    )

    assert done.returncode == 0, done.stderr[-2000:]
    rows = [one["row"] for one in json.loads(done.stdout)["trials"]]
    assert {row["worker"].rpartition(":")[2] for row in rows} == {"1", "2"}
    assert len({json.dumps(row["values"], sort_keys=True) for row in rows}) == len(rows) >= 4
