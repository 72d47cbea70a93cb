"""Which endpoints a kind of task has, and how each is measured.

| kind | primary | describes | method |
|---|---|---|---|
| binary | auc, sensitivity, specificity | | DeLong by patient; Tango with a design effect |
| multilabel | the macro means of the three | the three for each label | the same |
| multiclass | accuracy | | Tango with a design effect |
| ordinal | kappa, quadratic weights | | bootstrap by patient |
| regression | mae of each measure | | bootstrap by patient |
| segmentation | dice, mean over classes | dice of each class | bootstrap by patient |
| detection | map50, mean over classes | map50 of each class | bootstrap by patient |

Where decisions are whole and seldom change (accuracy, kappa), a width of zero is never believed, see `proportion.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.task import Kind
from .bootstrap import interval, replicate_sums
from .cases import Array, ratio, renumbered, sum_by_patient
from .class_endpoints import measure_accuracy, measure_kappa
from .detection import average_precision, replicate_precision
from .label_endpoints import measure_labels
from .measured import (
    MIN_PATIENTS,
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
from .proportion import FEW

Measure = Callable[[Pair, Setting], tuple[list[Measured], list[str]]]


class ByClass(msgspec.Struct, frozen=True, kw_only=True):
    """A bootstrapped metric by class, R resamples, C classes.

    Args:
        point: (2, C) teacher and student on the cases; NaN where a class does not occur.
        drawn: (R, 2, C) the same on the resamples.
        patients: (C,) patients with something of the class in the reference.
        known: (N, C) cases that count.
        moved: (N, C) cases on which the two models differ.
    """

    point: Array
    drawn: Array
    patients: tuple[int, ...]
    known: NDArray[np.bool_]
    moved: NDArray[np.bool_]


def measure(pair: Pair, setting: Setting) -> tuple[list[Measured], list[str]]:
    """Measure all endpoints of one task on one engine, and notes for the reader."""
    every, notes = MEASURES[pair.task.kind](pair, setting)
    measured = [one for one in every if one.metric in setting.rules.endpoints]
    if pair.missing.any():
        notes.append(
            f"{pair.task.name}: {int(pair.missing.sum())} answers of the student are missing; each counts as the worst"
        )
    if pair.left_out:
        notes.append(f"{pair.task.name}: {pair.left_out} answers are left out because the teacher gave none")
    return measured, notes


def mean_known(values: Array, axis: int) -> Array:
    """Take the mean over an axis of what is not NaN; NaN where nothing is known."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return ratio(total, known.sum(axis=axis))


def _measure_mae(pair: Pair, setting: Setting) -> tuple[list[Measured], list[str]]:
    rows = []
    for k, name in enumerate(pair.task.classes):
        label = name if len(pair.task.classes) > 1 else ""
        rows.append(_measure_one_mae(pair, k, label, setting))
    return rows, []


def _measure_one_mae(pair: Pair, column: int, label: str, setting: Setting) -> Measured:
    known = pair.known[:, column]
    base = blank(pair, "mae", known, setting, bootstrap_method(setting), pair.task.margins.get("mae", 0.0), label)
    if base.hindrance:
        return base
    patients, count = renumbered(setting.patients[known])
    truth = pair.reference[known, column]
    answers = (pair.teacher[known, column], pair.student[known, column], np.median(truth))
    errors = np.stack([np.abs(answer - truth) for answer in answers], axis=1)
    teacher, student, constant = (float(value) for value in errors.mean(axis=0))
    sums = sum_by_patient(np.concatenate([np.ones((len(truth), 1)), errors], axis=1), patients, count)
    drawn = replicate_sums(sums, setting.resamples, setting.seed)
    maes = drawn[:, 1:] / drawn[:, :1]
    found = interval(teacher - student, maes[:, 0] - maes[:, 1], count, setting.alpha)
    better = interval(constant - teacher, maes[:, 2] - maes[:, 0], count, setting.alpha)
    assay = "" if better and better.low > 0 else "no assay sensitivity: the teacher is not shown to beat a constant"
    return msgspec.structs.replace(
        base,
        teacher=teacher,
        student=student,
        difference=teacher - student,
        low=found.low if found else None,
        high=found.high if found else None,
        margin=margin_of("mae", pair.task.margins, constant),
        hindrance="the reference has one value only" if constant == 0 else too_few(count),
        assay=assay,
    )


