"""Endpoints of boxes: mean average precision at IoU 0.5, and sensitivity at rates of false positives an image.

None of them is a sum over cases, so the standard error is that of the bootstrap by patient, or the jackknife's (every
patient left out in turn) where it is larger. What the jackknife tells of each patient also corrects the interval for
skewness (`tilted.py`), and it reaches at least as far as patients whose boxes are all lost, too few to be seen.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from .by_class import hidden_cost, mean_known, rows_by_class, shares_of
from .cases import Array, renumbered, sum_by_patient
from .detection import Weighted, leave_out, precision_of, replicate_weighted
from .froc import RATES, sensitivity_of
from .measured import Measured, Setting, blank, with_spread
from .metrics import margin_of
from .pairing import Pair
from .tilted import METHOD, Spread, effective, spread_of


class Resampled(msgspec.Struct, frozen=True, kw_only=True):
    """A metric of both models by class.

    Args:
        point: (2, C) teacher and student on the cases; NaN where a class does not occur.
        drawn: (R, 2, C) on the resamples.
        without: (G, 2, C) with each patient, or group of patients, left out.
        truths: (P, C) reference boxes by patient.
    """

    point: Array
    drawn: Array
    without: Array
    truths: Array

    def spread(self, columns: list[int], turn: tuple[float, float]) -> Spread:
        """Give the spread of a combination of the two models' means over some classes."""
        weights = np.asarray(turn)
        drawn = mean_known(self.drawn[:, :, columns], 2) @ weights
        without = mean_known(self.without[:, :, columns], 2) @ weights
        drawn, without = drawn[np.isfinite(drawn)], without[np.isfinite(without)]
        freedom = effective(shares_of(self.truths[:, columns])[0]) - 1.0
        groups, patients = len(without), len(self.truths)
        if groups < 2 or len(drawn) < 2 or not freedom > 0:
            return Spread(variance=float("nan"), third=0.0, lowest=0.0, highest=0.0, freedom=0.0)
        left = spread_of((without.mean() - without) * ((groups - 1) / groups) ** 0.5, 0.0, freedom)
        by_bootstrap = float(drawn.var(ddof=1)) * patients / (patients - 1)
        return msgspec.structs.replace(left, variance=max(left.variance, by_bootstrap))


def measure_boxes(pair: Pair, setting: Setting) -> tuple[list[Measured], list[str]]:
    """Measure what the rules name, and notes."""
    rows: list[Measured] = []
    notes: list[str] = []
    for metric in STATISTICS:
        if metric in setting.rules.endpoints:
            found, said = _measure(metric, pair, setting)
            rows += found
            notes += [note for note in said if note not in notes]
    return rows, notes


def box_method(setting: Setting) -> str:
    """Name the method in the evidence."""
    return (
        f"paired bootstrap by patient, {setting.resamples} resamples, or jackknife, the wider; {METHOD}; "
        "at least what an unseen miss may cost"
    )


def _measure(metric: str, pair: Pair, setting: Setting) -> tuple[list[Measured], list[str]]:
    cases = pair.known[:, 0]
    base = blank(pair, metric, cases, setting, box_method(setting), margin_of(metric, pair.task.margins))
    if base.hindrance:
        return [base], []
    truths = np.stack([matches.truths for matches in pair.teacher_boxes], axis=1)
    base = msgspec.structs.replace(base, positives=int(truths.sum()))
    with_class = [len(np.unique(setting.patients[column > 0])) for column in truths.T]
    if not any(with_class):
        return [msgspec.structs.replace(base, hindrance="the reference holds nothing to find")], []
    found = _resampled(metric, pair, truths, setting)

    def row(started: Measured, columns: list[int]) -> Measured:
        point = mean_known(found.point[:, columns], 1)
        held = shares_of(found.truths[:, columns])[1]
        hidden = hidden_cost(held, np.nan_to_num(found.point[0, columns]), setting.alpha)
        spread, own, teacher = (found.spread(columns, turn) for turn in ((-1.0, 1.0), (0.0, 1.0), (1.0, 0.0)))
        values = float(point[0]), float(point[1])
        measured = with_spread(started, values, spread, own, hidden, setting, pair.identical)
        shown = values[0] - teacher.below(setting.alpha) > 0
        return msgspec.structs.replace(
            measured,
            positives=int(truths[:, columns].sum()),
            assay="" if shown else f"no assay sensitivity: the teacher's {metric} is not shown to exceed zero",
        )

    return rows_by_class(base, pair, with_class, np.broadcast_to(cases[:, None], truths.shape), setting, row)


def _resampled(metric: str, pair: Pair, truths: Array, setting: Setting) -> Resampled:
    cases = pair.known[:, 0]
    patients = np.zeros(len(cases), dtype=np.intp)
    patients[cases], count = renumbered(setting.patients[cases])
    statistic = STATISTICS[metric](pair, patients, count, setting)
    return Resampled(
        point=statistic(np.ones((count, 1)))[0],
        drawn=replicate_weighted(statistic, count, setting.resamples, setting.seed),
        without=leave_out(SMOOTH.get(metric, STATISTICS[metric])(pair, patients, count, setting), count),
        truths=sum_by_patient(truths[cases], patients[cases], count),
    )


def _precision(pair: Pair, patients: NDArray[np.intp], count: int, setting: Setting) -> Weighted:
    return precision_of((pair.teacher_boxes, pair.student_boxes), patients)


def _area(pair: Pair, patients: NDArray[np.intp], count: int, setting: Setting) -> Weighted:
    return precision_of((pair.teacher_boxes, pair.student_boxes), patients, smooth=True)


def _at_one_rate(pair: Pair, patients: NDArray[np.intp], count: int, setting: Setting) -> Weighted:
    return _sensitivity(pair, patients, count, (setting.rules.false_positives,))


def _at_all_rates(pair: Pair, patients: NDArray[np.intp], count: int, setting: Setting) -> Weighted:
    return _sensitivity(pair, patients, count, RATES)


def _sensitivity(pair: Pair, patients: NDArray[np.intp], count: int, rates: tuple[float, ...]) -> Weighted:
    images = np.bincount(patients[pair.known[:, 0]], minlength=count).astype(np.float64)
    return sensitivity_of((pair.teacher_boxes, pair.student_boxes), patients, images, rates)


# The tables of metrics; they stand at the end because they name the functions above.
Made = Callable[[Pair, NDArray[np.intp], int, Setting], Weighted]
SMOOTH: dict[str, Made] = {"map50": _area}  # what patients are left out of, where the metric itself has steps
STATISTICS: dict[str, Made] = {
    "map50": _precision,
    "sensitivity_at_fp": _at_one_rate,
    "froc": _at_all_rates,
}
