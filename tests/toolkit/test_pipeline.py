"""Laws of running a recipe: nothing finished is lost, nothing half-written is kept, and every step says why it runs.

Run as a program, this file is the victim of those tests that need a process to kill; see `PROGRAMS` at the end.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
import pytest

from foveola.runtime.errors import ExitCode, FoveolaError, MissingPartError
from foveola.toolkit.parity.evidence import EVIDENCE, Evidence, Verdict, encode_evidence
from foveola.toolkit.pipeline import Outcome, locked, run
from foveola.toolkit.plan import make_plan, read_record
from foveola.toolkit.progress import SilentProgress
from foveola.toolkit.recipe import Recipe, parse_recipe
from foveola.toolkit.stage import DataStage, Stage, Use, digest_path
from foveola.toolkit.work import Work, write_atomic

# --- tiny stages: words are data, training counts them, a proof has a verdict ---


class Words(DataStage, frozen=True, kw_only=True):
    """A few files in a folder of their own."""

    count: int = 3

    def run(self, work: Work) -> None:
        (work.folder / "texts").mkdir()
        for number in range(self.count):
            work.progress(number, self.count, "words")
            (work.folder / "texts" / f"{number}.txt").write_text(f"word {number} of {work.seed}\n")


class Outside(DataStage, frozen=True, kw_only=True):
    """Words that lie somewhere else."""

    PATHS = ("root",)
    root: str

    def run(self, work: Work) -> None:
        (work.folder / "texts").mkdir()
        for file in sorted(Path(self.root).iterdir()):
            shutil.copyfile(file, work.folder / "texts" / file.name)


class Count(Stage, frozen=True, kw_only=True):
    """A long training that goes on where it was stopped."""

    USES = frozenset[Use]({"tasks"})
    RESUMES = True
    epochs: Annotated[int, msgspec.Meta(ge=1)] = 3
    rate: float = 0.5

    def run(self, work: Work) -> None:
        state = work.folder / "state"
        done = int(state.read_text()) if state.exists() else 0
        for epoch in range(done, self.epochs):
            with (work.cache / "epochs.log").open("a") as log:
                log.write(f"{epoch}\n")
            write_atomic(state, f"{epoch + 1}".encode())
            work.progress(epoch + 1, self.epochs)
        letters = sum(len(file.read_text()) for file in (work.data / "texts").iterdir())
        (work.folder / "model").write_text(f"{letters * self.rate} {work.seed}\n")


class Shout(Stage, frozen=True, kw_only=True):
    """A step that would notice the leavings of an earlier attempt."""

    INPUTS = ("of",)
    of: str
    marks: int = 1
    text: str = "!"

    def run(self, work: Work) -> None:
        (work.folder / "loud").mkdir()
        for number in range(3):
            with (work.folder / "loud" / "all.txt").open("a") as stream:
                stream.write(f"{number} {(work.inputs['of'] / 'model').read_text().strip()}{self.text * self.marks}\n")


class Prove(Stage, frozen=True, kw_only=True):
    """Evidence with the verdict that the recipe wishes."""

    INPUTS = ("of", "against")
    USES = frozenset[Use]({"tasks", "margins"})
    of: str
    against: str = ""
    verdict: Verdict = "pass"

    def run(self, work: Work) -> None:
        (work.folder / EVIDENCE).write_bytes(encode_evidence(evidence(self.verdict)))
        (work.folder / "report.html").write_text("<p>proof</p>")


class Break(Stage, frozen=True, kw_only=True):
    """Fails in the way that `FAILURES` names, after it has written something."""

    how: str

    def run(self, work: Work) -> None:
        (work.folder / "half").write_text("half a")
        if self.how == "disk full, refused":
            try:
                raise FAILURES["disk full"]
            except OSError as error:
                raise FoveolaError(str(work.folder), f"cannot be written ({error})") from None
        raise FAILURES[self.how]


class Ramble(Stage, frozen=True, kw_only=True):
    """Writes so many bytes, or until the disk is full; numpy tells of that in its own way."""

    size: int
    by: Literal["python", "numpy"] = "python"

    def run(self, work: Work) -> None:
        if self.by == "numpy":
            np.zeros(self.size, np.uint8).tofile(work.folder / "big")
            return
        with (work.folder / "big").open("wb") as stream:
            for _ in range(self.size // 1024):
                stream.write(b"x" * 1024)


FAILURES: dict[str, BaseException] = {
    "refused": FoveolaError("calibration", "3 images, 128 are needed", "give more"),
    "missing": MissingPartError("openvino", "is not installed", "pip install foveola[openvino]"),
    "disk full": OSError(errno.ENOSPC, "No space left on device", "/mnt/big.bin"),
    "disk full, copying": OSError(errno.ENOSPC, "No space left on device", "/mnt/from.bin", None, "/mnt/big.bin"),
    "quota": OSError(errno.EDQUOT, "Disk quota exceeded", "/mnt/big.bin"),
    "disk full in words": RuntimeError("I/O error: No space left on device (os error 28)"),
    "not allowed": PermissionError(errno.EACCES, "Permission denied", "/mnt/big.bin"),
    "our mistake": KeyError("oops"),
    "Ctrl-C": KeyboardInterrupt(),
}

STAGES: dict[str, type[Stage]] = {
    "words": Words,
    "outside": Outside,
    "count": Count,
    "shout": Shout,
    "prove": Prove,
    "break": Break,
    "ramble": Ramble,
}

RECIPE = """\
name: tiny
device: none
seed: 7
data: {stage: words}
tasks:
  lung: {kind: binary, classes: [no, yes], margins: {auc: 0.05}}
