"""Check an audit log, line by line, and name the first that is broken.

Found are: a line that was changed, added, moved, doubled or taken out; lines cut off at the end or at the beginning; an
older head put back. Not found: a log written anew by somebody who has the key, and a whole folder put back to an older
state, unless an older head was noted elsewhere (`noted`).
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import msgspec

from ..errors import FoveolaError, UsageError
from .audit_log import HEAD, MOST_LINE, Head, Line, first_number, read_head, read_key, read_line, segments

TRIES = 5  # the writer may let a file go while it is read


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Args:
        ok: nothing is broken.
        lines: how many hold, from the first that is kept.
        first: number of the first.
        head: the last line that holds, as NUMBER:SHA-256, to be noted elsewhere.
        fault: the first thing that is broken, with its place; empty where nothing is.
        notes: what is odd and breaks nothing.
    """

    ok: bool
    lines: int
    first: int
    head: str
    fault: str = ""
    notes: tuple[str, ...] = ()


class _BrokenError(Exception):
    """The first fault; it ends the reading."""


class _Reading:
    """How far the chain holds."""

    def __init__(self, head: Head) -> None:
        self.next, self.before, self.lines, self.at = head.first, head.anchor, 0, ""
        self.back, self.torn = 0, False
        self.hashes: dict[int, str] = {head.first - 1: head.anchor}  # of the lines that are asked for


def check_audit(folder: Path, key: Path | None = None, noted: str = "") -> Checked:
    """Check a log while it may be written to.

    Args:
        folder: of the log.
        key: of the device; by default the one in the folder.
        noted: a head of an earlier check, NUMBER:SHA-256, that this log must still hold.

    Raises:
        FoveolaError: there is no such log, or it cannot be read.
        UsageError: `noted` is none.
    """
    secret, wanted = read_key(folder, key), _noted(noted)
    try:
        for _ in range(TRIES - 1):
            try:
                checked, stood = _check(folder, secret, wanted)
            except FileNotFoundError:  # let go by the writer meanwhile
                continue
            if checked.ok or stood:
                return checked
        return _check(folder, secret, wanted)[0]
    except OSError as error:
        raise FoveolaError(str(folder), f"cannot be read: {error.strerror}", "name the folder of a log") from None


def _check(folder: Path, key: bytes, wanted: tuple[int, str] | None) -> tuple[Checked, bool]:
    """Check once; also whether the log's beginning stood meanwhile."""
    head = read_head(folder, key)
    if head is None:
        fault = "the head (head.json) is gone, or its seal does not hold with this key"
        return Checked(ok=False, lines=0, first=0, head="", fault=fault), True
    reading = _Reading(head)
    asked = {head.n, wanted[0]} if wanted else {head.n}
    fault = ""
    try:
        for place, data in _lines(folder, head):
            _take(reading, place, data, key, asked)
        _check_end(reading, head, read_head(folder, key), wanted)
    except _BrokenError as broken:
        fault = str(broken)
    checked = Checked(
        ok=not fault,
        lines=reading.lines,
        first=head.first,
        head=f"{reading.next - 1}:{reading.before}",
        fault=fault,
        notes=tuple(_notes(reading, head, wanted, fault)),
    )
    later = read_head(folder, key)
    return checked, later is None or later.first == head.first


def read_lines(folder: Path, count: int) -> list[Line]:
    """Read the last lines, unchecked; what is no line is left out.

    Raises:
        FoveolaError: the log cannot be read.
    """
    found: list[Line] = []
    if not segments(folder) and not (folder / HEAD).is_file():
        raise FoveolaError(str(folder), "holds no audit log", "name the folder of a log")
    try:
        for path in reversed(segments(folder)):
            lines = [_decoded(data) for data in path.read_bytes().split(b"\n") if data]
            found = [line for line in lines if line is not None] + found
            if len(found) >= count:
                break
    except OSError as error:
        raise FoveolaError(str(folder), f"cannot be read: {error.strerror}", "name the folder of a log") from None
    return found[-count:]


