"""`answers.npz`: what a teacher said about images, as a file; with it a student is proved where the teacher is not.

- It is NumPy's archive of plain arrays, not compressed, without pickles; `docs/answers-format.md` has its table.
- Reader and writer stand here side by side: `decode_answers(encode_answers(a))` says what `a` says, and equal answers
  give equal bytes.
- Every length is held against the file before anything is allocated, and an entry that belongs to nothing is refused.

    stored = read_answers(Path("answers.npz"))

Shapes: N images, C classes, K boxes.
"""

from __future__ import annotations

import itertools
import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import FoveolaError, UsageError
from ...runtime.image import LIMITS as IMAGE_LIMITS
from ...runtime.task import Task
from ..work import write_atomic
from .answer_rows import THRESHOLDED, is_scored, score_width
from .kept_answers import FORMAT, MEND, AnswersMeta, PackedMasks, Scores, StoredAnswers

MAX_FILE = 4 * 2**30  # bytes
MAX_META = 2**20  # bytes
MAX_IMAGES = 2_000_000
LENGTH_ERROR = 1e-3  # of an embedding, whose numbers were float32
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the ZIP format's zero: no time is told
_MAGIC = b"\x93NUMPY\x01\x00"  # version 1.0 of the npy format
_HEADER = re.compile(
    rb"\{'descr': '(<f8|<i4|<i8|\|u1)', 'fortran_order': False, 'shape': \(((?:\d{1,12}, ?)*(?:\d{1,12})?)\), \} *\n"
)

Arrays = dict[str, NDArray[Any]]


