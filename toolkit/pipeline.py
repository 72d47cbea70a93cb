"""Runs a recipe: what is not done yet, step by step, so that nothing finished is ever lost.

- One run at a time works in a run folder; the lock is the kernel's and dies with its process.
- A step works in `<step>-<digest>.partial` and becomes `<step>-<digest>` by one rename, when all of it is on disk.
- Whatever stops a run (kill, power cut, full disk, Ctrl-C), the same command continues with the first unfinished step.
- A stage that does not resume starts in an empty folder: a step's bytes never depend on how often it was started.
- The verdict of a proof decides nothing before all steps are done.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import msgspec

from ..runtime.errors import ExitCode, FoveolaError
from .parity.evidence import EVIDENCE, Evidence, Verdict, decode_evidence
from .plan import RECORD, PlannedStep, Record, in_step, input_names, list_files, make_plan, partial_folder, run_folder
from .progress import Progress, SilentProgress
from .recipe import DATA, Recipe
from .work import WRITING, Work, fsync_folder, write_atomic
from .workers import leads, wait_for

DISCARDED = ".discarded"  # suffix of a damaged step that is being deleted
EXIT_CODES: dict[Verdict, ExitCode] = {
    "pass": ExitCode.DONE,
    "fail": ExitCode.PROOF_FAILED,
    "underpowered": ExitCode.UNDERPOWERED,
}


class StepOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one step."""

    step: str
    stage: str
    reason: str
    digest: str
    folder: Path
    seconds: float  # 0 when reused


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence that a step left, and where."""

    step: str
    folder: Path
    evidence: Evidence


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has left behind."""

    recipe: str
    folder: Path
    steps: tuple[StepOutcome, ...]
    proofs: tuple[Proof, ...]

    @property
    def verdict(self) -> Verdict | None:
        """The worst verdict of all proofs; None without a proof."""
        verdicts = {proof.evidence.verdict for proof in self.proofs}
        order: tuple[Verdict, ...] = ("fail", "underpowered", "pass")
        return next((verdict for verdict in order if verdict in verdicts), None)

    @property
    def exit_code(self) -> ExitCode:
        """What the command answers."""
        return ExitCode.DONE if self.verdict is None else EXIT_CODES[self.verdict]

    def find(self, pattern: str) -> tuple[Path, ...]:
        """Files right in the steps' folders that fit a pattern, in the order of the steps."""
        return tuple(path for step in self.steps for path in sorted(step.folder.glob(pattern)))


def run(recipe: Recipe, runs: Path, progress: Progress | None = None) -> Outcome:
    """Lock, plan, do what is not done, read the verdict: the whole story.

    Args:
        recipe: a checked recipe.
        runs: folder of all runs; the recipe's own is `runs/<name>`.
        progress: who is told; None: nobody.

    Raises:
        FoveolaError: a step refused, the disk is full, or another run is at work in the folder.
    """
    progress = progress or SilentProgress()
    folder = run_folder(runs, recipe)
    if not leads():
        return _follow(recipe, runs)
    try:
        with locked(folder):
            _sweep(folder)
            plan = make_plan(recipe, runs)
            steps = []
            for number, planned in enumerate(plan, 1):
                steps.append(_do(planned, number, plan, recipe, progress))
                if planned.step.name == DATA:
                    _check_ahead(plan, recipe, progress)
    finally:
        progress.close()
    return Outcome(recipe=recipe.name, folder=folder, steps=tuple(steps), proofs=_proofs(steps))


def _check_ahead(plan: Sequence[PlannedStep], recipe: Recipe, progress: Progress) -> None:
    """Let every step that will run refuse now what it can, rather than after hours of training before it."""
    for planned in plan:
        if planned.step.name == DATA or planned.why == "reused":
            continue
        try:
            planned.step.stage.check_ahead(_work(planned, partial_folder(planned.folder), plan, recipe, progress))
        except FoveolaError as error:
            raise in_step(planned.step.name, error) from None


