"""Endpoints of tasks with one class or grade a case: accuracy, and kappa with quadratic weights.

Decisions are whole and a compressed model seldom changes them, so neither interval may shrink to nothing: accuracy has
Tango's; kappa's comes from the patients' sums, corrected for skewness, and reaches at least as far as changes by one
grade that are too rare to be seen. Brier score, logarithmic loss and critical positives are measured where the rules
name them.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from .calibration_endpoints import measure_class_loss
from .cases import Array, ratio, renumbered, sum_by_patient
from .critical import measure_critical_classes
from .label_endpoints import RATE_METHOD
from .measured import Measured, Setting, blank, too_few, with_spread
from .metrics import margin_of
from .pairing import Pair
from .proportion import clustered_se, compare_proportions, needed_growth
from .tilted import METHOD, Hidden, effective, linearised, of_images, unseen

KAPPA_METHOD = f"linearised, patients as clusters; {METHOD}"


def measure_accuracy(pair: Pair, setting: Setting) -> tuple[list[Measured], list[str]]:
    """Multiclass: the share of cases whose class is right, and what else the rules name."""
    losses = [measure_class_loss(m, pair, setting) for m in ("brier", "logloss") if m in setting.rules.endpoints]
    return [_accuracy(pair, setting), *losses, *measure_critical_classes(pair, setting)], []


def measure_kappa(pair: Pair, setting: Setting) -> tuple[list[Measured], list[str]]:
    """Ordinal: Cohen's kappa with quadratic weights between the grades decided and the reference, and critical ones."""
    return [_kappa_row(pair, setting), *measure_critical_classes(pair, setting)], []


def _accuracy(pair: Pair, setting: Setting) -> Measured:
    known = pair.known[:, 0]
    patients = setting.patients[known]
    truth = pair.reference[known, 0]
    base = blank(pair, "accuracy", known, setting, RATE_METHOD, margin_of("accuracy", pair.task.margins))
    if base.hindrance:
        return base
    teacher, student = pair.teacher[known, 0] == truth, pair.student[known, 0] == truth
    compared = compare_proportions(teacher, student, np.full(len(truth), 1.0 / len(truth)), patients, setting.alpha)
    indices, counts = np.unique(truth, return_counts=True)
    above = teacher.astype(np.float64) - (truth == indices[counts.argmax()])
    return msgspec.structs.replace(
        base,
        teacher=compared.teacher,
        student=compared.student,
        difference=compared.difference,
        low=0.0 if pair.identical else compared.low,
        high=0.0 if pair.identical else compared.high,
        hindrance="the reference has one class only" if len(indices) < 2 else too_few(base.patients),
        assay=_above_zero(above, patients, setting.alpha, "the teacher is not shown to beat the commonest class"),
        grow=needed_growth(compared.events, compared.discordance, base.margin, setting.alpha, setting.power),
        student_low=compared.student_low,
        events=compared.events,
    )


def _kappa_row(pair: Pair, setting: Setting) -> Measured:
    known = pair.known[:, 0]
    base = blank(pair, "kappa", known, setting, KAPPA_METHOD, margin_of("kappa", pair.task.margins))
    if base.hindrance:
        return base
    patients, count = renumbered(setting.patients[known])
    truth, teacher, student = (array[known, 0] for array in (pair.reference, pair.teacher, pair.student))
    hindrance = "the reference has one grade only" if len(np.unique(truth)) < 2 else too_few(count)
    base = msgspec.structs.replace(base, hindrance=hindrance)
    moments = np.concatenate([grade_moments(truth, teacher), grade_moments(truth, student)], axis=1)
    sums = sum_by_patient(moments, patients, count)
    point = kappas(sums.sum(axis=0)[None])[0]
    if not np.isfinite(point).all():
        return base
    images = sums[:, 0]
    spread, own, of_teacher = (linearised(sums, kappas, turn, images) for turn in ((-1.0, 1.0), (0.0, 1.0), (1.0, 0.0)))
    hidden = _unseen_grades(sums, images, setting.alpha)
    values = (float(point[0]), float(point[1]))
    chance = not point[0] - of_teacher.below(setting.alpha) > 0
    return msgspec.structs.replace(
        with_spread(base, values, spread, own, hidden, setting, pair.identical),
        assay="no assay sensitivity: the teacher's kappa is not shown to exceed zero" if chance else "",
    )


def _unseen_grades(sums: Array, images: Array, alpha: float) -> Hidden:
    """Count changes by one grade in patients too rare to be seen, `sums` (P, 12) of the moments of both models.

    Each adds 1 to the squared disagreement, so takes 1 / (expected disagreement) off kappa.
    """
    by_model = _expected(sums.sum(axis=0)[None])[0]
    expected, turn = float(by_model.min()), np.eye(2)[int(by_model.argmin())]
    patients = effective(images)
    if not expected > 0:
        return Hidden(cost=1.0)
    own = linearised(sums, _expected, [float(x) for x in turn], images).variance / expected**2
    lost = unseen(patients, alpha)
    return Hidden(
        cost=lost / expected,
        share=lost,
        scatter=of_images(images) + (own if np.isfinite(own) else 0.25 / max(patients, 1.0)),
    )


def _expected(sums: Array) -> Array:
    """Give both models' mean squared disagreement if decisions had nothing to do with the truth, (R, 12) -> (R, 2)."""
    sides = []
    for moments in (sums[:, :6], sums[:, 6:]):
        n, r, r2, d, d2, _ = moments.T
        sides.append(ratio(r2 + d2 - 2.0 * ratio(r * d, n), n))
    return np.stack(sides, axis=1)


def quadratic_kappa(reference: Array, decided: Array, weights: Array | None = None) -> float:
    """Give Cohen's kappa with quadratic weights of two lists of grades (n,); NaN when both have one grade only."""
    w = np.ones(len(reference)) if weights is None else weights
    return float(_kappa((w @ grade_moments(reference, decided))[None])[0])


def _above_zero(values: Array, patients: NDArray[np.intp], alpha: float, fault: str) -> str:
    """Empty when the mean of `values` is shown to exceed zero, else what is not shown."""
    count = len(np.unique(patients))
    if count < 2:
        return ""
    mean = float(values.mean())
    low = mean - float(student_t.ppf(1.0 - alpha, count - 1)) * clustered_se((values - mean) / len(values), patients)
    return "" if low > 0 else f"no assay sensitivity: {fault}"


def grade_moments(reference: Array, decided: Array) -> Array:
    """Give per case (n, 6): 1, r, r^2, d, d^2, (r - d)^2; their sums are all that quadratic kappa needs."""
    r, d = reference, decided
    return np.stack([np.ones_like(r), r, r**2, d, d**2, (r - d) ** 2], axis=1)


def _kappa(sums: Array) -> Array:
    """Quadratic kappa from sums of `grade_moments`, (R, 6) -> (R,)."""
    n, r, r2, d, d2, apart = sums.T
    expected = r2 + d2 - 2.0 * ratio(r * d, n)
    return 1.0 - ratio(apart, np.where(expected > 1e-12 * np.maximum(n, 1.0), expected, 0.0))


def kappas(sums: Array) -> Array:
    """Give both models' kappa from sums of their moments side by side, (R, 12) -> (R, 2)."""
    return np.stack([_kappa(sums[:, :6]), _kappa(sums[:, 6:])], axis=1)
