"""Endpoints of tasks with one class or grade a case: accuracy, and kappa with quadratic weights.

Decisions are whole and a compressed model seldom changes them, so neither interval may shrink to nothing: accuracy has
Tango's, kappa that of the bootstrap, widened by the changes that are too rare to be seen.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from .bootstrap import replicate_sums
from .cases import Array, ratio, renumbered, sum_by_patient
from .label_endpoints import RATE_METHOD
from .measured import (
    Measured,
    Setting,
    blank,
    bootstrap_method,
    bootstrapped,
    too_few,
    unseen_share,
    widened,
)
from .metrics import margin_of
from .pairing import Pair
from .proportion import FEW, clustered_se, compare_proportions, needed_pairs


def measure_accuracy(pair: Pair, setting: Setting) -> tuple[list[Measured], list[str]]:
    """Multiclass: the share of cases whose class is right."""
    known = pair.known[:, 0]
    patients = setting.patients[known]
    truth = pair.reference[known, 0]
    base = blank(pair, "accuracy", known, setting, RATE_METHOD, margin_of("accuracy", pair.task.margins))
    if base.hindrance:
        return [base], []
    teacher, student = pair.teacher[known, 0] == truth, pair.student[known, 0] == truth
    compared = compare_proportions(teacher, student, np.full(len(truth), 1.0 / len(truth)), patients, setting.alpha)
    indices, counts = np.unique(truth, return_counts=True)
    above = teacher.astype(np.float64) - (truth == indices[counts.argmax()])
    measured = msgspec.structs.replace(
        base,
        teacher=compared.teacher,
        student=compared.student,
        difference=compared.difference,
        low=0.0 if pair.identical else compared.low,
        high=0.0 if pair.identical else compared.high,
        hindrance="the reference has one class only" if len(indices) < 2 else too_few(base.patients),
        assay=_above_zero(above, patients, setting.alpha, "the teacher is not shown to beat the commonest class"),
        grow=needed_pairs(compared.discordance, base.margin, setting.alpha, setting.power) / compared.pairs,
    )
    return [measured], []


def measure_kappa(pair: Pair, setting: Setting) -> tuple[list[Measured], list[str]]:
    """Ordinal: Cohen's kappa with quadratic weights between the grades decided and the reference."""
    known = pair.known[:, 0]
    base = blank(pair, "kappa", known, setting, bootstrap_method(setting), margin_of("kappa", pair.task.margins))
    if base.hindrance:
        return [base], []
    patients, count = renumbered(setting.patients[known])
    truth, teacher, student = (array[known, 0] for array in (pair.reference, pair.teacher, pair.student))
    hindrance = "the reference has one grade only" if len(np.unique(truth)) < 2 else too_few(count)
    base = msgspec.structs.replace(base, hindrance=hindrance)
    moments = np.concatenate([_grade_moments(truth, teacher), _grade_moments(truth, student)], axis=1)
    sums = sum_by_patient(moments, patients, count)
    point = _kappas(sums.sum(axis=0)[None])[0]
    drawn = _kappas(replicate_sums(sums, setting.resamples, setting.seed))
    measured = bootstrapped(base, point, drawn, count, setting, identical=pair.identical)
    if pair.identical or len(np.unique(patients[teacher != student])) >= FEW:
        return [measured], []
    # A change by one grade adds 1 to the squared disagreement, so takes 1 / (expected disagreement) off kappa.
    expected = float(np.mean(truth**2) + np.mean(teacher**2) - 2.0 * np.mean(truth) * np.mean(teacher))
    floor = unseen_share(count, setting.alpha) / expected if expected > 0 else 1.0
    return [widened(measured, floor, setting)], []


def quadratic_kappa(reference: Array, decided: Array, weights: Array | None = None) -> float:
    """Give Cohen's kappa with quadratic weights of two lists of grades (n,); NaN when both have one grade only."""
    w = np.ones(len(reference)) if weights is None else weights
    return float(_kappa((w @ _grade_moments(reference, decided))[None])[0])


def _above_zero(values: Array, patients: NDArray[np.intp], alpha: float, fault: str) -> str:
    """Empty when the mean of `values` is shown to exceed zero, else what is not shown."""
    count = len(np.unique(patients))
    if count < 2:
        return ""
    mean = float(values.mean())
    low = mean - float(student_t.ppf(1.0 - alpha, count - 1)) * clustered_se((values - mean) / len(values), patients)
    return "" if low > 0 else f"no assay sensitivity: {fault}"


def _grade_moments(reference: Array, decided: Array) -> Array:
    """Give per case (n, 6): 1, r, r^2, d, d^2, (r - d)^2; their sums are all that quadratic kappa needs."""
    r, d = reference, decided
    return np.stack([np.ones_like(r), r, r**2, d, d**2, (r - d) ** 2], axis=1)


def _kappa(sums: Array) -> Array:
    """Quadratic kappa from sums of `_grade_moments`, (R, 6) -> (R,)."""
    n, r, r2, d, d2, apart = sums.T
    expected = r2 + d2 - 2.0 * ratio(r * d, n)
    return 1.0 - ratio(apart, np.where(expected > 1e-12 * np.maximum(n, 1.0), expected, 0.0))


def _kappas(sums: Array) -> Array:
    return np.stack([_kappa(sums[:, :6]), _kappa(sums[:, 6:])], axis=1)
