"""Endpoints of measures, in their unit: mean absolute error, and bias with its limits of agreement.

- **mae**: the student's mean absolute error against the reference may exceed its teacher's by less than the margin.
- **bias**: the mean of student minus teacher lies inside the margin on both sides, by two one-sided tests (Schuirmann
  1987). The row's difference is minus its size; `low` is minus the farther of the two bounds, so that it lies above
  minus the margin exactly when both tests pass. `teacher` and `student` are each one's own mean error, with its sign.
- **limits of agreement** (Bland and Altman 1986): mean of student minus teacher, and 1.96 standard deviations either
  way; the variance is that within patients plus that between them (Bland and Altman 2007, section 3).

A teacher that does not beat the constant answer (the median of the reference) proves nothing. A loss too rare to be
seen is counted as large as the largest error that either model makes in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from .cases import Array, ratio, renumbered, sum_by_patient
from .mask_endpoints import mirrored
from .measured import Measured, Setting, blank, too_few, with_spread
from .metrics import margin_of
from .pairing import Pair
from .tilted import METHOD, Hidden, effective, growth, linearised, of_images, tail_of, unseen

MAE_METHOD = f"mean over cases, patients as clusters; {METHOD}; at least what an unseen blunder may cost"
BIAS_METHOD = (
    f"two one-sided tests (Schuirmann 1987) of the mean over cases, patients as clusters; {METHOD}; at least what an "
    "unseen blunder may cost; limits of agreement with variance within and between patients (Bland and Altman 2007)"
)
LIMITS_AT = 1.96  # standard deviations: 95 % of differences
Measure = Callable[[Measured, "Column", Pair, Setting], Measured]


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One measure on the n cases that count.

    Args:
        truth: (n,) the reference.
        teacher: (n,) answers.
        student: (n,) answers; a missing one is the worst that lies above the reference.
        below: (n,) the same, but the worst that lies below.
        patients: (n,) dense numbers.
        constant: mean absolute error of the median.
        distances: (n,) the larger error of the two models, or distance between them.
    """

    truth: Array
    teacher: Array
    student: Array
    below: Array
    patients: NDArray[np.intp]
    constant: float
    distances: Array

    @property
    def images(self) -> Array:
        """Cases by patient (P,)."""
        return np.bincount(self.patients).astype(np.float64)

    def means(self, *values: Array) -> tuple[Array, Array, NDArray[np.float64]]:
        """Give the patients' sums (P, 1 + k) of 1 and of k values a case, and the values' means (k,)."""
        columns = np.stack([np.ones(len(self.truth)), *values], axis=1)
        sums = sum_by_patient(columns, self.patients, len(self.images))
        return sums, self.images, _means(sums.sum(axis=0)[None])[0]


def measure_values(pair: Pair, setting: Setting) -> tuple[list[Measured], list[str]]:
    """Measure what the rules name, for each measure of the task."""
    rows = []
    measures = {"mae": _mae, "bias": _bias}
    for k, name in enumerate(pair.task.classes):
        label = name if len(pair.task.classes) > 1 else ""
        for metric, measure in measures.items():
            if metric in setting.rules.endpoints:
                rows.append(_row(metric, measure, pair, k, label, setting))
    return rows, []


def limits_of_agreement(apart: Sequence[float] | Array, patients: NDArray[np.intp]) -> tuple[float, float] | None:
    """Give the 95 % limits of agreement; None for fewer than two cases.

    One-way analysis of variance by patient (Bland and Altman, Journal of Biopharmaceutical Statistics 2007, section 3);
    with one case a patient they are those of 1986.

    Args:
        apart: (n,) student minus teacher.
        patients: (n,) numbers of the patients.
    """
    d = np.asarray(apart, dtype=np.float64)
    if len(d) < 2:
        return None
    numbers, count = renumbered(patients)
    images = np.bincount(numbers).astype(np.float64)
    centre = np.bincount(numbers, weights=d) / images
    mean, inside = float(d.mean()), float(np.sum((d - centre[numbers]) ** 2))
    if count in (1, len(d)):
        variance = float(d.var(ddof=1))
    else:
        within = inside / (len(d) - count)
        between = float(np.sum(images * (centre - mean) ** 2)) / (count - 1)
        usual = (len(d) - float(np.sum(images**2)) / len(d)) / (count - 1)  # images a patient, in this design
        variance = within + max((between - within) / usual, 0.0)
    return mean - LIMITS_AT * variance**0.5, mean + LIMITS_AT * variance**0.5


