"""What the proof is made from: the cases, what the reference standard says, and what each model answered.

Shapes: N cases, C classes, M measures, K answered boxes, B reference boxes. All arrays have one row a case, in the
order of `Cases.keys`; `prove` puts everything into the order of the keys first, so the order given does not matter.

- A reference that is not known is NaN (or None for boxes) and the case leaves every endpoint that needs it.
- An answer that the **student** failed to give (NaN, infinite, or None for boxes) counts as the worst answer possible.
- An answer that the **teacher** failed to give leaves the case out: counting it as wrong would help the student.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import FoveolaError
from ...runtime.task import Task

Array = NDArray[np.float64]
Boxes = tuple[NDArray[np.float64] | None, ...]


class Cases(msgspec.Struct, frozen=True, kw_only=True):
    """The images of the proof.

    Args:
        keys: a name for each image, all different.
        patients: the patient of each image; images of one patient are one cluster.
        attributes: for subgroups: name (`sex`, `view`, `site`) -> one value a case; empty text where not known.
        images: digest of each image file; equal ones are one case, see `prove`. Empty: nothing is known of copies.
    """

    keys: tuple[str, ...]
    patients: tuple[str, ...]
    attributes: dict[str, tuple[str, ...]] = {}
    images: tuple[str, ...] = ()


class References(msgspec.Struct, frozen=True, kw_only=True):
    """What the reference standard says, by task name; NaN or None where it says nothing.

    Args:
        scores: binary (N, 1) 0 or 1; multilabel (N, C) 0 or 1; multiclass and ordinal (N, 1) index of the class;
            regression (N, M) in the task's unit; embedding (N, C) 0 or 1 of each probed condition, C may be 0.
        boxes: detection: one array (B, 5) a case with x1, y1, x2, y2, class index; None where nobody drew boxes.
    """

    scores: dict[str, NDArray[np.floating]] = {}
    boxes: dict[str, tuple[NDArray[np.floating] | None, ...]] = {}


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What one model answered, by task name, after its own preprocessing and decoding.

    Args:
        scores: probabilities: binary (N, 1) of the positive class, multilabel, multiclass and ordinal (N, C); values:
            regression (N, M); embedding (N, D) of length 1. NaN where there is no answer.
        dice: segmentation: (N, C) Dice of each case against the reference, on original pixels; NaN where the reference
            is not known. NaN in the student's only is an answer that was not given.
        nsd: segmentation, as `dice`: normalised surface Dice at the protocol's tolerance; absent when not asked for.
        hd95: segmentation, as `dice`: 95th percentile of the surface distance; the image's diagonal where one of
            the two is empty, 0 where both are; absent when not asked for.
        alike: segmentation, student only: (N, C) Dice of the student's mask against the teacher's; absent when not
            known.
        boxes: detection: one array (K, 6) a case: x1, y1, x2, y2, score, class index; None where there is no answer.
        thresholds: the locked thresholds: binary (1,), multilabel (C,), detection (C,); 0.5 where a task has none, as
            in the runtime.
    """

    scores: dict[str, NDArray[np.floating]] = {}
    dice: dict[str, NDArray[np.floating]] = {}
    nsd: dict[str, NDArray[np.floating]] = {}
    hd95: dict[str, NDArray[np.floating]] = {}
    alike: dict[str, NDArray[np.floating]] = {}
    boxes: dict[str, tuple[NDArray[np.floating] | None, ...]] = {}
    thresholds: dict[str, tuple[float, ...]] = {}


def patient_codes(patients: Sequence[str]) -> NDArray[np.intp]:
    """Give the patients numbers 0..P-1, by the order of their names."""
    return np.unique(np.asarray(patients, dtype=str), return_inverse=True)[1].reshape(-1)


def sum_by_patient(values: Array, patients: NDArray[np.intp], count: int) -> Array:
    """Sum the rows of `values` (n, k) by patient: (count, k)."""
    sums = np.zeros((count, values.shape[1]))
    for k, column in enumerate(values.T):
        sums[:, k] = np.bincount(patients, weights=column, minlength=count)
    return sums


def ratio(a: Array, b: NDArray[np.floating] | NDArray[np.integer]) -> Array:
    """Divide a by b, NaN where b is 0."""
    quotient: Array = np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b != 0)
    return quotient


def renumbered(patients: NDArray[np.intp]) -> tuple[NDArray[np.intp], int]:
    """Make the numbers of some of the patients dense; also how many they are."""
    names, numbers = np.unique(patients, return_inverse=True)
    return numbers.reshape(-1), len(names)


def check_material(
    tasks: Sequence[Task], cases: Cases, references: References, models: Mapping[str, Answers], place: str = "parity"
) -> None:
    """Refuse material that does not fit together, all faults in one message.

    Raises:
        FoveolaError: lengths that differ, an array of another shape, a task without answers, reference or thresholds,
            two cases with one key.
    """
    faults = [*_case_faults(cases)]
    for task in tasks:
        faults += _reference_faults(task, references, len(cases.keys))
        for name, answers in models.items():
            faults += _answer_faults(task, name, answers, len(cases.keys))
    if faults:
        raise FoveolaError(place, "; ".join(faults), "give one row a case for every task")


def _case_faults(cases: Cases) -> Iterator[str]:
    count = len(cases.keys)
    if len(set(cases.keys)) != count:
        yield "two cases have the same key"
    if len(cases.patients) != count:
        yield f"{count} cases but {len(cases.patients)} patients"
    if cases.images and len(cases.images) != count:
        yield f"{count} cases but {len(cases.images)} digests of images"
    for name, values in cases.attributes.items():
        if len(values) != count:
            yield f"attribute {name!r} has {len(values)} values for {count} cases"


def _reference_faults(task: Task, references: References, count: int) -> Iterator[str]:
    if task.kind == "segmentation":
        return
    if task.kind == "detection":
        if task.name not in references.boxes:
            yield f"task {task.name!r} has no reference boxes"
        elif len(references.boxes[task.name]) != count:
            yield f"task {task.name!r} has reference boxes for {len(references.boxes[task.name])} of {count} cases"
        return
    yield from _shape_fault(f"reference of {task.name!r}", references.scores.get(task.name), (count, task.column_count))


def _answer_faults(task: Task, model: str, answers: Answers, count: int) -> Iterator[str]:
    who = f"{model}'s answer to {task.name!r}"
    if task.kind == "segmentation":
        yield from _shape_fault(f"Dice of {who}", answers.dice.get(task.name), (count, len(task.classes)))
    elif task.kind == "detection":
        if len(answers.boxes.get(task.name, ())) != count:
            yield f"{who} has boxes for {len(answers.boxes.get(task.name, ()))} of {count} cases"
    else:
        width = {"binary": 1, "embedding": task.size}.get(task.kind, len(task.classes))
        yield from _shape_fault(who, answers.scores.get(task.name), (count, width))
    wanted = {"binary": 1, "multilabel": len(task.classes), "detection": len(task.classes)}.get(task.kind, 0)
    given = len(answers.thresholds.get(task.name, ()))
    if wanted and given and given != wanted:
        yield f"{who} has {given} thresholds, not {wanted}"


def _shape_fault(what: str, array: NDArray[np.floating] | None, shape: tuple[int, int]) -> Iterator[str]:
    if array is None:
        yield f"{what} is missing"
    elif array.shape != shape:
        yield f"{what} has shape {array.shape}, not {shape}"