def _measure_dice(pair: Pair, setting: Setting) -> tuple[list[Measured], list[str]]:
    known = pair.known
    cases = np.asarray(known.any(axis=1))
    base = blank(pair, "dice", cases, setting, bootstrap_method(setting), margin_of("dice", pair.task.margins))
    if base.hindrance:
        return [base], []
    patients, count = renumbered(setting.patients[cases])
    width = known.shape[1]
    parts = [known[cases], np.where(known, pair.teacher, 0.0)[cases], np.where(known, pair.student, 0.0)[cases]]
    sums = sum_by_patient(np.concatenate(parts, axis=1).astype(np.float64), patients, count)

    def means(totals: Array) -> Array:
        """Turn sums (r, 3C) into mean Dice (r, 2, C)."""
        seen, teacher, student = (totals[:, k * width : (k + 1) * width] for k in range(3))
        return np.stack([ratio(teacher, seen), ratio(student, seen)], axis=1)

    point = means(sums.sum(axis=0)[None])[0]
    drawn = means(replicate_sums(sums, setting.resamples, setting.seed))
    with_class = tuple(len(np.unique(setting.patients[column])) for column in known.T)
    moved = known & (pair.teacher != pair.student)
    classes = ByClass(point=point, drawn=drawn, patients=with_class, known=known, moved=moved)
    return _by_class(base, pair, classes, setting)


def _measure_map(pair: Pair, setting: Setting) -> tuple[list[Measured], list[str]]:
    cases = pair.known[:, 0]
    base = blank(pair, "map50", cases, setting, bootstrap_method(setting), margin_of("map50", pair.task.margins))
    if base.hindrance:
        return [base], []
    truths = np.stack([matches.truths for matches in pair.teacher_boxes], axis=1)
    base = msgspec.structs.replace(base, positives=int(truths.sum()))
    patients = np.zeros(len(cases), dtype=np.intp)
    patients[cases] = renumbered(setting.patients[cases])[0]
    models = (pair.teacher_boxes, pair.student_boxes)
    point = np.array([[average_precision(matches) for matches in model] for model in models])
    drawn = replicate_precision(models, patients, setting.resamples, setting.seed)
    with_class = tuple(len(np.unique(setting.patients[column > 0])) for column in truths.T)
    known = np.broadcast_to(cases[:, None], truths.shape)
    hits = [np.stack([matches.hits_by_image() for matches in model], axis=1) for model in models]
    classes = ByClass(point=point, drawn=drawn, patients=with_class, known=known, moved=hits[0] != hits[1])
    return _by_class(base, pair, classes, setting)


def _by_class(base: Measured, pair: Pair, classes: ByClass, setting: Setting) -> tuple[list[Measured], list[str]]:
    """Give the mean over classes (primary) and, where there are several classes, one row a class."""
    names = pair.task.classes
    chosen = [k for k, patients in enumerate(classes.patients) if patients >= MIN_PATIENTS]
    chosen = chosen or [k for k, patients in enumerate(classes.patients) if patients]
    if not chosen:
        return [msgspec.structs.replace(base, hindrance="the reference holds nothing to find")], []
    rows = [_mean_row(base, pair, classes, chosen, setting)]
    for k, label in enumerate(names if len(names) > 1 else ()):
        cases = classes.known[:, k]
        patients = len(np.unique(setting.patients[cases]))
        row = msgspec.structs.replace(base, label=label, primary=False, cases=int(cases.sum()), patients=patients)
        rows.append(_mean_row(row, pair, classes, [k], setting))
    notes = [
        f"{pair.task.name}: {names[k]} is not in the mean ({patients} patients have it, {MIN_PATIENTS} are needed); "
        "nothing is proved about it"
        for k, patients in enumerate(classes.patients)
        if k not in chosen
    ]
    return rows, notes


def _mean_row(base: Measured, pair: Pair, classes: ByClass, chosen: Sequence[int], setting: Setting) -> Measured:
    fewest = min(classes.patients[k] for k in chosen)
    point, drawn = mean_known(classes.point[:, chosen], 1), mean_known(classes.drawn[:, :, chosen], 2)
    row = bootstrapped(base, point, drawn, base.patients, setting, identical=pair.identical)
    row = msgspec.structs.replace(row, hindrance=too_few(fewest))
    moved = len(np.unique(setting.patients[classes.moved[:, chosen].any(axis=1)]))
    if pair.identical or moved >= FEW or not fewest:
        return row
    return widened(row, unseen_share(fewest, setting.alpha), setting)


# The table of kinds; it stands at the end because it names the functions above.
MEASURES: dict[Kind, Measure] = {
    "binary": measure_labels,
    "multilabel": measure_labels,
    "multiclass": measure_accuracy,
    "ordinal": measure_kappa,
    "regression": _measure_mae,
    "segmentation": _measure_dice,
    "detection": _measure_map,
}
