"""Average precision at IoU 0.5 as COCO defines it, and its paired bootstrap by patient.

Answers are matched to reference boxes image by image, once: matching does not depend on which other images are drawn.
The average precision of a resample is then a walk along the answers in the order of their scores, each counted as often
as its patient was drawn; that of all patients but one is the same walk with that one not counted. Rules as in the COCO
evaluation (Lin et al. 2014): answers in falling score, each takes the free reference box of its class that it overlaps
most if IoU >= 0.5, at most 100 answers a class and image, precision made monotone and read at 101 recalls 0, 0.01 .. 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from .bootstrap import replicate
from .cases import Array, sum_by_patient

IOU = 0.5
MOST_ANSWERS = 100  # a class and image
RECALLS = np.linspace(0.0, 1.0, 101)
BLOCK = 2_000_000  # hits times resamples held at a time
MOST_LEFT_OUT = 2000  # patients that are left out one by one; of more, as many groups

Weighted = Callable[[Array], Array]  # weights of the patients (P, r) -> (r, models, classes)


class ClassMatches(msgspec.Struct, frozen=True, kw_only=True):
    """One class of one model: answers in falling score, and the reference boxes of each image."""

    scores: Array  # (D,)
    hit: NDArray[np.bool_]  # (D,) matched to a reference box
    image: NDArray[np.intp]  # (D,)
    truths: Array  # (N,) reference boxes of the class, by image

    def hits_by_image(self) -> Array:
        """Count the reference boxes found (N,), whatever the score."""
        return np.bincount(self.image[self.hit], minlength=len(self.truths)).astype(np.float64)


def overlap(a: Array, b: Array) -> Array:
    """Give the intersection over union of boxes (K, 4) with (B, 4), x1 y1 x2 y2: (K, B); 0 for boxes without area."""
    corner_low = np.maximum(a[:, None, :2], b[None, :, :2])
    corner_high = np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    shared = np.prod(np.clip(corner_high - corner_low, 0.0, None), axis=2)
    area_a = np.prod(np.clip(a[:, 2:4] - a[:, :2], 0.0, None), axis=1)
    area_b = np.prod(np.clip(b[:, 2:4] - b[:, :2], 0.0, None), axis=1)
    union = area_a[:, None] + area_b[None] - shared
    quotient: Array = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return quotient


def match_image(answers: Array, truths: Array, iou: float = IOU) -> NDArray[np.bool_]:
    """Tell which answers (K, 4), in falling score, take a reference box (B, 4) of one image and class: (K,)."""
    hit = np.zeros(len(answers), dtype=bool)
    if not len(truths):
        return hit
    ious = overlap(answers, truths)
    for k in np.flatnonzero(ious.max(axis=1) >= min(iou, 1.0 - 1e-10)):
        best = ious[k].max()
        if best >= min(iou, 1.0 - 1e-10):
            hit[k] = True
            # COCO takes the last of equally good boxes.
            ious[:, np.flatnonzero(ious[k] == best)[-1]] = -1.0
    return hit


def match_class(answers: Sequence[Array], references: Sequence[Array], label: int, iou: float = IOU) -> ClassMatches:
    """Match one class over all images.

    Args:
        answers: (K, 6) an image: x1, y1, x2, y2, score, class index.
        references: (B, 5) an image: x1, y1, x2, y2, class index.
        label: index of the class.
        iou: least overlap of a hit.
    """
    scores, hits, images = [], [], []
    truths = np.zeros(len(references))
    for number, (found, reference) in enumerate(zip(answers, references, strict=True)):
        mine = found[found[:, 5] == label]
        mine = mine[np.argsort(-mine[:, 4], kind="stable")][:MOST_ANSWERS]
        wanted = reference[reference[:, 4] == label]
        truths[number] = len(wanted)
        scores.append(mine[:, 4])
        hits.append(match_image(mine[:, :4], wanted[:, :4], iou))
        images.append(np.full(len(mine), number))
    score = np.concatenate([*scores, np.zeros(0)])
    order = np.argsort(-score, kind="stable")
    return ClassMatches(
        scores=score[order],
        hit=np.concatenate([*hits, np.zeros(0, dtype=bool)])[order],
        image=np.concatenate([*images, np.zeros(0, dtype=np.intp)])[order],
        truths=truths,
    )


class Walk(msgspec.Struct, frozen=True, kw_only=True):
    """One class of one model, made ready to be weighed by patient: H hits, P patients.

    Precision peaks at hits, so only they are looked at: the answers up to each hit are added up by a sparse matrix with
    one row a hit and one entry an answer.
    """

    between: csr_array  # (H, P) answers after the hit before, up to this one, by patient
    hits: NDArray[np.intp]  # (H,) the patient of each
    truths: Array  # (P,)


def average_precision(matches: ClassMatches, rows: NDArray[np.bool_] | None = None) -> float:
    """Give the AP of one class, of the images in `rows` (N,) or of all; NaN when there is no reference box."""
    weights = np.ones(len(matches.truths)) if rows is None else rows.astype(np.float64)
    return float(_precision(_walk(matches, np.arange(len(weights)), len(weights)), weights[:, None])[0])


def precision_of(
    models: Sequence[Sequence[ClassMatches]], patients: NDArray[np.intp], *, smooth: bool = False
) -> Weighted:
    """Make the function that gives the AP of each model and class for weights of the patients; NaN without boxes.

    Args:
        models: by class.
        patients: (N,) dense numbers; any for an image without boxes and answers.
        smooth: the whole area under the envelope instead of its mean at 101 recalls. The two differ little, but whether
            one patient moves the curve across one of the 101 steps is chance, and the jackknife, which divides by one
            patient's weight, would take it for scatter.
    """
    count = int(patients.max()) + 1
    walks = [[_walk(matches, patients, count) for matches in model] for model in models]
    most = max((len(walk.hits) for model in walks for walk in model), default=1)

    def weighted(weights: Array) -> Array:
        by_model = [[_precision(walk, weights, smooth=smooth) for walk in model] for model in walks]
        return np.stack([np.stack(model, axis=1) for model in by_model], axis=1)

    return lambda weights: in_parts(weighted, weights, most)


def replicate_precision(
    models: Sequence[Sequence[ClassMatches]], patients: NDArray[np.intp], resamples: int, seed: int
) -> Array:
    """Give the AP of each model and class on each resample: (resamples, models, classes), NaN without boxes."""
    return replicate_weighted(precision_of(models, patients), int(patients.max()) + 1, resamples, seed)


def replicate_weighted(statistic: Weighted, patients: int, resamples: int, seed: int) -> Array:
    """Give a statistic on each resample of the patients: (resamples, models, classes)."""
    return replicate(lambda counts: statistic(counts.astype(np.float64)), patients, resamples, seed)


def leave_out(statistic: Weighted, patients: int) -> Array:
    """Give a statistic without each patient in turn, or each group of many: (groups, models, classes)."""
    groups = min(patients, MOST_LEFT_OUT)
    group = np.arange(patients) % groups
    step = 64
    parts = [
        statistic((group[:, None] != np.arange(start, min(start + step, groups))).astype(np.float64))
        for start in range(0, groups, step)
    ]
    return np.concatenate(parts)


def in_parts(statistic: Weighted, weights: Array, rows: int) -> Array:
    """Compute a statistic that holds `rows` numbers a resample for a bounded number of resamples at a time."""
    step = max(1, BLOCK // max(rows, 1))
    starts = range(0, weights.shape[1], step)
    return np.concatenate([statistic(np.ascontiguousarray(weights[:, k : k + step])) for k in starts])


def _walk(matches: ClassMatches, patients: NDArray[np.intp], count: int) -> Walk:
    hits = np.flatnonzero(matches.hit)
    unit = patients[matches.image]
    last = int(hits[-1]) + 1 if len(hits) else 0
    until = np.searchsorted(hits, np.arange(last))  # the hit that first counts an answer
    return Walk(
        between=csr_array((np.ones(last), (until, unit[:last])), shape=(len(hits), count)),
        hits=unit[hits],
        truths=sum_by_patient(matches.truths[:, None], patients, count)[:, 0],
    )


def _precision(walk: Walk, weights: Array, *, smooth: bool = False) -> Array:
    """AP (r,) with patients weighed by `weights` (P, r)."""
    wanted = walk.truths @ weights
    result = np.where(wanted > 0, 0.0, np.nan)
    if not len(walk.hits):
        return result
    answered = np.cumsum(walk.between @ weights, axis=0)
    each = weights[walk.hits]
    right = np.cumsum(each, axis=0)
    precision = np.divide(right, answered, out=np.zeros_like(right), where=answered > 0)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    if smooth:
        area: Array = np.divide((envelope * each).sum(axis=0), wanted, out=result, where=wanted > 0)
        return area
    envelope = np.ascontiguousarray(np.concatenate([envelope, np.zeros((1, len(wanted)))]).T)
    right = np.ascontiguousarray(right.T)
    for row in np.flatnonzero(wanted > 0):
        at = np.searchsorted(right[row] / wanted[row], RECALLS, side="left")
        result[row] = envelope[row, at].mean()
    return result
