"""The pack's pages: contents, model card, change control. Only arranged here; they load nothing and hold no script.

What only a maker can say (intended use, who may use it, where the data come from) is left open in words, and is never
filled with a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from ...runtime.bundle import Bundle
from ...runtime.engine import engine_of
from ...runtime.manifest import EngineOptions, TaskOutput
from ...runtime.signature import SIGNATURE
from ...runtime.task import Kind
from ..parity.evidence import VERDICTS, Endpoint, Evidence, Subgroup
from ..parity.protocol import Protocol
from ..proof.changes import UNKNOWN, TeacherFacts, changes_of, labels_of, student_of
from ..proof.provenance import settings
from ..report import wording
from ..report.page import page_environment, printed_digest
from ..report.tables import rules_of
from .card import NO_PROTOCOL, limits_of
from .soup import Soup

NUMBERED = re.compile(r"case-\d+-[0-9a-f]{8}")  # how `private.py` calls a case


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What the pages show."""

    evidence: Evidence
    bundle: Bundle
    protocol: Protocol | None
    vouched: bool
    components: Sequence[Soup]


class File(msgspec.Struct, frozen=True):
    """One file of the pack."""

    name: str
    what: str
    asked_by: str  # what it is meant to support; see docs/evidence.md
    sha256: str


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint, as people read it."""

    task: str
    metric: str
    engine: str
    teacher: str
    student: str
    difference: str
    interval: str
    margin: str
    verdict: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One task, as people read it."""

    name: str
    kind: str
    classes: str
    thresholds: str
    temperature: str


FILES = {  # name -> what it is, what it is meant to support
    "traceability.csv": (
        "From each requirement to its result and the file that holds it",
        "PCCP traceability table",
    ),
    "change-control.html": (
        "What was modified, under which protocol, with which outcome",
        "PCCP modifications, impact assessment",
    ),
    "model-card.html": ("What the model is, what was measured, what it does not cover", "FDA draft 2025, model card"),
    "sbom.cdx.json": ("Bill of materials (CycloneDX 1.6) with the model as a component", "524B; IEC 81001-5-1"),
    "soup.csv": ("Software of unknown provenance on the device", "IEC 62304 5.3.3, 5.3.4, 7.1.3, 8.1.2"),
    "report.html": ("The proof, with all figures", "PCCP performance evaluation"),
    "evidence.json": ("The proof, every number with its method", "PCCP performance evaluation"),
    "flips.csv": ("Every case that the student decided otherwise", "PCCP impact assessment"),
    "protocol.lock.json": ("The protocol as it was locked, with its digest", "PCCP modification protocol"),
    "protocol.yaml": ("The protocol as it was written", "PCCP modification protocol"),
    "protocol.json": ("The protocol of the recipe's step", "PCCP modification protocol"),
}


def index(shown: Shown, digests: Mapping[str, str], requirements: int) -> str:
    """Write `index.html`: the verdict, every file with its digest, and what the pack is not.

    Args:
        shown: what is shown.
        digests: sha256 of each other file.
        requirements: rows of the traceability table.
    """
    files = [File(name, *FILES[name], digests[name]) for name in FILES if name in digests]
    named = any(not NUMBERED.fullmatch(flip.case) for flip in shown.evidence.flips)
    return _page("pack_index.html.j2", shown, files=files, requirements=requirements, named=named)


def model_card(shown: Shown) -> str:
    """Write `model-card.html`."""
    manifest, evidence = shown.bundle.manifest, shown.evidence
    flagged = [row for row in evidence.subgroups if row.flagged]
    return _page(
        "pack_model_card.html.j2",
        shown,
        answers=[_answer(output) for output in manifest.outputs],
        lines=[_line(row, manifest.outputs) for row in wording.in_reading_order(_primary(evidence))],
        groups=[_group(row) for row in flagged],
        few=sum(row.few for row in evidence.subgroups),
        screened=len(evidence.subgroups),
        limits=[wording.sentence(limit) for limit in limits_of(evidence)],
        engines=[_engine(one, evidence) for one in manifest.engines],
    )


