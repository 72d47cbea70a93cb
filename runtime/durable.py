"""Files that outlast a power cut: written whole under another name, flushed, renamed, and the folder flushed too.

Laws:
- At every instant a path holds its old content or its new one, whole; a rename that has returned outlasts a power cut.
- What fails leaves the old content and no other file, and says in one line how much room was missing.
- Every call that changes the disk is one of `os` (open, write, fsync, replace, unlink, mkdir), so that a test can cut
  the power at each of them.

The order is that of "All File Systems Are Not Created Equal" (Pillai et al., OSDI 2014): the data are flushed before
the rename, the folder after it. Windows flushes a rename by itself (NTFS logs it) and opens no folder for that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

from .errors import FoveolaError

WINDOWS = os.name == "nt"
CHUNK = 2**20  # bytes of one write
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_BUSY_TRIES, _BUSY_WAIT_S = 20, 0.05  # Windows refuses to replace a file while somebody reads it


def write_file(path: Path, data: bytes) -> None:
    """Replace a file's content in one step, or leave it as it is. One writer of a path at a time.

    Raises:
        FoveolaError: the file cannot be written; nothing is left behind.
    """
    partial = path.with_name(path.name + ".partial")
    write_new(partial, data)
    try:
        move_file(partial, path)
    except FoveolaError:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            os.unlink(partial)  # noqa: PTH108 - see the law above
        raise


def write_new(path: Path, data: bytes) -> None:
    """Write a file that nobody reads yet and flush it; what a killed writer left there goes first.

    Raises:
        FoveolaError: it cannot be written; nothing is left behind.
    """
    try:
        remove_file(path)
        handle = os.open(path, _NEW, 0o644)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest[:CHUNK]) :]
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            remove_file(path)
        raise refused(path, error, len(data)) from None


def move_file(source: Path, target: Path) -> None:
    """Give a flushed file its name, in the same folder, and make that outlast a power cut.

    Raises:
        FoveolaError: it cannot be renamed.
    """
    try:
        _replace(source, target)
        sync_folder(target.parent)
    except OSError as error:
        raise refused(target, error) from None


def remove_file(path: Path) -> None:
    """Remove a file; none there is fine.

    Raises:
        OSError: it cannot be removed.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - see the law above


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are not there, so that they outlast a power cut.

    Raises:
        FoveolaError: it cannot be made.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o755)  # noqa: PTH102 - see the law above
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        sync_folder(path.parent)
    except OSError as error:
        raise refused(path, error) from None


def sync_folder(folder: Path) -> None:
    """Make names that were given or taken in a folder outlast a power cut.

    Raises:
        OSError: it cannot be flushed.
    """
    if WINDOWS:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refused(path: Path, error: OSError, size: int = 0) -> FoveolaError:
    """Say why a file or folder cannot be written; a full disk is told how many bytes are wanted."""
    full = error.errno in _FULL
    room = f"make room for {size} bytes" if size else "make room"
    mend = room if full else "choose another place, or check its rights"
    return FoveolaError(str(path), f"cannot be written: {error.strerror}", mend)


def _replace(source: Path, target: Path) -> None:
    for _ in range(_BUSY_TRIES if WINDOWS else 0):
        try:
            return os.replace(source, target)  # noqa: PTH105 - see the law above
        except PermissionError:
            time.sleep(_BUSY_WAIT_S)
    os.replace(source, target)  # noqa: PTH105 - see the law above
    return None
