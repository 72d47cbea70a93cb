"""How often student and teacher say the same: a claim of its own, that needs no reference standard.

| kind | agreement | alike |
|---|---|---|
| binary, multilabel | share of equal decisions at each model's locked threshold, by label | the decision is the same |
| multiclass, ordinal | share of equal classes | the class is the same |
| segmentation | mean Dice of the two masks, by structure | Dice of at least 0.95 |
| detection | mean F1 of the student's boxes against the teacher's (IoU 0.5, at their thresholds), by class | F1 of 1 |
| regression | share of values within `ALIKE` of the teacher's spread | the value lies within it |
| embedding | mean cosine of the two embeddings, 0 where it is negative | cosine of at least 0.95 |

An answer that the student did not give agrees with nothing. The bound is one-sided and clustered by patient: Wilson's
(1927) for shares, at the pairs that the patients' cases are worth; for means that of `tilted.py`, and no more than
Wilson's where fewer than ten patients differ.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from ...runtime.task import Task
from .cases import Answers, Array, renumbered, sum_by_patient
from .detection import match_class
from .evidence import Agreement
from .pairing import limits
from .proportion import clustered_se
from .retrieval import unit
from .tilted import linearised

ALIKE = 0.1  # of the standard deviation of the teacher's values
SAME_MASK = 0.95  # Dice
SAME_DIRECTION = 0.95  # cosine
FEW = 10  # patients that differ; of fewer the spread is not known


def agreements(
    engine: str, task: Task, patients: NDArray[np.intp], teacher: Answers, student: Answers, alpha: float
) -> Iterator[Agreement]:
    """Yield how far one engine agrees with the teacher on one task.

    Args:
        engine: of the student.
        task: any kind.
        patients: (N,) numbers of the patients.
        teacher: its answers; a case without one is left out.
        student: its answers.
        alpha: one-sided error of the bound.
    """
    match task.kind:
        case "binary" | "multilabel":
            yield from _decisions(engine, task, patients, teacher, student, alpha)
        case "multiclass" | "ordinal":
            yield from _classes(engine, task, patients, teacher, student, alpha)
        case "segmentation":
            if task.name in student.alike:
                yield from _masks(engine, task, patients, student, alpha)
        case "detection":
            yield from _boxes(engine, task, patients, teacher, student, alpha)
        case "regression":
            yield from _values(engine, task, patients, teacher, student, alpha)
        case "embedding":
            yield from _directions(engine, task, patients, teacher, student, alpha)


def _decisions(
    engine: str, task: Task, patients: NDArray[np.intp], teacher: Answers, student: Answers, alpha: float
) -> Iterator[Agreement]:
    t, s = (np.asarray(model.scores[task.name], np.float64) for model in (teacher, student))
    first, second = limits(task, teacher), limits(task, student)
    for k, label in enumerate(task.classes[1:] if task.kind == "binary" else task.classes):
        given = np.isfinite(t[:, k])
        same = np.isfinite(s[given, k]) & ((t[given, k] >= first[k]) == (s[given, k] >= second[k]))
        yield from _share(engine, task, label, "decisions", same, patients[given], alpha)


def _classes(
    engine: str, task: Task, patients: NDArray[np.intp], teacher: Answers, student: Answers, alpha: float
) -> Iterator[Agreement]:
    t, s = (np.asarray(model.scores[task.name], np.float64) for model in (teacher, student))
    given = np.isfinite(t).all(axis=1)
    answered = np.isfinite(s[given]).all(axis=1)
    same = answered & (np.argmax(t[given], axis=1) == np.argmax(np.nan_to_num(s[given]), axis=1))
    yield from _share(engine, task, "", "decisions", same, patients[given], alpha)


def _values(
    engine: str, task: Task, patients: NDArray[np.intp], teacher: Answers, student: Answers, alpha: float
) -> Iterator[Agreement]:
    t, s = (np.asarray(model.scores[task.name], np.float64) for model in (teacher, student))
    for k, label in enumerate(task.classes):
        given = np.isfinite(t[:, k])
        near = ALIKE * float(t[given, k].std()) if given.any() else 0.0
        same = np.isfinite(s[given, k]) & (np.abs(np.nan_to_num(s[given, k]) - t[given, k]) <= near)
        yield from _share(engine, task, label, "value", same, patients[given], alpha)


def _directions(
    engine: str, task: Task, patients: NDArray[np.intp], teacher: Answers, student: Answers, alpha: float
) -> Iterator[Agreement]:
    t, s = (unit(model.scores[task.name]) for model in (teacher, student))
    given = np.isfinite(t).all(axis=1)
    cosine = np.clip(np.nan_to_num(np.sum(t[given] * s[given], axis=1)), 0.0, 1.0)
    yield from _mean(engine, task, "", "cosine", cosine, cosine >= SAME_DIRECTION, patients[given], alpha)


def _masks(engine: str, task: Task, patients: NDArray[np.intp], student: Answers, alpha: float) -> Iterator[Agreement]:
    rows = np.asarray(student.alike[task.name], np.float64)  # 0 where the student did not answer
    for k, label in enumerate(task.classes):
        given = ~np.isnan(rows[:, k])
        dice = rows[given, k]
        yield from _mean(engine, task, label, "dice", dice, dice >= SAME_MASK, patients[given], alpha)


def _boxes(
    engine: str, task: Task, patients: NDArray[np.intp], teacher: Answers, student: Answers, alpha: float
) -> Iterator[Agreement]:
    given = np.array([boxes is not None for boxes in teacher.boxes[task.name]], dtype=bool)
    first, second = limits(task, teacher), limits(task, student)
    for k, label in enumerate(task.classes):
        rows = []
        for n in np.flatnonzero(given):
            taught, answer = _shown(teacher.boxes[task.name][n], k, first[k]), student.boxes[task.name][n]
            rows.append(0.0 if answer is None else _f1(_shown(answer, k, second[k]), taught))
        alike = np.array(rows, np.float64)
        yield from _mean(engine, task, label, "boxes", alike, alike >= 1.0, patients[given], alpha)


def _shown(boxes: NDArray[np.floating] | None, label: int, limit: float) -> Array:
    if boxes is None:
        return np.zeros((0, 6))
    plain = np.asarray(boxes, np.float64).reshape(-1, 6)
    shown: Array = plain[(plain[:, 5] == label) & (plain[:, 4] >= limit)]
    return shown


def _f1(answers: Array, wanted: Array) -> float:
    if not len(answers) and not len(wanted):
        return 1.0
    references = np.concatenate([wanted[:, :4], wanted[:, 5:]], axis=1)
    label = int((answers if len(answers) else wanted)[0, 5])
    hits = int(match_class([answers], [references], label).hit.sum())
    return 2.0 * hits / (len(answers) + len(wanted))


def _share(
    engine: str, task: Task, label: str, measure: str, same: NDArray[np.bool_], patients: NDArray[np.intp], alpha: float
) -> Iterator[Agreement]:
    """Yield a share of cases with Wilson's lower bound; nothing where there is no case."""
    if not len(same):
        return
    count = len(np.unique(patients))
    share = float(same.mean())
    # With no disagreement seen, or hardly any, a patient's cases are worth one.
    independent = share * (1.0 - share) / len(same)
    seen = clustered_se((same - share) / len(same), patients) ** 2 if count > 1 else float("nan")
    few = len(np.unique(patients[~same])) < FEW
    design = 1.0 if not independent or not np.isfinite(seen) else max(1.0, seen / independent)
    pairs = min(len(same) / design, float(count)) if few else len(same) / design
    yield _row(engine, task, label, measure, share, _wilson(share, pairs, alpha), same, patients)


