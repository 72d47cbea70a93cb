"""How many cases a protocol needs, from the teacher's answers alone, before any student exists.

`plan` measures every endpoint with the teacher beside itself, foresees how far a student of the assumed correlation
would scatter (`scatter.py`), and says how many cases like these (the same mix of classes and of images
a patient) give the planned power when the true difference is zero. Intervals are made as the proof makes them
(`tilted.py`, Tango's), for a difference without skew.

    for one in plan(tasks, cases, references, teacher, protocol, correlation=0.95):
        print(one.task, one.metric, one.cases, one.needed_cases, one.power)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.task import Task
from .cases import Answers, Array, Cases, References, check_material, patient_codes
from .endpoints import measure
from .label_endpoints import count_labels, macro_labels
from .measured import MIN_PATIENTS, Measured, Setting
from .order import in_order
from .pairing import Pair, pair
from .proportion import Events, needed_growth, pairs_on_average
from .protocol import Protocol, check_protocol
from .prove import judged_tasks
from .rate_power import founds_for, loss_power, smallest_margin, tango_power
from .scatter import LossScatter, MeanScatter, RateScatter, Scatter, design_effect, intraclass
from .teacher_scatter import scatter_of
from .tilted import Hidden, growth, power_at_zero, provable

CORRELATIONS = (0.90, 0.95, 0.98, 0.99, 0.995)  # what a table shows; int8 students of good teachers have the last ones
USUAL = 0.95
TOGETHER = 0.3  # as much less alike than right decisions are changes of one patient; found by simulation


class Foreseen(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint before a correlation is assumed: the teacher beside itself, and its scatter."""

    task: str
    primary: bool
    measured: Measured
    scatter: Scatter | None
    fewest: int  # patients: of the rarer class where there are labels


