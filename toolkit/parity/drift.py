"""Do these images and answers look like those that the bundle was made with? Histograms against histograms.

- **PSI**, the population stability index: sum of (p - q) ln(p / q) over the bins, each share with half a count added.
  0.1 is usually called a small shift and 0.25 a large one.
- **KS**: the largest distance of the two distribution functions at the edges.

With few images PSI is large by chance alone: without any drift it is about (1/n + 1/m) times a chi-square with one
degree of freedom less than bins (Yurdakul and Naranjo, Journal of Risk Model Validation 2020). Flagged is what reaches
0.25 **and** exceeds the 99.9 % point of that, where n and m are patients and not images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from ...runtime.histogram import Histogram, counted
from ...runtime.task import Task
from ...runtime.watch.drift import LARGE as LARGE
from ...runtime.watch.drift import distance as distance
from ...runtime.watch.drift import stability_index as stability_index
from .cases import Answers, Array
from .evidence import Drift

CHANCE = 0.999


def drifts(
    engine: str,
    reference: Mapping[str, Histogram],
    values: Mapping[str, NDArray[np.floating]],
    *,
    prefix: str,
    patients: int,
    reference_patients: int,
) -> Iterator[Drift]:
    """Yield one comparison for each histogram of which there are values.

    Args:
        engine: whose answers; empty for the images themselves.
        reference: the bundle's histograms by name.
        values: (N,) these cases' values by the same names; NaN is left out.
        prefix: put before the names: `input` or `score`.
        patients: of these cases.
        reference_patients: of the reference.
    """
    for name, histogram in sorted(reference.items()):
        if name not in values:
            continue
        counts = np.array(counted(np.asarray(values[name], np.float64), histogram.edges), np.float64)
        before = np.array(histogram.counts, np.float64)
        if not counts.sum() or not before.sum():
            continue
        index = stability_index(before, counts)
        chance = chance_level(len(counts), min(patients, counts.sum()), min(reference_patients, before.sum()))
        yield Drift(
            engine=engine,
            what=f"{prefix}/{name}",
            cases=int(counts.sum()),
            reference_cases=int(before.sum()),
            psi=index,
            ks=distance(before, counts),
            flagged=index >= LARGE and index > chance,
        )


def score_columns(tasks: Sequence[Task], answers: Answers) -> dict[str, Array]:
    """Name a model's probabilities and values as the bundle's histograms do: "task/label" -> (N,)."""
    found: dict[str, Array] = {}
    for task in tasks:
        if task.kind not in ("segmentation", "detection", "embedding"):
            labels = task.classes[1:] if task.kind == "binary" else task.classes
            columns = np.asarray(answers.scores[task.name], np.float64).T
            found |= {f"{task.name}/{label}": column for label, column in zip(labels, columns, strict=True)}
    return found


def chance_level(bins: int, now: float, before: float) -> float:
    """Give what the index does not exceed without any drift, at 99.9 %."""
    return 0.0 if bins < 2 else float(chi2.ppf(CHANCE, bins - 1)) * (1.0 / now + 1.0 / before)
