"""Writes pictures that lie in archives of arrays (`.npz`) as PNG files, into `foveola/images` beside the data.

An array is read row by row and never as a whole: PathMNIST with 224 pixels has 15 GB. Nothing is unpickled: an array of
objects is refused by its header.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ....runtime.errors import FoveolaError
from .draw import save_png
from .layout import Layout, Picture

FOLDER = PurePosixPath("foveola/images")
MOST_VALUES = 2**26  # of an array that is read as a whole: labels

Progress = Callable[[int, int, str], None]  # done, total, of what
Header = tuple[tuple[int, ...], np.dtype[np.generic]]  # shape, type


def with_unpacked_pictures(root: Path, layout: Layout, progress: Progress) -> Layout:
    """Write what is no file yet.

    Raises:
        FoveolaError: the archive is broken, or the folder cannot be written.
    """
    waiting: dict[tuple[str, str], dict[int, Picture]] = {}
    for picture in layout.pictures:
        if picture.slice is not None:
            waiting.setdefault((picture.slice.archive, picture.slice.key), {})[picture.slice.index] = picture
    total, done = sum(map(len, waiting.values())), 0
    sizes = dict(layout.sizes)
    for (archive, key), pictures in waiting.items():
        for index, pixels in enumerate(read_rows_of(root / archive, key)):
            if index in pictures:
                file = pictures[index].file
                sizes[file] = (root / save_png(root, PurePosixPath(file), pixels)).stat().st_size
                done += 1
                progress(done, total, "pictures unpacked")
    return msgspec.structs.replace(layout, sizes=sizes)


def read_rows_of(archive: Path, key: str) -> Iterator[NDArray[np.uint8]]:
    """The rows of an array of bytes, one after the other."""
    with _opened(archive, key) as (stream, (shape, kind)):
        if kind != np.uint8:
            raise FoveolaError(f"{archive}: {key}", f"holds {kind}, not uint8", "take the official file")
        size = int(np.prod(shape[1:]))
        for _ in range(shape[0]):
            data = stream.read(size)
            if len(data) < size:
                raise FoveolaError(f"{archive}: {key}", "is cut off", "copy the file again")
            yield np.frombuffer(data, np.uint8).reshape(shape[1:])


def read_shape(archive: Path, key: str) -> tuple[int, ...]:
    """The shape of an array, out of its header."""
    with _opened(archive, key) as (_, (shape, _)):
        return shape


def read_array(archive: Path, key: str) -> NDArray[np.int64]:
    """A small array of whole numbers.

    Raises:
        FoveolaError: other numbers, too large, or pickled objects.
    """
    with _opened(archive, key) as (stream, (shape, kind)):
        if kind.kind not in "uib":
            raise FoveolaError(f"{archive}: {key}", f"holds {kind}, not whole numbers", "take the official file")
        values = int(np.prod(shape))
        if values > MOST_VALUES:
            raise FoveolaError(f"{archive}: {key}", f"{values} labels, at most {MOST_VALUES} are read")
        data = stream.read(values * kind.itemsize)
    if len(data) < values * kind.itemsize:
        raise FoveolaError(f"{archive}: {key}", "is cut off", "copy the file again")
    return np.frombuffer(data, kind).reshape(shape).astype(np.int64)


def names_in(archive: Path) -> tuple[str, ...]:
    """The names of the arrays."""
    with _zip(archive) as opened:
        return tuple(name.removesuffix(".npy") for name in opened.namelist())


@contextmanager
def _opened(archive: Path, key: str) -> Iterator[tuple[IO[bytes], Header]]:
    with _zip(archive) as opened, opened.open(f"{key}.npy") as stream:
        shape, in_columns, kind = _header(stream)
        if kind.hasobject:
            raise FoveolaError(f"{archive}: {key}", "holds pickled objects, which are never read", "take another file")
        if in_columns and len(shape) > 1:
            raise FoveolaError(f"{archive}: {key}", "is stored column by column", "save it in C order")
        yield stream, (shape, kind)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = npy.read_magic(stream)
    return npy.read_array_header_1_0(stream) if version == (1, 0) else npy.read_array_header_2_0(stream)


@contextmanager
def _zip(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except OSError as error:
        raise FoveolaError(str(archive), f"cannot be read: {error.strerror}", "copy the file again") from None
    except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise FoveolaError(str(archive), f"no readable archive of arrays: {reason}", "copy the file again") from None
