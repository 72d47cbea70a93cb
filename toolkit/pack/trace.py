"""From requirement to result, one row each: what was asked by which field of the protocol, what came out.

- A requirement's name is made of what it asks, so that it is the same in every pack of one protocol; a maker puts his
  own numbers beside it.
- Rows: endpoints, floors inside them, subgroups, operating points, transfer of thresholds, agreement, drift, artefacts
  against torch, temperatures, images kept apart, self-test, signature.
- Numbers are written with six figures; a difference is student minus teacher, positive where the student is better.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from ...runtime.bundle import Bundle
from ...runtime.manifest import Comparison, Manifest, TaskOutput
from ...runtime.seen import PREFIX, SEEN
from ...runtime.selftest import GOLDEN
from ...runtime.signature import SIGNATURE
from ..parity.evidence import EVIDENCE, Agreement, Drift, Endpoint, Evidence, Subgroup, Transfer
from ..parity.protocol import Protocol
from ..proof.changes import labels_of
from ..proof.flips_csv import plain_text

MANIFEST = "manifest.json"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One requirement and its result.

    Args:
        requirement: its name.
        kind: of requirement.
        protocol_field: that fixed it; empty where no protocol does.
        asked: the criterion, in words.
        result: what was found.
        verdict: pass, fail, underpowered; or what else is to be said in one word.
        engine: on which engine; empty: on none or all.
        cases: how many; empty: does not apply.
        patients: how many.
        method: of the statistics.
        artefact: the file that holds it; `bundle:` before a member of the bundle.
    """

    requirement: str
    kind: str
    protocol_field: str = ""
    asked: str
    result: str
    verdict: str = ""
    engine: str = ""
    cases: str = ""
    patients: str = ""
    method: str = ""
    artefact: str = EVIDENCE


HEADER = (
    *(field.name for field in msgspec.structs.fields(Row)),
    "artefact_sha256",
    "bundle_digest",
    "teacher_digest",
    "data_digest",
    "protocol_digest",
)


def trace(evidence: Evidence, bundle: Bundle, protocol: Protocol | None, *, vouched: bool) -> list[Row]:
    """List all requirements with their results, in the order of the header of this file.

    Args:
        evidence: the proof.
        bundle: that was proved.
        protocol: under which; None: only the evidence itself is there.
        vouched: the bundle's signature was checked and holds.
    """
    manifest = bundle.manifest
    return [
        *(_endpoint(row, evidence.alpha, protocol) for row in evidence.endpoints),
        *(_subgroup(row) for row in evidence.subgroups),
        *(row for output in manifest.outputs for row in _points(output, protocol)),
        *(_transfer(row) for row in evidence.transfers),
        *(_agreement(row) for row in evidence.agreements),
        *(_drift(row) for row in evidence.drifts),
        *(_comparison(row) for row in manifest.comparisons),
        *_temperatures(manifest),
        _apart(bundle),
        _selftest(bundle),
        _signature(bundle, vouched=vouched),
    ]


