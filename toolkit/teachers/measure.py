"""One measured metric with its interval, and what all metrics share; see `metrics.py`."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..parity.bootstrap import interval, replicate_sums
from ..parity.cases import Array, ratio, sum_by_patient
from ..parity.measured import Setting, too_few, unseen_share
from ..parity.proportion import FEW

BOOTSTRAP = "bootstrap by patient; percentiles or Student's t, the wider"
DELONG = "DeLong, components summed by patient (Obuchowski 1997), Student's t"


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one task, or of one of its labels.

    Args:
        task: name of the task.
        metric: name of the metric (table in `metrics.py`).
        label: the label, class, structure or measure; empty for the whole task.
        main: whether the task is judged by it.
        value: None where it does not exist (one class only, nothing to find).
        low: lower end of the 95 % interval; None where no width can be estimated.
        high: its upper end.
        cases: images with a reference.
        patients: whose images they are.
        positives: positive images, or reference boxes.
        method: of the interval.
        note: what a reader must know before believing the number.
    """

    task: str
    metric: str
    label: str = ""
    main: bool = False
    value: float | None = None
    low: float | None = None
    high: float | None = None
    cases: int
    patients: int
    positives: int | None = None
    method: str
    note: str = ""


def started(
    task: str,
    metric: str,
    known: NDArray[np.bool_],
    setting: Setting,
    method: str,
    *,
    label: str = "",
    main: bool = False,
) -> Measure:
    """A metric with its counts, before anything is measured; `known` (N,) are its cases."""
    patients = len(np.unique(setting.patients[known]))
    return Measure(
        task=task, metric=metric, label=label, main=main, cases=int(known.sum()), patients=patients, method=method
    )


def patient_count(setting: Setting) -> int:
    """All patients of the split: the width of the resample matrix."""
    return int(setting.patients.max()) + 1


def patients_of(cases: NDArray[np.bool_], setting: Setting) -> int:
    """How many patients these cases belong to."""
    return len(np.unique(setting.patients[cases]))


def drawn_sums(values: Array, setting: Setting) -> Array:
    """Sums of `values` (N, k) on each resample: (R, k)."""
    sums = sum_by_patient(values, setting.patients, patient_count(setting))
    return replicate_sums(sums, setting.resamples, setting.seed)


def bootstrapped(
    base: Measure, value: float, drawn: Array, setting: Setting, *, span: tuple[float, float], reach: float = 0.0
) -> Measure:
    """Fill in value and interval.

    Args:
        base: as `started` made it.
        value: on the cases themselves.
        drawn: (R,) on the resamples.
        setting: the bootstrap.
        span: smallest and largest value that the metric can have.
        reach: least distance of the interval's ends.
    """
    if not np.isfinite(value):
        return base
    found = interval(value, drawn, base.patients, setting.alpha)
    if found is None:
        return msgspec.structs.replace(base, value=value, note=said(base.note, too_few(base.patients)))
    low, high = min(found.low, value - reach), max(found.high, value + reach)
    note = said(base.note, too_few(base.patients))
    return msgspec.structs.replace(base, value=value, low=max(low, span[0]), high=min(high, span[1]), note=note)


def share(base: Measure, right: NDArray[np.bool_], cells: NDArray[np.bool_], setting: Setting) -> Measure:
    """The share of `cells` (N,) that are `right` (N,), by the bootstrap."""
    if not cells.any():
        return base
    drawn = drawn_sums(np.stack([right & cells, cells], axis=1).astype(np.float64), setting)
    value = float(right[cells].mean())
    reach = unseen(right & cells, cells & ~right, base.patients, setting)
    return bootstrapped(base, value, ratio(drawn[:, 0], drawn[:, 1]), setting, span=(0.0, 1.0), reach=reach)


def unseen(right: NDArray[np.bool_], wrong: NDArray[np.bool_], patients: int, setting: Setting) -> float:
    """How far an interval must reach where too few patients show a right, or a wrong, decision (N,)."""
    fewest = min(patients_of(right, setting), patients_of(wrong, setting))
    return unseen_share(patients, setting.alpha) if fewest < FEW else 0.0


def said(*notes: str) -> str:
    """Join what there is to say, each once."""
    return "; ".join(dict.fromkeys(note for note in notes if note))
