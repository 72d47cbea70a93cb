"""Files of a cache that are known to be whole: beside each lies a seal with its SHA-256 and its size.

- A file is written in a row, hashed on the way and renamed once; its seal follows. A file without one counts as
  damaged, so that nothing half done, older or copied in part is ever taken for whole.
- A seal is held against the file's bytes once a process, and again when size, time or inode of the file change: a
  flipped bit on the disk must not become a training image.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

SUFFIX = ".seal"

_whole: set[tuple[str, int, int, int]] = set()  # what this process has held against its seal, or written


class Seal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a file's bytes are."""

    sha256: str
    size: int  # bytes


def write_sealed(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file and its seal; nothing is left where `parts` raises.

    Args:
        path: the file.
        parts: its bytes in order; no more than one part is held at a time.

    Raises:
        OSError: the disk is full, for example.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    digest = hashlib.sha256()
    try:
        # Written in a row, not through a mapping: a full disk must be an OSError, not a SIGBUS.
        with partial.open("wb") as stream:
            for part in parts:
                digest.update(part)
                stream.write(part)
            size = stream.tell()
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
        partial.write_bytes(msgspec.json.encode(Seal(sha256=digest.hexdigest(), size=size)))
        partial.replace(_seal_of(path))
    finally:
        partial.unlink(missing_ok=True)
    _whole.add(_state(path))


def is_whole(path: Path) -> bool:
    """Whether a file is what was once written; False where it or its seal is not there."""
    try:
        seal = msgspec.json.decode(_seal_of(path).read_bytes(), type=Seal)
        state = _state(path)
        if state in _whole:
            return True
        with path.open("rb") as stream:
            if state[1] != seal.size or hashlib.file_digest(stream, "sha256").hexdigest() != seal.sha256:
                return False
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return False
    _whole.add(state)
    return True


def _seal_of(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def _state(path: Path) -> tuple[str, int, int, int]:
    found = path.stat()
    return str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ino