def trace_csv(rows: Iterable[Row], evidence: Evidence, digests: Mapping[str, str]) -> bytes:
    """Write the rows for a spreadsheet, each with the digests that it rests on.

    Args:
        rows: of `trace`.
        evidence: gives the digests.
        digests: sha256 of each artefact that a row names.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(HEADER)
    common = (evidence.bundle_digest, evidence.teacher_digest, evidence.data_digest, evidence.protocol_digest)
    for row in rows:
        cells = [plain_text(str(value)) for value in msgspec.structs.astuple(row)]
        writer.writerow([*cells, digests.get(row.artefact, ""), *common])
    return text.getvalue().encode()


def figure(value: float | None) -> str:
    """Write a number with six figures; empty where there is none."""
    return "" if value is None else f"{value:.6g}"


def _name(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _endpoint(row: Endpoint, alpha: float, protocol: Protocol | None) -> Row:
    marker = protocol is not None and row.task in protocol.biomarkers
    asked = f"bound above -{figure(row.margin)}, one-sided level {alpha:g}"
    if row.floor is not None:
        asked += f"; the student's own bound beyond {figure(row.floor)}"
    found = f"difference {figure(row.difference)} ({figure(row.low)} to {figure(row.high)})"
    found += f", teacher {figure(row.teacher)}, student {figure(row.student)}"
    if row.student_low is not None:
        found += f", the student's own bound {figure(row.student_low)}"
    return Row(
        requirement=_name("endpoint", row.task, row.metric, row.label, row.engine),
        kind="endpoint" if row.primary else "endpoint, described only",
        protocol_field=f"{'biomarkers' if marker else 'tasks'}.{row.task}.endpoints.{row.metric}",
        asked=asked,
        result=found if row.difference is not None else f"no estimate: {row.reason}",
        verdict=row.verdict,
        engine=row.engine,
        cases=str(row.cases),
        patients=str(row.patients),
        method=row.method,
    )


def _subgroup(row: Subgroup) -> Row:
    found = f"difference {figure(row.difference)} ({figure(row.low)} to {figure(row.high)})"
    if row.holm is not None:
        found += f", adjusted p {figure(row.holm)}"
    word = "flagged" if row.flagged else "too few patients" if row.few else "not flagged"
    return Row(
        requirement=_name("subgroup", row.task, row.attribute, row.value, row.label, row.engine),
        kind="subgroup, screened",
        protocol_field=f"tasks.{row.task}" if row.attribute == "label" else "data.subgroups",
        asked=f"screened against -{figure(row.margin)}, adjusted for the number of groups",
        result=found if row.difference is not None else "no estimate",
        verdict=word,
        engine=row.engine,
        cases=str(row.cases),
        patients=str(row.patients),
        method="Holm 1979",
    )


def _points(output: TaskOutput, protocol: Protocol | None) -> Iterator[Row]:
    """Give the locked thresholds of a task, one a label."""
    name = output.task.name
    rules = protocol.tasks.get(name) if protocol else None
    rule = rules.operating_point if rules else ""
    labels = labels_of(output)
    for place, value in enumerate(output.thresholds):
        yield Row(
            requirement=_name("operating-point", name, labels[place] if place < len(labels) else str(place)),
            kind="operating point",
            protocol_field=f"tasks.{name}.operating_point" if rule else "",
            asked=f"locked before the proof{f', by the rule {rule}' if rule else ''}",
            result=f"threshold {figure(value)}",
            verdict="locked",
            artefact=f"bundle:{MANIFEST}",
        )


def _transfer(row: Transfer) -> Row:
    locked, fitted = zip(row.sensitivity, row.specificity, strict=True)
    return Row(
        requirement=_name("transfer", row.task, row.label, row.whose, row.engine),
        kind="operating point, described only",
        protocol_field=f"tasks.{row.task}.operating_point",
        asked=f"the {row.whose}'s locked threshold beside one fitted on {row.fitted_on}",
        result=(
            f"locked {figure(row.locked)}: sensitivity {figure(locked[0])}, specificity {figure(locked[1])}; "
            f"fitted {figure(row.refitted)}: sensitivity {figure(fitted[0])}, specificity {figure(fitted[1])}"
        ),
        engine=row.engine,
    )


def _agreement(row: Agreement) -> Row:
    bound = "" if row.low is None else f", bound {figure(row.low)}"
    return Row(
        requirement=_name("agreement", row.task, row.label, row.measure, row.engine),
        kind="agreement, described only",
        asked="student and teacher say the same, whatever the truth",
        result=f"{row.measure} {figure(row.agreement)}{bound}, {row.flips} flips",
        engine=row.engine,
        cases=str(row.cases),
        patients=str(row.patients),
    )


def _drift(row: Drift) -> Row:
    return Row(
        requirement=_name("drift", row.what, row.engine),
        kind="drift, described only",
        asked="the cases look like those of the bundle's reference histograms",
        result=f"population stability index {figure(row.psi)}, largest distance {figure(row.ks)}",
        verdict="flagged" if row.flagged else "not flagged",
        engine=row.engine,
        cases=str(row.cases),
        method=f"against {row.reference_cases} reference cases",
    )


def _comparison(row: Comparison) -> Row:
    flips, decisions = sum(one.flips for one in row.outputs), sum(one.decisions for one in row.outputs)
    return Row(
        requirement=_name("artefact", row.engine),
        kind="artefact against torch",
        asked="the engine's artefact answers as the trained network does",
        result=f"{flips} of {decisions} decisions differ",
        engine=row.engine,
        cases=str(row.images),
        artefact=f"bundle:{MANIFEST}",
    )


def _temperatures(manifest: Manifest) -> Iterator[Row]:
    for fit in manifest.temperatures:
        yield Row(
            requirement=_name("temperature", fit.task),
            kind="calibration of probabilities",
            asked=f"fitted on split {fit.split}, before the proof",
            result=(
                f"temperature {figure(fit.temperature)}; loss {figure(fit.before)} to {figure(fit.after)} nats a case"
            ),
            cases=str(fit.images),
            artefact=f"bundle:{MANIFEST}",
        )


def _apart(bundle: Bundle) -> Row:
    data = bundle.members.get(SEEN)
    return Row(
        requirement="images-apart",
        kind="independence of the data",
        asked="no image of training, calibration or validation is in the proof",
        result="the bundle lists none" if data is None else f"{len(data) // PREFIX} images listed by digest",
        verdict="not known" if data is None else "enforced",
        artefact=f"bundle:{SEEN}",
    )


def _selftest(bundle: Bundle) -> Row:
    there = GOLDEN in bundle.members
    return Row(
        requirement="self-test",
        kind="self-test on the device",
        asked="answers to stored images within the bands of the bundle, on every device before it is used",
        result="carried by the bundle; run it with `foveola selftest`" if there else "the bundle carries none",
        verdict="carried" if there else "missing",
        artefact=f"bundle:{GOLDEN}",
    )


def _signature(bundle: Bundle, *, vouched: bool) -> Row:
    there = SIGNATURE in bundle.members
    found = "holds for the key that was given" if vouched else "there, not checked for this pack" if there else "none"
    return Row(
        requirement="signature",
        kind="integrity",
        asked="every member of the bundle is signed with the maker's key (ECDSA P-256)",
        result=found,
        verdict="pass" if vouched else "not checked" if there else "missing",
        artefact=f"bundle:{SIGNATURE}",
    )
