"""The report's plain tables: protocol, operating points, calibration errors, agreement, drift, gaps. Only arranged.

Each function gives an empty list where the evidence has nothing, and the report then has no such section.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ...runtime.errors import FoveolaError
from ...runtime.manifest import Manifest
from ...runtime.task import Task
from ..parity.evidence import Agreement, Drift, Endpoint, Evidence
from ..parity.metrics import METRICS
from ..parity.protocol import Protocol, TaskRules
from . import wording


class Judged(msgspec.Struct, frozen=True):
    """One endpoint as the protocol fixed it."""

    task: str
    metric: str
    primary: bool
    margin: str
    floor: str
    source: str  # of the margin


class Expected(msgspec.Struct, frozen=True):
    """The calibration error of one label, by model."""

    task: str
    label: str
    cases: str
    values: tuple[str, ...]  # in the order of the models


class Agreed(msgspec.Struct, frozen=True):
    """One line of the table of agreement."""

    task: str
    label: str
    engine: str
    measure: str
    count: str
    agreement: str
    low: str
    flips: str


class Shift(msgspec.Struct, frozen=True):
    """One line of the table of drift."""

    what: str
    engine: str
    cases: str
    reference_cases: str
    psi: str
    ks: str
    flagged: bool


class Gap(msgspec.Struct, frozen=True):
    """How often a policy was needed."""

    what: str
    policy: str
    count: str


def check_same(evidence: Evidence, protocol: Protocol | None) -> None:
    """Refuse to show a proof under a protocol that it was not made under.

    Raises:
        FoveolaError: the digests differ.
    """
    if protocol is not None and protocol.digest != evidence.protocol_digest:
        fault = f"the proof was made under {evidence.protocol_digest[:12] or 'none'}, not {protocol.digest[:12]}"
        raise FoveolaError("protocol", fault, "give the protocol of this proof")


def judged(evidence: Evidence, manifest: Manifest, protocol: Protocol | None) -> list[Judged]:
    """Give each endpoint's margin and floor, and who fixed the margin; one line for a metric of a task."""
    tasks = {output.task.name: output.task for output in manifest.outputs}
    first: dict[tuple[str, str], Endpoint] = {}
    for endpoint in evidence.endpoints:
        first.setdefault((endpoint.task, endpoint.metric), endpoint)
    return [_judged(endpoint, tasks.get(task), protocol) for (task, _), endpoint in first.items()]


def _judged(endpoint: Endpoint, task: Task | None, protocol: Protocol | None) -> Judged:
    name = wording.metric_name(endpoint.metric, task.kind if task else None)
    return Judged(
        task=endpoint.task,
        metric=wording.title(name),
        primary=endpoint.primary,
        margin=wording.number(endpoint.margin, wording.digits(endpoint)),
        floor="" if endpoint.floor is None else wording.number(endpoint.floor, wording.digits(endpoint)),
        source=_source(endpoint, protocol),
    )


def _source(endpoint: Endpoint, protocol: Protocol | None) -> str:
    """Say who fixed a margin."""
    metric = METRICS.get(endpoint.metric)
    usual = metric.margin if metric else None
    if protocol is not None:
        rules = protocol.tasks.get(endpoint.task) or protocol.biomarkers.get(endpoint.task)
        rule = rules.endpoints.get(endpoint.metric) if rules else None
        if rule is not None and rule.margin is not None:
            return "protocol, the usual one" if rule.margin == usual else "protocol"
    if usual is None:
        return f"{100 * metric.share:g} % of a constant's error" if metric and metric.share else ""
    return "the usual one" if endpoint.margin == usual else "set for this task"


def rules_of(protocol: Protocol | None) -> list[tuple[str, str]]:
    """Give what else the protocol fixed for its tasks: name and words."""
    if protocol is None:
        return []
    found = [(name, _rules(rules)) for name, rules in protocol.tasks.items()]
    found += [
        (name, f"{marker.kind.replace('_', ' ')} from the masks of {marker.task}")
        for name, marker in protocol.biomarkers.items()
    ]
    return [(name, words) for name, words in found if words]


def _rules(rules: TaskRules) -> str:
    parts: list[str] = []
    if rules.operating_point:
        parts.append(f"thresholds locked by the rule {rules.operating_point}")
    if rules.critical:
        parts.append(f"critical: {wording.listed(rules.critical)}")
    if {"nsd", "hd95"} & set(rules.endpoints):
        unit = f"mm, {rules.spacing:g} mm a pixel" if rules.spacing else "pixels"
        parts.append(f"surfaces agree within {rules.tolerance:g} {unit}")
    if "sensitivity_at_fp" in rules.endpoints:
        parts.append(f"sensitivity at {rules.false_positives:g} false positives an image")
    return "; ".join(parts)


def calibration_errors(evidence: Evidence, models: Sequence[str]) -> list[Expected]:
    """Give the expected calibration error of each label, by model."""
    found = {(row.task, row.label, row.engine): row for row in evidence.reliability}
    table: list[Expected] = []
    for task, label in dict.fromkeys((row.task, row.label) for row in evidence.reliability):
        rows = [found.get((task, label, model)) for model in models]
        cases = max((row.cases for row in rows if row), default=0)
        values = tuple(wording.number(row.ece if row else None) for row in rows)
        table.append(Expected(task, label, wording.thousands(cases), values))
    return table


def agreed(agreements: Sequence[Agreement]) -> list[Agreed]:
    """Write the table of agreement."""
    return [
        Agreed(
            task=row.task,
            label=row.label,
            engine=row.engine,
            measure=wording.AGREEMENTS[row.measure],
            count=f"{wording.thousands(row.cases)} of {wording.thousands(row.patients)} patients",
            agreement=wording.number(row.agreement, 4),
            low=wording.number(row.low, 4),
            flips=wording.thousands(row.flips),
        )
        for row in agreements
    ]


def shifts(drifts: Sequence[Drift]) -> list[Shift]:
    """Write the table of drift, what is flagged first."""
    return [
        Shift(
            what=row.what.replace("/", " · "),
            engine=row.engine,
            cases=wording.thousands(row.cases),
            reference_cases=wording.thousands(row.reference_cases),
            psi=wording.number(row.psi),
            ks=wording.number(row.ks),
            flagged=row.flagged,
        )
        for row in sorted(drifts, key=lambda row: not row.flagged)
    ]


def gaps(evidence: Evidence) -> list[Gap]:
    """Write what was done about gaps, and how often."""
    return [
        Gap(what, wording.POLICIES.get(what, ""), wording.thousands(count)) for what, count in evidence.policies.items()
    ]
