"""A prediction as rows of numbers, one task at a time: what the proof computes with and what answers are stored as."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...runtime.prediction import Prediction
from ...runtime.task import Kind, Task

THRESHOLDED: tuple[Kind, ...] = ("binary", "multilabel", "detection")  # kinds whose threshold the proof looks at


def score_width(task: Task) -> int:
    """How many probabilities or values one answer holds, or numbers of an embedding."""
    if task.kind == "embedding":
        return task.size
    return 1 if task.kind == "binary" else len(task.classes)


def is_scored(task: Task) -> bool:
    """Whether the answer is a row of numbers; otherwise it is masks or boxes."""
    return task.kind not in ("segmentation", "detection")


def score_row(task: Task, prediction: Prediction) -> list[float]:
    """Probabilities, values or the embedding of one task."""
    if task.kind in ("binary", "multilabel"):
        return [one.probability for one in prediction.findings if one.task == task.name]
    if task.kind == "regression":
        return [one.value for one in prediction.measurements if one.task == task.name]
    if task.kind == "embedding":
        return next(list(one.values) for one in prediction.embeddings if one.task == task.name)
    return next(list(one.probabilities) for one in prediction.choices if one.task == task.name)


def box_rows(task: Task, prediction: Prediction) -> NDArray[np.float64]:
    """Boxes (K, 6) of one task: x1, y1, x2, y2, score, label."""
    rows = [
        (box.x1, box.y1, box.x2, box.y2, box.score, task.classes.index(box.label))
        for box in prediction.boxes
        if box.task == task.name
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 6)


def mask_layers(task: Task, prediction: Prediction) -> NDArray[np.bool_]:
    """Masks (C, H, W) of one task, in the order of its classes."""
    return np.stack([one.pixels for one in prediction.masks if one.task == task.name])
