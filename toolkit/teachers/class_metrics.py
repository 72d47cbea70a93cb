"""Metrics of tasks that answer with numbers: labels, classes, grades and values; see `metrics.py` for the rules."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from ...runtime.task import Task
from ..parity.bootstrap import interval, resample_counts
from ..parity.cases import Array, ratio
from ..parity.class_endpoints import quadratic_kappa
from ..parity.delong import AucComparison, compare_macro_auc, lower_bound_of_perfect_auc
from ..parity.label_endpoints import LabelCounts, count_labels, macro_labels
from ..parity.measured import MIN_PATIENTS, Setting, too_few
from .measure import (
    BOOTSTRAP,
    DELONG,
    Measure,
    bootstrapped,
    drawn_sums,
    patient_count,
    patients_of,
    said,
    share,
    started,
    unseen,
)


def measure_labels(
    task: Task, reference: Array, probability: Array, limits: Sequence[float], setting: Setting
) -> list[Measure]:
    """Binary and multilabel: AUC, and for binary the decisions at the locked threshold.

    Args:
        task: binary (one column) or multilabel.
        reference: (N, C) 0, 1 or NaN.
        probability: (N, C).
        limits: (C,) thresholds; empty means 0.5.
        setting: the patients and the bootstrap.
    """
    known = ~np.isnan(reference)
    if not known.any():
        return []
    base = started(task.name, "auc", np.asarray(known.any(axis=1)), setting, DELONG, main=True)
    rows = [measure_auc(base, task, reference, probability, setting)]
    if task.kind == "multilabel":
        for column, label in enumerate(task.classes):
            one = slice(column, column + 1)
            base = started(task.name, "auc", known[:, column], setting, DELONG, label=label)
            rows.append(measure_auc(base, task, reference[:, one], probability[:, one], setting))
        return rows
    cases, positive = known[:, 0], reference[:, 0] > 0.5
    right = (probability[:, 0] >= (limits[0] if limits else 0.5)) == positive
    for metric, cells in (("accuracy", cases), ("sensitivity", cases & positive), ("specificity", cases & ~positive)):
        rows.append(share(started(task.name, metric, cells, setting, BOOTSTRAP), right, cells, setting))
    return rows


def measure_auc(base: Measure, task: Task, reference: Array, probability: Array, setting: Setting) -> Measure:
    """Mean area under the ROC curve over columns with enough patients of both classes.

    Where no column has enough, all with both classes are taken (`parity.label_endpoints.macro_labels`).

    Args:
        base: with its counts.
        task: names the columns in a note.
        reference: (N, C) 0, 1 or NaN.
        probability: (N, C).
        setting: the patients.
    """
    counts = count_labels(reference, setting.patients)
    chosen = macro_labels(counts)
    base = msgspec.structs.replace(
        base, positives=int(counts.positives[chosen].sum()), note=_thin(task, counts, chosen)
    )
    if not np.minimum(counts.positives[chosen], counts.negatives[chosen]).all():
        return base
    truth, scores = reference[:, chosen], probability[:, chosen]
    found = compare_macro_auc(truth, scores, scores, setting.patients)
    low, high = _auc_interval(found, setting.alpha)
    chance = low is None or low <= 0.5
    note = said(base.note, "not shown to be better than chance (0.5)" if chance else "")
    return msgspec.structs.replace(base, value=found.teacher, low=low, high=high, note=note)


def _auc_interval(found: AucComparison, alpha: float) -> tuple[float | None, float | None]:
    """Symmetric, cut at 0 and 1; where no case is out of order, Newcombe's bound."""
    freedom = min(found.positive_patients, found.negative_patients) - 1
    if freedom < 1 or not np.isfinite(found.teacher_se):
        return None, None
    reach = float(student_t.ppf(1.0 - alpha, freedom)) * found.teacher_se
    least = lower_bound_of_perfect_auc(found.positive_patients, found.negative_patients, alpha)
    low = min(found.teacher - reach, least) if found.teacher == 1.0 else found.teacher - reach
    return max(low, 0.0), min(found.teacher + reach, 1.0)


def _thin(task: Task, counts: LabelCounts, chosen: Sequence[int]) -> str:
    """Say which labels have too few patients of a class, or one class only."""
    fewest = np.minimum(counts.positive_patients, counts.negative_patients)
    if len(fewest) == 1:
        if fewest[0] == 0:
            return f"the reference has one class only, {'positive' if counts.positives[0] else 'negative'}"
        side = "positive" if counts.positive_patients[0] <= counts.negative_patients[0] else "negative"
        return too_few(int(fewest[0]), f"{side} ")
    absent = [name for k, name in enumerate(task.classes) if k not in chosen]
    left_out = f"not in the mean, with fewer than {MIN_PATIENTS} patients of a class: {', '.join(absent)}"
    return said(left_out if absent else "", too_few(int(fewest[list(chosen)].min())))


