"""The form of an audit log: lines, head, seals and files; reader and writer side by side.

Laws:
- `read_line(seal_line(line, key), key)` and what `read_head` reads of `seal_head` are the same again, sealed.
- A seal is an HMAC-SHA-256 (RFC 2104) by the device's key of the kind (`Line`, `Head`), a zero byte, and the JSON with
  an empty seal. What is not byte for byte what its writer would write does not hold.
"""

from __future__ import annotations

import hmac
import re
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import msgspec

from ..errors import FoveolaError
from .words import Fact

FORMAT = 1
FIRST = "0" * 64  # what the first line of all holds as `before`
HEAD, KEY = "head.json", "key"
KEY_BYTES = 32
MOST_LINE = 4096  # bytes
SEGMENT = re.compile(r"log-(\d{12})[.]jsonl")  # log-000000000001.jsonl: named by the number of its first line

Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing that happened.

    Args:
        n: number, from 1.
        at: UTC by the device's clock.
        event: of `words.EVENTS`.
        facts: of `words.FACTS` and `words.NUMBERS`.
        before: SHA-256 of the line before.
        seal: of this one.
    """

    n: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    at: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$")]
    event: str
    facts: dict[str, Fact] = {}
    before: Hex
    seal: str = ""


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the log ends and where it begins.

    Args:
        format: of the log.
        first: number of the first line that is kept.
        anchor: `before` of that line.
        n: number of the last line; `first - 1` where there is none.
        hash: SHA-256 of the last line.
        seal: of this head.
    """

    format: int = FORMAT
    first: Annotated[int, msgspec.Meta(ge=1, le=2**53)] = 1
    anchor: Hex = FIRST
    n: Number = 0
    hash: Hex = FIRST
    seal: str = ""


def segments(folder: Path) -> list[Path]:
    """List the log's files in the order of their lines."""
    return sorted(path for path in folder.glob("log-*.jsonl") if SEGMENT.fullmatch(path.name))


def read_key(folder: Path, key: Path | None = None) -> bytes:
    """Read the device's key.

    Raises:
        FoveolaError: it is not there, or too short.
    """
    path = key or folder / KEY
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FoveolaError(str(path), f"the log's key cannot be read: {error.strerror}", "name it by --key") from None
    if len(data) < KEY_BYTES:
        raise FoveolaError(str(path), f"a key of {len(data)} bytes", f"it takes {KEY_BYTES}")
    return data


def seal_line(line: Line, key: bytes) -> bytes:
    """Write a line with its seal, without line end; `read_line` reads it back."""
    bare = msgspec.structs.replace(line, seal="")
    return msgspec.json.encode(msgspec.structs.replace(line, seal=_seal(bare, key)), order="deterministic")


def read_line(data: bytes, key: bytes) -> Line | None:
    """Read a line; None where it is no line, or its seal does not hold."""
    try:
        line = msgspec.json.decode(data, type=Line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return line if seal_line(line, key) == data else None


def seal_head(head: Head, key: bytes) -> bytes:
    """Write a head with its seal; `read_head` reads it back."""
    bare = msgspec.structs.replace(head, seal="")
    return msgspec.json.encode(msgspec.structs.replace(head, seal=_seal(bare, key)), order="deterministic") + b"\n"


def read_head(folder: Path, key: bytes) -> Head | None:
    """Read the head; None where there is none, or its seal does not hold.

    Raises:
        OSError: it is there and cannot be read.
    """
    try:
        data = (folder / HEAD).read_bytes()
        head = msgspec.json.decode(data, type=Head)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return head if head.format == FORMAT and hmac.compare_digest(seal_head(head, key), data) else None


def _seal(one: Line | Head, key: bytes) -> str:
    word = type(one).__name__.encode()
    return hmac.new(key, word + b"\0" + msgspec.json.encode(one, order="deterministic"), sha256).hexdigest()


def first_number(path: Path) -> int:
    """Give the number of a file's first line, as its name says."""
    found = SEGMENT.fullmatch(path.name)
    return int(found[1]) if found else 0