def _row(metric: str, measure: Measure, pair: Pair, column: int, label: str, setting: Setting) -> Measured:
    known = pair.known[:, column]
    method = MAE_METHOD if metric == "mae" else BIAS_METHOD
    base = blank(pair, metric, known, setting, method, pair.task.margins.get(metric, 0.0), label)
    if base.hindrance:
        return base
    found = _column(pair, column, setting)
    base = msgspec.structs.replace(
        base,
        margin=margin_of(metric, pair.task.margins, found.constant),
        hindrance="the reference has one value only" if found.constant == 0 else too_few(base.patients),
        assay=_assay(found, setting),
        limits=limits_of_agreement(found.student - found.teacher, found.patients),
    )
    return measure(base, found, pair, setting)


def _column(pair: Pair, column: int, setting: Setting) -> Column:
    known = pair.known[:, column]
    truth, teacher, student = (part[known, column] for part in (pair.reference, pair.teacher, pair.student))
    below = np.where(pair.missing[known, column], 2.0 * truth - student, student)
    distances = [np.abs(a - b) for a, b in ((teacher, truth), (student, truth), (student, teacher), (below, teacher))]
    return Column(
        truth=truth,
        teacher=teacher,
        student=student,
        below=below,
        patients=renumbered(setting.patients[known])[0],
        constant=float(np.abs(np.median(truth) - truth).mean()),
        distances=np.max(distances, axis=0),
    )


def _mae(base: Measured, column: Column, pair: Pair, setting: Setting) -> Measured:
    errors = [np.abs(answer - column.truth) for answer in (column.teacher, column.student)]
    sums, images, (teacher, student) = column.means(*errors)
    spread, own = (linearised(sums, _means, turn, images) for turn in ((1.0, -1.0), (0.0, 1.0)))
    hidden = _unseen_blunder(column, np.maximum(*errors), float(teacher), setting.alpha)
    return with_spread(base, (float(teacher), float(student)), spread, own, hidden, setting, pair.identical)


def _bias(base: Measured, column: Column, pair: Pair, setting: Setting) -> Measured:
    errors = [answer - column.truth for answer in (column.teacher, column.student, column.below)]
    sums, images, (teacher, student, below) = column.means(*errors)
    turns = ((-1.0, 1.0, 0.0), (-1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    above, under, own_above, own_under = (linearised(sums, _means, turn, images) for turn in turns)
    hidden = _unseen_blunder(column, column.distances, 0.0, setting.alpha)
    alpha = setting.alpha
    size = max(abs(float(student - teacher)), abs(float(below - teacher)))
    low, high = float(below - teacher) - under.below(alpha), float(student - teacher) + above.above(alpha)
    own = max(-(float(below) - own_under.below(alpha)), float(student) + own_above.above(alpha))
    known, same = bool(np.isfinite(low)), pair.identical
    nearest = 0.0 if low <= 0.0 <= high else min(abs(low), abs(high))
    return msgspec.structs.replace(
        base,
        teacher=float(teacher),
        student=float(student),
        difference=-size,
        low=0.0 if same else float(-max(-low, high, size + hidden.cost)) if known else None,
        high=0.0 if same else float(-nearest) if known else None,
        grow=growth([under, mirrored(above)], hidden, base.margin, alpha, setting.power) if base.margin > 0 else None,
        student_low=own if np.isfinite(own) else None,
        hidden=hidden,
    )


def _unseen_blunder(column: Column, errors: Array, usual: float, alpha: float) -> Hidden:
    """Count a blunder too rare to be seen as large as the largest of the errors (n,), over a usual one."""
    patients = effective(column.images)
    share = unseen(patients, alpha)
    largest = np.zeros(len(column.images))
    np.maximum.at(largest, column.patients, errors)
    return Hidden(
        cost=share * (float(errors.max()) - usual),
        share=share,
        scatter=of_images(column.images),
        swell=share * tail_of(largest),
    )


def _assay(column: Column, setting: Setting) -> str:
    constant = np.abs(np.median(column.truth) - column.truth)
    sums, images, (teacher, chance) = column.means(np.abs(column.teacher - column.truth), constant)
    better = float(chance - teacher) - linearised(sums, _means, (-1.0, 1.0), images).below(setting.alpha)
    if len(images) < 2 or better > 0:
        return ""
    return "no assay sensitivity: the teacher is not shown to beat a constant"


def _means(totals: Array) -> Array:
    """Turn totals (R, 1 + k) of 1 and of values into means (R, k)."""
    return ratio(totals[:, 1:], totals[:, :1])