class Planned(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one endpoint needs when the true difference is zero.

    Args:
        task: its name.
        label: measure of a regression with several; empty otherwise.
        metric: see `metrics.METRICS`.
        primary: it counts for the verdict.
        margin: of the protocol.
        teacher: the teacher's value on these cases.
        cases: that these data have for the endpoint.
        patients: the same.
        positives: the same; None where nothing is positive or negative.
        correlation: assumed.
        discordance: share of decisions expected to differ, for rates; of critical positives expected to be lost.
        error: expected standard error of the difference on these cases, for all others.
        design_effect: how many times more cases it takes because images of one patient vary together.
        icc: the intra-class correlation behind it; None with one image a patient.
        needed_cases: for the planned power; None where it cannot be foreseen.
        needed_positives: among them.
        needed_patients: among them.
        provable_margin: the smallest that these cases would prove with the planned power.
        power: with these cases, at the margin.
        note: what stands in the way whatever the number of cases, or why nothing is foreseen.
    """

    task: str
    label: str
    metric: str
    primary: bool
    margin: float
    teacher: float | None
    cases: int
    patients: int
    positives: int | None
    correlation: float
    discordance: float | None = None
    error: float | None = None
    design_effect: float | None = None
    icc: float | None = None
    needed_cases: int | None = None
    needed_positives: int | None = None
    needed_patients: int | None = None
    provable_margin: float | None = None
    power: float | None = None
    note: str = ""


def plan(
    tasks: Sequence[Task],
    cases: Cases,
    references: References,
    teacher: Answers,
    protocol: Protocol,
    correlation: float = USUAL,
    *,
    discordance: float | None = None,
) -> tuple[Planned, ...]:
    """Plan every endpoint of a protocol.

    Args:
        tasks: of the bundle or recipe; those that the protocol names are planned.
        cases: the images; see `cases.py` for these three.
        references: what is true.
        teacher: the teacher's answers.
        protocol: margins, alpha and power.
        correlation: of the scores of teacher and student among cases with the same truth, on the normal scale.
        discordance: share of decisions that differ, where it is known better than from the correlation.

    Raises:
        FoveolaError: the material does not fit together.
        UsageError: the protocol does not fit the tasks.
    """
    found = foresee(tasks, cases, references, teacher, protocol)
    return tuple(plan_one(one, protocol, correlation, discordance=discordance) for one in found)


def foresee(
    tasks: Sequence[Task], cases: Cases, references: References, teacher: Answers, protocol: Protocol
) -> tuple[Foreseen, ...]:
    """Do the part of `plan` that does not depend on the correlation; see there."""
    check_protocol(protocol, tasks)
    judged = judged_tasks(protocol, tasks)
    asked = [task for task, _ in judged]
    check_material(asked, cases, references, {"teacher": teacher})
    material = in_order(asked, cases, references, teacher, {})
    patients = patient_codes(material.cases.patients)
    found: list[Foreseen] = []
    for task, rules in judged:
        setting = Setting(
            patients=patients,
            resamples=protocol.resamples,
            seed=protocol.seed,
            alpha=protocol.alpha,
            power=protocol.power,
            rules=rules,
        )
        beside_itself = pair(task, material.references, material.teacher, material.teacher)
        rows, _ = measure(beside_itself, setting)
        found += [
            Foreseen(
                task=task.name,
                primary=rules.endpoints[one.metric].primary,
                measured=one,
                scatter=scatter_of(beside_itself, one, setting, material.teacher),
                fewest=_fewest(beside_itself, one, patients),
            )
            for one in rows
            if one.primary  # the rows of single labels and classes only describe
        ]
    return tuple(found)


def _fewest(beside_itself: Pair, one: Measured, patients: NDArray[np.intp]) -> int:
    if one.metric == "probe_auc":
        return _rarer(beside_itself.reference[:, 1:], patients)
    if beside_itself.task.kind not in ("binary", "multilabel") or one.metric == "critical_loss":
        return one.patients
    return _rarer(beside_itself.reference, patients)


def _rarer(reference: Array, patients: NDArray[np.intp]) -> int:
    """Patients of the rarer class, of the label that has fewest of them."""
    counts = count_labels(reference, patients)
    columns = macro_labels(counts)
    return int(np.minimum(counts.positive_patients, counts.negative_patients)[columns].min())


def plan_one(
    foreseen: Foreseen, protocol: Protocol, correlation: float, *, discordance: float | None = None
) -> Planned:
    """Plan one endpoint for one correlation; see `plan`."""
    one, scatter = foreseen.measured, foreseen.scatter
    base = Planned(
        task=foreseen.task,
        label=one.label,
        metric=one.metric,
        primary=foreseen.primary,
        margin=one.margin,
        teacher=one.teacher,
        cases=one.cases,
        patients=one.patients,
        positives=one.positives,
        correlation=correlation,
        note=one.hindrance or one.assay,
    )
    if scatter is None:
        return msgspec.structs.replace(base, note=one.hindrance or "the teacher's answers alone cannot tell")
    base = msgspec.structs.replace(base, design_effect=design_effect(scatter), icc=intraclass(scatter))
    least = MIN_PATIENTS / max(foreseen.fewest, 1)  # as many times the cases, or nothing can pass
    if isinstance(scatter, LossScatter):
        psi = scatter.discordance(correlation) if discordance is None else discordance
        return _plan_loss(base, scatter, protocol, scatter.lost(psi), least)
    if isinstance(scatter, RateScatter):
        psi = scatter.discordance(correlation) if discordance is None else discordance
        return _plan_rate(base, scatter, one.events, protocol, psi, least)
    return _plan_mean(base, scatter, one.hidden, protocol, correlation, least)


def joint_power(planned: Sequence[Planned]) -> float | None:
    """Give the power of all primary endpoints together, as if they were independent; None where one is not known.

    The product is on the low side: endpoints of one student on one set of cases tend to pass together.
    """
    powers = [one.power for one in planned if one.primary]
    known = [power for power in powers if power is not None]
    return prod(known) if known and len(known) == len(powers) else None


# --- rates ---


def _plan_rate(
    base: Planned, scatter: RateScatter, events: Events | None, protocol: Protocol, psi: float, least: float
) -> Planned:
    alpha, power = protocol.alpha, protocol.power
    assert events is not None, "a rate that was measured has events"
    alike = (scatter.design - 1.0) / (scatter.images - 1.0) if scatter.images > 1.0 else 0.0
    foreseen = events.expecting(psi, min(TOGETHER * alike, 1.0))

    def power_at(margin: float) -> float:
        return tango_power(pairs_on_average(foreseen, psi, margin, power), psi, margin, alpha)

    return _filled(
        base,
        max(needed_growth(foreseen, psi, base.margin, alpha, power), least),
        discordance=psi,
        provable_margin=smallest_margin(power_at, power),
        power=0.0 if base.note else power_at(base.margin),
    )


def _plan_loss(base: Planned, scatter: LossScatter, protocol: Protocol, lost: float, least: float) -> Planned:
    """Critical positives are lost by chance too; a margin that is no larger than that cannot be proved."""
    alpha, power, pairs = protocol.alpha, protocol.power, scatter.pairs / scatter.design
    wanted = founds_for(lost, base.margin, alpha, power)
    base = msgspec.structs.replace(
        base,
        discordance=lost,
        provable_margin=smallest_margin(lambda margin: loss_power(pairs, lost, margin, alpha), power),
        power=0.0 if base.note else loss_power(pairs, lost, base.margin, alpha),
    )
    if wanted is None:
        fault = f"at this correlation {lost:.1%} would be lost by chance alone, the margin is {base.margin:.1%}"
        return msgspec.structs.replace(base, note=base.note or fault)
    return _filled(base, max(wanted / pairs, least))


# --- means and areas ---


def _plan_mean(
    base: Planned, scatter: MeanScatter, hidden: Hidden, protocol: Protocol, correlation: float, least: float
) -> Planned:
    spread, alpha, margin = scatter.of_difference(correlation), protocol.alpha, base.margin
    if not np.isfinite(spread.below(alpha)):
        return msgspec.structs.replace(base, note=base.note or "a single patient shows no scatter")
    sides = [spread] * (2 if base.metric == "bias" else 1)  # bias has two bounds to keep (two one-sided tests)
    smallest = provable(sides, hidden, alpha, protocol.power)
    base = msgspec.structs.replace(
        base,
        error=spread.variance**0.5,
        provable_margin=smallest if np.isfinite(smallest) else None,
        power=0.0 if base.note else power_at_zero(sides, hidden, margin, alpha),
    )
    grow = growth(sides, hidden, margin, alpha, protocol.power) if margin > 0 else None
    return base if grow is None else _filled(base, max(grow, least))


def _filled(base: Planned, grow: float, **found: float | None) -> Planned:
    """Fill in what is needed: `grow` times the cases at hand."""
    return msgspec.structs.replace(
        base,
        needed_cases=ceil(base.cases * grow - 1e-9),
        needed_positives=None if base.positives is None else ceil(base.positives * grow - 1e-9),
        needed_patients=ceil(base.patients * grow - 1e-9),
        **found,
    )
