"""Answers as tensors by which two engines can be held against each other: two-stage detectors, embeddings.

An embedding's raw numbers have any length; what is answered is their direction. It is scaled so that the root mean
square of its numbers is 1: a relative difference is then the distance of the two directions, sqrt(2 - 2 cosine).

Of a two-stage detector it is one dense tensor.

The rows of its raw tensors are proposals in the order of their objectness. Where two engines round otherwise, two rows
change places, or another anchor is the last of its level, and a difference row by row says nothing. What stays is the
picture: for each class and cell of a grid, the score of the strongest box that covers the cell's centre.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .answer import boxes_of, directions
from .manifest import InputSpec, TaskOutput
from .task import Task

STRIDE = 8  # input pixels a cell, as the grid of a student's detector has it
_SURE = 1e-6  # nearest a score may come to 0 or 1, so that its logit is finite


def comparable_outputs(outputs: Sequence[TaskOutput]) -> tuple[TaskOutput, ...]:
    """Describe what `comparable` gives: a two-stage detector as masks that do not exclude each other, others as is."""
    return tuple(output if output.proposals is None else _as_masks(output) for output in outputs)


def _as_masks(output: TaskOutput) -> TaskOutput:
    task = Task(name=output.task.name, kind="segmentation", classes=output.task.classes, exclusive=False)
    return TaskOutput(task=task, tensors=(_map_name(output),), thresholds=output.thresholds)


def _map_name(output: TaskOutput) -> str:
    return f"{output.task.name}.map"


def comparable(
    outputs: Sequence[TaskOutput], raw: Mapping[str, NDArray[Any]], spec: InputSpec
) -> dict[str, NDArray[Any]]:
    """Raw outputs of one image, tensors of two-stage detectors replaced by `<task>.map` (1, C, h, w) logits.

    Embeddings are scaled to a root mean square of 1; NaN where one is all zero.

    Raises:
        FoveolaError: a two-stage detector's output is missing, of another shape, NaN or infinite.
    """
    kept = dict(raw)
    for output in outputs:
        if output.proposals is not None:
            drawn = {_map_name(output): score_map(output, raw, spec)}
            kept = {name: array for name, array in kept.items() if name not in output.tensors} | drawn
        elif output.task.kind == "embedding":
            name = output.tensors[0]
            kept[name] = directions(kept[name]) * np.float32(output.task.size**0.5)
    return kept


def score_map(output: TaskOutput, raw: Mapping[str, NDArray[Any]], spec: InputSpec) -> NDArray[np.float32]:
    """Logit of the strongest box over each cell's centre, (1, C, ceil(H / 8), ceil(W / 8)); the floor's where none is.

    Args:
        output: a detection task.
        raw: arrays by tensor name, first axis 1.
        spec: the input.

    Raises:
        FoveolaError: an output is missing, of another shape, NaN or infinite.
    """
    rows, columns = -(-spec.height // STRIDE), -(-spec.width // STRIDE)
    chances = np.full((len(output.task.classes), rows, columns), output.score_floor)
    y, x = (np.arange(rows) + 0.5) * STRIDE, (np.arange(columns) + 0.5) * STRIDE
    for x1, y1, x2, y2, score, label in boxes_of(output, raw, spec):
        covered = np.ix_([int(label)], (y1 <= y) & (y <= y2), (x1 <= x) & (x <= x2))
        chances[covered] = np.maximum(chances[covered], score)
    chances = np.clip(chances, _SURE, 1 - _SURE)
    return np.asarray(np.log(chances / (1 - chances)), np.float32)[None]
