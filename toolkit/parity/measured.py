"""One measured difference before its verdict, what all endpoints share, and how a difference becomes an `Endpoint`.

Three rules keep small numbers honest:

- With fewer than `MIN_PATIENTS` patients (of either class, where there are classes) nothing can pass.
- A variance says nothing about a loss too rare to be seen: the interval reaches at least as far as such a loss could
  cost (`with_spread`, `tilted.unseen`).
- Only answers that are equal bit for bit have the interval [0, 0].
"""

from __future__ import annotations

from math import ceil

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.task import Task
from .evidence import Endpoint, Verdict
from .metrics import METRICS
from .pairing import Pair
from .proportion import Events
from .protocol import TaskRules
from .tilted import Hidden, Spread, growth, unseen
from .verdict import judge, needed_cases

MIN_PATIENTS = 10  # with fewer (positive, negative) patients no asymptotic interval is trusted and nothing can pass


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What the endpoints of a task share: patients (N,) as numbers, the numbers of bootstrap and test, the rules."""

    patients: NDArray[np.intp]
    resamples: int
    seed: int
    alpha: float
    power: float
    rules: TaskRules


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A difference with its interval; the fields are those of `Endpoint` where the names agree.

    Args:
        hindrance: why nothing can be claimed, whatever the interval says.
        assay: why the teacher is not shown to be better than chance.
        grow: how many times the cases at hand would be needed for the planned power; None: derived from the interval.
        student_low: the student's own one-sided bound (upper for errors), for a floor; None where there is none.
        limits: of agreement between student and teacher (Bland and Altman 1986), for measures.
        hidden: what losses too rare to be seen may cost, where the endpoint has such a bound; for planning.
        events: from which the pairs of a rate come; for planning.
    """

    label: str = ""
    metric: str
    primary: bool
    cases: int
    patients: int
    positives: int | None = None
    teacher: float | None = None
    student: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    margin: float
    method: str
    hindrance: str = ""
    assay: str = ""
    grow: float | None = None
    student_low: float | None = None
    limits: tuple[float, float] | None = None
    hidden: Hidden = Hidden()
    events: Events | None = None


def blank(
    pair: Pair, metric: str, cases: NDArray[np.bool_], setting: Setting, method: str, margin: float, label: str = ""
) -> Measured:
    """Start a primary endpoint with its counts, before anything is measured; hindered when there is no case."""
    return Measured(
        label=label,
        metric=metric,
        primary=True,
        cases=int(cases.sum()),
        patients=len(np.unique(setting.patients[cases])),
        margin=margin,
        method=method,
        hindrance="" if cases.any() else "no case has a reference and a teacher's answer",
    )


def too_few(patients: int, kind: str = "") -> str:
    """Say why nothing can be claimed from so many patients; empty when they are enough."""
    if patients >= MIN_PATIENTS:
        return ""
    noun = "patient" if patients == 1 else "patients"
    return f"only {patients} {kind}{noun}; with fewer than {MIN_PATIENTS} no interval is trusted"


def unseen_share(patients: float, alpha: float) -> float:
    """Give the share of patients that may change though none did, see `tilted.unseen`."""
    return unseen(patients, alpha)


def with_spread(
    base: Measured,
    values: tuple[float, float],
    spread: Spread,
    own: Spread,
    hidden: Hidden,
    setting: Setting,
    same: bool,
) -> Measured:
    """Fill in an endpoint from the spread of its difference.

    Args:
        base: with its counts, its metric and its margin.
        values: of the teacher and of the student.
        spread: of the difference, positive when the student is better.
        own: of the student's own value.
        hidden: what a loss too rare to be seen may cost.
        setting: as for all endpoints.
        same: the models' answers are equal bit for bit.
    """
    larger = METRICS[base.metric].larger_is_better
    difference = values[1] - values[0] if larger else values[0] - values[1]
    below, above = spread.below(setting.alpha), spread.above(setting.alpha)
    known = bool(np.isfinite(below))
    bound = values[1] - own.below(setting.alpha) if larger else values[1] + own.above(setting.alpha)
    return msgspec.structs.replace(
        base,
        teacher=values[0],
        student=values[1],
        difference=difference,
        low=0.0 if same else float(difference - max(below, hidden.cost)) if known else None,
        high=0.0 if same else float(difference + max(above, hidden.cost)) if known else None,
        grow=growth([spread], hidden, base.margin, setting.alpha, setting.power) if base.margin > 0 else None,
        student_low=max(bound, 0.0) if np.isfinite(bound) else None,
        hidden=hidden,
    )


def endpoint(engine: str, task: Task, measured: Measured, setting: Setting) -> Endpoint:
    """Put the verdict to a measured difference, by the rule of its metric."""
    m, rule = _inside(measured), setting.rules.endpoints[measured.metric]
    verdict, reason = judge(m.difference, m.low, m.high, m.margin, m.hindrance, m.assay)
    if verdict == "pass" and rule.floor is not None:
        verdict, reason = judge_floor(m, rule.floor, reason)
    needed = _needed(m, setting) if verdict == "underpowered" and not m.hindrance and not m.assay else None
    if needed is not None and needed <= m.cases:
        reason += "; so many cases would do if the true difference were zero"
    return Endpoint(
        engine=engine,
        task=task.name,
        label=m.label,
        metric=m.metric,
        primary=m.primary and rule.primary,
        cases=m.cases,
        patients=m.patients,
        positives=m.positives,
        teacher=m.teacher,
        student=m.student,
        difference=None if m.difference is None else m.difference + 0.0,  # no minus zero in the file
        low=m.low,
        high=m.high,
        margin=m.margin,
        floor=rule.floor,
        student_low=m.student_low if rule.floor is not None else None,
        verdict=verdict,
        provable_margin=None if m.low is None or m.hindrance or m.assay else max(0.0, -m.low),
        needed_cases=needed,
        limits=m.limits,
        method=m.method,
        reason=reason,
    )


def _inside(measured: Measured) -> Measured:
    """Hold the interval to what is possible: shares differ by 1 at most."""
    if measured.low is None or measured.high is None or not METRICS[measured.metric].share_like:
        return measured
    return msgspec.structs.replace(measured, low=max(measured.low, -1.0), high=min(measured.high, 1.0))


def judge_floor(m: Measured, floor: float, passed: str) -> tuple[Verdict, str]:
    """Judge a student that is not worse than its teacher by what it must reach itself.

    Its own bound is the lower end of its interval, for errors the upper one; an endpoint that has none cannot pass.
    """
    if m.student is None or m.student_low is None:
        return "underpowered", f"the student's own {m.metric} has no interval that could be held against the floor"
    larger = METRICS[m.metric].larger_is_better
    if (m.student_low > floor) if larger else (m.student_low < floor):
        return "pass", f"{passed}; the student's own bound {m.student_low:.4g} lies beyond the floor {floor:.4g}"
    short = m.student < floor if larger else abs(m.student) > floor  # a bias has a sign
    return (
        "fail" if short else "underpowered",
        f"the student's own {m.metric} {m.student:.4g} (bound {m.student_low:.4g}) is not shown to reach {floor:.4g}",
    )


def _needed(m: Measured, setting: Setting) -> int | None:
    if m.grow is not None:
        return ceil(m.cases * m.grow)
    if m.difference is None or m.low is None:
        return None
    return needed_cases(m.cases, m.difference - m.low, m.margin, setting.alpha, setting.power)
