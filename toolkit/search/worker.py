"""One worker: takes candidates from the study until enough of them were looked at.

Workers share nothing but the study, the finished steps and the cache; each holds a slot by a lock that dies with it, so
that the next one knows which trials nobody works at any more.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import optuna
from optuna.trial import TrialState

from .draft import Draft
from .row import Row
from .space import own_values, sample
from .study import bury, keep_row, make_sampler, read_rows, same_values, tell, this_host
from .trial import Site, run_trial

SLOTS = 64  # workers of one machine at most
TRIES = 40  # proposals in a row that were looked at before, after which the space counts as searched
PATIENCE = 3  # of these after which anything is drawn, and not what the sampler likes


@contextmanager
def slot(folder: Path) -> Iterator[int]:
    """Hold the first free slot of this machine; its number from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, SLOTS + 1):
        with _lock_file(folder, number).open("a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield number
            return
    raise RuntimeError(f"{SLOTS} workers are at work in {folder}")


def alive(folder: Path, worker: str, own: int) -> bool:
    """Whether a worker of this machine holds its slot; one's own slot holds no old trial."""
    host, _, number = worker.rpartition(":")
    if host != this_host() or not number.isdigit() or int(number) == own:
        return False
    with _lock_file(folder, int(number)).open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _lock_file(folder: Path, number: int) -> Path:
    return folder / f"slot-{this_host()}-{number}.lock"


def work(site: Site, study: optuna.study.Study, number: int, trials: int) -> None:
    """Run trials until the study has enough of them, or the space is searched.

    Args:
        site: where trials are run.
        study: where they are kept.
        number: of the worker's slot.
        trials: how many candidates are looked at in all.
    """
    slots = site.folder / "workers"
    bury(study, lambda worker: alive(slots, worker, number))
    while counted(read_rows(study)) < trials:
        proposed = propose(study, site.draft, f"{this_host()}:{number}")
        if proposed is None:
            site.voice.log("the space is searched: what is proposed was looked at before")
            return
        trial, row = proposed
        row = run_trial(site, row, lambda: read_rows(study), lambda one: keep_row(trial, one))  # noqa: B023
        tell(study, trial, row, site.budget)
        site.voice.log(said(row))


def counted(rows: list[Row]) -> int:
    """Candidates that were looked at or are being so."""
    return sum(row.state not in ("failed", "repeated") for row in rows)


def begin(study: optuna.study.Study, draft: Draft) -> None:
    """Queue the recipe as it was written, as the first candidate of a new study."""
    values = own_values(draft)
    if values is not None and not study.get_trials(deepcopy=False):
        study.enqueue_trial(values)


def propose(study: optuna.study.Study, draft: Draft, worker: str) -> tuple[optuna.trial.Trial, Row] | None:
    """The next candidate that nobody has looked at; None where there seems to be none left."""
    sampler = study.sampler
    try:
        for attempt in range(TRIES):
            if attempt == PATIENCE:  # the sampler comes back to what it likes: draw anything
                study.sampler = make_sampler("random", draft.recipe.seed + len(study.get_trials(deepcopy=False)), 1)
            rows = read_rows(study)
            trial = study.ask()
            values = sample(trial, draft)
            again = trial.user_attrs.get("again")
            row = Row(number=trial.number, values=values, worker=worker, again=again, seen=time.time())
            same = same_values(values, rows)
            if same is None:
                keep_row(trial, row)
                return trial, row
            row = msgspec.structs.replace(row, state="repeated", reason=f"the same as trial {same.number}")
            keep_row(trial, row)
            study.tell(trial, state=TrialState.FAIL)
    finally:
        study.sampler = sampler
    return None


def said(row: Row) -> str:
    """One line of what became of a trial."""
    cost = ""
    if row.cost is not None:
        latency = "" if row.cost.latency_ms is None else f"{row.cost.latency_ms:.2f} ms ({row.cost.source}), "
        cost = f"{latency}{row.cost.size_mb:.2f} MB"
    judged = "" if row.slack is None else f", slack {row.slack:.2f} ({row.worst_task})"
    return f"trial {row.number}: {row.reason or 'done'}{'; ' if cost else ''}{cost}{judged}; {row.seconds:.0f} s"
