"""A teacher's answers kept by image file: what a student is proved against, with masks packed until one is asked for.

An image is known by the SHA-256 of its file. No name, patient or pixel of it is inside, and the rows stand in the order
of the digests, which tells nothing of the order in a manifest. `stored_answers.py` writes and reads them as a file.

    stored = store_answers(tasks, digests, predictions, thresholds=locked, teacher=digest)
    prediction = stored.prediction(stored.places[digests[0]])

Shapes: N images, C classes, K boxes, H and W of the stored image.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from ... import __version__
from ...runtime.errors import FoveolaError
from ...runtime.manifest import Sha256
from ...runtime.prediction import Box, Choice, Embedding, Finding, Mask, Measurement, Prediction
from ...runtime.task import Task
from ..parity.cases import Answers
from .answer_rows import THRESHOLDED, box_rows, is_scored, mask_layers, score_row, score_width

FORMAT = 1
MEND = "write them anew with `foveola answers`"

Scores = NDArray[np.float64]
Boxes = NDArray[np.float64]


class PackedMasks(msgspec.Struct, frozen=True):
    """The masks of one image and task: bits by class, row and column (the first is the highest of a byte), zlib."""

    height: int
    width: int
    packed: bytes

    def layers(self, classes: int) -> NDArray[np.bool_]:
        """Unpack them, (C, H, W).

        Raises:
            FoveolaError: what is packed is no such mask.
        """
        bits = classes * self.height * self.width
        wanted = (bits + 7) // 8
        try:
            raw = zlib.decompressobj().decompress(self.packed, wanted + 1)  # never much more than the mask itself
        except zlib.error as error:
            raise FoveolaError("stored answers", f"a packed mask is broken: {error}", MEND) from None
        if len(raw) != wanted:
            raise FoveolaError("stored answers", f"a packed mask is not of {wanted} bytes, as its size says", MEND)
        layers = np.unpackbits(np.frombuffer(raw, np.uint8), count=bits).view(np.bool_)
        return layers.reshape(classes, self.height, self.width)


class AnswersMeta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose answers these are and what they mean."""

    format: int = FORMAT
    foveola: str = __version__  # version that wrote it
    teacher: Sha256
    tasks: tuple[Task, ...]
    thresholds: dict[str, tuple[float, ...]]  # locked: binary (1,), multilabel (C,), detection (C,), masks (C,)


class StoredAnswers(msgspec.Struct, frozen=True, kw_only=True, eq=False, dict=True):
    """A teacher's answers in memory, rows by rising digest of the image file.

    Args:
        meta: teacher, tasks and thresholds.
        images: SHA-256 of each image file, in hex, rising.
        scores: by task that is neither segmentation nor detection: (N, width); NaN where there is no answer.
        boxes: by detection task: for each image (K, 6) x1, y1, x2, y2, score, label; None where there is no answer.
        masks: by segmentation task: for each image its masks, packed; None where there is no answer.
    """

    meta: AnswersMeta
    images: tuple[str, ...]
    scores: dict[str, Scores]
    boxes: dict[str, tuple[NDArray[np.float64] | None, ...]]
    masks: dict[str, tuple[PackedMasks | None, ...]]

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def places(self) -> dict[str, int]:
        """Row of each image."""
        return {image: n for n, image in enumerate(self.images)}

    @property
    def answers(self) -> Answers:
        """All that needs no reference, in the form of the proof: scores, boxes and thresholds; masks are left out."""
        limits = {task.name: self.meta.thresholds.get(task.name, ()) for task in self.meta.tasks}
        kinds = {task.name: task.kind for task in self.meta.tasks}
        return Answers(
            scores=dict(self.scores),
            boxes=dict(self.boxes),
            thresholds={name: limit for name, limit in limits.items() if kinds[name] in THRESHOLDED},
        )

    def prediction(self, row: int) -> Prediction | None:
        """Give one image's answer as the runtime would; None where the teacher gave none."""
        if not self.answered(row):
            return None
        findings: list[Finding] = []
        choices: list[Choice] = []
        measurements: list[Measurement] = []
        masks: list[Mask] = []
        boxes: list[Box] = []
        embeddings: list[Embedding] = []
        for task in self.meta.tasks:
            match task.kind:
                case "binary" | "multilabel":
                    findings += self._findings(task, row)
                case "multiclass" | "ordinal":
                    choices.append(_choice(task, self.scores[task.name][row]))
                case "regression":
                    measurements += _measurements(task, self.scores[task.name][row])
                case "segmentation":
                    masks += self._masks(task, row)
                case "detection":
                    boxes += self._boxes(task, row)
                case "embedding":
                    values = tuple(self.scores[task.name][row].tolist())
                    embeddings.append(Embedding(task=task.name, values=values))
        return Prediction(
            findings=tuple(findings),
            choices=tuple(choices),
            measurements=tuple(measurements),
            masks=tuple(masks),
            boxes=tuple(boxes),
            embeddings=tuple(embeddings),
        )

    def answered(self, row: int) -> bool:
        """Whether the teacher gave an answer; it gives one to all of its tasks or to none."""
        name, kind = self.meta.tasks[0].name, self.meta.tasks[0].kind
        if kind == "segmentation":
            return self.masks[name][row] is not None
        if kind == "detection":
            return self.boxes[name][row] is not None
        return not bool(np.isnan(self.scores[name][row]).any())

    def _limit(self, task: Task, index: int) -> float:
        limits = self.meta.thresholds.get(task.name, ())
        return limits[index] if limits else 0.5

    def _findings(self, task: Task, row: int) -> Iterator[Finding]:
        labels = task.classes[1:] if task.kind == "binary" else task.classes
        for index, (label, chance) in enumerate(zip(labels, self.scores[task.name][row].tolist(), strict=True)):
            limit = self._limit(task, index)
            yield Finding(task=task.name, label=label, probability=chance, threshold=limit, positive=chance >= limit)

    def _masks(self, task: Task, row: int) -> Iterator[Mask]:
        packed = self.masks[task.name][row]
        if packed is None:
            return
        for label, pixels in zip(task.classes, packed.layers(len(task.classes)), strict=True):
            area = int(np.count_nonzero(pixels))
            yield Mask(task=task.name, label=label, pixels=pixels, area_px=area, fraction=area / pixels.size)

    def _boxes(self, task: Task, row: int) -> Iterator[Box]:
        found = self.boxes[task.name][row]
        for x1, y1, x2, y2, score, label in [] if found is None else found.tolist():
            positive = score >= self._limit(task, int(label))
            name = task.classes[int(label)]
            yield Box(task=task.name, label=name, score=score, x1=x1, y1=y1, x2=x2, y2=y2, positive=positive)


