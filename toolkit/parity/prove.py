"""The proof that each engine's student is not worse than its teacher against the reference.

The claim is paired (both models answer the same images), clustered (images of one patient are one piece of evidence)
and one of non-inferiority, with margins fixed before. The story of `prove`: check that the material fits together, put
it into the order of the cases' keys, measure every endpoint of every task on every engine, judge each, list the flips,
describe the subgroups and curves. Equal material gives equal `Evidence`, whatever the order it came in.

    evidence = prove(tasks, cases, references, teacher, {"onnxruntime": student}, bundle="chest", ...)
    evidence.verdict
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.task import Task
from .cases import Answers, Cases, References, check_material, patient_codes
from .curves import curves
from .endpoints import measure
from .evidence import Curve, Endpoint, Evidence, Flip, Subgroup
from .flips import count_flips, find_flips, worst
from .measured import Setting, endpoint
from .pairing import pair
from .protocol import Protocol, TaskRules, check_protocol, usual_protocol
from .subgroups import subgroups, too_many_values
from .verdict import overall

MOST_FLIPS = 50  # listed, an engine and task; all are counted


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one task on one engine adds to the evidence."""

    endpoints: list[Endpoint]
    subgroups: list[Subgroup]
    flips: list[Flip]
    curves: list[Curve]
    notes: list[str]


def prove(
    tasks: Sequence[Task],
    cases: Cases,
    references: References,
    teacher: Answers,
    students: Mapping[str, Answers],
    *,
    protocol: Protocol | None = None,
    bundle: str,
    bundle_digest: str,
    teacher_digest: str,
    data_digest: str,
    split: str,
    most_flips: int = MOST_FLIPS,
) -> Evidence:
    """Compare the students with their teacher and judge.

    Args:
        tasks: of the bundle; those that the protocol names are proved.
        cases: the images; see `cases.py` for all four.
        references: what is true; for a biomarker under its own name.
        teacher: the teacher's answers.
        students: the bundle's answers by engine, each through its own preprocessing.
        protocol: how they are judged; None: by the tasks' own margins and the usual ones.
        bundle: name of the bundle.
        bundle_digest: of the core members on which the proof was run.
        teacher_digest: of the teacher.
        data_digest: of the cases' data set.
        split: which part of the data set the cases are.
        most_flips: how many flips to list for each engine and task.

    Raises:
        FoveolaError: the material does not fit together, all faults at once.
        UsageError: the protocol does not fit the tasks.
    """
    chosen = protocol or usual_protocol(tasks)
    check_protocol(chosen, tasks)
    judged = judged_tasks(chosen, tasks)
    asked = [task for task, _ in judged]
    check_material(asked, cases, references, {"teacher": teacher, **students})
    order = np.argsort(np.asarray(cases.keys, dtype=str), kind="stable")
    cases, references = _order_cases(cases, order), _order_references(references, asked, order)
    teacher = _order(teacher, asked, order)
    patients = patient_codes(cases.patients)

    parts: list[Part] = []
    for engine, given in students.items():
        student = _order(given, asked, order)
        for task, rules in judged:
            setting = Setting(
                patients=patients,
                resamples=chosen.resamples,
                seed=chosen.seed,
                alpha=chosen.alpha,
                power=chosen.power,
                rules=rules,
            )
            parts.append(_compare(engine, task, cases, references, teacher, student, setting))
    flips = [flip for part in parts for flip in part.flips]
    endpoints = tuple(endpoint for part in parts for endpoint in part.endpoints)
    of_teacher = [curve for task in asked for curve in _curves("teacher", task, references, teacher)]

    return Evidence(
        bundle=bundle,
        bundle_digest=bundle_digest,
        teacher_digest=teacher_digest,
        data_digest=data_digest,
        protocol_digest=chosen.digest,
        split=split,
        cases=len(cases.keys),
        patients=len(set(cases.patients)),
        alpha=chosen.alpha,
        power=chosen.power,
        resamples=chosen.resamples,
        seed=chosen.seed,
        endpoints=endpoints,
        subgroups=tuple(group for part in parts for group in part.subgroups),
        flips=worst(flips, most_flips),
        flip_counts=count_flips(flips),
        curves=(*of_teacher, *(curve for part in parts for curve in part.curves)),
        notes=(*_attribute_notes(cases), *(note for part in parts for note in part.notes)),
        verdict=overall(endpoints),
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


def _compare(
    engine: str,
    task: Task,
    cases: Cases,
    references: References,
    teacher: Answers,
    student: Answers,
    setting: Setting,
) -> Part:
    compared = pair(task, references, teacher, student)
    measured, notes = measure(compared, setting)
    return Part(
        endpoints=[endpoint(engine, task, one, setting) for one in measured],
        subgroups=list(subgroups(engine, compared, cases)),
        flips=find_flips(engine, compared, cases),
        curves=_curves(engine, task, references, student),
        notes=[f"{engine}: {note}" for note in notes],
    )


def _curves(model: str, task: Task, references: References, answers: Answers) -> list[Curve]:
    if task.kind not in ("binary", "multilabel"):
        return []
    reference = np.asarray(references.scores[task.name], dtype=np.float64)
    return list(curves(model, task, reference, np.asarray(answers.scores[task.name], dtype=np.float64)))


def _attribute_notes(cases: Cases) -> list[str]:
    return [
        f"attribute {name} has too many values for subgroups"
        for name, values in sorted(cases.attributes.items())
        if too_many_values(values)
    ]


def _order_cases(cases: Cases, order: NDArray[np.intp]) -> Cases:
    return Cases(
        keys=tuple(cases.keys[n] for n in order),
        patients=tuple(cases.patients[n] for n in order),
        attributes={name: tuple(values[n] for n in order) for name, values in cases.attributes.items()},
    )


def _order_references(references: References, tasks: Sequence[Task], order: NDArray[np.intp]) -> References:
    scored, _, boxed = _names(tasks)
    return References(
        scores={name: references.scores[name][order] for name in scored},
        boxes={name: tuple(references.boxes[name][n] for n in order) for name in boxed},
    )


def _order(answers: Answers, tasks: Sequence[Task], order: NDArray[np.intp]) -> Answers:
    scored, masked, boxed = _names(tasks)
    return Answers(
        scores={name: answers.scores[name][order] for name in scored},
        dice={name: answers.dice[name][order] for name in masked},
        nsd={name: values[order] for name, values in answers.nsd.items() if name in masked},
        hd95={name: values[order] for name, values in answers.hd95.items() if name in masked},
        alike={name: values[order] for name, values in answers.alike.items() if name in masked},
        boxes={name: tuple(answers.boxes[name][n] for n in order) for name in boxed},
        thresholds=answers.thresholds,
    )


def _names(tasks: Sequence[Task]) -> tuple[list[str], list[str], list[str]]:
    """Names of the tasks answered by scores, by masks and by boxes; what belongs to no task is not looked at."""
    masked = [task.name for task in tasks if task.kind == "segmentation"]
    boxed = [task.name for task in tasks if task.kind == "detection"]
    return [task.name for task in tasks if task.name not in (*masked, *boxed)], masked, boxed
