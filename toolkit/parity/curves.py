"""ROC, calibration and FROC curves of one label, with few enough points for a report, and calibration errors.

All of it describes: a calibration curve and its error depend on the number of bins, and neither is paired. Brier score
and logarithmic loss are the endpoints (`calibration_endpoints.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ...runtime.task import Task
from .cases import Array
from .evidence import Curve, Reliability

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


def froc_curves(model: str, task: Task, found: Sequence[tuple[Array, Array]]) -> Iterator[Curve]:
    """Yield the FROC curve of every class that has one.

    Args:
        model: engine or `teacher`.
        task: detection.
        found: one for each class, in order: false positives an image, rising, and sensitivity (`froc.froc_curve`).
    """
    for label, (x, y) in zip(task.classes, found, strict=True):
        if len(x) and np.isfinite(y).all():
            keep = _thinned(len(x))
            yield Curve(engine=model, task=task.name, label=label, kind="froc", x=_plain(x[keep]), y=_plain(y[keep]))


def reliability(model: str, task: Task, reference: Array, scores: Array, bins: int = BINS) -> Iterator[Reliability]:
    """Yield the expected calibration error of every label with a case (Naeini et al. 2015), in bins of equal mass.

    For multiclass and ordinal tasks it is that of the class decided: how often it is right against its probability
    (Guo et al. 2017, section 2).

    Args:
        model: engine or `teacher`.
        task: binary, multilabel, multiclass or ordinal.
        reference: (N, C) 0, 1 or NaN; (N, 1) index of the class or NaN.
        scores: (N, C) probabilities; a case without all of its answer is left out.
        bins: as many, or fewer where scores are equal.
    """
    if task.kind in ("multiclass", "ordinal"):
        decided = np.argmax(np.nan_to_num(scores), axis=1)
        right = np.where(np.isnan(reference[:, 0]), np.nan, reference[:, 0] == decided)
        reference, scores = right[:, None], scores.max(axis=1, initial=0.0)[:, None]  # NaN stays NaN
    labels = {"binary": task.classes[1:], "multilabel": task.classes}.get(task.kind, ("",))
    for k, label in enumerate(labels):
        given = ~np.isnan(reference[:, k]) & np.isfinite(scores[:, k])
        if given.any():
            mean, seen, n = calibration(reference[given, k] > 0.5, np.asarray(scores[given, k], dtype=np.float64), bins)
            yield Reliability(
                engine=model,
                task=task.name,
                label=label,
                cases=int(n.sum()),
                bins=len(n),
                ece=round(float(n @ np.abs(mean - seen) / n.sum()), 6),
            )


def roc(truth: NDArray[np.bool_], scores: Array, most: int = MOST_POINTS) -> tuple[Array, Array]:
    """Give false positive rate and sensitivity at falling thresholds, (0, 0) to (1, 1), in at most `most` points."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # the last case of each run of equal scores
    true = np.append(0, np.cumsum(truth[order])[last]) / truth.sum()
    false = np.append(0, np.cumsum(~truth[order])[last]) / (~truth).sum()
    keep = _thinned(len(true), most)
    return false[keep], true[keep]


def _thinned(count: int, most: int = MOST_POINTS) -> NDArray[np.intp]:
    """Choose at most `most` of `count` points, evenly, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))


def calibration(truth: NDArray[np.bool_], scores: Array, bins: int = BINS) -> tuple[Array, Array, NDArray[np.intp]]:
    """Give mean probability, observed frequency and cases of bins that hold equally many cases.

    Equal counts, because most probabilities of a screening model are small; equal scores stay in one bin, so a bin can
    be larger. The last bin has no upper end: a probability of exactly 1, as int8 and float16 give it, is in it and not
    in one of its own (torchmetrics issue 3510).
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