steps:
  teacher: {stage: count, epochs: 4}
  student: {stage: count, rate: 0.25}
  slim: {stage: shout, of: student}
  proof: {stage: prove, of: slim, against: teacher}
"""


def evidence(verdict: Verdict) -> Evidence:
    return Evidence(
        bundle="tiny",
        bundle_digest="0" * 64,
        teacher_digest="1" * 64,
        data_digest="2" * 64,
        split="test",
        cases=3,
        patients=2,
        alpha=0.025,
        resamples=100,
        seed=7,
        endpoints=(),
        verdict=verdict,
    )


def recipe(*changes: str, text: str = RECIPE) -> Recipe:
    return parse_recipe(text.encode(), STAGES, changes, ("none",))


def reasons(*changes: str, runs: Path, text: str = RECIPE) -> dict[str, str]:
    return {planned.step.name: planned.reason for planned in make_plan(recipe(*changes, text=text), runs)}


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file that a run leaves; the lock and the cache are no results."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and path.name != "lock" and path.parent.name != "cache"
    ]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def told(outcome: Outcome) -> dict[str, str]:
    return {step.step: step.reason for step in outcome.steps}


def breaking(how: str, **knobs: object) -> str:
    return RECIPE.replace("  proof:", f'  broken: {{stage: break, how: "{how}"}}\n  proof:')


# --- reuse, and the one reason ---

REUSED = dict.fromkeys(("data", "teacher", "student", "slim", "proof"), "reused")


def test_a_run_does_every_step_once(tmp_path: Path) -> None:
    first = run(recipe(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "lock"}
    second = run(recipe(), tmp_path)

    assert set(told(first).values()) == {"first run"}
    assert told(second) == REUSED
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "lock"} == before


def test_a_finished_step_is_a_folder_named_by_its_identity(tmp_path: Path) -> None:
    outcome = run(recipe(), tmp_path)

    for step in outcome.steps:
        record = read_record(step.folder)
        assert step.folder == tmp_path / "tiny" / f"{step.step}-{step.digest[:12]}"
        assert record is not None
        assert record.digest == record.identity.digest == step.digest
    assert not list(tmp_path.rglob("*.partial"))


CHANGES = {
    "a knob of the last step": (("steps.slim.marks=3",), {"slim": "changed: marks 1 -> 3", "proof": "follows slim"}),
    "a knob of the student": (
        ("steps.student.rate=0.75",),
        {"student": "changed: rate 0.25 -> 0.75", "slim": "follows student", "proof": "follows slim"},
    ),
    "two knobs": (
        ("steps.slim.marks=2", "steps.slim.text='?'"),
        {"slim": "changed: marks 1 -> 2 (and 1 more)", "proof": "follows slim"},
    ),
    "another input": (
        ("steps.slim.of=teacher",),
        {"slim": "follows teacher", "proof": "follows slim"},
    ),
    "a margin": (
        ("tasks.lung.margins.auc=0.1",),
        {"proof": "changed: margins.lung.margins.auc 0.05 -> 0.1"},
    ),
    "a task": (
        ("tasks.lung.weight=2",),
        {
            "teacher": "changed: tasks.lung.weight 1.0 -> 2.0",
            "student": "changed: tasks.lung.weight 1.0 -> 2.0",
            "slim": "follows student",
            "proof": "changed: tasks.lung.weight 1.0 -> 2.0",
        },
    ),
    "the data": (
        ("data.count=4",),
        {"data": "changed: count 3 -> 4", **dict.fromkeys(("teacher", "student", "slim", "proof"), "follows data")},
    ),
    "the seed": (("seed=8",), dict.fromkeys(REUSED, "changed: seed 7 -> 8")),
}


@pytest.mark.parametrize(("changes", "expected"), CHANGES.values(), ids=CHANGES.keys())
def test_a_change_reruns_only_what_follows_and_says_why(
    tmp_path: Path, changes: tuple[str, ...], expected: dict[str, str]
) -> None:
    run(recipe(), tmp_path)

    planned = reasons(*changes, runs=tmp_path)

    assert planned == REUSED | expected
    assert told(run(recipe(*changes), tmp_path)) == planned
    assert told(run(recipe(), tmp_path)) == REUSED, "what was there before is still there"


def test_a_plan_changes_nothing(tmp_path: Path) -> None:
    planned = reasons(runs=tmp_path / "runs")

    assert set(planned.values()) == {"first run"}
    assert not list(tmp_path.iterdir())


def test_another_stage_under_the_same_name_runs(tmp_path: Path) -> None:
    run(recipe(), tmp_path)
    text = RECIPE.replace("slim: {stage: shout, of: student}", "slim: {stage: count}")

    planned = reasons(runs=tmp_path, text=text)

    assert planned["slim"].startswith("changed: stage shout -> count (and ")
    assert planned["proof"] == "follows slim"


def test_a_newer_version_of_a_stage_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(recipe(), tmp_path)
    monkeypatch.setattr(Shout, "VERSION", 2)

    assert reasons(runs=tmp_path) == REUSED | {"slim": "changed: version 1 -> 2", "proof": "follows slim"}


def test_the_reason_compares_with_the_nearest_of_several_runs(tmp_path: Path) -> None:
    run(recipe("steps.slim.marks=5", "steps.slim.text='?'"), tmp_path)
    run(recipe("steps.slim.marks=2"), tmp_path)

    assert reasons("steps.slim.marks=3", runs=tmp_path)["slim"] == "changed: marks 2 -> 3"


# --- outside files ---


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "b.txt").write_text("b")
    return folder


OUTSIDE = RECIPE.replace("{stage: words}", "{stage: outside, root: nowhere}")


def test_outside_files_count_by_what_they_hold_and_not_by_where_they_are(tmp_path: Path, texts: Path) -> None:
    run(recipe(f"data.root={texts}", text=OUTSIDE), tmp_path / "runs")
    moved = texts.rename(tmp_path / "moved")

    assert reasons(f"data.root={moved}", runs=tmp_path / "runs", text=OUTSIDE) == REUSED
    (moved / "b.txt").write_text("c")
    planned = reasons(f"data.root={moved}", runs=tmp_path / "runs", text=OUTSIDE)
    assert planned["data"].startswith("changed: files ")
    assert planned["slim"] == "follows data"


def test_an_absent_outside_folder_is_told_with_its_step(tmp_path: Path) -> None:
    with pytest.raises(FoveolaError, match=r"^data: root: /nowhere is not there; "):
        run(recipe("data.root=/nowhere", text=OUTSIDE), tmp_path)


def test_the_digest_of_a_folder_is_of_names_and_bytes(texts: Path) -> None:
    before = digest_path(texts, "x")

    (texts / "b.txt").rename(texts / "c.txt")
    renamed = digest_path(texts, "x")
    (texts / "c.txt").rename(texts / "b.txt")

    assert renamed != before
    assert digest_path(texts, "x") == before
    assert digest_path(texts / "a.txt", "x") == hashlib.sha256(b"a").hexdigest()


# --- copies and damage ---


def test_a_run_folder_copied_elsewhere_is_reused_whole(tmp_path: Path) -> None:
    run(recipe(), tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")

    assert told(run(recipe(), tmp_path / "there")) == REUSED


DAMAGE = {
    "a file is gone": ("model", None, "model is not as it was written"),
    "a file is cut off": ("model", b"1", "model is not as it was written"),
    "the record is gone": ("step.json", None, "no readable step.json"),
    "the record is broken": ("step.json", b"{", "no readable step.json"),
    "the record is another step's": ("step.json", b"other", "step.json is of another step"),
}


@pytest.mark.parametrize(("name", "data", "fault"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_step_of_which_half_was_copied_is_made_anew(
    tmp_path: Path, name: str, data: bytes | None, fault: str
) -> None:
    outcome = run(recipe(), tmp_path)
    whole = contents(tmp_path)
    teacher, student = outcome.steps[1].folder, outcome.steps[2].folder
    (student / name).unlink()
    if data is not None:
        (student / name).write_bytes((teacher / name).read_bytes() if data == b"other" else data)

    again = run(recipe(), tmp_path)

    assert told(again) == REUSED | {"student": f"damaged: {fault}"}
    assert contents(tmp_path) == whole


def test_a_stray_file_in_a_finished_step_harms_nobody(tmp_path: Path) -> None:
    outcome = run(recipe(), tmp_path)
    (outcome.steps[2].folder / ".DS_Store").write_bytes(b"")

    assert told(run(recipe(), tmp_path)) == REUSED


# --- kill -9 ---


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """What became of a run that was killed at every one of its file operations, and of its second attempt."""
    root = tmp_path_factory.mktemp("killed")
    done = program("kill", root)
    assert done.returncode == 0, done.stderr
    kills: list[dict[str, object]] = json.loads(done.stdout)
    return kills


def test_a_run_killed_at_any_point_ends_with_the_same_bytes(killed: list[dict[str, object]], tmp_path: Path) -> None:
    run(recipe(), tmp_path)

    assert len(killed) > 60, "a kill at every file operation"
    assert {json.dumps(kill["contents"], sort_keys=True) for kill in killed} == {
        json.dumps(contents(tmp_path), sort_keys=True)
    }


def test_a_run_killed_at_any_point_loses_no_finished_step(killed: list[dict[str, object]]) -> None:
    assert all(kill["finished"] == kill["reused"] for kill in killed)
    assert {len(kill["finished"]) for kill in killed if isinstance(kill["finished"], list)} == {0, 1, 2, 3, 4, 5}


def test_a_stage_that_resumes_repeats_at_most_one_epoch(killed: list[dict[str, object]]) -> None:
    epochs = [kill["epochs"] for kill in killed]

    assert set(epochs) <= {7, 8}  # 4 of the teacher, 3 of the student, and the one in which the kill came
    assert 8 in epochs


def test_an_interrupted_step_says_so(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(recipe(text=breaking("Ctrl-C")), tmp_path)

    assert reasons(runs=tmp_path, text=breaking("Ctrl-C")) == REUSED | {
        "broken": "interrupted",
        "proof": "first run",
    }


# --- one run at a time ---


def test_a_second_run_of_the_same_folder_is_refused(tmp_path: Path) -> None:
    with holder(tmp_path) as pid, pytest.raises(FoveolaError) as caught:
        run(recipe(), tmp_path)

    assert str(caught.value) == (
        f"{tmp_path / 'tiny'}: another run (process {pid}) is at work here; wait for it, or choose another --runs"
    )


def test_the_lock_of_a_killed_run_is_no_hindrance(tmp_path: Path) -> None:
    with holder(tmp_path):
        pass  # killed at the end

    assert (tmp_path / "tiny" / "lock").exists()
    assert run(recipe(), tmp_path).exit_code == 0


def test_a_plan_may_be_asked_for_while_a_run_is_at_work(tmp_path: Path) -> None:
    with holder(tmp_path):
        assert set(reasons(runs=tmp_path).values()) == {"first run"}


def test_a_run_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")

    with pytest.raises(FoveolaError, match=r"the run folder cannot be made: .*; choose another --runs"):
        run(recipe(), tmp_path / "runs")


# --- refusals, and a full disk ---


def failure(how: str, runs: Path) -> FoveolaError:
    with pytest.raises(FoveolaError) as caught:
        run(recipe(text=breaking(how)), runs)
    return caught.value


def test_a_refusal_inside_a_step_names_the_step_and_keeps_its_exit_code(tmp_path: Path) -> None:
    refused, missing = failure("refused", tmp_path), failure("missing", tmp_path)

    assert str(refused) == "steps.broken: calibration: 3 images, 128 are needed; give more"
    assert refused.exit_code == ExitCode.REFUSED
    assert str(missing) == "steps.broken: openvino: is not installed; pip install foveola[openvino]"
    assert missing.exit_code == ExitCode.PART_MISSING


def test_a_mistake_of_ours_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        run(recipe(text=breaking("our mistake")), tmp_path)


@pytest.mark.parametrize(
    "how", ["disk full", "disk full, copying", "quota", "disk full in words", "disk full, refused"]
)
def test_a_full_disk_is_one_line_with_step_and_path(tmp_path: Path, how: str) -> None:
    error = failure(how, tmp_path)

    path = "/mnt/big.bin" if how in ("disk full", "disk full, copying", "quota") else tmp_path / "tiny" / "broken-"
    assert str(error).startswith(f"steps.broken: {path}")
    assert "the disk is full; 6 bytes of this step were written; make room and start the same command again" in str(
        error
    )
    assert "\n" not in str(error)
    assert error.exit_code == ExitCode.REFUSED


@pytest.mark.parametrize("how", ["disk full", "disk full, refused", "refused"])
def test_a_step_that_fails_leaves_nothing_half_written(tmp_path: Path, how: str) -> None:
    failure(how, tmp_path)

    assert not list(tmp_path.rglob("*.partial"))
    assert not list(tmp_path.rglob("half"))
    assert told(run(recipe(), tmp_path)) == REUSED | {"proof": "first run"}


def test_a_folder_that_may_not_be_written_is_one_line(tmp_path: Path) -> None:
    assert str(failure("not allowed", tmp_path)) == (
        "steps.broken: /mnt/big.bin: Permission denied; see who owns the folder"
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 200 kB; needs the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("no right to mount a small disk")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("by", ["python", "numpy"])
def test_a_disk_that_is_really_full_loses_nothing_either(small_disk: Path, by: str) -> None:
    text = RECIPE.replace("  proof:", f"  big: {{stage: ramble, size: 1000000, by: {by}}}\n  proof:")

    with pytest.raises(
        FoveolaError, match=r"^steps\.big: .*: the disk is full; .* of this step were written; make room"
    ):
        run(recipe(text=text), small_disk)

    assert not list(small_disk.rglob("*.partial"))
    assert told(run(recipe("steps.big.size=2048", text=text), small_disk)) == REUSED | {
        "big": "first run",
        "proof": "first run",
    }


# --- what a step is given ---


def test_a_step_is_given_its_inputs_the_data_and_the_recipe_s_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Work] = {}
    monkeypatch.setattr(Shout, "run", lambda self, work: seen.update(slim=work))
    monkeypatch.setattr(Words, "run", lambda self, work: (seen.update(data=work), (work.folder / "texts").mkdir()))

    outcome = run(recipe(), tmp_path)

    data, _, student, slim, _ = outcome.steps
    work = seen["slim"]
    assert work.inputs == {"of": student.folder}
    assert work.digests == {"of": student.digest, "data": data.digest}
    assert work.data == data.folder
    assert (work.step, work.digest, work.seed) == ("slim", slim.digest, 7)
    assert [task.name for task in work.tasks] == ["lung"]
    assert work.folder.name == f"{slim.folder.name}.partial"
    assert work.cache == tmp_path / "tiny" / "cache"
    assert seen["data"].data == seen["data"].folder


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "state", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "state", b"new")

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"state": b"old"}


# --- the verdict ---


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("fail", 3), ("underpowered", 6)])
def test_the_verdict_of_the_proof_is_the_exit_code(tmp_path: Path, verdict: str, code: int) -> None:
    after = RECIPE + "  last: {stage: shout, of: student}\n"

    outcome = run(recipe(f"steps.proof.verdict={verdict}", text=after), tmp_path)

    assert outcome.exit_code == code
    assert outcome.verdict == verdict
    assert outcome.steps[-1].folder.is_dir(), "every step is done before the verdict counts"
    assert run(recipe(f"steps.proof.verdict={verdict}", text=after), tmp_path).exit_code == code


def test_the_worst_of_several_verdicts_counts(tmp_path: Path) -> None:
    text = RECIPE + "  more: {stage: prove, of: slim, verdict: underpowered}\n"

    assert run(recipe(text=text), tmp_path).verdict == "underpowered"
    assert run(recipe("steps.proof.verdict=fail", text=text), tmp_path).verdict == "fail"


def test_a_recipe_without_proof_is_done_when_it_is_done(tmp_path: Path) -> None:
    outcome = run(recipe(text=RECIPE.split("  proof:")[0]), tmp_path)

    assert outcome.verdict is None
    assert outcome.exit_code == 0


# --- progress ---


def test_progress_is_told_of_every_step_and_given_back_at_the_end(tmp_path: Path) -> None:
    class Ear(SilentProgress):
        heard: ClassVar[list[str]] = []

        def begin(self, step: str, number: int, steps: int, reason: str) -> None:
            self.heard.append(f"{number}/{steps} {step} {reason}")

        def end(self, result: str) -> None:
            self.heard.append(result)

        def close(self) -> None:
            self.heard.append("closed")

    with pytest.raises(KeyError):
        run(recipe(text=breaking("our mistake")), tmp_path, Ear())

    assert Ear.heard[:2] == ["1/6 data first run", "done"]
    assert Ear.heard[-3:] == ["5/6 broken first run", "stopped", "closed"]


# --- programs: this file run as a process, to be killed ---


def program(name: str, root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, __file__, name, str(root)], capture_output=True, text=True, timeout=120)


class holder:  # noqa: N801 - reads as a context
    """A process that holds the lock of a run folder, and is killed at the end."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs

    def __enter__(self) -> int:
        command = [sys.executable, __file__, "hold", str(self.runs)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"
        return self.process.pid

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def hold(root: Path) -> None:
    with locked(root / "tiny"):
        print("held", flush=True)
        time.sleep(60)


def kill(root: Path) -> None:
    """Kill a run at its first file operation, another at its second, and so on; run each again and tell what became."""
    told_of: list[Mapping[str, object]] = []
    for point in range(1, 10_000):
        runs = root / str(point)
        if in_child(lambda runs=runs, point=point: dying_run(runs, point)) != -signal.SIGKILL:
            break
        finished = sorted(path.name for path in runs.glob("tiny/*-*") if not path.name.endswith(".partial"))
        outcome = root / f"{point}.json"
        assert in_child(lambda runs=runs, outcome=outcome: outcome.write_text(json.dumps(reused(runs)))) == 0
        epochs = (runs / "tiny" / "cache" / "epochs.log").read_text().count("\n")
        told_of.append(
            {
                "finished": finished,
                "reused": json.loads(outcome.read_text()),
                "contents": contents(runs),
                "epochs": epochs,
            }
        )
    print(json.dumps(told_of))


def reused(runs: Path) -> list[str]:
    return sorted(step.folder.name for step in run(recipe(), runs).steps if step.reason == "reused")


def dying_run(runs: Path, point: int) -> None:
    """Run, and die by SIGKILL at the file operation of that number."""
    left = point

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir") and str(runs) in str(arguments[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    run(recipe(), runs)


def in_child(job: object) -> int:
    """Do a job in a process of its own; gives its exit code, or minus the signal that ended it."""
    assert callable(job)
    child = os.fork()
    if child == 0:
        job()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


PROGRAMS = {"kill": kill, "hold": hold}

if __name__ == "__main__":
    os.fsync = lambda fd: None  # a killed process loses nothing that it has written; a power cut is no test
    PROGRAMS[sys.argv[1]](Path(sys.argv[2]))
