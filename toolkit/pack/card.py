"""What a proof adds to the bill of materials: the model card's numbers, groups and limits, as CycloneDX words them."""

from __future__ import annotations

from collections.abc import Iterator

from ...export.sbom import Group, Performance, Proved
from ...runtime.bundle import Bundle
from ..parity.evidence import Endpoint, Evidence, Subgroup
from .trace import figure

PATIENTS_LIKE_THESE = "nothing is known of patients, devices and sites unlike those of the proof"
NO_PROTOCOL = "no protocol was locked before the proof"


def proved_of(evidence: Evidence, bundle: Bundle) -> Proved:
    """Take what the bill of materials needs from a proof."""
    return Proved(
        performance=tuple(row for endpoint in evidence.endpoints for row in _performance(endpoint)),
        groups=tuple(_group(row) for row in evidence.subgroups if row.flagged or row.few),
        limits=limits_of(evidence),
        tradeoffs=tuple(f"{row.what}: {row.teacher} -> {row.student}" for row in evidence.changes),
        versions=evidence.provenance.versions,
        facts={
            "bundle": bundle.digest,
            "bundle core": evidence.bundle_digest,
            "cases": f"{evidence.cases} images of {evidence.patients} patients, split {evidence.split}",
            "data": evidence.data_digest,
            "protocol": evidence.protocol_digest or "none",
            "statistics": f"one-sided level {evidence.alpha:g}, {evidence.resamples} resamples, seed {evidence.seed}",
            "teacher": evidence.teacher_digest,
            "verdict": evidence.verdict,
            **{f"arithmetic:{engine}": words for engine, words in evidence.provenance.arithmetic.items()},
            **{f"hardware:{what}": words for what, words in evidence.provenance.hardware.items()},
        },
    )


def limits_of(evidence: Evidence) -> tuple[str, ...]:
    """Say what the proof does not cover, in sentences; the first is true of every proof."""
    found = [PATIENTS_LIKE_THESE, *evidence.notes]
    instructions = evidence.provenance.hardware.get("instructions")
    if instructions:
        found.append(f"proved on a processor with {instructions}; int8 may be computed otherwise on another")
    few = sum(row.few for row in evidence.subgroups)
    if few:
        found.append(f"{few} subgroups had too few patients for an interval to be trusted")
    return tuple(dict.fromkeys(found))


def _performance(row: Endpoint) -> Iterator[Performance]:
    """Give the student's own value, and its difference to the teacher with its interval."""
    where = " / ".join(filter(None, (row.engine, row.task, row.label)))
    if row.student is not None:
        yield Performance(type=row.metric, value=figure(row.student), slice=where)
    if row.difference is not None:
        yield Performance(
            type=f"{row.metric}, difference to the teacher (positive: better)",
            value=figure(row.difference),
            slice=where,
            low=figure(row.low),
            high=figure(row.high),
        )


def _group(row: Subgroup) -> Group:
    name = f"{row.attribute} = {row.value}" if row.attribute != "label" else row.value
    task = " ".join(filter(None, (row.task, row.label, row.metric)))
    if row.flagged:
        harm = f"the difference {figure(row.difference)} in {task} on {row.engine} is worse than the margin"
        harm += f" {figure(row.margin)}" if row.margin else ""
    else:
        harm = f"not known: {row.patients} patients are too few to say anything of {task} on {row.engine}"
    return Group(name=name, harm=harm)
