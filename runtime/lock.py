"""One holder of a folder at a time, also between processes; the system takes the lock back when its holder dies."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "lock"  # the file in the folder
_STEP_S = 0.02


@contextmanager
def locked(folder: Path, wait_s: float = math.inf) -> Iterator[None]:
    """Hold a folder's lock; threads of one process exclude each other too.

    Args:
        folder: is there.
        wait_s: how long to wait for another holder, in seconds.

    Raises:
        TimeoutError: somebody else held it all that time.
        OSError: the file cannot be made, or the file system has no locks.
    """
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        limit = time.monotonic() + wait_s
        while not _take(handle):
            if time.monotonic() >= limit:
                raise TimeoutError(f"{folder} is locked")
            time.sleep(_STEP_S)
        yield
    finally:
        os.close(handle)  # closing gives the lock back


if sys.platform == "win32":
    import msvcrt

    def _take(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _take(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
