"""Endpoints of binary and multilabel tasks: AUC, and sensitivity and specificity at each model's locked threshold.

AUC is blind to a shift of the scores against the threshold, which is what quantisation does most; so all three are
primary, and all must pass. Brier score, logarithmic loss and the loss of critical positives are measured where the
rules name them. A multilabel task has all as macro means over its labels (critical positives: together); the rows of
single labels describe. A label enters the macro mean when at least `MIN_PATIENTS` patients have it and as many do not;
labels that do not are named in a note, because nothing is proved about them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from .calibration_endpoints import measure_label_loss
from .cases import Array
from .critical import measure_critical_labels
from .delong import AucComparison, compare_macro_auc, hidden_loss
from .measured import MIN_PATIENTS, Measured, Setting, too_few, with_spread
from .metrics import margin_of
from .pairing import Pair
from .proportion import clustered_se, compare_proportions, needed_growth
from .tilted import METHOD, Hidden, unseen

AUC_METHOD = f"DeLong, components summed by patient (Obuchowski 1997); {METHOD}"
RATE_METHOD = "Tango's score interval for paired proportions, of as many pairs as the patients' cases are worth"


class LabelCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Cases and patients by label, (C,) each."""

    positives: NDArray[np.intp]
    negatives: NDArray[np.intp]
    positive_patients: NDArray[np.intp]
    negative_patients: NDArray[np.intp]


def measure_labels(pair: Pair, setting: Setting) -> tuple[list[Measured], list[str]]:
    """Measure all endpoints of a binary or multilabel task, and notes."""
    counts = count_labels(pair.reference, setting.patients)
    chosen = macro_labels(counts)
    rows = _rows(pair, counts, chosen, setting, "", primary=True)
    notes: list[str] = []
    if pair.task.kind == "multilabel":
        for k, label in enumerate(pair.task.classes):
            rows += _rows(pair, counts, [k], setting, label, primary=False)
            if k not in chosen:
                notes.append(
                    f"{pair.task.name}: {label} is not in the macro means ({counts.positive_patients[k]} positive and "
                    f"{counts.negative_patients[k]} negative patients, {MIN_PATIENTS} each are needed); nothing is "
                    "proved about it"
                )
    return rows + measure_critical_labels(pair, setting), notes


def count_labels(reference: Array, patients: NDArray[np.intp]) -> LabelCounts:
    """Count positives and negatives of each label, `reference` (N, C) with NaN where not known."""
    positive, negative = reference > 0.5, reference <= 0.5
    return LabelCounts(
        positives=positive.sum(axis=0),
        negatives=negative.sum(axis=0),
        positive_patients=np.array([len(np.unique(patients[column])) for column in positive.T], dtype=np.intp),
        negative_patients=np.array([len(np.unique(patients[column])) for column in negative.T], dtype=np.intp),
    )


def macro_labels(counts: LabelCounts) -> list[int]:
    """Choose the macro mean's labels: with enough patients; failing those, with both classes; failing those, all."""
    fewest = np.minimum(counts.positive_patients, counts.negative_patients)
    for least in (MIN_PATIENTS, 1):
        if (fewest >= least).any():
            return [int(k) for k in np.flatnonzero(fewest >= least)]
    return list(range(len(fewest)))


def _rows(
    pair: Pair, counts: LabelCounts, columns: Sequence[int], setting: Setting, label: str, *, primary: bool
) -> list[Measured]:
    known = pair.known[:, columns].any(axis=1)
    base = Measured(
        label=label,
        metric="auc",
        primary=primary,
        cases=int(known.sum()),
        patients=len(np.unique(setting.patients[known])),
        positives=int(counts.positives[columns].sum()),
        margin=margin_of("auc", pair.task.margins),
        method=AUC_METHOD,
        hindrance=_hindrance(counts, columns),
    )
    measures: dict[str, Callable[[], Measured]] = {
        "auc": lambda: _measure_auc(base, pair, counts, columns, setting),
        "sensitivity": lambda: _measure_rate(base, pair, counts, columns, setting, positive=True),
        "specificity": lambda: _measure_rate(base, pair, counts, columns, setting, positive=False),
        "brier": lambda: measure_label_loss("brier", base, pair, columns, setting),
        "logloss": lambda: measure_label_loss("logloss", base, pair, columns, setting),
    }
    return [measured() for metric, measured in measures.items() if metric in setting.rules.endpoints]