def _choice(task: Task, chances: Scores) -> Choice:
    index = int(chances.argmax())
    return Choice(
        task=task.name,
        label=task.classes[index],
        index=index,
        probabilities=tuple(chances.tolist()),
        classes=task.classes,
    )


def _measurements(task: Task, values: Scores) -> Iterator[Measurement]:
    for name, value in zip(task.classes, values.tolist(), strict=True):
        yield Measurement(task=task.name, name=name, value=value, unit=task.unit)


def store_answers(
    tasks: Sequence[Task],
    images: Sequence[str],
    predictions: Iterable[Prediction | None],
    *,
    thresholds: Mapping[str, tuple[float, ...]],
    teacher: str,
) -> StoredAnswers:
    """Keep predictions as answers; an image that is there twice is kept once.

    Args:
        tasks: those that the teacher answers.
        images: SHA-256 of each image file, in hex.
        predictions: as many, in the same order; None where there is no answer.
        thresholds: the teacher's own, locked.
        teacher: its digest.
    """
    first: dict[str, int] = {}
    kept: list[tuple[dict[str, list[float]], dict[str, NDArray[np.float64]], dict[str, PackedMasks]]] = []
    for image, prediction in zip(images, predictions, strict=True):
        if image not in first:
            first[image] = len(kept)
            kept.append(({}, {}, {}) if prediction is None else _pack(tasks, prediction))
    order = sorted(first)
    rows = [kept[first[image]] for image in order]
    bare = tuple(_bare(task) for task in tasks)
    return StoredAnswers(
        meta=AnswersMeta(
            teacher=teacher,
            tasks=bare,
            thresholds={task.name: tuple(thresholds[task.name]) for task in bare if task.name in thresholds},
        ),
        images=tuple(order),
        scores={task.name: _stacked(task, [row[0] for row in rows]) for task in bare if is_scored(task)},
        boxes={task.name: tuple(row[1].get(task.name) for row in rows) for task in bare if task.kind == "detection"},
        masks={task.name: tuple(row[2].get(task.name) for row in rows) for task in bare if task.kind == "segmentation"},
    )


def _pack(
    tasks: Sequence[Task], prediction: Prediction
) -> tuple[dict[str, list[float]], dict[str, NDArray[np.float64]], dict[str, PackedMasks]]:
    scores = {task.name: score_row(task, prediction) for task in tasks if is_scored(task)}
    boxes = {task.name: _finite(box_rows(task, prediction)) for task in tasks if task.kind == "detection"}
    masks = {task.name: _packed(mask_layers(task, prediction)) for task in tasks if task.kind == "segmentation"}
    return scores, boxes, masks


def _finite(rows: Boxes) -> Boxes:
    return rows[np.isfinite(rows).all(axis=1)]


def _packed(layers: NDArray[np.bool_]) -> PackedMasks:
    height, width = layers.shape[1:]
    return PackedMasks(height, width, zlib.compress(np.packbits(layers).tobytes(), 6))


def _stacked(task: Task, rows: Sequence[Mapping[str, list[float]]]) -> Scores:
    gap = [math.nan] * score_width(task)
    return np.array([row.get(task.name, gap) for row in rows], np.float64).reshape(len(rows), score_width(task))


def _bare(task: Task) -> Task:
    """Give the task without what only training and proof need, as a bundle ships it."""
    return msgspec.structs.replace(
        task, columns=(), ignore_column="", plausible=None, weight=1.0, margins={}, critical=()
    )
