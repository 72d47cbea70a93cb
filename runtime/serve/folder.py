"""The watch folder: a file that appears is answered, then lies in `done` beside its answer, or in `failed` with why.

Laws:
- A file is taken when its size and time have rested. Names that are hidden or end on `.partial`, `.tmp` or `.part` are
  left alone, so that who writes under one of them and renames it is never taken too early.
- It stays where it is until its answer is on disk, so that a crash loses nothing; the queue sees that the same file is
  not answered twice.
- `done/NAME` with `done/NAME.json`, `failed/NAME` with `failed/NAME.txt`; the words stand there before the file is
  moved. Another file of the same name gets its job's name beside its own.
- Only regular files are taken: no links, no pipes, no folders. A name may be any that the system has: what is no
  text in it is written as `?`, and a file whose name leaves no room for an ending is put away under its job's name.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from pathlib import Path

import msgspec

from ..durable import sync_folder, write_file
from ..errors import FoveolaError
from .desk import Desk
from .disk import job_id
from .jobs import FullError, Job
from .keeper import UnavailableError
from .limits import Limits

UNFINISHED = (".partial", ".tmp", ".part")
LOOKS = 4  # at a file while it rests
MOST_NAME = 220  # bytes of a name that leave room for endings, of 255
_Sight = tuple[int, int, int]  # size, time of change, and how often it was seen so


class WatchFolder(threading.Thread):
    """Looks into a folder again and again.

    Args:
        folder: has to be there; `done` and `failed` are made in it.
        desk: who takes the images.
        limits: of the service.

    Raises:
        FoveolaError: the folder cannot be used.
    """

    def __init__(self, folder: Path, desk: Desk, limits: Limits) -> None:
        super().__init__(name="folder", daemon=True)
        self._folder, self._desk, self._limits = folder, desk, limits
        self._done, self._failed = folder / "done", folder / "failed"
        self._seen: dict[str, _Sight] = {}
        self._jobs: dict[str, str] = {}
        self._ending = threading.Event()
        try:
            for place in (self._done, self._failed):
                place.mkdir(exist_ok=True)
        except OSError as error:
            raise FoveolaError(
                str(folder), f"cannot be watched: {error.strerror}", "name a folder to write in"
            ) from None

    def run(self) -> None:
        """Look until `finish`."""
        while not self._ending.wait(max(0.05, self._limits.rest_s / LOOKS)):
            with contextlib.suppress(OSError):  # a folder that is gone may come back: a network drive
                self.look()

    def finish(self) -> None:
        """End after this look."""
        self._ending.set()
        self.join()

    def look(self) -> None:
        """Look once: take files that rest, put away those that are answered."""
        refused = False  # full, or no engine: what waits is not read again and again to hear that
        sights = {path.name: seen for path in self._folder.iterdir() if (seen := _sight(path))}
        for name, (size, changed) in sorted(sights.items()):
            last = self._seen.get(name, (-1, -1, 0))
            again = last[2] + 1 if last[:2] == (size, changed) else 0
            self._seen[name] = (size, changed, again)
            if again < LOOKS:
                self._jobs.pop(name, None)
            elif name in self._jobs or not refused:
                try:
                    self._advance(self._folder / name, size)
                except (FullError, UnavailableError):
                    refused = True
                except (OSError, FoveolaError):
                    continue  # it waits where it is
        for name in set(self._seen) - set(sights):
            del self._seen[name]
            self._jobs.pop(name, None)

    def _advance(self, path: Path, size: int) -> None:
        if size > self._limits.image_bytes or size == 0:
            why = f"a file of {size} bytes; at most {self._limits.image_bytes} are taken" if size else "is empty"
            self._put_away(path, self._failed, f"{_text(path.name)}: {why}\n".encode(), ".txt", "")
            return
        job = self._desk.job(self._jobs[path.name]) if path.name in self._jobs else None
        if job is None:
            data = _read(path, size)
            job = self._desk.submit(data, "folder")
            self._jobs[path.name] = job_id(data)
        if job.state != "queued":
            self._end(path, job)

    def _end(self, path: Path, job: Job) -> None:
        if job.answer is None:
            self._put_away(path, self._failed, f"{job.error}\n".encode(), ".txt", job.id)
        else:
            words = {"id": job.id, "file": _text(path.name), "state": job.state, "answer": msgspec.Raw(job.answer)}
            self._put_away(path, self._done, msgspec.json.encode(words) + b"\n", ".json", job.id)

    def _put_away(self, path: Path, place: Path, words: bytes, ending: str, job: str) -> None:
        name = _free_name(path, place, words, ending, job)
        write_file(place / (name + ending), words)
        path.replace(place / name)
        sync_folder(place)


def _free_name(path: Path, place: Path, words: bytes, ending: str, job: str) -> str:
    """Find a name that overwrites no other file; the same job's file may be put away once more."""
    names = [path.name, f"{path.stem}-{job[:8] or '2'}{path.suffix}"]
    if len(os.fsencode(names[1])) > MOST_NAME:
        names = [f"{job[:8] or 'long'}{path.suffix[:16]}"]
    if not job:
        names += [f"{Path(names[0]).stem}-{number}{path.suffix[:16]}" for number in range(3, 1000)]
    for name in names:
        beside = place / (name + ending)
        # Words without a file: this one's, put away half before a crash. Else they are of another file of this name.
        if not ((place / name).exists() or (beside.exists() and beside.read_bytes() != words)):
            return name
    return names[-1]


def _text(name: str) -> str:
    """A name as text: bytes of it that are none (another system's letters) are shown as `?`."""
    return name.encode(errors="replace").decode()


def _sight(path: Path) -> tuple[int, int] | None:
    """Size and time of a file to take; None for all else."""
    if path.name.startswith(".") or path.name.endswith(UNFINISHED):
        return None
    with contextlib.suppress(OSError):  # gone in between
        seen = path.lstat()
        return (seen.st_size, seen.st_mtime_ns) if stat.S_ISREG(seen.st_mode) else None
    return None


def _read(path: Path, size: int) -> bytes:
    """Read a file that has exactly that size and is none that was put in its place since."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        data = file.read(size + 1)
    if len(data) != size:
        raise OSError(f"{path.name} is still growing")
    return data
