"""The queue on disk: what was accepted is answered, also after a crash, and the same image is answered once.

Laws:
- `submit` returns when image and entry are on disk and synced; whoever sent it may forget it then.
- A job is `queued` until its answer is stored. An attempt is counted on disk before it begins, so that an image that
  takes the process or the machine down with it is tried `attempts` times and not for ever.
- Answer, end of the job and its results for the peer are one transaction: after a crash all are there or none.
- The same content with the same bundle is one job, however often and on whatever way it comes. With another bundle, or
  after a failure, it is answered anew.
- The image is deleted when its answer is stored.
- Results are made in a folder of their own and come to those that wait only with the answer, so that none that waits
  is written over. A SOP Instance UID stands for one picture: of another one with the same UID nothing goes to the peer.
- Full is an answer: `submit` refuses before anything is written.
- Neither a night without power nor a clock that leaps (a device without a battery begins in 1970) ends a job or a
  result: patience is measured by this process's own clock, tries are counted.

States: `queued` -> `answered`, `unfit`, `refused` or `failed`. Only a failed one becomes `queued` again.

One SQLite file (`jobs.sqlite`, write-ahead log, synchronous FULL: each commit is synced) and a folder `images`; one
process holds it. Jobs hold no name and no UID in clear, images do.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from ..durable import move_file, remove_file, write_file
from ..errors import FoveolaError
from .disk import job_id
from .frames import Source
from .limits import LIMITS, Limits

State = Literal["queued", "answered", "unfit", "refused", "failed"]
MOST_PAUSE_S = 3600.0  # between two tries of a result
ENDED: tuple[State, ...] = ("answered", "unfit", "refused")  # not asked again by the same bundle
_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, way TEXT NOT NULL, bytes INTEGER NOT NULL, bundle TEXT NOT NULL,
    attempts INTEGER NOT NULL, since REAL NOT NULL, ended REAL, answer BLOB, error TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, since);
CREATE TABLE IF NOT EXISTS results (
    file TEXT PRIMARY KEY, job TEXT NOT NULL, attempts INTEGER NOT NULL, due REAL NOT NULL, since REAL NOT NULL);
CREATE TABLE IF NOT EXISTS sources (uid TEXT PRIMARY KEY, picture TEXT NOT NULL, since REAL NOT NULL);
"""


