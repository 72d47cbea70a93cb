"""The audit log of a device: what was installed, started, answered and refused, so that no line can vanish unseen.

Laws:
- A line is one JSON object. `n` rises by one; `before` is the SHA-256 of the line before it, without its line end;
  `seal` is an HMAC-SHA-256 (RFC 2104) of the line without `seal`, by a key that this device made for itself.
- `head.json` is sealed too and says which line is the last, and which is the first that is still kept: what is cut off
  at the end, or at the beginning, is missed.
- A line is on the disk before the head names it, and both before `write` returns.
- The writer mends nothing in silence: it goes on from the head, so that a gap stays a gap.
- Facts are numbers and words of closed lists (`words.py`): no name, UID or text of an error gets in.

    audit = Audit(Path("/var/lib/foveola/audit"))
    audit.write("install", {"bundle": "chest", "version": "3", "digest": bundle.digest})
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from threading import Lock

import msgspec

from ..durable import refused, write_file
from ..lock import locked
from .audit_log import (
    FIRST,
    HEAD,
    KEY,
    KEY_BYTES,
    MOST_LINE,
    Head,
    Line,
    first_number,
    read_head,
    read_key,
    read_line,
    seal_head,
    seal_line,
    segments,
)
from .words import Fact, check_facts


class AuditLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much is kept: `files` of about `file_bytes` each; the oldest file goes as a whole."""

    file_bytes: int = 4 * 2**20
    files: int = 16


class Audit:
    """An audit log, for writing; several threads and processes may write to one folder.

    Args:
        path: its folder, made where it is absent, readable by its owner alone.
        key: file of the device's key, 32 bytes or more; by default `key` in the folder, made at the first use.
            Elsewhere it is out of reach of who can only write to the log.
        limits: how much is kept.
        now: the clock; another one in tests.

    Raises:
        FoveolaError: the folder or the key cannot be read or written.
    """

    def __init__(
        self,
        path: Path,
        *,
        key: Path | None = None,
        limits: AuditLimits | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self.path, self._limits, self._now, self._lock = path, limits or AuditLimits(), now, Lock()
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked(path):
                if key is None and not segments(path) and not (path / HEAD).exists() and not (path / KEY).exists():
                    _make_key(path / KEY)
                self._key = read_key(path, key)
                if not segments(path) and not (path / HEAD).exists():  # before the first line, so that none is lost
                    write_file(path / HEAD, seal_head(Head(), self._key))
        except OSError as error:
            raise refused(path, error) from None

    def write(self, event: str, facts: Mapping[str, Fact] | None = None) -> None:
        """Add a line; it is on the disk when this returns.

        Args:
            event: of `words.EVENTS`.
            facts: of `words.FACTS` and `words.NUMBERS`.

        Raises:
            ValueError: a word that is not listed.
            FoveolaError: the line, or the head that names it, cannot be written.
        """
        facts = dict(facts or {})
        check_facts(event, facts)
        try:
            with self._lock, locked(self.path):
                head, marks = self._resume()
                for mark, said in marks:
                    head = self._append(head, mark, said)
                head = self._append(head, event, facts)
                self._forget(head)
        except OSError as error:
            raise refused(self.path, error) from None

    def mark(self, text: str) -> str:
        """Name an image so that only this device can tell which it was: the first 16 digits of a keyed hash."""
        return hmac.new(self._key, b"image\0" + text.encode(), sha256).hexdigest()[:16]

    def _resume(self) -> tuple[Head, list[tuple[str, dict[str, Fact]]]]:
        """Find the line to go on from, and what must be said about the state it was found in.

        The head is believed, not the files. One sealed line more than it names was written when the power went; half a
        line is cut off, and that is said.
        """
        marks: list[tuple[str, dict[str, Fact]]] = []
        head = read_head(self.path, self._key)
        last = segments(self.path)[-1:]
        torn = _mend_end(last[0]) if last else 0
        if torn:
            marks.append(("note", {"part": "half-a-line", "bytes": torn}))
        whole = _tail(last[0]) if last else b""
        line = read_line(whole, self._key)
        if head is None:
            n, before = (line.n, sha256(whole).hexdigest()) if line else (0, FIRST)
            marks.append(("note", {"part": "head-lost", "line": n}))
            first = first_number(segments(self.path)[0]) if last else 1
            return Head(first=max(1, first), anchor=FIRST, n=n, hash=before), marks
        if line is not None and line.n == head.n + 1 and line.before == head.hash:
            return msgspec.structs.replace(head, n=line.n, hash=sha256(whole).hexdigest(), seal=""), marks
        return head, marks

    def _append(self, head: Head, event: str, facts: Mapping[str, Fact]) -> Head:
        line = Line(
            n=head.n + 1,
            at=self._now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            event=event,
            facts=dict(facts),
            before=head.hash,
        )
        data = seal_line(line, self._key)
        path = self._segment(line.n)
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab") as stream:
                stream.write(data + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError:
            with suppress(OSError):  # the first error is the one to tell
                os.truncate(path, size)
            raise
        head = msgspec.structs.replace(head, n=line.n, hash=sha256(data).hexdigest(), seal="")
        write_file(self.path / HEAD, seal_head(head, self._key))
        return head

    def _segment(self, n: int) -> Path:
        """Where line `n` goes: the newest file, or a new one where that is full."""
        last = segments(self.path)[-1:]
        if last and last[0].stat().st_size < self._limits.file_bytes:
            return last[0]
        return self.path / f"log-{n:012d}.jsonl"

    def _forget(self, head: Head) -> None:
        """Let the oldest files go: first the head says so, then they are deleted."""
        files = segments(self.path)
        kept = files[-max(2, self._limits.files) :]
        if len(kept) < len(files):
            with kept[0].open("rb") as stream:
                line = read_line(stream.readline(MOST_LINE).rstrip(b"\n"), self._key)
            if line is None:
                return  # broken there: nothing more is taken away
            moved = msgspec.structs.replace(head, first=line.n, anchor=line.before, seal="")
            write_file(self.path / HEAD, seal_head(moved, self._key))
        for path in files:
            if path not in kept:
                path.unlink(missing_ok=True)


def _make_key(path: Path) -> None:
    """Make a key that only the owner may read."""
    partial = path.with_name(path.name + ".partial")
    partial.touch(mode=0o600)
    with partial.open("r+b") as stream:
        stream.write(secrets.token_bytes(KEY_BYTES))
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def _mend_end(path: Path) -> int:
    """Cut off what stands after the last line end, and give its length.

    More than a line can hold was not written by a power cut. It is left for the check to find, behind a line end.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - MOST_LINE))
        torn = len(stream.read().rpartition(b"\n")[2])
    if torn == MOST_LINE:
        with path.open("ab") as stream:
            stream.write(b"\n")
    elif torn:
        os.truncate(path, size - torn)
    return torn


def _tail(path: Path) -> bytes:
    """Give the last line of a file that ends with a line end, without it."""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - MOST_LINE))
        return stream.read().rstrip(b"\n").rpartition(b"\n")[2]
