"""How much of its margins a form of the network has left on the validation images: the worst task decides.

The slack of a task is 1 where the form is as good as the float network, 0 where it has lost the whole margin of the
task's primary metric, and negative beyond. It chooses between forms; what it chose is proved on other images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ...runtime.answer import boxes_of
from ...runtime.task import Kind, Task
from ..answers import RawAnswers
from ..data.arrays import Arrays
from ..models.network import Network
from ..models.outputs import task_outputs
from ..parity.metrics import margin_of
from ..score import score_answers

Run = Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]

# What a step of the metric is on the scale of `score_answers`, where 0 is chance and 1 is perfect.
# Twice the AUC, or the pair percentile, less one; all others as they are.
SCALES: dict[Kind, float] = {"binary": 2.0, "multilabel": 2.0, "embedding": 2.0}


def ask(run: Run, network: Network, images: NDArray[np.float32]) -> RawAnswers:
    """An artefact's raw answers to prepared images (N, C, H, W), one at a time as on the device."""
    outputs = task_outputs(network, {})
    raw: dict[str, list[NDArray[np.float32]]] = {one.task.name: [] for one in outputs if one.task.kind != "detection"}
    boxes: dict[str, list[NDArray[np.float32]]] = {one.task.name: [] for one in outputs if one.task.kind == "detection"}
    for i in range(len(images)):
        found = run(np.ascontiguousarray(images[i : i + 1]))
        for output in outputs:
            name = output.task.name
            if name in raw:
                raw[name].append(found[name])
            else:
                boxes[name].append(boxes_of(output, found, network.input).astype(np.float32))
    return RawAnswers({name: np.concatenate(many) for name, many in raw.items()}, boxes)


def slacks(network: Network, reference: RawAnswers, answers: RawAnswers, val: Arrays) -> dict[str, float]:
    """Slack of each task that has a target on these images.

    Args:
        network: gives the tasks, their margins, and the scale of regressions.
        reference: the float network's answers.
        answers: the form's answers to the same images.
        val: the images' targets.
    """
    scale = network.target_scale
    before = score_answers(network.tasks, reference, val, scale).by_task
    after = score_answers(network.tasks, answers, val, scale).by_task
    return slack_of(network.tasks, before, after, val)


def slack_of(
    tasks: Sequence[Task], before: Mapping[str, float], after: Mapping[str, float], val: Arrays
) -> dict[str, float]:
    """Slack of each task that was scored before.

    Args:
        tasks: with their margins.
        before: score of each task (`score_answers`) of the network that is compared with.
        after: of the other one; a task that is absent has lost all.
        val: the targets of the scored images.
    """
    return {
        task.name: 1 - max(before[task.name] - after.get(task.name, -1.0), 0.0) / _step(task, val)
        for task in tasks
        if task.name in before
    }


def worst(found: dict[str, float]) -> tuple[str, float]:
    """Name the task with the least slack, and give it; ("", 1) where nothing could be scored."""
    return min(found.items(), key=lambda pair: pair[1], default=("", 1.0))


def _step(task: Task, val: Arrays) -> float:
    """The task's margin on the scale of the scores."""
    if task.kind == "regression":  # a skill is 1 - error / constant's error
        constant = _constant_error(val.scalars[task.name])
        return margin_of(task.metric, task.margins, constant) / constant
    return SCALES.get(task.kind, 1.0) * margin_of(task.metric, task.margins)


def _constant_error(target: NDArray[np.float32]) -> float:
    """Mean absolute error of the median, over the measures; 1 where nothing varies."""
    errors: Sequence[float] = [
        float(np.abs(column[~np.isnan(column)] - np.nanmedian(column)).mean())
        for column in target.T
        if (~np.isnan(column)).any()
    ]
    return float(np.mean(errors)) if errors and np.mean(errors) > 0 else 1.0