def _follow(recipe: Recipe, runs: Path) -> Outcome:
    """Take part in the steps that are trained together, in a process that torchrun started beside the leader."""
    plan = make_plan(recipe, runs)
    for planned in plan:
        for before in input_names(planned.step).values():
            wait_for(next(other.folder for other in plan if other.step.name == before))
        # The leader cannot finish such a step without us, so one that is there was there before.
        if planned.step.stage.TOGETHER and not planned.folder.exists():
            partial = partial_folder(planned.folder)
            wait_for(partial)
            planned.step.stage.run(_work(planned, partial, plan, recipe, SilentProgress()))
    return Outcome(recipe=recipe.name, folder=run_folder(runs, recipe), steps=(), proofs=())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder; made if it is not there.

    The lock is a POSIX record lock: it ends with the process, however that ends, and children do not inherit it.

    Raises:
        FoveolaError: another process holds it, or the folder cannot be made.
    """
    import fcntl  # not on Windows, where steps cannot be run but all else works

    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / "lock").open("a+")
    except OSError as error:
        raise FoveolaError(
            str(folder), f"the run folder cannot be made: {error.strerror}", "choose another --runs"
        ) from None
    with stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            stream.seek(0)
            who = stream.read(20).strip()
            raise FoveolaError(
                str(folder),
                f"another run (process {who or 'unknown'}) is at work here",
                "wait for it, or choose another --runs",
            ) from None
        with suppress(OSError):  # a full disk is told when the step needs it
            os.ftruncate(stream.fileno(), 0)
            os.write(stream.fileno(), f"{os.getpid()}\n".encode())
        yield


def _do(
    planned: PlannedStep, number: int, plan: Sequence[PlannedStep], recipe: Recipe, progress: Progress
) -> StepOutcome:
    """One step: reuse it, or work in a partial folder and rename it."""
    name, start = planned.step.name, time.monotonic()
    progress.begin(name, number, len(plan), planned.reason)
    if planned.why != "reused":
        partial = partial_folder(planned.folder)
        with _Guard(name, partial, planned.step.stage.RESUMES, progress):
            _prepare(planned, partial)
            planned.step.stage.run(_work(planned, partial, plan, recipe, progress))
            _finish(planned, partial)
    seconds = 0.0 if planned.why == "reused" else time.monotonic() - start
    progress.end("reused" if planned.why == "reused" else "done")
    return StepOutcome(
        step=name,
        stage=planned.step.kind,
        reason=planned.reason,
        digest=planned.digest,
        folder=planned.folder,
        seconds=seconds,
    )


def _prepare(planned: PlannedStep, partial: Path) -> None:
    """Make an empty folder, or keep what an interrupted attempt left when the stage can go on from there."""
    if planned.folder.exists():  # damaged
        discarded = planned.folder.with_name(planned.folder.name + DISCARDED)
        planned.folder.replace(discarded)
        shutil.rmtree(discarded)
    if partial.exists() and not planned.step.stage.RESUMES:
        shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    for leftover in [path for path in partial.rglob(f"*{WRITING}") if path.is_file()]:
        leftover.unlink()


def _work(planned: PlannedStep, partial: Path, plan: Sequence[PlannedStep], recipe: Recipe, progress: Progress) -> Work:
    done = {other.step.name: other for other in plan}
    named = input_names(planned.step)
    cache = planned.folder.parent / "cache"
    cache.mkdir(exist_ok=True)
    return Work(
        step=planned.step.name,
        digest=planned.digest,
        folder=partial,
        inputs={field: done[name].folder for field, name in named.items() if field != DATA},
        digests={field: done[name].digest for field, name in named.items()},
        data=partial if planned.step.name == DATA else done[DATA].folder,
        cache=cache,
        recipe=recipe,
        reporter=progress,
    )


def _finish(planned: PlannedStep, partial: Path) -> None:
    """Write the record, bring everything to the disk, and only then give the folder its name."""
    record = Record(step=planned.step.name, digest=planned.digest, identity=planned.identity, files=list_files(partial))
    write_atomic(partial / RECORD, msgspec.json.format(msgspec.json.encode(record, order="sorted"), indent=1) + b"\n")
    for path in partial.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        elif path.is_dir():
            fsync_folder(path)
    fsync_folder(partial)
    partial.replace(planned.folder)
    fsync_folder(planned.folder.parent)


def _sweep(folder: Path) -> None:
    for leftover in folder.glob(f"*{DISCARDED}"):
        shutil.rmtree(leftover)


class _Guard:
    """Says which step failed; a full disk becomes one line, and nothing half-written takes up its room.

    A context manager and no `except`, because libraries tell of a full disk by errors of many types.
    """

    def __init__(self, step: str, partial: Path, resumes: bool, progress: Progress) -> None:
        self.step, self.partial, self.resumes, self.progress = step, partial, resumes, progress

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        self.progress.end("interrupted" if isinstance(error, KeyboardInterrupt) else "stopped")
        if _is_disk_full(error, self.partial.parent):
            used = sum(list_files(self.partial).values()) if self.partial.is_dir() else 0
            # Copying tells of the source as `filename`, but it is the target's disk that is full.
            path = getattr(error, "filename2", None) or getattr(error, "filename", None) or self.partial
            self.clear()
            fault = f"the disk is full; {_size(used)} of this step were written"
            mend = "make room and start the same command again: finished steps are kept"
            raise in_step(self.step, FoveolaError(str(path), fault, mend)) from None
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            place = str(error.filename or self.partial)
            raise in_step(self.step, FoveolaError(place, f"{error.strerror}", "see who owns the folder")) from None
        if isinstance(error, FoveolaError):
            self.clear()
            raise in_step(self.step, error) from error.__cause__

    def clear(self) -> None:
        """Leave nothing half-written, unless the next attempt goes on from it."""
        if not self.resumes:
            shutil.rmtree(self.partial, ignore_errors=True)


def _is_disk_full(error: BaseException, folder: Path) -> bool:
    cause: BaseException | None = error
    while cause is not None:  # also where a refusal was made of it
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, FoveolaError | KeyboardInterrupt):
        return False
    # safetensors, torch and protobuf tell it in words; numpy's OSError has neither number nor words.
    told = "No space left on device" in str(error) or "os error 28" in str(error)
    silent = isinstance(error, OSError) and error.errno is None and shutil.disk_usage(folder).free < 2**16
    return told or silent


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count} bytes"


def _proofs(steps: Sequence[StepOutcome]) -> tuple[Proof, ...]:
    found = []
    for step in steps:
        file = step.folder / EVIDENCE
        if file.is_file():
            found.append(Proof(step=step.step, folder=step.folder, evidence=decode_evidence(file.read_bytes())))
    return tuple(found)
