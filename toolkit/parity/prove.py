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

from ...runtime.errors import UsageError
from ...runtime.task import Task
from .cases import Answers, Cases, References, check_material, patient_codes
from .curves import curves
from .endpoints import measure
from .evidence import Curve, Endpoint, Evidence, Flip, Subgroup
from .flips import count_flips, find_flips, worst
from .measured import Setting, endpoint
from .pairing import pair
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
    bundle: str,
    bundle_digest: str,
    teacher_digest: str,
    data_digest: str,
    split: str,
    resamples: int = 2000,
    seed: int = 0,
    alpha: float = 0.025,
    most_flips: int = MOST_FLIPS,
) -> Evidence:
    """Compare the students with their teacher and judge.

    Args:
        tasks: with their margins.
        cases: the images; see `cases.py` for all four.
        references: what is true.
        teacher: the teacher's answers.
        students: the bundle's answers by engine, each through its own preprocessing.
        bundle: name of the bundle.
        bundle_digest: of the core members on which the proof was run.
        teacher_digest: of the teacher.
        data_digest: of the cases' data set.
        split: which part of the data set the cases are.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        alpha: one-sided error of each endpoint; 0.025 gives 95 % intervals.
        most_flips: how many flips to list for each engine and task.

    Raises:
        FoveolaError: the material does not fit together, all faults at once.
        UsageError: `alpha` is not between 0 and 0.5, or `resamples` is less than 100.
    """
    if not (0.0 < alpha < 0.5 and resamples >= 100):
        raise UsageError(
            "parity", f"alpha {alpha}, resamples {resamples}", "0 < alpha < 0.5 and at least 100 resamples"
        )
    check_material(tasks, cases, references, {"teacher": teacher, **students})
    order = np.argsort(np.asarray(cases.keys, dtype=str), kind="stable")
    cases, references = _order_cases(cases, order), _order_references(references, tasks, order)
    teacher = _order(teacher, tasks, order)
    setting = Setting(patients=patient_codes(cases.patients), resamples=resamples, seed=seed, alpha=alpha)

    parts: list[Part] = []
    for engine, given in students.items():
        student = _order(given, tasks, order)
        parts += [_compare(engine, task, cases, references, teacher, student, setting) for task in tasks]
    flips = [flip for part in parts for flip in part.flips]
    endpoints = tuple(endpoint for part in parts for endpoint in part.endpoints)
    of_teacher = [curve for task in tasks for curve in _curves("teacher", task, references, teacher)]

    return Evidence(
        bundle=bundle,
        bundle_digest=bundle_digest,
        teacher_digest=teacher_digest,
        data_digest=data_digest,
        split=split,
        cases=len(cases.keys),
        patients=len(set(cases.patients)),
        alpha=alpha,
        resamples=resamples,
        seed=seed,
        endpoints=endpoints,
        subgroups=tuple(group for part in parts for group in part.subgroups),
        flips=worst(flips, most_flips),
        flip_counts=count_flips(flips),
        curves=(*of_teacher, *(curve for part in parts for curve in part.curves)),
        notes=(*_attribute_notes(cases), *(note for part in parts for note in part.notes)),
        verdict=overall(endpoints),
    )


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
        endpoints=[endpoint(engine, task, one, setting.alpha) for one in measured],
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
        boxes={name: tuple(answers.boxes[name][n] for n in order) for name in boxed},
        thresholds=answers.thresholds,
    )


def _names(tasks: Sequence[Task]) -> tuple[list[str], list[str], list[str]]:
    """Names of the tasks answered by scores, by masks and by boxes; what belongs to no task is not looked at."""
    masked = [task.name for task in tasks if task.kind == "segmentation"]
    boxed = [task.name for task in tasks if task.kind == "detection"]
    return [task.name for task in tasks if task.name not in (*masked, *boxed)], masked, boxed
