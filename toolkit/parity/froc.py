"""Free-response ROC: the sensitivity of a detector at a rate of false positives an image, and its paired bootstrap.

The curve runs through every threshold: false positives an image, and the share of the reference boxes found, by answers
with at least that score. Between two thresholds it is straight, so that answers with equal scores, as int8 makes many,
cannot be parted by chance. At a rate that the detector never reaches, its sensitivity is that of all its answers.

`froc` is the mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives an image, as in LUNA16 (Setio et al.
2017). Hits are those of `detection.py`; every other answer is false, also a second one for a box that is found already.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from .cases import Array, ratio, sum_by_patient
from .detection import ClassMatches, Weighted, in_parts

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # of LUNA16
SLACK = 1e-9  # relative: sums of weights are rounded


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """One class of one model by score, K scores at which something is hit, P patients.

    Args:
        before: (K, P) false answers between the hit scores, above this one.
        beside: (K, P) false answers at the score itself.
        hits: (K, P).
        truths: (P,) reference boxes.
        tied: there are false answers beside hits.
    """

    before: csr_array
    beside: csr_array
    hits: csr_array
    truths: Array
    tied: bool


def froc_curve(matches: ClassMatches, images: int) -> tuple[Array, Array]:
    """Give one class's curve: false positives an image (rising) and sensitivity, one point a threshold, from (0, 0).

    Args:
        matches: of one model.
        images: that were compared, also those on which there is nothing to find.
    """
    ends = np.append(np.flatnonzero(np.diff(matches.scores)), len(matches.scores) - 1)[: len(matches.scores)]
    false, right = np.cumsum(~matches.hit)[ends], np.cumsum(matches.hit)[ends]
    x = np.append(0.0, false / max(images, 1))
    y = ratio(np.append(0.0, right.astype(np.float64)), np.full(len(x), matches.truths.sum()))
    return x, y


def sensitivity_at(matches: ClassMatches, images: int, rates: Sequence[float]) -> float:
    """Give the mean sensitivity of one class at rates of false positives an image; NaN without reference boxes."""
    everyone = np.zeros(len(matches.truths), dtype=np.intp)
    steps = _steps(matches, everyone, 1)
    return float(_sensitivity(steps, np.array([float(images)]), rates, np.ones((1, 1)))[0])


def sensitivity_of(
    models: Sequence[Sequence[ClassMatches]], patients: NDArray[np.intp], images: Array, rates: Sequence[float]
) -> Weighted:
    """Make the function that gives the mean sensitivity of each model and class for weights of the patients.

    Args:
        models: by class.
        patients: (N,) dense numbers; any for an image without boxes and answers.
        images: (P,) that were compared, by patient.
        rates: of false positives an image.
    """
    steps = [[_steps(matches, patients, len(images)) for matches in model] for model in models]
    most = max((int(one.hits.indptr.size) - 1 for model in steps for one in model), default=1)

    def weighted(weights: Array) -> Array:
        by_model = [[_sensitivity(one, images, rates, weights) for one in model] for model in steps]
        return np.stack([np.stack(model, axis=1) for model in by_model], axis=1)

    return lambda weights: in_parts(weighted, weights, most)


def _steps(matches: ClassMatches, patients: NDArray[np.intp], count: int) -> Steps:
    score = np.append(0, np.cumsum(np.diff(matches.scores) != 0))[: len(matches.scores)]  # number of the threshold
    hit_scores = np.unique(score[matches.hit])
    step = np.searchsorted(hit_scores, score)
    reached = step < len(hit_scores)  # what scores less than the last hit changes nothing
    beside = np.zeros(len(score), dtype=bool)
    beside[reached] = hit_scores[step[reached]] == score[reached]
    unit = patients[matches.image]

    def table(rows: NDArray[np.bool_]) -> csr_array:
        return csr_array((np.ones(int(rows.sum())), (step[rows], unit[rows])), shape=(len(hit_scores), count))

    false = reached & ~matches.hit
    return Steps(
        before=table(false & ~beside),
        beside=table(false & beside),
        hits=table(matches.hit),
        truths=sum_by_patient(matches.truths[:, None], patients, count)[:, 0],
        tied=bool((false & beside).any()),
    )


def _sensitivity(steps: Steps, images: Array, rates: Sequence[float], weights: Array) -> Array:
    """Mean sensitivity (r,) with patients weighed by `weights` (P, r)."""
    before, hits = np.cumsum(steps.before @ weights, axis=0), steps.hits @ weights
    found = np.zeros(weights.shape[1])
    beside = steps.beside @ weights if steps.tied else np.zeros((0, 0))
    if steps.tied:
        before += np.cumsum(beside, axis=0) - beside
    for rate in rates:
        allowed = rate * (images @ weights) * (1.0 + SLACK)
        share = (before <= allowed).astype(np.float64)
        if steps.tied:
            partly = np.divide(allowed - before, beside, out=share.copy(), where=beside > 0)
            share = np.minimum(np.clip(partly, 0.0, 1.0), share)
        found += (share * hits).sum(axis=0)
    return ratio(found / len(rates), steps.truths @ weights)
