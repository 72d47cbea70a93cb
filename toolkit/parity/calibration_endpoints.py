"""Calibration endpoints: Brier score and logarithmic loss, the proper scores that a rounded probability can spoil.

AUC and decisions do not see whether a probability of 0.3 means three in ten; these two do (Gneiting and Raftery, JASA
2007). Both are means of a loss over cases (macro means over labels), smaller is better, so that the difference is the
teacher's minus the student's. Probabilities are held to 0..1; for the logarithm to `CLIP`..1 - `CLIP`, as an int8
output says 0 and 1. An answer that the student did not give has the largest loss there is.

Heavy losses are rare: a positive to which the student gave 0 costs 16 nats, and a sample may hold none. What truth
might have been drawn is known, though, from the probabilities themselves. Variance and skewness are the largest of
three: of the losses seen, and of those foreseen when each case's truth is drawn by one or the other model's answer.

A teacher that does not beat the constant answer (the share of each class in these cases) proves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from .cases import Array, ratio, renumbered, sum_by_patient
from .measured import Measured, Setting, blank, too_few
from .metrics import margin_of
from .pairing import Pair
from .proportion import FEW
from .tilted import METHOD, Hidden, Spread, growth, linearised, unseen

Loss = Literal["brier", "logloss"]
CLIP = 1e-7  # probabilities nearer to 0 or 1 count as this far away, in the logarithm
METHODS: dict[Loss, str] = {
    "brier": f"mean over cases, patients as clusters; {METHOD}",
    "logloss": f"mean over cases, probabilities held to [{CLIP:g}, 1 - {CLIP:g}], patients as clusters; {METHOD}",
}
LARGEST: dict[Loss, float] = {"brier": 1.0, "logloss": float(-np.log(CLIP))}  # a case of two classes can lose


class Losses(msgspec.Struct, frozen=True, kw_only=True):
    """What each case costs: (N, c) each, for c labels or 1.

    Args:
        known: which cells count.
        teacher: by the reference.
        student: by the reference.
        constant: of the constant answer.
        chances: (N, c, K) how probable each of K truths is, by either model.
        excess: (N, c, K) what the teacher costs more than the student under that truth.
    """

    known: NDArray[np.bool_]
    teacher: Array
    student: Array
    constant: Array
    chances: tuple[Array, Array]
    excess: Array


def measure_label_loss(metric: Loss, base: Measured, pair: Pair, columns: Sequence[int], setting: Setting) -> Measured:
    """Measure a loss of a binary task or of some labels, `base` with its counts."""
    margin = margin_of(metric, pair.task.margins)
    base = msgspec.structs.replace(base, metric=metric, margin=margin, method=METHODS[metric])
    columns = [k for k in columns if pair.known[:, k].any()]
    if not columns:
        return base
    known = pair.known[:, columns]
    truth = np.where(known, pair.reference[:, columns], 0.0)
    share = ratio(truth.sum(axis=0), known.sum(axis=0))
    answers = (pair.teacher[:, columns], pair.student[:, columns], np.broadcast_to(share, truth.shape))
    teacher, student, constant = (label_loss(metric, truth, np.nan_to_num(answer)) for answer in answers)
    held = [np.clip(np.nan_to_num(answer), 0.0, 1.0) for answer in answers[:2]]
    under = [
        label_loss(metric, np.full_like(truth, y), held[0]) - label_loss(metric, np.full_like(truth, y), held[1])
        for y in (0.0, 1.0)
    ]
    losses = Losses(
        known=known,
        teacher=teacher,
        student=student,
        constant=constant,
        chances=(np.stack([1.0 - held[0], held[0]], axis=2), np.stack([1.0 - held[1], held[1]], axis=2)),
        excess=np.stack(under, axis=2),
    )
    return _compared(metric, base, losses, pair, setting)


def measure_class_loss(metric: Loss, pair: Pair, setting: Setting) -> Measured:
    """Measure a loss of a multiclass task: Brier's is the sum over the classes (0 to 2)."""
    known = pair.known[:, 0]
    base = blank(pair, metric, known, setting, METHODS[metric], margin_of(metric, pair.task.margins))
    if base.hindrance:
        return base
    assert pair.chance is not None
    assert pair.student_chance is not None
    truth = np.where(known, pair.reference[:, 0], 0).astype(np.intp)
    shares = np.bincount(truth[known], minlength=pair.chance.shape[1]) / known.sum()
    hindrance = "the reference has one class only" if (shares > 0).sum() < 2 else too_few(base.patients)
    answers = (pair.chance, pair.student_chance, np.broadcast_to(shares, pair.chance.shape))
    teacher, student, constant = (class_loss(metric, truth, np.nan_to_num(answer)) for answer in answers)
    student = np.where(pair.missing[:, 0], LARGEST[metric] * (2.0 if metric == "brier" else 1.0), student)
    held = [np.clip(np.nan_to_num(answer), 0.0, 1.0) for answer in answers[:2]]
    every = [np.full_like(truth, k) for k in range(len(shares))]
    under = [class_loss(metric, one, held[0]) - class_loss(metric, one, held[1]) for one in every]
    losses = Losses(
        known=known[:, None],
        teacher=teacher[:, None],
        student=student[:, None],
        constant=constant[:, None],
        chances=(held[0][:, None], held[1][:, None]),
        excess=np.stack(under, axis=1)[:, None],
    )
    return _compared(metric, msgspec.structs.replace(base, hindrance=hindrance), losses, pair, setting)


