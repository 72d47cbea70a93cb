"""What a locked threshold costs: it beside one fitted again for the student on other images, both judged on these.

Quantisation shifts and squeezes scores; a threshold that was locked before it, or on few images, can then lie badly.
The second threshold is fitted by the same rule on images that are not of the proof, so that it does not flatter itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import FoveolaError
from ...runtime.task import Task
from .cases import Answers, Array, Cases, References, ratio
from .evidence import Transfer
from .pairing import limits
from .threshold import lock_threshold


def transfers(
    engine: str,
    task: Task,
    rule: str,
    here: tuple[References, Answers],
    elsewhere: tuple[References, Answers],
    fitted_on: str,
) -> Iterator[Transfer]:
    """Yield one row a label of a binary or multilabel task, where both classes are known on both sides.

    Args:
        engine: of the student.
        task: any kind; others than binary and multilabel have no such threshold.
        rule: by which the threshold was locked (`threshold.lock_threshold`).
        here: what is true of the proof's cases, and the student's answers to them.
        elsewhere: the same of the images on which the second threshold is fitted.
        fitted_on: their split.
    """
    if task.kind not in ("binary", "multilabel"):
        return
    locked = limits(task, here[1])
    for k, label in enumerate(labels_of(task)):
        truth, scores = _column(task, here, k)
        other_truth, other_scores = _column(task, elsewhere, k)
        if min(truth.sum(), (~truth).sum(), other_truth.sum(), (~other_truth).sum()) == 0:
            continue
        pair = float(locked[k]), lock_threshold(rule, other_truth, other_scores)
        yield _row(engine, task, label, "bundle", fitted_on, pair, truth, scores)


def carried_over(
    engine: str, task: Task, here: tuple[References, Answers], teacher: Answers, fitted_on: str
) -> Iterator[Transfer]:
    """Yield what the teacher's own threshold would do to the student's answers, beside the one that ships.

    Args:
        engine: of the student.
        task: any kind; others than binary and multilabel have no such threshold.
        here: what is true of the proof's cases, and the student's answers to them.
        teacher: its answers, with its thresholds.
        fitted_on: where the threshold that ships was locked, on the student's answers.
    """
    if task.kind not in ("binary", "multilabel"):
        return
    first, shipped = limits(task, teacher), limits(task, here[1])
    for k, label in enumerate(labels_of(task)):
        truth, scores = _column(task, here, k)
        if min(truth.sum(), (~truth).sum()) > 0:
            pair = float(first[k]), float(shipped[k])
            yield _row(engine, task, label, "teacher", fitted_on, pair, truth, scores)


def check_apart(here: Cases, elsewhere: Cases, place: str) -> None:
    """Refuse images or patients that are on both sides.

    Raises:
        FoveolaError: there are some.
    """
    shared = set(here.patients) & set(elsewhere.patients)
    copies = set(here.images) & set(elsewhere.images)
    if shared or copies:
        fault = f"{len(shared)} patient(s) and {len(copies)} image(s) are in the proof too"
        raise FoveolaError(place, fault, "fit thresholds on images and patients that are not of the proof")


def labels_of(task: Task) -> tuple[str, ...]:
    """Name the labels of a binary or multilabel task, one a column of its answers."""
    return task.classes[1:] if task.kind == "binary" else task.classes


def _row(
    engine: str,
    task: Task,
    label: str,
    whose: Literal["teacher", "bundle"],
    fitted_on: str,
    pair: tuple[float, float],
    truth: NDArray[np.bool_],
    scores: Array,
) -> Transfer:
    rates = [_rates(truth, scores, limit) for limit in pair]
    return Transfer(
        engine=engine,
        task=task.name,
        label=label,
        whose=whose,
        fitted_on=fitted_on,
        locked=pair[0],
        refitted=pair[1],
        sensitivity=(rates[0][0], rates[1][0]),
        specificity=(rates[0][1], rates[1][1]),
    )


def _column(task: Task, side: tuple[References, Answers], column: int) -> tuple[NDArray[np.bool_], Array]:
    reference = np.asarray(side[0].scores[task.name], np.float64)[:, column]
    scores = np.asarray(side[1].scores[task.name], np.float64)[:, column]
    given = np.isfinite(reference) & np.isfinite(scores)
    return reference[given] > 0.5, scores[given]


def _rates(truth: NDArray[np.bool_], scores: Array, limit: float) -> tuple[float, float]:
    yes = scores >= limit
    rates = ratio(
        np.array([(yes & truth).sum(), (~yes & ~truth).sum()], np.float64), np.array([truth.sum(), (~truth).sum()])
    )
    return float(rates[0]), float(rates[1])