def _decoded(data: bytes) -> Line | None:
    try:
        return msgspec.json.decode(data, type=Line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _noted(text: str) -> tuple[int, str] | None:
    if not text:
        return None
    number, _, digest = text.partition(":")
    if not (number.isascii() and number.isdigit() and len(number) < 16 and len(digest) == 64):
        raise UsageError("--head", f"{text!r} is no head", "give NUMBER:SHA-256 as an earlier `audit verify` told it")
    return int(number), digest.lower()


def _lines(folder: Path, head: Head) -> Iterator[tuple[str, bytes]]:
    """Give each line of the files that are still kept, with its place; the last may have no line end."""
    files = segments(folder)
    starts = [first_number(path) for path in files]
    for index, path in enumerate(files):
        if index + 1 < len(files) and starts[index + 1] <= head.first:
            continue  # was to be deleted when the power went
        with path.open("rb") as stream:
            number = 0
            while data := stream.readline(MOST_LINE + 1):
                number += 1
                yield f"{path.name} line {number}", data


def _take(reading: _Reading, place: str, data: bytes, key: bytes, asked: set[int]) -> None:
    expected = reading.next
    if reading.torn:
        raise _BrokenError(f"{reading.at}: no whole line where line {expected} should stand")
    if not data.endswith(b"\n") and len(data) <= MOST_LINE:
        reading.torn, reading.at = True, place
        return
    data = data[:-1]
    line = read_line(data, key)
    if line is None:  # nor is one that is too long
        raise _BrokenError(f"{place}: line {expected} was changed, or is not of this device: its seal does not hold")
    if line.n != expected:
        what = f"line {expected} is missing" if line.n > expected else f"line {line.n} stands there once more"
        raise _BrokenError(f"{place}: {what}")
    if line.before != reading.before:
        raise _BrokenError(f"{place}: line {expected} does not follow the one before it")
    if line.event == "note" and line.facts.get("part") == "head-lost":
        raise _BrokenError(f"{place}: the head was lost before line {expected}; what was cut off there cannot be told")
    reading.back += line.at < reading.at
    reading.at, reading.next, reading.before = line.at, expected + 1, sha256(data).hexdigest()
    reading.lines += 1
    if expected in asked:
        reading.hashes[expected] = reading.before


def _check_end(reading: _Reading, head: Head, later: Head | None, wanted: tuple[int, str] | None) -> None:
    """Hold the end against the head as it was before the reading, and as it is after it."""
    last = reading.next - 1
    if last < head.n:
        raise _BrokenError(f"the end: {_span(last + 1, head.n)} missing")
    if reading.hashes[head.n] != head.hash:
        raise _BrokenError(f"line {head.n}: is not the one that the head names")
    if later is None or last > later.n + 1:
        raise _BrokenError(f"line {head.n + 2}: is not known to the head; an older head was put back")
    if wanted is not None and wanted[0] > last:
        raise _BrokenError(f"the end: {_span(last + 1, wanted[0])} missing; the noted head names them")
    if wanted is not None and reading.hashes.get(wanted[0], wanted[1]) != wanted[1]:
        raise _BrokenError(f"line {wanted[0]}: is not the one that was noted")


def _span(first: int, last: int) -> str:
    return f"line {first} is" if first == last else f"lines {first} to {last} are"


def _notes(reading: _Reading, head: Head, wanted: tuple[int, str] | None, fault: str) -> Iterator[str]:
    if reading.torn and not fault:
        yield "the last write was cut short; it is no part of the log"
    if reading.back:
        yield f"the clock went back {reading.back} time(s)"
    if head.first > 1:
        yield f"lines 1 to {head.first - 1} were let go to keep the log within its size"
    if wanted is not None and wanted[0] < head.first - 1:
        yield f"the noted line {wanted[0]} is no longer kept"
