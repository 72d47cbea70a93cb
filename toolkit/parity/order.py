"""The material put in order before anything is measured: cases by key, every image once.

A case whose image file is there twice would count twice; the first by key is kept and the others are left out and
counted. Two patients with one image cannot both be right: that is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import FoveolaError
from ...runtime.task import Task
from .cases import Answers, Cases, References


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """Cases, references and answers in one order."""

    cases: Cases
    references: References
    teacher: Answers
    students: dict[str, Answers]
    copies: int  # cases left out because their image was there already


def in_order(
    tasks: Sequence[Task], cases: Cases, references: References, teacher: Answers, students: dict[str, Answers]
) -> Material:
    """Put all into the order of the keys, without copies.

    Args:
        tasks: what belongs to none of them is dropped.
        cases: already checked (`check_material`), as are the others.
        references: what is true.
        teacher: the teacher's answers.
        students: by engine.

    Raises:
        FoveolaError: one image belongs to two patients.
    """
    order = np.argsort(np.asarray(cases.keys, dtype=str), kind="stable")
    kept = _first_of_each(cases, order)
    return Material(
        cases=Cases(
            keys=tuple(cases.keys[n] for n in kept),
            patients=tuple(cases.patients[n] for n in kept),
            attributes={name: tuple(values[n] for n in kept) for name, values in cases.attributes.items()},
            images=tuple(cases.images[n] for n in kept) if cases.images else (),
        ),
        references=_references(references, tasks, kept),
        teacher=_answers(teacher, tasks, kept),
        students={engine: _answers(answers, tasks, kept) for engine, answers in students.items()},
        copies=len(order) - len(kept),
    )


def _first_of_each(cases: Cases, order: NDArray[np.intp]) -> NDArray[np.intp]:
    if not cases.images:
        return order
    first: dict[str, int] = {}
    kept, twice = [], []
    for n in order.tolist():
        known = first.setdefault(cases.images[n], n)
        if known == n:
            kept.append(n)
        elif cases.patients[known] != cases.patients[n]:
            twice.append(cases.keys[n])
    if twice:
        fault = f"{len(twice)} image(s) belong to two patients, first {twice[0]}"
        raise FoveolaError("cases", fault, "give each image to one patient, or leave it out")
    return np.array(kept, dtype=np.intp)


def _references(references: References, tasks: Sequence[Task], order: NDArray[np.intp]) -> References:
    scored, _, boxed = _names(tasks)
    return References(
        scores={name: references.scores[name][order] for name in scored},
        boxes={name: tuple(references.boxes[name][n] for n in order) for name in boxed},
    )


def _answers(answers: Answers, tasks: Sequence[Task], order: NDArray[np.intp]) -> Answers:
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
