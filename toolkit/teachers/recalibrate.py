"""Judges each task with statistics of batch normalisation that are estimated on that task's own images.

The running statistics of a backbone that visits tasks in turn are those of the last visit. This changes what is
measured, not what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.swa_utils import update_bn

from ...runtime.task import Task
from ..batches import TrainingData
from ..checkpoint import Borrowed, copy_weights
from ..course import Scores

BATCH = 32


def recalibrated(
    validate: Callable[[nn.Module], Scores],
    tasks: Sequence[Task],
    data: TrainingData,
    places: Mapping[str, NDArray[np.int64]],
    images: int,
) -> Callable[[nn.Module], Scores]:
    """A validation that estimates the statistics anew for each task.

    Args:
        validate: scores all tasks.
        tasks: those of the network.
        data: train images.
        places: labelled images by task.
        images: how many of a task's images are looked at.
    """

    def judge(network: nn.Module) -> Scores:
        by_task: dict[str, float] = {}
        own = copy_weights(network)
        for task in tasks:
            with Borrowed(network, own):
                estimate_norms(network, data, places[task.name][:images])
                scores = validate(network.eval()).by_task
            if task.name in scores:
                by_task[task.name] = scores[task.name]
        return Scores(float(np.mean(list(by_task.values()))) if by_task else 0.0, by_task)

    return judge


def estimate_norms(network: nn.Module, data: TrainingData, places: NDArray[np.int64]) -> None:
    """Replace the running statistics by the means over these images (two at least)."""
    device = next(network.parameters()).device
    count = max(1, len(places) // BATCH)
    parts = [part for part in np.array_split(places, count) if len(part) > 1]  # one image has no variance
    with torch.no_grad():
        update_bn((data.batch(part).images.to(device) for part in parts), network)