def measure_classes(task: Task, reference: Array, probability: Array, setting: Setting) -> list[Measure]:
    """Multiclass and ordinal: the class decided, and how well each class is told from the rest.

    Args:
        task: multiclass or ordinal.
        reference: (N, 1) index of the class, or NaN.
        probability: (N, C).
        setting: the patients and the bootstrap.
    """
    known = ~np.isnan(reference[:, 0])
    if not known.any():
        return []
    truth, chosen = np.where(known, reference[:, 0], -1.0), probability.argmax(axis=1).astype(np.float64)
    ordinal = task.kind == "ordinal"
    base = started(task.name, "accuracy", known, setting, BOOTSTRAP, main=not ordinal)
    accuracy = share(base, truth == chosen, known, setting)
    commonest = float(np.unique(truth[known], return_counts=True)[1].max() / known.sum())
    if accuracy.low is not None and accuracy.low <= commonest:
        note = f"not shown to be better than always the commonest class ({commonest:.3f})"
        accuracy = msgspec.structs.replace(accuracy, note=said(accuracy.note, note))
    if ordinal:
        return [_measure_kappa(task, truth, chosen, known, setting), accuracy]
    one_hot = np.where(known[:, None], truth[:, None] == np.arange(len(task.classes)), np.nan)
    base = started(task.name, "ovr_auc", known, setting, DELONG)
    area = measure_auc(base, task, one_hot, probability, setting)
    return [accuracy, msgspec.structs.replace(area, positives=None)]


def _measure_kappa(task: Task, truth: Array, chosen: Array, known: NDArray[np.bool_], setting: Setting) -> Measure:
    base = started(task.name, "kappa", known, setting, BOOTSTRAP, main=True)
    r, d, patients = truth[known], chosen[known], setting.patients[known]
    value = quadratic_kappa(r, d)
    if not np.isfinite(value):
        return msgspec.structs.replace(base, note="reference and answers have one grade only")
    blocks = resample_counts(patient_count(setting), setting.resamples, setting.seed)
    drawn = np.array([quadratic_kappa(r, d, counts[patients]) for block in blocks for counts in block])
    # A change by one grade adds 1 to the squared disagreement, so takes 1 / (expected disagreement) off kappa.
    expected = float(np.mean(r**2) + np.mean(d**2) - 2.0 * np.mean(r) * np.mean(d))
    reach = unseen(known & (truth == chosen), known & (truth != chosen), base.patients, setting) / expected
    kappa = bootstrapped(base, value, drawn, setting, span=(-1.0, 1.0), reach=reach)
    chance = kappa.low is None or kappa.low <= 0
    note = "not shown to be better than chance (0)" if chance else ""
    return msgspec.structs.replace(kappa, note=said(kappa.note, note))


def measure_values(task: Task, reference: Array, values: Array, setting: Setting) -> list[Measure]:
    """Regression: mean absolute error of each measure, beside that of a constant.

    Args:
        task: regression.
        reference: (N, M) in the unit, or NaN.
        values: (N, M) answers in the unit.
        setting: the patients and the bootstrap.
    """
    rows = []
    for column, name in enumerate(task.classes):
        known = ~np.isnan(reference[:, column])
        if not known.any():
            continue
        label = name if len(task.classes) > 1 else ""
        base = started(task.name, "mae", known, setting, BOOTSTRAP, label=label, main=True)
        truth = np.where(known, reference[:, column], 0.0)
        errors = np.where(known, np.abs(values[:, column] - truth), 0.0)
        constant = np.where(known, np.abs(np.median(truth[known]) - truth), 0.0)
        drawn = drawn_sums(np.stack([known, errors, constant], axis=1).astype(np.float64), setting)
        own, plain = ratio(drawn[:, 1], drawn[:, 0]), ratio(drawn[:, 2], drawn[:, 0])
        value, least = float(errors[known].mean()), float(constant[known].mean())
        row = bootstrapped(base, value, own, setting, span=(0.0, np.inf))
        better = interval(least - value, plain - own, patients_of(known, setting), setting.alpha)
        chance = better is None or better.low <= 0
        note = f"not shown to be better than a constant (error of the median: {least:.3g})" if chance else ""
        rows.append(msgspec.structs.replace(row, note=said(row.note, note)))
    return rows
