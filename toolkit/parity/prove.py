"""The proof that each engine's student is not worse than its teacher against the reference.

The claim is paired (both models answer the same images), clustered (images of one patient are one piece of evidence)
and one of non-inferiority, with margins fixed before. The story of `prove`: check that the material fits together, put
it into the order of the cases' keys, measure every endpoint of every task on every engine, judge each, list the flips,
describe the subgroups and curves. Equal material gives equal `Evidence`, whatever the order it came in.

    proof = prove(tasks, cases, references, teacher, {"onnxruntime": student}, protocol=protocol, bundle="chest", ...)
    proof.evidence.verdict
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.task import Task
from .agreement import agreements
from .bands import too_many_values
from .cases import Answers, Cases, References, check_material, patient_codes
from .curves import curves, froc_curves, reliability
from .endpoints import measure
from .evidence import (
    Change,
    Curve,
    Drift,
    Endpoint,
    Evidence,
    Flip,
    Provenance,
    Reliability,
    Subgroup,
    Transfer,
)
from .flips import count_flips, find_flips, worst
from .froc import froc_curve
from .measured import Measured, Setting, endpoint
from .order import Material, in_order
from .pairing import Pair, pair
from .protocol import Protocol, TaskRules, check_protocol, usual_protocol
from .resampled import second_opinion
from .subgroups import adjusted, subgroups
from .verdict import overall

MOST_FLIPS = 50  # listed, an engine and task; all are counted
TEACHER = "teacher"  # model of a curve that is no engine's
HEAVY = 0.1  # share of the cases from which one patient is named


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one task on one engine adds to the evidence."""

    endpoints: list[Endpoint]
    subgroups: list[Subgroup]
    flips: list[Flip]
    curves: list[Curve]
    of_teacher: list[Curve]  # the same for every engine
    notes: list[str]
    missing: int  # answers of the student that count as the worst
    left_out: int  # answers left out because the teacher gave none
    nothing_right: int  # masks of the student whose Dice is 0 though it answered
    identical: bool  # the student's answers equal the teacher's bit for bit


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """What stands beside the endpoints and is found elsewhere: none of it changes a verdict."""

    transfers: tuple[Transfer, ...] = ()
    drifts: tuple[Drift, ...] = ()
    changes: tuple[Change, ...] = ()
    provenance: Provenance = Provenance()
    notes: tuple[str, ...] = ()


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence, and every flip: the evidence lists the worst only."""

    evidence: Evidence
    flips: tuple[Flip, ...]


def prove(
    tasks: Sequence[Task],
    cases: Cases,
    references: References,
    teacher: Answers,
    students: Mapping[str, Answers],
    *,
    protocol: Protocol | None = None,
    beside: Beside | None = None,
    bundle: str,
    bundle_digest: str,
    teacher_digest: str,
    data_digest: str,
    split: str,
    most_flips: int = MOST_FLIPS,
) -> Proof:
    """Compare the students with their teacher and judge.

    Args:
        tasks: of the bundle; those that the protocol names are proved.
        cases: the images; see `cases.py` for all four.
        references: what is true; for a biomarker under its own name.
        teacher: the teacher's answers.
        students: the bundle's answers by engine, each through its own preprocessing.
        protocol: how they are judged; None: by the tasks' own margins and the usual ones.
        beside: what was found elsewhere and belongs into the evidence.
        bundle: name of the bundle.
        bundle_digest: of the core members on which the proof was run.
        teacher_digest: of the teacher.
        data_digest: of the cases' data set.
        split: which part of the data set the cases are.
        most_flips: how many flips to list for each engine and task.

    Raises:
        FoveolaError: the material does not fit together, all faults at once; an image that belongs to two patients.
        UsageError: the protocol does not fit the tasks.
    """
    chosen, extra = protocol or usual_protocol(tasks), beside or Beside()
    check_protocol(chosen, tasks)
    judged = judged_tasks(chosen, tasks)
    asked = [task for task, _ in judged]
    check_material(asked, cases, references, {"teacher": teacher, **students})
    if chosen.data.subgroups:
        wanted = {name: values for name, values in cases.attributes.items() if name in chosen.data.subgroups}
        cases = msgspec.structs.replace(cases, attributes=wanted)
    material = in_order(asked, cases, references, teacher, dict(students))
    patients = patient_codes(material.cases.patients)
    parts = [
        _compare(engine, task, material, _setting(chosen, rules, patients))
        for engine in students
        for task, rules in judged
    ]
    flips = [flip for part in parts for flip in part.flips]
    endpoints = tuple(endpoint for part in parts for endpoint in part.endpoints)
    of_teacher = [curve for part in parts[: len(judged)] for curve in part.of_teacher]
    models = {TEACHER: material.teacher, **material.students}
    evidence = Evidence(
        bundle=bundle,
        bundle_digest=bundle_digest,
        teacher_digest=teacher_digest,
        data_digest=data_digest,
        protocol_digest=chosen.digest,
        split=split,
        cases=len(material.cases.keys),
        patients=len(set(material.cases.patients)),
        alpha=chosen.alpha,
        power=chosen.power,
        resamples=chosen.resamples,
        seed=chosen.seed,
        endpoints=endpoints,
        subgroups=adjusted([group for part in parts for group in part.subgroups], chosen.alpha),
        transfers=extra.transfers,
        agreements=tuple(
            row
            for engine, student in material.students.items()
            for task in asked
            for row in agreements(engine, task, patients, material.teacher, student, chosen.alpha)
        ),
        drifts=extra.drifts,
        flips=worst(flips, most_flips),
        flip_counts=count_flips(flips),
        curves=(*of_teacher, *(curve for part in parts for curve in part.curves)),
        reliability=tuple(
            row for task in asked for name in models for row in _reliability(name, task, material, models[name])
        ),
        changes=extra.changes,
        policies=_policies(material, parts, patients),
        notes=(
            *_attribute_notes(material.cases),
            *_patient_notes(patients),
            *extra.notes,
            *(note for part in parts for note in part.notes),
        ),
        provenance=extra.provenance,
        verdict=overall(endpoints),
    )
    return Proof(evidence=evidence, flips=tuple(flips))


def _setting(protocol: Protocol, rules: TaskRules, patients: NDArray[np.intp]) -> Setting:
    return Setting(
        patients=patients,
        resamples=protocol.resamples,
        seed=protocol.seed,
        alpha=protocol.alpha,
        power=protocol.power,
        rules=rules,
    )


def judged_tasks(protocol: Protocol, tasks: Sequence[Task]) -> list[tuple[Task, TaskRules]]:
    """Give the tasks that the protocol names, with its margins, and each biomarker as a regression of its own."""
    found: list[tuple[Task, TaskRules]] = []
    for task in tasks:
        rules = protocol.tasks.get(task.name)
        if rules is not None:
            margins = {name: rule.margin for name, rule in rules.endpoints.items() if rule.margin is not None}
            found.append((msgspec.structs.replace(task, margins=margins, critical=rules.critical), rules))
    for name, marker in protocol.biomarkers.items():
        margins = {metric: rule.margin for metric, rule in marker.endpoints.items() if rule.margin is not None}
        task = Task(name=name, kind="regression", classes=(name,), margins=margins)
        found.append((task, TaskRules(endpoints=marker.endpoints)))
    return found


def _compare(engine: str, task: Task, material: Material, setting: Setting) -> Part:
    student = material.students[engine]
    compared = pair(task, material.references, material.teacher, student)
    measured, notes = measure(compared, setting)
    return Part(
        endpoints=[_judged(engine, one, compared, setting) for one in measured],
        subgroups=list(subgroups(engine, compared, material.cases, setting, measured)),
        flips=find_flips(engine, compared, material.cases),
        curves=_curves(engine, compared, material.references, student),
        of_teacher=_curves(TEACHER, compared, material.references, material.teacher),
        notes=[f"{engine}: {note}" for note in notes],
        missing=int(compared.missing.sum()),
        left_out=compared.left_out,
        nothing_right=_nothing_right(compared),
        identical=compared.identical,
    )


def _nothing_right(compared: Pair) -> int:
    if compared.task.kind != "segmentation":
        return 0
    return int(((compared.student == 0.0) & compared.known & ~compared.missing).sum())


def _judged(engine: str, measured: Measured, compared: Pair, setting: Setting) -> Endpoint:
    """Judge one measured difference; the whole task's has the bootstrap's interval beside it."""
    row = endpoint(engine, compared.task, measured, setting)
    if row.label or row.low is None:
        return row
    return msgspec.structs.replace(row, resampled=second_opinion(row.metric, compared, setting))


def _curves(model: str, compared: Pair, references: References, answers: Answers) -> list[Curve]:
    task = compared.task
    if task.kind == "detection":
        images = int(compared.known.sum())
        matches = compared.teacher_boxes if model == TEACHER else compared.student_boxes
        return list(froc_curves(model, task, [froc_curve(one, images) for one in matches]))
    if task.kind not in ("binary", "multilabel"):
        return []
    reference = np.asarray(references.scores[task.name], dtype=np.float64)
    return list(curves(model, task, reference, np.asarray(answers.scores[task.name], dtype=np.float64)))


def _reliability(model: str, task: Task, material: Material, answers: Answers) -> list[Reliability]:
    if task.kind not in ("binary", "multilabel", "multiclass", "ordinal"):
        return []
    reference = np.asarray(material.references.scores[task.name], dtype=np.float64)
    return list(reliability(model, task, reference, np.asarray(answers.scores[task.name], dtype=np.float64)))


def _attribute_notes(cases: Cases) -> list[str]:
    return [
        f"attribute {name} has too many values for subgroups"
        for name, values in sorted(cases.attributes.items())
        if too_many_values(values)
    ]


def _policies(material: Material, parts: Sequence[Part], patients: NDArray[np.intp]) -> dict[str, int]:
    """Count what the policies for gaps met with; see docs/proof.md, "Gaps"."""
    return {
        "copies of an image left out": material.copies,
        "answers of the student missing, counted as the worst": sum(part.missing for part in parts),
        "answers left out because the teacher gave none": sum(part.left_out for part in parts),
        "masks of the student without anything right, counted as Dice 0": sum(part.nothing_right for part in parts),
        "tasks and engines whose answers equal the teacher's bit for bit": sum(part.identical for part in parts),
        "subgroups and labels too small to be trusted, or of one class": sum(
            group.few for part in parts for group in part.subgroups
        ),
        "images of the patient who has most": int(np.bincount(patients).max(initial=0)),
    }


def _patient_notes(patients: NDArray[np.intp]) -> list[str]:
    """Say when one patient is much of the evidence: the more it is, the fewer patients the cases are worth."""
    images = np.bincount(patients)
    share = images.max() / images.sum() if len(images) > 1 else 0.0
    if share < HEAVY or images.max() < 2:
        return []
    worth = images.sum() ** 2 / np.sum(images.astype(np.float64) ** 2)
    return [
        f"one patient has {images.max()} of {images.sum()} cases ({share:.0%}); in means over cases the "
        f"{len(images)} patients weigh as much as {worth:.0f} with equally many images"
    ]
