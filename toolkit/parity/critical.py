"""Critical positives that the teacher finds and the student loses: their share has a bound of its own.

A mean forgives a lost pneumothorax for ten gained ones; this endpoint does not. Counted are the reference's positives
of the critical classes that the teacher finds (labels: at its threshold; classes: by deciding them), all critical
classes together; what the student gains is not looked at. The difference is minus the share that it loses.

The bound is Clopper and Pearson's (1934), exact for independent cases, taken at the number of pairs that the patients'
cases are worth (`proportion.event_size`), as Korn and Graubard (Survey Methodology 1998) do for clustered surveys. With
nothing lost that is the effective number of patients: 0 of n bounds the share at 1 - alpha^(1/n), about 3.7/n.
"""

from __future__ import annotations

from math import log

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from .measured import Measured, Setting, too_few
from .metrics import margin_of
from .pairing import Pair
from .proportion import event_size

METRIC = "critical_loss"
METHOD = "Clopper and Pearson's exact interval at the pairs that the patients' cases are worth (Korn and Graubard 1998)"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Critical positives, (N, c) for c critical classes."""

    names: tuple[str, ...]
    positive: NDArray[np.bool_]  # in the reference
    found: NDArray[np.bool_]  # by the teacher
    lost: NDArray[np.bool_]  # by the student, of those found


def measure_critical_labels(pair: Pair, setting: Setting) -> list[Measured]:
    """Measure what a binary or multilabel task loses: all critical labels together, and each of several."""
    labels = pair.task.classes[1:] if pair.task.kind == "binary" else pair.task.classes
    columns = [k for k, label in enumerate(labels) if label in pair.task.critical]
    positive = pair.known[:, columns] & (pair.reference[:, columns] > 0.5)
    found = positive & (np.nan_to_num(pair.teacher[:, columns]) >= pair.teacher_limits[columns])
    lost = found & (np.nan_to_num(pair.student[:, columns]) < pair.student_limits[columns])
    same = pair.identical and np.array_equal(pair.teacher_limits[columns], pair.student_limits[columns])
    names = tuple(labels[k] for k in columns)
    return _rows(pair, Found(names=names, positive=positive, found=found, lost=lost), setting, same=same)


def measure_critical_classes(pair: Pair, setting: Setting) -> list[Measured]:
    """Measure what a task with one class or grade a case loses."""
    indices = [k for k, label in enumerate(pair.task.classes) if label in pair.task.critical]
    positive = pair.reference == np.array(indices, dtype=np.float64)  # a gap equals nothing
    found = positive & (pair.teacher == pair.reference)
    lost = found & (pair.student != pair.reference)
    names = tuple(pair.task.classes[k] for k in indices)
    return _rows(pair, Found(names=names, positive=positive, found=found, lost=lost), setting, same=pair.identical)


def exact_interval(share: float, pairs: float, alpha: float) -> tuple[float, float]:
    """Give Clopper and Pearson's two-sided 1 - 2 alpha interval of a share; counts need not be whole."""
    hits = share * pairs
    low = float(beta.ppf(alpha, hits, pairs - hits + 1.0)) if share > 0.0 else 0.0
    high = float(beta.ppf(1.0 - alpha, hits + 1.0, pairs - hits)) if share < 1.0 else 1.0
    return low, high


def _rows(pair: Pair, cells: Found, setting: Setting, *, same: bool) -> list[Measured]:
    if METRIC not in setting.rules.endpoints:
        return []
    rows = [_row(pair, cells, list(range(len(cells.names))), "", setting, same=same)]
    if len(cells.names) > 1:
        rows += [_row(pair, cells, [k], name, setting, same=same) for k, name in enumerate(cells.names)]
    return rows


def _row(pair: Pair, cells: Found, columns: list[int], label: str, setting: Setting, *, same: bool) -> Measured:
    found = cells.found[:, columns]
    cases, labels = np.nonzero(found)
    patients = setting.patients[cases]
    base = Measured(
        label=label,
        metric=METRIC,
        primary=not label,
        cases=len(cases),
        patients=len(np.unique(patients)),
        positives=int(cells.positive[:, columns].sum()),
        margin=margin_of(METRIC, pair.task.margins),
        method=METHOD,
        hindrance=_hindrance(cells, columns),
    )
    if not len(cases):
        return base
    lost = cells.lost[:, columns][found].astype(np.float64)
    weights = np.full(len(lost), 1.0 / len(lost))
    pairs = 1.0 / event_size(lost, weights, patients, labels)
    share = float(lost.mean())
    low, high = (0.0, 0.0) if same else exact_interval(share, pairs, setting.alpha)
    return msgspec.structs.replace(
        base,
        teacher=0.0,
        student=share,
        difference=-share,
        low=-high,
        high=-low,
        hindrance=base.hindrance or too_few(base.patients, "found positive "),
        grow=log(setting.alpha) / log(1.0 - base.margin) / pairs if base.margin < 1.0 else None,
        student_low=high,
    )


def _hindrance(cells: Found, columns: list[int]) -> str:
    if not columns:
        return "no class is named as critical"
    if not cells.positive[:, columns].any():
        return "the reference has no critical positive"
    return "" if cells.found[:, columns].any() else "the teacher finds no critical positive"
