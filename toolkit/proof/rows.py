"""One model's answer to one image as a row of numbers, and the rows of all images as the proof's tables.

Masks are measured here against the reference's and, for a student, against its teacher's; then they are let go.

    row = row_of(tasks, prediction, truths, wanted)
    answers = answers_of(tasks, rows, thresholds, wanted)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.prediction import Prediction
from ...runtime.task import Task
from ..parity.cases import Answers, Array
from .answer_rows import THRESHOLDED, box_rows, is_scored, mask_layers, score_row, score_width
from .mask_truth import (
    Layers,
    Truth,
    Wanted,
    dice_against,
    dice_of,
    marker_of,
    surfaces_against,
    worst_surfaces,
)

Thresholds = Mapping[str, tuple[float, ...]]


class Row(msgspec.Struct, eq=False):
    """What one model's answer to one image comes to, by task; what is absent is NaN (or None for boxes)."""

    scores: dict[str, list[float]] = {}
    dice: dict[str, list[float]] = {}
    nsd: dict[str, list[float]] = {}
    hd95: dict[str, list[float]] = {}
    alike: dict[str, list[float]] = {}
    boxes: dict[str, Array] = {}


def row_of(
    tasks: Sequence[Task],
    prediction: Prediction | None,
    truths: Mapping[str, Truth | None],
    wanted: Wanted,
    beside: Mapping[str, Layers] | None = None,
) -> Row:
    """Turn one model's answer to one image into numbers.

    Args:
        tasks: those that are asked.
        prediction: the answer; None where there is none.
        truths: the reference's masks by segmentation task; None where there are none.
        wanted: what is measured beside Dice.
        beside: the teacher's masks by segmentation task, for a student's agreement with it.
    """
    row = Row()
    if prediction is None:
        row.alike = {name: [0.0] * len(layers) for name, layers in (beside or {}).items()}  # agrees with nothing
        for name, rules in wanted.surfaces.items() if beside is not None else ():
            truth = truths.get(name)
            if truth is not None:
                row.nsd[name], row.hd95[name] = worst_surfaces(truth, rules)
    for task in tasks if prediction is not None else ():
        assert prediction is not None
        if not has_answer(task, prediction):
            continue
        if task.kind == "detection":
            row.boxes[task.name] = box_rows(task, prediction)
        elif is_scored(task):
            row.scores[task.name] = score_row(task, prediction)
        else:
            _measure_masks(row, task, mask_layers(task, prediction), truths.get(task.name), wanted, beside or {})
    return row


def _measure_masks(
    row: Row, task: Task, layers: Layers, truth: Truth | None, wanted: Wanted, beside: Mapping[str, Layers]
) -> None:
    if truth is not None:
        row.dice[task.name] = dice_against(truth, layers)
        if task.name in wanted.surfaces:
            row.nsd[task.name], row.hd95[task.name] = surfaces_against(truth, layers, wanted.surfaces[task.name])
    if task.name in beside:
        row.alike[task.name] = dice_of(beside[task.name], layers)
    for name, marker in wanted.markers.items():
        if marker.task == task.name:
            row.scores[name] = [marker_of(marker, task.classes, layers, truth)]


def answers_of(
    tasks: Sequence[Task], rows: Sequence[Row], thresholds: Thresholds, wanted: Wanted, *, beside: bool = False
) -> Answers:
    """Stack one model's rows, in the order of the cases; `beside`: they tell the agreement of masks, too."""
    masked = {task.name: len(task.classes) for task in tasks if task.kind == "segmentation"}
    surfaces = {name: width for name, width in masked.items() if name in wanted.surfaces}
    scored = {task.name: score_width(task) for task in tasks if is_scored(task)} | dict.fromkeys(wanted.markers, 1)

    def table(field: str, widths: Mapping[str, int]) -> dict[str, NDArray[np.floating]]:
        return {
            name: np.array([getattr(row, field).get(name, [np.nan] * width) for row in rows]).reshape(len(rows), width)
            for name, width in widths.items()
        }

    return Answers(
        scores=table("scores", scored),
        dice=table("dice", masked),
        nsd=table("nsd", surfaces),
        hd95=table("hd95", surfaces),
        alike=table("alike", masked) if beside else {},
        boxes={
            task.name: tuple(row.boxes.get(task.name) for row in rows) for task in tasks if task.kind == "detection"
        },
        thresholds={
            task.name: tuple(thresholds[task.name])
            for task in tasks
            if task.kind in THRESHOLDED and task.name in thresholds
        },
    )


def has_answer(task: Task, prediction: Prediction) -> bool:
    """Whether there is an answer to the task; no box is one."""
    match task.kind:
        case "binary" | "multilabel":
            return any(one.task == task.name for one in prediction.findings)
        case "multiclass" | "ordinal":
            return any(one.task == task.name for one in prediction.choices)
        case "regression":
            return any(one.task == task.name for one in prediction.measurements)
        case "segmentation":
            return any(one.task == task.name for one in prediction.masks)
        case "embedding":
            return any(one.task == task.name for one in prediction.embeddings)
        case "detection":
            return True
