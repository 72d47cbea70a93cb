"""One task's answers of the teacher and of one engine, cleaned and side by side: what every endpoint starts from.

The rules for gaps of `cases.py` are applied here and nowhere else. Per cell for binary, multilabel and regression, per
case for the others. What the worst answer is:

| kind | worst answer |
|---|---|
| binary, multilabel | below every score for a positive case, above every score for a negative one; the wrong decision |
| multiclass | a wrong class |
| ordinal | the grade farthest from the reference |
| regression | the largest error that either model or the farthest reference value gives |
| segmentation | Dice 0, surface Dice 0, the largest surface distance that either model has in any case |
| detection | no box |
| embedding | the farthest from the patient's own images, the nearest to all others |
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.task import Task
from .cases import Answers, Array, References
from .detection import ClassMatches, match_class
from .retrieval import unit

BELOW, ABOVE = -1.0, 2.0  # outside of every probability


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """Teacher and student on one task. N cases; c columns: labels, classes, measures, or 1.

    Args:
        task: the task.
        reference: (N, c); NaN where nothing can be compared; embedding (N, 1 + C): 1 where the teacher answered, then
            the conditions.
        teacher: (N, c) probabilities; decided class or grade; values; Dice; embeddings (N, D).
        student: (N, c), with worst answers filled in; embeddings (N, D), NaN where one is missing.
        teacher_limits: (c,) locked thresholds, for labels.
        student_limits: (c,).
        identical: every answer of the two models is the same bit for bit.
        missing: answers (cells or cases) that the student did not give.
        left_out: answers left out because the teacher gave none.
        teacher_boxes: detection: matches by class.
        student_boxes: detection.
        chance: (N, C) class probabilities of the teacher and of the student, for the flips; None where there are none.
        student_chance: like `chance`.
        surfaces: segmentation: `nsd` and `hd95` where both models have them: (N, C) of the teacher, NaN where it is not
            known, and of the student, with worst answers filled in.
    """

    task: Task
    reference: Array
    teacher: Array
    student: Array
    teacher_limits: Array
    student_limits: Array
    identical: bool
    missing: NDArray[np.bool_]
    left_out: int
    teacher_boxes: tuple[ClassMatches, ...] = ()
    student_boxes: tuple[ClassMatches, ...] = ()
    chance: Array | None = None
    student_chance: Array | None = None
    surfaces: dict[str, tuple[Array, Array]] = {}

    @property
    def known(self) -> NDArray[np.bool_]:
        """Tell (N, c) what can be compared with the reference."""
        return ~np.isnan(self.reference)


def pair(task: Task, references: References, teacher: Answers, student: Answers) -> Pair:
    """Clean the answers of two models to one task and put them side by side."""
    match task.kind:
        case "binary" | "multilabel":
            return _pair_labels(task, references, teacher, student)
        case "multiclass" | "ordinal":
            return _pair_classes(task, references, teacher, student)
        case "regression":
            return _pair_values(task, references, teacher, student)
        case "segmentation":
            return _pair_masks(task, teacher, student)
        case "detection":
            return _pair_boxes(task, references, teacher, student)
        case "embedding":
            return _pair_embeddings(task, references, teacher, student)


def limits(task: Task, answers: Answers) -> Array:
    """Look up the locked thresholds of a task's labels; 0.5 where there are none."""
    width = 1 if task.kind == "binary" else len(task.classes)
    return np.asarray(answers.thresholds.get(task.name) or (0.5,) * width, dtype=np.float64)


def _pair_labels(task: Task, references: References, teacher: Answers, student: Answers) -> Pair:
    given = _plain(references.scores[task.name])
    t, s = _plain(teacher.scores[task.name]), _plain(student.scores[task.name])
    reference = np.where(np.isnan(t), np.nan, given)
    missing = np.isnan(s) & ~np.isnan(reference)
    worst = np.where(given > 0.5, BELOW, ABOVE)
    return Pair(
        task=task,
        reference=reference,
        teacher=t,
        student=np.where(missing, worst, s),
        teacher_limits=limits(task, teacher),
        student_limits=limits(task, student),
        identical=_same(t, s, ~np.isnan(reference)),
        missing=missing,
        left_out=int((np.isnan(t) & ~np.isnan(given)).sum()),
    )