def _wilson(share: float, pairs: float, alpha: float) -> float:
    z = float(norm.ppf(1.0 - alpha))
    centre = share + z * z / (2.0 * pairs)
    reach = z * float(np.sqrt(share * (1.0 - share) / pairs + z * z / (4.0 * pairs**2)))
    return float((centre - reach) / (1.0 + z * z / pairs))


def _mean(
    engine: str,
    task: Task,
    label: str,
    measure: str,
    values: Array,
    same: NDArray[np.bool_],
    patients: NDArray[np.intp],
    alpha: float,
) -> Iterator[Agreement]:
    """Yield a mean over cases in 0..1 with its tilted bound over patients; nothing where there is no case.

    Where hardly any patient differs the spread that is seen says little. A mean in 0..1 scatters at most as much as a
    share does, so Wilson's bound for as many patients holds then.
    """
    if not len(values):
        return
    codes, count = renumbered(patients)
    mean, low = float(values.mean()), None
    if count > 1:
        sums = sum_by_patient(np.stack([values, np.ones(len(values))], axis=1), codes, count)
        spread = linearised(sums, lambda totals: totals[:, :1] / totals[:, 1:], (1.0,), sums[:, 1])
        reach = spread.below(alpha)
        low = max(0.0, mean - reach) if np.isfinite(reach) else 0.0
        if len(np.unique(patients[values < 1.0])) < FEW:
            low = min(low, _wilson(mean, float(count), alpha))
    yield _row(engine, task, label, measure, mean, low, same, patients)


def _row(
    engine: str,
    task: Task,
    label: str,
    measure: str,
    agreement: float,
    low: float | None,
    same: NDArray[np.bool_],
    patients: NDArray[np.intp],
) -> Agreement:
    return Agreement(
        engine=engine,
        task=task.name,
        label=label,
        measure=measure,  # type: ignore[arg-type]
        cases=len(same),
        patients=len(np.unique(patients)),
        agreement=float(agreement),
        low=None if low is None else float(low),
        flips=int((~same).sum()),
    )
