"""A new network for the tasks of a data set: random weights from the seed, measures scaled by the train split."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from ..runtime.errors import FoveolaError
from .answers import Scale
from .data.dataset import Dataset
from .knobs import Shape
from .models.network import Architecture, Network


def new_network(
    role: Literal["teacher", "student"], dataset: Dataset, shape: Shape, seed: int, scale: Scale | None = None
) -> Network:
    """A network for the tasks of a data set, with random weights from the seed.

    Args:
        role: which heads it has.
        dataset: with train cases, whose measures say the scale.
        shape: the network.
        seed: of the weights.
        scale: of the regression tasks that it names, in place of the train split's own.
    """
    mean, std = target_scale(dataset.subset("train"))
    given = {name: pair for name, pair in (scale or {}).items() if name in mean}
    mean |= {name: pair[0] for name, pair in given.items()}
    std |= {name: pair[1] for name, pair in given.items()}
    torch.manual_seed(seed)
    return Network(
        Architecture(
            role=role,
            backbone=shape.backbone,
            input=shape.input,
            tasks=dataset.tasks,
            width=shape.width,
            mask_stride=shape.mask_stride,
            box_stride=shape.box_stride,
            output_stride=shape.output_stride,
            target_mean=mean,
            target_std=std,
        )
    )


def target_scale(train: Dataset) -> tuple[dict[str, tuple[float, ...]], dict[str, tuple[float, ...]]]:
    """Mean and standard deviation of every regression target over the known train cases."""
    means, stds = {}, {}
    for task in train.tasks:
        if task.kind != "regression":
            continue
        values = train.scalars[task.name].astype(np.float64)
        known = [column[~np.isnan(column)] for column in values.T]
        if any(len(column) == 0 for column in known):
            raise FoveolaError(f"task {task.name!r}", "no train case has a value", "fill its column, or drop the task")
        flat = [name for name, column in zip(task.classes, known, strict=True) if column.min() == column.max()]
        if flat:
            fault = f"{flat[0]} has one value only in all {len(train)} train cases"
            raise FoveolaError(
                f"task {task.name!r}", fault, "a constant cannot be learned: look at its column, or drop it"
            )
        means[task.name] = tuple(float(column.mean()) for column in known)
        stds[task.name] = tuple(float(column.std()) for column in known)
    return means, stds