def _pair_classes(task: Task, references: References, teacher: Answers, student: Answers) -> Pair:
    given = _plain(references.scores[task.name])
    t, s = _plain(teacher.scores[task.name]), _plain(student.scores[task.name])
    absent = np.isnan(t).any(axis=1, keepdims=True)
    reference = np.where(absent, np.nan, given)
    missing = np.isnan(s).any(axis=1, keepdims=True) & ~np.isnan(reference)
    last = len(task.classes) - 1
    far = np.where(reference > last / 2, 0, last) if task.kind == "ordinal" else np.full_like(reference, -1.0)
    decided = np.where(np.isnan(s).any(axis=1), -1.0, np.argmax(np.nan_to_num(s), axis=1))[:, None]
    return Pair(
        task=task,
        reference=reference,
        teacher=np.where(absent, np.nan, np.argmax(np.nan_to_num(t), axis=1)[:, None]),
        student=np.where(missing, far, decided),
        teacher_limits=np.zeros(0),
        student_limits=np.zeros(0),
        identical=_same(t, s, np.broadcast_to(~np.isnan(reference), t.shape)),
        missing=missing,
        left_out=int((absent & ~np.isnan(given)).sum()),
        chance=t,
        student_chance=s,
    )


def _pair_values(task: Task, references: References, teacher: Answers, student: Answers) -> Pair:
    given = _plain(references.scores[task.name])
    t, s = _plain(teacher.scores[task.name]), _plain(student.scores[task.name])
    reference = np.where(np.isnan(t), np.nan, given)
    missing = np.isnan(s) & ~np.isnan(reference)
    filled = s.copy()
    for column in range(reference.shape[1]):
        gap, known = missing[:, column], ~np.isnan(reference[:, column])
        if gap.any():
            truth = reference[known, column]
            errors = np.abs(
                np.concatenate([t[known, column], s[known & ~gap, column]])
                - np.concatenate([truth, reference[known & ~gap, column]])
            )
            reach = np.maximum(
                np.abs(reference[gap, column] - truth.min()), np.abs(reference[gap, column] - truth.max())
            )
            filled[gap, column] = reference[gap, column] + np.maximum(reach, errors.max())
    return Pair(
        task=task,
        reference=reference,
        teacher=t,
        student=filled,
        teacher_limits=np.zeros(0),
        student_limits=np.zeros(0),
        identical=_same(t, s, ~np.isnan(reference)),
        missing=missing,
        left_out=int((np.isnan(t) & ~np.isnan(given)).sum()),
    )


def _pair_masks(task: Task, teacher: Answers, student: Answers) -> Pair:
    t, s = _plain(teacher.dice[task.name]), _plain(student.dice[task.name])
    reference = np.where(np.isnan(t), np.nan, 1.0)  # Dice carries its reference inside
    missing = np.isnan(s) & ~np.isnan(t)
    surfaces = {
        metric: _pair_surfaces(metric, _plain(of_teacher[task.name]), _plain(of_student[task.name]), reference)
        for metric, of_teacher, of_student in (
            ("nsd", teacher.nsd, student.nsd),
            ("hd95", teacher.hd95, student.hd95),
        )
        if task.name in of_teacher and task.name in of_student
    }
    return Pair(
        task=task,
        reference=reference,
        teacher=t,
        student=np.where(missing, 0.0, s),
        teacher_limits=np.zeros(0),
        student_limits=np.zeros(0),
        identical=_same(t, s, ~np.isnan(t)),
        missing=missing,
        left_out=int((np.isnan(t) & ~np.isnan(s)).sum()),
        surfaces=surfaces,
    )