def write_answers(path: Path, answers: StoredAnswers) -> None:
    """Write the file; it is there whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        write_atomic(path, encode_answers(answers))
    except OSError as error:
        raise UsageError(str(path), f"cannot be written: {error.strerror}", "choose another place") from None


def encode_answers(answers: StoredAnswers) -> bytes:
    """Write answers as the bytes of an npz archive."""
    arrays: Arrays = {
        "meta": np.frombuffer(msgspec.json.encode(answers.meta, order="sorted"), np.uint8),
        "sha256": np.frombuffer(bytes.fromhex("".join(answers.images)), np.uint8).reshape(-1, 32),
    }
    for name, values in answers.scores.items():
        arrays[f"scores/{name}"] = values.astype("<f8")
    for name, many in answers.boxes.items():
        arrays[f"counts/{name}"] = np.array([-1 if one is None else len(one) for one in many], "<i4")
        found = [one for one in many if one is not None]
        arrays[f"boxes/{name}"] = np.concatenate([np.zeros((0, 6)), *found]).astype("<f8")
    for name, masks in answers.masks.items():
        packs = [one or PackedMasks(0, 0, b"") for one in masks]
        arrays[f"sizes/{name}"] = np.array([(one.height, one.width) for one in packs], "<i4").reshape(-1, 2)
        arrays[f"ends/{name}"] = np.cumsum([len(one.packed) for one in packs], dtype="<i8")
        arrays[f"masks/{name}"] = np.frombuffer(b"".join(one.packed for one in packs), np.uint8)
    return _zip(arrays)


def read_answers(path: Path) -> StoredAnswers:
    """Read the file.

    Raises:
        UsageError: there is no such file.
        FoveolaError: it is none of these, is damaged, or says what cannot be.
    """
    try:
        if not path.is_file():
            raise UsageError(str(path), "there is no such file", "`foveola answers` writes one")
        size = path.stat().st_size
        if size > MAX_FILE:
            raise FoveolaError(str(path), f"{size} bytes; at most {MAX_FILE} are read", "give the answers in parts")
        return decode_answers(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(str(path), f"cannot be read: {error.strerror}") from None


def decode_answers(data: bytes, place: str = "answers.npz") -> StoredAnswers:
    """Bytes of the archive to checked answers.

    Raises:
        FoveolaError: all that is wrong with the first entry that is wrong.
    """
    try:
        arrays = _unzip(data)
        meta = _meta(arrays)
        reader = _Reader(arrays, meta)
        answers = reader.read()
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise FoveolaError(place, f"no answers that can be read: {error}", MEND) from None
    except msgspec.DecodeError as error:
        raise FoveolaError(place, f"meta: {error}", MEND) from None
    except UsageError as error:  # a task that is none
        raise FoveolaError(f"{place}: meta: {error.place}", error.fault, MEND) from None
    return answers


def _meta(arrays: Arrays) -> AnswersMeta:
    raw = arrays.pop("meta", np.zeros(0, np.uint8))
    if raw.dtype != np.uint8 or raw.ndim != 1 or not 0 < raw.size <= MAX_META:
        raise ValueError("the entry meta is missing or too long")
    number = msgspec.json.decode(raw.tobytes(), type=dict[str, Any]).get("format")
    if number != FORMAT:
        raise ValueError(f"format {number} is not read, only {FORMAT}")
    try:
        return msgspec.json.decode(raw.tobytes(), type=AnswersMeta)
    except RecursionError:
        raise ValueError("meta is nested too deeply") from None


class _Reader:
    """The arrays of one archive as answers; every array is taken once, and none may be left."""

    def __init__(self, arrays: Arrays, meta: AnswersMeta) -> None:
        self.arrays, self.meta = arrays, meta
        self.count = 0

    def read(self) -> StoredAnswers:
        digests = self._take("sha256", np.uint8, (None, 32))
        self.count = len(digests)
        if not 0 < self.count <= MAX_IMAGES:
            raise ValueError(f"{self.count} images; 1 to {MAX_IMAGES} are read")
        images = tuple(row.tobytes().hex() for row in digests)
        if any(a >= b for a, b in itertools.pairwise(images)):
            raise ValueError("the digests do not rise, or one is there twice")
        if len({task.name for task in self.meta.tasks}) != len(self.meta.tasks) or not self.meta.tasks:
            raise ValueError("no tasks, or two of one name")
        self._check_thresholds()
        answers = StoredAnswers(
            meta=self.meta,
            images=images,
            scores={task.name: self._scores(task) for task in self.meta.tasks if is_scored(task)},
            boxes={task.name: self._boxes(task) for task in self.meta.tasks if task.kind == "detection"},
            masks={task.name: self._masks(task) for task in self.meta.tasks if task.kind == "segmentation"},
        )
        self._check_whole(answers)
        if self.arrays:
            raise ValueError(f"entry {next(iter(self.arrays))!r} belongs to no task")
        return answers

    def _check_whole(self, answers: StoredAnswers) -> None:
        """An image is answered for all tasks or for none: half an answer would read as no finding, or as no box."""
        given = [~np.isnan(values[:, 0]) for values in answers.scores.values()]
        given += [np.array([one is not None for one in many]) for many in answers.boxes.values()]
        given += [np.array([one is not None for one in many]) for many in answers.masks.values()]
        if not np.all(np.stack(given) == given[0]):
            raise ValueError("an image is answered for some tasks only")

    def _check_thresholds(self) -> None:
        tasks = {task.name: task for task in self.meta.tasks}
        for name, limits in self.meta.thresholds.items():
            wanted = score_width(tasks[name]) if name in tasks else 0
            if len(limits) != wanted or not all(0 <= limit <= 1 for limit in limits):
                raise ValueError(f"thresholds of {name!r}: {wanted} numbers from 0 to 1 are due")
        absent = [task.name for task in self.meta.tasks if task.kind in THRESHOLDED]
        absent = [name for name in absent if name not in self.meta.thresholds]
        if absent:
            raise ValueError(f"no thresholds of {', '.join(absent)}")

    def _scores(self, task: Task) -> Scores:
        values = self._take(f"scores/{task.name}", np.float64, (self.count, score_width(task)))
        answered = ~np.isnan(values).any(axis=1)
        known = values[answered]
        if not np.isfinite(known).all() or not np.isnan(values[~answered]).all():
            raise ValueError(f"scores of {task.name!r} are infinite, or partly missing")
        if task.kind == "embedding":
            if (np.abs(np.linalg.norm(known, axis=1) - 1.0) > LENGTH_ERROR).any():
                raise ValueError(f"scores of {task.name!r} are no embeddings of length 1")
        elif task.kind != "regression" and ((known < 0) | (known > 1)).any():
            raise ValueError(f"scores of {task.name!r} are no probabilities")
        return values

    def _boxes(self, task: Task) -> tuple[NDArray[np.float64] | None, ...]:
        counts = self._take(f"counts/{task.name}", np.int32, (self.count,)).astype(np.int64)
        if (counts < -1).any():
            raise ValueError(f"counts of {task.name!r} are negative")
        rows = self._take(f"boxes/{task.name}", np.float64, (int(counts.clip(0).sum()), 6))
        label = rows[:, 5]
        proper = (rows[:, 2] >= rows[:, 0]) & (rows[:, 3] >= rows[:, 1]) & (rows[:, 4] >= 0) & (rows[:, 4] <= 1)
        proper &= (label == np.floor(label)) & (label >= 0) & (label < len(task.classes))
        if not np.isfinite(rows).all() or not proper.all():
            raise ValueError(f"boxes of {task.name!r} hold what is no box, score or class")
        ends = np.cumsum(counts.clip(0))
        return tuple(
            None if many < 0 else rows[end - many : end]
            for many, end in zip(counts.tolist(), ends.tolist(), strict=True)
        )

    def _masks(self, task: Task) -> tuple[PackedMasks | None, ...]:
        sizes = self._take(f"sizes/{task.name}", np.int32, (self.count, 2)).tolist()
        ends = self._take(f"ends/{task.name}", np.int64, (self.count,)).tolist()
        starts = [0, *ends[:-1]]
        data = self._take(f"masks/{task.name}", np.uint8, (ends[-1],)).tobytes() if ends[-1] >= 0 else b""
        found: list[PackedMasks | None] = []
        for (height, width), start, end in zip(sizes, starts, ends, strict=True):
            empty = height == width == 0
            proper = 0 < height <= IMAGE_LIMITS.max_side and 0 < width <= IMAGE_LIMITS.max_side
            if not (empty or proper) or height * width > IMAGE_LIMITS.max_pixels:
                raise ValueError(f"a mask of {task.name!r} is {width}x{height} pixels")
            if not start <= end <= len(data) or (start == end) != empty:
                raise ValueError(f"the ends of the masks of {task.name!r} do not fit their data")
            found.append(None if empty else PackedMasks(height, width, data[start:end]))
        return tuple(found)

    def _take(self, name: str, dtype: type[np.generic], shape: tuple[int | None, ...]) -> NDArray[Any]:
        array = self.arrays.pop(name, None)
        if array is None:
            raise ValueError(f"entry {name!r} is missing")
        fits = len(array.shape) == len(shape)
        fits = fits and all(wanted in (None, had) for wanted, had in zip(shape, array.shape, strict=True))
        if array.dtype != np.dtype(dtype).newbyteorder("<") or not fits:
            due = f"{np.dtype(dtype)} ({', '.join('N' if side is None else str(side) for side in shape)})"
            raise ValueError(f"entry {name!r} is {array.dtype} {array.shape}, not {due}")
        return array


# --- the archive ---


def _zip(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays.items()):
            data = BytesIO()
            np.lib.format.write_array(data, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), data.getvalue())
    return stream.getvalue()


def _unzip(data: bytes) -> Arrays:
    """Read the arrays; compressed ones are refused, so that nothing grows beyond the file."""
    arrays: Arrays = {}
    with zipfile.ZipFile(BytesIO(data)) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"entry {name!r} is compressed; numpy.savez stores plainly")
            if info.file_size > len(data) or name in arrays:
                raise ValueError(f"entry {name!r} is there twice, or longer than the file")
            arrays[name] = _array(archive.read(info), name)
    return arrays


def _array(data: bytes, name: str) -> NDArray[Any]:
    """Read one array as a view of its bytes.

    NumPy's own reader evaluates the header as Python and allocates what that claims; here it must be what NumPy writes.
    """
    length = int.from_bytes(data[8:10], "little")
    header = _HEADER.fullmatch(data[10 : 10 + length])
    if data[:8] != _MAGIC or header is None:
        raise ValueError(f"entry {name!r} is no plain array of a kind that belongs here")
    shape = tuple(int(side) for side in header[2].split(b",") if side.strip())
    dtype = np.dtype(header[1].decode())
    if math.prod(shape) * dtype.itemsize != len(data) - 10 - length:
        raise ValueError(f"entry {name!r} is not of the length that it names")
    return np.frombuffer(data, dtype, offset=10 + length).reshape(shape)
