"""What `review.json` holds: all numbers of a training report, each with its method and its n."""

from __future__ import annotations

from typing import Literal

import msgspec

from ...runtime.task import Task
from ..checkpoint import Epoch
from ..teachers.measure import Measure

ALPHA = 0.025  # one-sided: intervals of 95 %


class TeacherReview(msgspec.Struct, frozen=True, kw_only=True):
    """One teacher on the split: what it is, and what it measures.

    Args:
        name: of its step.
        about: what it is, in words.
        measures: of all tasks that it answers, each task's main metric first.
        notes: what is left out, and why.
    """

    name: str
    about: str
    measures: tuple[Measure, ...]
    notes: tuple[str, ...] = ()


class TrainingReview(msgspec.Struct, frozen=True, kw_only=True):
    """One training, as its history tells it.

    Args:
        name: of its step.
        kind: `pretrain` (contrast, no heads), `continual` (one line a visit of a task) or `train`.
        history: one line an epoch or visit.
        forgetting: continual: by task, best score so far minus the last one.
        mean_forgetting: over tasks; None where there is none.
        kept: number (from 1) of the line whose weights were kept.
    """

    name: str
    kind: Literal["pretrain", "continual", "train"]
    history: tuple[Epoch, ...]
    forgetting: dict[str, float] = {}
    mean_forgetting: float | None = None
    kept: int


class Attention(msgspec.Struct, frozen=True, kw_only=True):
    """One case with its map; the picture itself is on the page alone."""

    teacher: str
    task: str
    label: str
    case: str
    patient: str
    outcome: str
    right: bool
    probability: float
    threshold: float | None
    reference: str
    answer: str
    empty: bool  # nothing spoke for the label: the map is 0 everywhere


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """All numbers of a report; `review.json` is this.

    Args:
        title: of the page.
        split: whose images the teachers answered.
        images: how many they are.
        patients: whose images they are.
        resamples: of the patient bootstrap.
        seed: of it.
        confidence: of the intervals.
        data_digest: of the data set.
        tasks: those that any teacher answers, in the data set's order.
        teachers: in the order given.
        trainings: in the order given.
        attention: the cases that are drawn.
    """

    title: str
    split: str
    images: int
    patients: int
    resamples: int
    seed: int
    confidence: float = 1 - 2 * ALPHA
    data_digest: str
    tasks: tuple[Task, ...]
    teachers: tuple[TeacherReview, ...]
    trainings: tuple[TrainingReview, ...]
    attention: tuple[Attention, ...]