def label_loss(metric: Loss, truth: Array, probability: Array) -> Array:
    """Give the loss of each answer: truth 0 or 1 and probabilities of any one shape."""
    if metric == "brier":
        squared: Array = (np.clip(probability, 0.0, 1.0) - truth) ** 2
        return squared
    held = np.clip(probability, CLIP, 1.0 - CLIP)
    logarithmic: Array = -np.log(np.where(truth > 0.5, held, 1.0 - held))
    return logarithmic


def class_loss(metric: Loss, truth: NDArray[np.intp], probabilities: Array) -> Array:
    """Give the loss of each case (N,): truth the index of the class, probabilities (N, C)."""
    rows = np.arange(len(truth))
    if metric == "brier":
        one = np.zeros_like(probabilities)
        one[rows, truth] = 1.0
        squared: Array = ((np.clip(probabilities, 0.0, 1.0) - one) ** 2).sum(axis=1)
        return squared
    logarithmic: Array = -np.log(np.clip(probabilities[rows, truth], CLIP, 1.0 - CLIP))
    return logarithmic


def _compared(metric: Loss, base: Measured, losses: Losses, pair: Pair, setting: Setting) -> Measured:
    rows = np.asarray(losses.known.any(axis=1))
    patients, count = renumbered(setting.patients[rows])
    known = losses.known[rows]
    parts = [losses.teacher, losses.student, losses.constant]
    cells = [known.astype(np.float64), *(np.where(known, part[rows], 0.0) for part in parts)]
    sums = sum_by_patient(np.concatenate(cells, axis=1), patients, count)
    images = np.bincount(patients, minlength=count).astype(np.float64)

    def means(totals: Array) -> Array:
        """Turn totals (R, 4c) into macro means (R, 3) of teacher, student and constant."""
        seen, *others = np.split(totals, 4, axis=1)
        return np.stack([ratio(other, seen).mean(axis=1) for other in others], axis=1)

    point = means(sums.sum(axis=0)[None])[0]
    spread, own, over_chance = (
        linearised(sums, means, turn, images) for turn in ((1.0, -1.0, 0.0), (0.0, 1.0, 0.0), (-1.0, 0.0, 1.0))
    )
    moved = len(np.unique(patients[(known & (losses.teacher[rows] != losses.student[rows])).any(axis=1)]))
    hidden = LARGEST[metric] * unseen(count, setting.alpha) if moved < FEW else 0.0
    every = [spread, *(_foreseen(losses, chances, rows, patients, spread) for chances in losses.chances)]
    wide = msgspec.structs.replace(spread, variance=max(one.variance for one in every))
    lower = msgspec.structs.replace(wide, third=min(one.third for one in every))
    upper = msgspec.structs.replace(wide, third=max(one.third for one in every))
    below, above = lower.below(setting.alpha), upper.above(setting.alpha)
    difference = float(point[0] - point[1])
    seen, same = bool(np.isfinite(below)), pair.identical
    chance = not point[2] - point[0] - over_chance.below(setting.alpha) > 0
    return msgspec.structs.replace(
        base,
        teacher=float(point[0]),
        student=float(point[1]),
        difference=difference,
        low=0.0 if same else float(difference - max(below, hidden)) if seen else None,
        high=0.0 if same else float(difference + max(above, hidden)) if seen else None,
        assay="no assay sensitivity: the teacher is not shown to beat the constant answer" if chance else "",
        grow=growth(
            [lower], Hidden(cost=hidden, share=hidden / LARGEST[metric]), base.margin, setting.alpha, setting.power
        ),
        student_low=float(point[1]) + own.above(setting.alpha) if seen else None,
    )


def _foreseen(losses: Losses, by: Array, rows: NDArray[np.bool_], patients: NDArray[np.intp], seen: Spread) -> Spread:
    """Give the spread of the difference when each cell's truth is a draw by the chances, cells being independent."""
    known, chances, excess = losses.known[rows], by[rows], losses.excess[rows]
    weights = known / np.maximum(known.sum(axis=0), 1) / known.shape[1]
    expected = (chances * excess).sum(axis=2)
    centred = excess - expected[:, :, None]
    variance = weights**2 * (chances * centred**2).sum(axis=2)
    third = weights**3 * (chances * centred**3).sum(axis=2)
    usual = (weights * expected).sum(axis=0) / np.maximum(weights.sum(axis=0), 1e-300)
    cells = np.stack([(weights * (expected - usual)).sum(axis=1), variance.sum(axis=1), third.sum(axis=1)], axis=1)
    means, squares, cubes = sum_by_patient(cells, patients, int(patients.max()) + 1).T
    return Spread(
        variance=float(means @ means + squares.sum()),
        third=float(np.sum(means**3) + 3.0 * means @ squares + cubes.sum()),
        lowest=0.0,
        highest=0.0,
        freedom=seen.freedom,
    )