class FullError(Exception):
    """The queue takes nothing more for now; the text says why."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One image that was accepted.

    Args:
        id: its name, see `disk.job_id`.
        state: see the head of this file.
        way: by which it came: dicom, folder or http.
        bundle: digest of the bundle that answered; empty before.
        attempts: begun so far.
        since: when it was accepted, seconds since 1970.
        answer: JSON of the whole answer; None before.
        error: why there is none, in one line.
    """

    id: str
    state: State
    way: str
    bundle: str
    attempts: int
    since: float
    answer: bytes | None
    error: str


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One DICOM file that waits for the peer."""

    file: str
    job: str
    attempts: int


class Queue:
    """Accepted jobs, their answers, and results for the peer. Threads may share it.

    Whatever changes something raises a `FoveolaError` where the disk does not take it.

    Args:
        folder: is made where it is not there; one process at a time.
        limits: how much it holds.

    Raises:
        FoveolaError: the folder cannot be used, or another service uses it.
    """

    def __init__(self, folder: Path, limits: Limits = LIMITS) -> None:
        self._limits, self._lock = limits, threading.RLock()
        self.work = threading.Condition(self._lock)  # told of every new job
        self._opened, self._came = time.monotonic(), dict[str, float]()  # jobs of this process, on its own clock
        self._opened_at = time.time()
        self.images, self.results, self.made = folder / "images", folder / "results", folder / "made"
        try:
            for place in (folder, self.images, self.results, self.made):
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._base = _open(folder / "jobs.sqlite")
            self._tidy()
        except (OSError, sqlite3.Error) as error:
            mend = "one service for each --state folder; check rights and room"
            raise FoveolaError(str(folder), f"cannot be used: {_words(error)}", mend) from None

    def submit(self, data: bytes, way: str, bundle: str) -> Job:
        """Accept an image; when this returns it is on disk.

        Args:
            data: a file's bytes.
            way: dicom, folder or http.
            bundle: digest of the bundle that is to answer.

        Raises:
            FullError: too much waits already.
            FoveolaError: the disk does not take it.
        """
        name = job_id(data)
        with self._lock:
            known = self.get(name)
            if known and (known.state == "queued" or (known.state in ENDED and known.bundle == bundle)):
                return known
            self._require_room(len(data))
            write_file(self.images / name, data)
            row = (name, "queued", way, len(data), "", 0, time.time(), None, None, "")
            try:
                with self._change():
                    self._base.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            except FoveolaError:
                with contextlib.suppress(OSError):
                    remove_file(self.images / name)
                raise
            self._came[name] = time.monotonic()
            self.work.notify_all()
            job = self.get(name)
            assert job
            return job

    def claim(self) -> Job | None:
        """Begin an attempt at the oldest job, which is counted on disk; None where nothing is queued.

        A job that has had all its attempts, or waited too long, is ended as failed instead.
        """
        with self._lock:
            for row in self._base.execute("SELECT id FROM jobs WHERE state = 'queued' ORDER BY since").fetchall():
                job = self.get(row[0])
                assert job
                if time.monotonic() - self._came.get(job.id, self._opened) > self._limits.patience_s:
                    self.end(job.id, "failed", error=f"unavailable: not answered within {self._limits.patience_s:g} s")
                elif job.attempts >= self._limits.attempts:
                    self.end(job.id, "failed", error=f"unavailable: the engine failed {job.attempts} times on it")
                else:
                    with self._change():
                        self._base.execute("UPDATE jobs SET attempts = attempts + 1 WHERE id = ?", (job.id,))
                    return job
            return None

    def end(
        self,
        name: str,
        state: State,
        *,
        bundle: str = "",
        answer: bytes | None = None,
        error: str = "",
        results: tuple[str, ...] = (),
        source: Source | None = None,
    ) -> None:
        """Store how a job ended and what the peer is to get, in one transaction; its image is deleted.

        Args:
            name: of the job.
            state: how it ended.
            bundle: digest of the bundle that answered.
            answer: JSON of the whole answer.
            error: why there is none.
            results: names of the files in `made` that the peer is to get.
            source: what the results are about.
        """
        now = time.time()
        for file in results:
            if (self.made / file).is_file():
                move_file(self.made / file, self.results / file)
        with self._change():
            self._base.execute(
                "UPDATE jobs SET state = ?, bundle = ?, ended = ?, answer = ?, error = ? WHERE id = ?",
                (state, bundle, now, answer, error, name),
            )
            rows = [(file, name, 0, now, now) for file in results]
            self._base.executemany("INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?, ?)", rows)
            if source:
                self._base.execute("INSERT OR IGNORE INTO sources VALUES (?, ?, ?)", (source.uid, source.picture, now))
                self._base.execute(
                    "DELETE FROM sources WHERE uid IN (SELECT uid FROM sources ORDER BY since DESC LIMIT -1 OFFSET ?)",
                    (self._limits.kept_answers,),
                )
            self._base.execute(
                "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE state != 'queued' "
                "ORDER BY ended DESC LIMIT -1 OFFSET ?)",
                (self._limits.kept_answers,),
            )
        self._came.pop(name, None)
        with contextlib.suppress(OSError):  # `_tidy` does it at the next start
            (self.images / name).unlink()

    def has_twin(self, source: Source) -> bool:
        """Tell whether results were made about another picture under the same SOP Instance UID."""
        with self._lock:
            row = self._base.execute("SELECT picture FROM sources WHERE uid = ?", (source.uid,)).fetchone()
        return row is not None and row[0] != source.picture

    def discard(self, results: tuple[str, ...]) -> None:
        """Remove files in `made` that nobody is to get."""
        for file in results:
            with contextlib.suppress(OSError):  # `_tidy` does it at the next start
                (self.made / file).unlink()

    def waited_s(self, job: Job) -> float:
        """Give the seconds since a job came, by a clock that does not leap.

        Only what a job waited before this process began is known by the device's clock, and is never less than nothing.
        """
        came = self._came.get(job.id)
        if came is not None:
            return time.monotonic() - came
        return max(0.0, self._opened_at - job.since) + time.monotonic() - self._opened

    def give_back(self, name: str) -> None:
        """Take back an attempt that came to no fault of the image: the service is shut down, say."""
        with self._change():
            self._base.execute("UPDATE jobs SET attempts = attempts - 1 WHERE id = ?", (name,))

    def image(self, name: str) -> Path:
        """Where the bytes of a queued job lie."""
        return self.images / name

    def get(self, name: str) -> Job | None:
        """Look one job up."""
        with self._lock:
            row = self._base.execute(
                "SELECT id, state, way, bundle, attempts, since, answer, error FROM jobs WHERE id = ?", (name,)
            ).fetchone()
        return Job(**dict(zip(Job.__struct_fields__, row, strict=True))) if row else None

    def counts(self) -> dict[str, int]:
        """Count jobs by state, and `results` that wait for the peer."""
        with self._lock:
            found: dict[str, int] = dict.fromkeys(get_args(State), 0)
            found |= dict(self._base.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall())
            found["results"] = self._one("SELECT COUNT(*) FROM results")
        return found

    def due(self) -> list[Result]:
        """Give the results whose time has come, the oldest first; one that is due too late was set by another clock."""
        now = time.time()
        with self._lock:
            rows = self._base.execute(
                "SELECT file, job, attempts FROM results WHERE due <= ? OR due > ? ORDER BY since LIMIT 64",
                (now, now + MOST_PAUSE_S),
            ).fetchall()
        return [Result(file=file, job=job, attempts=attempts) for file, job, attempts in rows]

    def delivered(self, file: str) -> None:
        """Forget a result: the peer has it, or it was given up."""
        with self._change():
            self._base.execute("DELETE FROM results WHERE file = ?", (file,))
        with contextlib.suppress(OSError):
            (self.results / file).unlink()

    def postpone(self, file: str, seconds: float) -> None:
        """Count an attempt at a result, and try again after so many seconds."""
        with self._change():
            self._base.execute(
                "UPDATE results SET attempts = attempts + 1, due = ? WHERE file = ?", (time.time() + seconds, file)
            )

    def close(self) -> None:
        """Let another process have it."""
        with self._lock:
            self._base.close()

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Hold the lock for one transaction, which is on disk afterwards or did not take place.

        Raises:
            FoveolaError: the disk does not take it.
        """
        try:
            with self._lock, self._base:
                yield
        except sqlite3.Error as error:
            raise FoveolaError("queue", f"cannot be written: {error}", "make room") from None

    def _require_room(self, size: int) -> None:
        limits = self._limits
        jobs = self._one("SELECT COUNT(*) FROM jobs WHERE state = 'queued'")
        held = self._one("SELECT COALESCE(SUM(bytes), 0) FROM jobs WHERE state = 'queued'")
        if size > limits.image_bytes:
            raise FullError(f"an image of {size} bytes; at most {limits.image_bytes} are taken")
        if jobs >= limits.queue_jobs:
            raise FullError(f"the queue is full: {jobs} images wait")
        if held + size > limits.queue_bytes:
            raise FullError(f"the queue is full: {held} bytes wait")
        if self._one("SELECT COUNT(*) FROM results") >= limits.results:
            raise FullError("too many results wait for the peer")

    def _one(self, question: str) -> int:
        return int(self._base.execute(question).fetchone()[0])

    def _tidy(self) -> None:
        """Remove what a crash left: images without a job (never acknowledged, or answered), results without an entry.

        A job whose image is gone cannot be answered; it says so.
        """
        queued = {row[0] for row in self._base.execute("SELECT id FROM jobs WHERE state = 'queued'")}
        kept = {row[0] for row in self._base.execute("SELECT file FROM results")}
        for path in [*_others(self.images, queued), *_others(self.results, kept), *_others(self.made, set())]:
            path.unlink()
        for name in queued:
            if not self.image(name).is_file():
                self.end(name, "failed", error="unavailable: the image is lost; send it again")


def _open(path: Path) -> sqlite3.Connection:
    # `isolation_level` IMMEDIATE takes the write lock at the start of a transaction.
    base = sqlite3.connect(path, timeout=1.0, check_same_thread=False, isolation_level="IMMEDIATE")
    path.chmod(0o600)
    base.execute("PRAGMA locking_mode = EXCLUSIVE")  # before WAL: then there is no shared-memory file
    base.execute("PRAGMA journal_mode = WAL")
    base.execute("PRAGMA synchronous = FULL")
    fault = base.execute("PRAGMA quick_check").fetchone()[0]
    if fault != "ok":
        raise sqlite3.DatabaseError(f"jobs.sqlite is damaged: {fault}")
    base.executescript(_TABLES)
    with base:  # takes the lock now, so that a second service learns of it at once
        base.execute("DELETE FROM jobs WHERE id = ''")
    return base


def _others(folder: Path, known: set[Any]) -> Iterator[Path]:
    return (path for path in list(folder.iterdir()) if path.name not in known and path.is_file())


def _words(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
