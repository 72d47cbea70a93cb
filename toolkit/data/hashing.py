"""SHA-256 of files, computed once a process: every step of a run asks for the same images again.

A file is read anew when its size, time of change or inode differ from those of the last reading.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_known: dict[tuple[str, int, int, int], str] = {}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    about = path.stat()
    state = (str(path), about.st_size, about.st_mtime_ns, about.st_ino)
    if state not in _known:
        with path.open("rb") as stream:
            _known[state] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _known[state]
