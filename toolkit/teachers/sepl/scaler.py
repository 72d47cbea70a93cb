"""What brings measures to one scale: median and interquartile range, fitted on the train split alone.

A measure's scaled value is (x - median) / (Q3 - Q1); outliers stay as large as they are (Ko et al., MICCAI 2025, have
scikit-learn's RobustScaler). The teacher's plan carries both numbers, a student's bundle its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...data.dataset import Dataset
from ...fresh import target_scale

Scaling = Literal["robust", "standard"]
Centres = dict[str, tuple[float, ...]]


def fit_scalers(
    dataset: Dataset, scaling: Scaling, say: Callable[[str], None] | None = None
) -> tuple[Centres, Centres]:
    """What is subtracted from each measure of each regression task, and what it is then divided by.

    Args:
        dataset: its train split alone is looked at.
        scaling: `robust` (median and interquartile range) or `standard` (mean and standard deviation).
        say: told of a measure that has no interquartile range.

    Raises:
        FoveolaError: a task without a value, or a measure that is constant.
    """
    train = dataset.subset("train")
    means, deviations = target_scale(train)  # refuses what has no scale at all
    if scaling == "standard":
        return means, deviations
    centres, ranges = {}, {}
    for name, spare in deviations.items():
        known = [_known(column) for column in train.scalars[name].T]
        centres[name] = tuple(float(np.median(column)) for column in known)
        found = [float(np.subtract(*np.percentile(column, (75, 25)))) for column in known]
        for measure, own in zip(train.task(name).classes, found, strict=True):
            if own <= 0 and say is not None:
                say(f"{measure}: half of its values are equal, so that its standard deviation is the scale")
        ranges[name] = tuple(own if own > 0 else other for own, other in zip(found, spare, strict=True))
    return centres, ranges


def _known(column: NDArray[np.float32]) -> NDArray[np.float64]:
    values = column.astype(np.float64)
    return values[~np.isnan(values)]