def _pair_surfaces(metric: str, teacher: Array, student: Array, reference: Array) -> tuple[Array, Array]:
    known = np.where(np.isnan(reference), np.nan, teacher)
    seen = np.concatenate([known[~np.isnan(known)], student[~np.isnan(known) & ~np.isnan(student)]])
    # `collect` gives the image's diagonal where there is no answer; this is for answers that come from elsewhere.
    worst = seen.max(initial=0.0) if metric == "hd95" else 0.0
    return known, np.where(np.isnan(student) & ~np.isnan(known), worst, student)


def _pair_boxes(task: Task, references: References, teacher: Answers, student: Answers) -> Pair:
    given, t, s = references.boxes[task.name], teacher.boxes[task.name], student.boxes[task.name]
    known = np.array([g is not None and a is not None for g, a in zip(given, t, strict=True)], dtype=bool)
    missing = np.array([answer is None for answer in s], dtype=bool) & known
    drawn = [_boxes(box, 5, keep) for box, keep in zip(given, known, strict=True)]
    worst = _worst_boxes(task, (t, s))
    answered = [worst if box is None else box for box in s]
    found = [[_boxes(box, 6, keep) for box, keep in zip(boxes, known, strict=True)] for boxes in (t, answered)]
    matches = [tuple(match_class(boxes, drawn, label) for label in range(len(task.classes))) for boxes in found]
    return Pair(
        task=task,
        reference=np.where(known, 1.0, np.nan)[:, None],
        teacher=np.zeros((len(given), 1)),
        student=np.zeros((len(given), 1)),
        teacher_limits=limits(task, teacher),
        student_limits=limits(task, student),
        identical=all(np.array_equal(a, b) for a, b in zip(*found, strict=True)) and not missing.any(),
        missing=missing[:, None],
        left_out=sum(g is not None and a is None for g, a in zip(given, t, strict=True)),
        teacher_boxes=matches[0],
        student_boxes=matches[1],
    )


def _pair_embeddings(task: Task, references: References, teacher: Answers, student: Answers) -> Pair:
    given = _plain(references.scores[task.name])
    t, s = unit(teacher.scores[task.name]), unit(student.scores[task.name])
    absent = np.isnan(t).any(axis=1, keepdims=True)
    missing = np.isnan(s).any(axis=1, keepdims=True) & ~absent
    reference = np.concatenate([np.ones((len(t), 1)), given], axis=1)
    return Pair(
        task=task,
        reference=np.where(absent, np.nan, reference),
        teacher=t,
        student=s,
        teacher_limits=np.zeros(0),
        student_limits=np.zeros(0),
        identical=_same(t, s, np.broadcast_to(~absent, t.shape)),
        missing=np.asarray(missing),
        left_out=int(absent.sum()),
    )


def _worst_boxes(task: Task, models: Sequence[Sequence[NDArray[np.floating] | None]]) -> Array:
    """Give the worst answer to an image: nothing found, and one false box a class that scores more than all others."""
    top = max(
        (float(box[:, 4].max()) for boxes in models for box in boxes if box is not None and len(box)), default=0.0
    )
    return np.array([[-2.0, -2.0, -1.0, -1.0, top + 1.0, k] for k in range(len(task.classes))])


def _boxes(boxes: NDArray[np.floating] | None, width: int, keep: bool) -> Array:
    """Give boxes as float64; none for a case that is not compared or not answered, none that is not finite."""
    if boxes is None or not keep:
        return np.zeros((0, width))
    plain = np.asarray(boxes, dtype=np.float64).reshape(-1, width)
    return plain[np.isfinite(plain).all(axis=1)]


def _plain(array: NDArray[np.floating]) -> Array:
    """Make float64, with infinity taken as no answer."""
    plain = np.array(array, dtype=np.float64)
    plain[~np.isfinite(plain)] = np.nan
    return plain


def _same(teacher: Array, student: Array, known: NDArray[np.bool_]) -> bool:
    return bool(np.array_equal(teacher[known], student[known]))
