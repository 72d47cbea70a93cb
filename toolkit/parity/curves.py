"""ROC and calibration curves of one label, with few enough points for a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ...runtime.task import Task
from .cases import Array
from .evidence import Curve

MOST_POINTS = 200
BINS = 10


def curves(model: str, task: Task, reference: Array, scores: Array) -> Iterator[Curve]:
    """Yield the curves of every label with both classes.

    Args:
        model: engine or `teacher`.
        task: binary or multilabel.
        reference: (N, C) 0, 1 or NaN.
        scores: (N, C) probabilities; NaN where there is no answer, left out.
    """
    labels = task.classes[1:] if task.kind == "binary" else task.classes
    for k, label in enumerate(labels):
        given = ~np.isnan(reference[:, k]) & np.isfinite(scores[:, k])
        truth, score = reference[given, k] > 0.5, np.asarray(scores[given, k], dtype=np.float64)
        if truth.all() or not truth.any():
            continue
        x, y = roc(truth, score)
        yield Curve(engine=model, task=task.name, label=label, kind="roc", x=_plain(x), y=_plain(y))
        mean, seen, n = calibration(truth, score)
        yield Curve(
            engine=model,
            task=task.name,
            label=label,
            kind="calibration",
            x=_plain(mean),
            y=_plain(seen),
            n=tuple(n.tolist()),
        )


def roc(truth: NDArray[np.bool_], scores: Array, most: int = MOST_POINTS) -> tuple[Array, Array]:
    """Give false positive rate and sensitivity at falling thresholds, (0, 0) to (1, 1), in at most `most` points."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # the last case of each run of equal scores
    true = np.append(0, np.cumsum(truth[order])[last]) / truth.sum()
    false = np.append(0, np.cumsum(~truth[order])[last]) / (~truth).sum()
    if len(true) > most:
        keep = np.unique(np.linspace(0, len(true) - 1, most).round().astype(int))
        true, false = true[keep], false[keep]
    return false, true


def calibration(truth: NDArray[np.bool_], scores: Array, bins: int = BINS) -> tuple[Array, Array, NDArray[np.intp]]:
    """Give mean probability, observed frequency and cases of bins that hold equally many cases.

    Equal counts, because most probabilities of a screening model are small; equal scores stay in one bin, so a bin can
    be larger. Descriptive only: the bins' number changes the picture.
    """
    ordered = np.sort(scores)
    edges = np.unique(ordered[(np.arange(1, bins) * len(ordered)) // bins])
    bin_of = np.searchsorted(edges, scores, side="right")
    n = np.bincount(bin_of)
    used = n > 0
    mean = np.bincount(bin_of, weights=scores)[used] / n[used]
    return mean, np.bincount(bin_of, weights=truth)[used] / n[used], n[used]


def _plain(values: Array) -> tuple[float, ...]:
    return tuple(np.round(values, 6).tolist())