def _hindrance(counts: LabelCounts, columns: Sequence[int]) -> str:
    positive, negative = counts.positive_patients[columns], counts.negative_patients[columns]
    if not (positive.any() or negative.any()):
        return "no case has a reference and a teacher's answer"
    if not np.minimum(positive, negative).any():
        return f"the reference has one class only, {'positive' if positive.any() else 'negative'}"
    for name, patients in (("positive", positive), ("negative", negative)):
        if patients.min() < MIN_PATIENTS:
            return too_few(int(patients.min()), f"{name} ")
    return ""


def _measure_auc(base: Measured, pair: Pair, counts: LabelCounts, columns: Sequence[int], setting: Setting) -> Measured:
    if not np.minimum(counts.positives[columns], counts.negatives[columns]).all():
        return base
    truth, teacher, student = (array[:, columns] for array in (pair.reference, pair.teacher, pair.student))
    compared = compare_macro_auc(truth, teacher, student, setting.patients)
    patients = min(compared.effective)
    hidden = Hidden(
        cost=hidden_loss(compared, setting.alpha),
        share=unseen(patients, setting.alpha),
        scatter=0.25 / max(patients, 1.0),
    )
    values = (compared.teacher, compared.student)
    return msgspec.structs.replace(
        with_spread(base, values, compared.spread, compared.student_spread, hidden, setting, compared.same_ranks),
        assay=_auc_assay(compared, setting.alpha),
    )


def _auc_assay(compared: AucComparison, alpha: float) -> str:
    low = compared.teacher - compared.teacher_spread.below(alpha)
    if np.isnan(low) or low > 0.5:  # a single patient is hindered anyway
        return ""
    return f"no assay sensitivity: the teacher's AUC may be chance (its bound is {low:.3f})"


def _measure_rate(
    base: Measured, pair: Pair, counts: LabelCounts, columns: Sequence[int], setting: Setting, *, positive: bool
) -> Measured:
    metric = "sensitivity" if positive else "specificity"
    margin = margin_of(metric, pair.task.margins)
    base = msgspec.structs.replace(base, metric=metric, margin=margin, method=RATE_METHOD)
    of_class = counts.positives if positive else counts.negatives
    columns = [k for k in columns if of_class[k]]
    if not columns:
        return base
    truth = pair.reference[:, columns] > 0.5
    teacher = (pair.teacher[:, columns] >= pair.teacher_limits[columns]) == truth
    student = (pair.student[:, columns] >= pair.student_limits[columns]) == truth
    cells = pair.known[:, columns] & (truth == positive)
    rows, labels = np.nonzero(cells)
    weights, patients = _cell_weights(cells)[cells], setting.patients[rows]
    compared = compare_proportions(teacher[cells], student[cells], weights, patients, setting.alpha, labels)
    same = pair.identical and np.array_equal(pair.teacher_limits[columns], pair.student_limits[columns])
    return msgspec.structs.replace(
        base,
        teacher=compared.teacher,
        student=compared.student,
        difference=compared.difference,
        low=0.0 if same else compared.low,
        high=0.0 if same else compared.high,
        assay=_youden_assay(pair, columns, teacher, setting),
        student_low=compared.student_low,
        events=compared.events,
        grow=needed_growth(compared.events, compared.discordance, margin, setting.alpha, setting.power),
    )


def _cell_weights(cells: NDArray[np.bool_]) -> Array:
    """Give weights (N, c) with which each label's cells have the same sum, all together 1; 0 outside of `cells`."""
    weights: Array = cells / np.maximum(cells.sum(axis=0), 1) / cells.shape[1]
    return weights


def _youden_assay(pair: Pair, columns: Sequence[int], right: NDArray[np.bool_], setting: Setting) -> str:
    """Sensitivity alone is perfect for a model that always says yes; what must exceed chance is Youden's index."""
    known = pair.known[:, columns]
    truth = pair.reference[:, columns] > 0.5
    index, centred = -1.0, np.zeros(right.shape)
    for cells in (known & truth, known & ~truth):
        weights = _cell_weights(cells)
        rates = (weights * right).sum(axis=0) * cells.shape[1]
        index += float(rates.mean())
        centred += weights * (right - rates)
    by_case = centred.sum(axis=1)
    seen = known.any(axis=1)
    patients = len(np.unique(setting.patients[seen]))
    if patients < 2:
        return ""
    error = clustered_se(by_case[seen], setting.patients[seen])
    low = index - float(student_t.ppf(1.0 - setting.alpha, patients - 1)) * error
    return (
        "" if low > 0 else f"no assay sensitivity: the teacher's decisions may be chance (Youden's bound is {low:.3f})"
    )