def change_control(shown: Shown) -> str:
    """Write `change-control.html`; where the proof does not tell what was changed, the manifest says what it can."""
    evidence, protocol = shown.evidence, shown.protocol
    manifest = shown.bundle.manifest
    told = evidence.changes or changes_of(TeacherFacts(), manifest, student_of(shown.bundle))
    primary = _primary(evidence)
    return _page(
        "pack_change_control.html.j2",
        shown,
        changes=[row for row in told if row.teacher != row.student],
        kept=[row for row in told if row.teacher == row.student != UNKNOWN],
        unknown=[row for row in told if row.teacher == row.student == UNKNOWN],
        from_proof=bool(evidence.changes),
        margins=_margins(evidence, manifest.outputs),
        rules=rules_of(protocol),
        no_protocol=NO_PROTOCOL,
        open_lines=[_line(row, manifest.outputs) for row in primary if row.verdict != "pass"],
        flips=_flips(evidence),
        critical=[row for row in evidence.endpoints if row.metric == "critical_loss"],
        flagged=[_group(row) for row in evidence.subgroups if row.flagged],
        drifted=[row for row in evidence.drifts if row.flagged],
    )


def _page(template: str, shown: Shown, **parts: object) -> str:
    environment = page_environment()
    evidence, bundle = shown.evidence, shown.bundle
    return environment.get_template(template).render(
        evidence=evidence,
        manifest=bundle.manifest,
        bundle=bundle,
        protocol=shown.protocol,
        vouched=shown.vouched,
        signed=SIGNATURE in bundle.members,
        components=shown.components,
        headline=wording.headline(evidence),
        confidence=wording.confidence(evidence.alpha),
        tally=_tally(evidence),
        footer=f"bundle {printed_digest(evidence.bundle_digest)}",
        **parts,
    )


def _primary(evidence: Evidence) -> list[Endpoint]:
    return [row for row in evidence.endpoints if row.primary]


def _tally(evidence: Evidence) -> dict[str, int]:
    found = [row.verdict for row in _primary(evidence)]
    return {verdict: found.count(verdict) for verdict in VERDICTS if verdict in found}


def _line(row: Endpoint, outputs: Sequence[TaskOutput]) -> Line:
    kinds: dict[str, Kind] = {output.task.name: output.task.kind for output in outputs}
    digits = wording.digits(row)
    bound = wording.bound_digits(row)
    name = wording.metric_name(row.metric, kinds.get(row.task), row.label)
    return Line(
        task=" · ".join(filter(None, (row.task, row.label))),
        metric=wording.title(name),
        engine=row.engine,
        teacher=wording.number(row.teacher, digits),
        student=wording.number(row.student, digits),
        difference=wording.signed(row.difference, digits),
        interval=wording.span(row.low, row.high, digits, bound),
        margin=wording.number(row.margin, bound),
        verdict=row.verdict,
    )


def _answer(output: TaskOutput) -> Answer:
    task, labels = output.task, labels_of(output)
    points = [
        f"{labels[place]} {value:.3g}" if len(labels) == len(output.thresholds) else f"{value:.3g}"
        for place, value in enumerate(output.thresholds)
    ]
    classes = ", ".join(task.classes) + (f" ({task.unit})" if task.unit else "")
    if task.kind == "embedding":
        classes = f"{task.size} numbers" + (f"; conditions probed: {classes}" if classes else "")
    return Answer(
        name=task.name,
        kind=task.kind,
        classes=classes,
        thresholds=", ".join(points) or wording.NOTHING,
        temperature=f"{output.temperature:.3g}",
    )


def _group(row: Subgroup) -> tuple[str, str, str]:
    """Give a flagged subgroup: its name, its task, what was found."""
    name = f"{row.attribute} = {row.value}" if row.attribute != "label" else row.value
    what = f"{' · '.join(filter(None, (row.task, row.label)))} on {row.engine}"
    found = f"{wording.signed(row.difference)} ({wording.span(row.low, row.high) or 'no interval'}), {row.cases} cases"
    return name, what, found


def _engine(options: EngineOptions, evidence: Evidence) -> tuple[str, str, str]:
    """Give an engine, its settings, and what it really computed."""
    name = engine_of(options)
    words = evidence.provenance.arithmetic.get(name)
    return name, f"{options.arithmetic}, {settings(options)}", words or "not told by the proof"


def _margins(evidence: Evidence, outputs: Sequence[TaskOutput]) -> list[Line]:
    """Give each primary endpoint's margin once, whatever the engine."""
    first: dict[tuple[str, str, str], Endpoint] = {}
    for row in _primary(evidence):
        first.setdefault((row.task, row.label, row.metric), row)
    return [_line(row, outputs) for row in first.values()]


def _flips(evidence: Evidence) -> list[tuple[str, int]]:
    """Sum the flips by kind."""
    counts: dict[str, int] = {}
    for name, count in evidence.flip_counts.items():
        kind = name.rpartition("/")[2]
        counts[kind] = counts.get(kind, 0) + count
    return sorted(counts.items())
