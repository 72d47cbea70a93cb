"""AUC and the paired difference of two AUCs, its variance from structural components clustered by patient.

The components are those of DeLong, DeLong and Clarke-Pearson (Biometrics 1988), computed from midranks in n log n as
Sun and Xu (IEEE Signal Processing Letters 2014) showed; ties count half. Cases of one patient are not independent, so
the components are summed by patient before they are squared (Obuchowski, Biometrics 1997). With one case a patient this
is DeLong's variance exactly.

Over several labels the macro AUC is the mean of the labels' AUCs; its variance comes from the same sums, added over the
labels within each patient, so that labels of one patient need not be independent.

The interval is Student's t, corrected for skewness (`tilted.py`): with few positive patients, or positives of which the
student forgets some, the difference has a long tail below. An AUC is no mean, so its third cumulant has a term from
pairs of a positive and a negative; it too comes from sorted scores, in n log n.

    comparison = compare_auc(truth, teacher_scores, student_scores, patients)
    comparison.difference, comparison.se
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from .cases import Array, sum_by_patient
from .tilted import NOTHING, Spread, effective, spread_of, unseen


class AucComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two models' (macro) AUC on the same cases; `difference` is student minus teacher."""

    teacher: float
    student: float
    difference: float
    se: float  # of the difference; NaN where only one patient has positives or negatives
    teacher_se: float
    positive_patients: int  # the fewest over the labels
    negative_patients: int
    moved: int  # patients with a case that one of the models puts elsewhere among the other class
    spread: Spread  # of the difference
    student_spread: Spread
    teacher_spread: Spread
    effective: tuple[float, ...]  # by label: Kish's number of patients of the rarer class
    areas: tuple[float, ...]  # by label: the larger of the two models'
    same_ranks: bool  # both models put all cases into the same order: any increasing map of the scores does


class Components(msgspec.Struct, frozen=True, kw_only=True):
    """One label's AUCs of two models and their centred structural components, summed by patient: (P, 2) each."""

    auc: Array  # (2,)
    positive: Array
    negative: Array
    positive_patients: int
    negative_patients: int
    moved: NDArray[np.bool_]  # (P,) see `AucComparison`
    images: Array  # (2, P) of the positives and of the negatives
    scores: tuple[Array, Array]  # (m, 2) of the positives, (n, 2) of the negatives
    patients: tuple[NDArray[np.intp], NDArray[np.intp]]  # (m,) and (n,)


def placements(positives: Array, negatives: Array) -> tuple[Array, Array]:
    """Give the structural components V10 (m,) and V01 (n,): the share of the other class on the right side of a case.

    Args:
        positives: scores of the m positive cases.
        negatives: scores of the n negative cases.
    """
    m, n = len(positives), len(negatives)
    together = rankdata(np.concatenate([positives, negatives]))
    v10 = (together[:m] - rankdata(positives)) / n
    v01 = 1.0 - (together[m:] - rankdata(negatives)) / m
    return np.asarray(v10, dtype=np.float64), np.asarray(v01, dtype=np.float64)


def auc(truth: NDArray[np.bool_], scores: Array) -> float:
    """Give the area under the ROC curve of `scores` (n,): ties count half; NaN when one class is absent."""
    if truth.all() or not truth.any():
        return float("nan")
    return float(placements(scores[truth], scores[~truth])[0].mean())


def components(truth: NDArray[np.bool_], scores: Array, patients: NDArray[np.intp], count: int) -> Components:
    """Compute the components of one label.

    Args:
        truth: (n,) both classes present.
        scores: (n, 2) teacher and student.
        patients: (n,) numbers 0..count-1.
        count: patients in all.
    """
    split = [placements(column[truth], column[~truth]) for column in scores.T]
    v10, v01 = (np.stack(parts, axis=1) for parts in zip(*split, strict=True))
    areas = v10.mean(axis=0)
    moved = np.zeros(count, dtype=bool)
    for side, place in ((truth, v10), (~truth, v01)):
        moved[patients[side][np.abs(place[:, 1] - place[:, 0]) > 1e-12]] = True
    return Components(
        auc=areas,
        positive=sum_by_patient((v10 - areas) / len(v10), patients[truth], count),
        negative=sum_by_patient((v01 - areas) / len(v01), patients[~truth], count),
        positive_patients=len(np.unique(patients[truth])),
        negative_patients=len(np.unique(patients[~truth])),
        moved=moved,
        images=np.stack([np.bincount(patients[side], minlength=count) for side in (truth, ~truth)]).astype(np.float64),
        scores=(scores[truth], scores[~truth]),
        patients=(patients[truth], patients[~truth]),
    )


def standard_error(parts: Sequence[Components], weights: Array) -> float:
    """Estimate the standard error of a weighted sum of AUCs, `weights` (labels, 2); NaN where it cannot be estimated.

    Obuchowski 1997: each half has the small-sample factor of its own number of patients, the
    product of the halves that of all patients.
    """
    if any(min(part.positive_patients, part.negative_patients) < 2 for part in parts):
        return float("nan")
    positive = [part.positive @ weight for part, weight in zip(parts, weights, strict=True)]
    negative = [part.negative @ weight for part, weight in zip(parts, weights, strict=True)]
    # The halves of one label, scaled; summed over labels inside a patient before squaring.
    p = sum(x * _factor(part.positive_patients) ** 0.5 for x, part in zip(positive, parts, strict=True))
    q = sum(x * _factor(part.negative_patients) ** 0.5 for x, part in zip(negative, parts, strict=True))
    cross = np.sum(np.sum(positive, axis=0) * np.sum(negative, axis=0)) * _factor(len(parts[0].positive))
    return float(np.sqrt(max(np.sum(np.square(p)) + np.sum(np.square(q)) + 2.0 * cross, 0.0)))


def spread(parts: Sequence[Components], weights: Array) -> Spread:
    """Give the spread of a weighted sum of AUCs for its interval, `weights` (labels, 2).

    The variance is Obuchowski's with the jackknife's leverage; the two agree when all patients have as many images.
    """
    if any(min(part.positive_patients, part.negative_patients) < 2 for part in parts):
        return NOTHING
    pairs = list(zip(parts, weights, strict=True))
    plain = np.sum([(part.positive + part.negative) @ weight for part, weight in pairs], axis=0)
    sharp = np.sum([_sharpened(part) @ weight for part, weight in pairs], axis=0)
    curvature = sum(_curvature(part, weight, plain) for part, weight in pairs)
    return spread_of(sharp, curvature, min(effective(images) for part in parts for images in part.images) - 1.0)


def hidden_loss(compared: AucComparison, alpha: float) -> float:
    """Give what the (macro) AUC may lose by positives, or negatives, forgotten too rarely for one to be seen.

    A positive that is forgotten scores like a negative: its part of the AUC falls to a half. The worst label counts.
    """
    costs = [
        unseen(patients, alpha) * max(area - 0.5, 0.0)
        for patients, area in zip(compared.effective, compared.areas, strict=True)
    ]
    return max(costs) / len(costs)


def compare_macro_auc(truth: Array, teacher: Array, student: Array, patients: NDArray[np.intp]) -> AucComparison:
    """Compare the mean AUC over labels of two models on the same cases.

    Args:
        truth: (N, C) 0, 1 or NaN (not known); each label has both classes.
        teacher: (N, C) scores; larger means more likely.
        student: (N, C).
        patients: (N,) numbers of the patients.
    """
    count = int(patients.max()) + 1
    parts = [
        _label_components(truth[:, k], np.stack([teacher[:, k], student[:, k]], axis=1), patients, count)
        for k in range(truth.shape[1])
    ]
    areas = np.mean([part.auc for part in parts], axis=0)
    share = np.full(len(parts), 1.0 / len(parts))
    return AucComparison(
        teacher=float(areas[0]),
        student=float(areas[1]),
        difference=float(areas[1] - areas[0]),
        se=standard_error(parts, np.outer(share, [-1.0, 1.0])),
        teacher_se=standard_error(parts, np.outer(share, [1.0, 0.0])),
        positive_patients=min(part.positive_patients for part in parts),
        negative_patients=min(part.negative_patients for part in parts),
        moved=int(np.any([part.moved for part in parts], axis=0).sum()),
        spread=spread(parts, np.outer(share, [-1.0, 1.0])),
        student_spread=spread(parts, np.outer(share, [0.0, 1.0])),
        teacher_spread=spread(parts, np.outer(share, [1.0, 0.0])),
        effective=tuple(min(effective(part.images[0]), effective(part.images[1])) for part in parts),
        areas=tuple(float(part.auc.max()) for part in parts),
        same_ranks=_same_ranks(truth, teacher, student),
    )


def compare_auc(truth: NDArray[np.bool_], teacher: Array, student: Array, patients: NDArray[np.intp]) -> AucComparison:
    """Do `compare_macro_auc` for a single label; all arguments (N,)."""
    return compare_macro_auc(truth.astype(np.float64)[:, None], teacher[:, None], student[:, None], patients)


def lower_bound_of_perfect_auc(positives: int, negatives: int, alpha: float) -> float:
    """Give the one-sided lower bound of an AUC that was observed to be 1.

    Newcombe (Statistics in Medicine 2006), method 5: the bound t solves 1 - t = z sqrt(V(t)) with Hanley and McNeil's
    variance at t. The proof uses it where next to no patient moved between the models, so that DeLong's variance of
    the difference rests on nothing.
    """
    z, more = float(norm.ppf(1.0 - alpha)), (positives + negatives) / 2.0 - 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        t = (low + high) / 2.0
        variance = t * (1.0 - t) * (1.0 + more * ((1.0 - t) / (2.0 - t) + t / (1.0 + t))) / (positives * negatives)
        low, high = (t, high) if 1.0 - t > z * variance**0.5 else (low, t)
    return low


def _label_components(truth: Array, scores: Array, patients: NDArray[np.intp], count: int) -> Components:
    known = ~np.isnan(truth)
    return components(truth[known] > 0.5, scores[known], patients[known], count)


def _same_ranks(truth: Array, teacher: Array, student: Array) -> bool:
    known = ~np.isnan(truth)
    return all(np.array_equal(rankdata(teacher[rows, k]), rankdata(student[rows, k])) for k, rows in enumerate(known.T))


def _sharpened(part: Components) -> Array:
    """Give contributions (P, 2) corrected for leverage: what leaving the patient out would change."""
    halves = zip(
        (part.positive, part.negative), part.images, (part.positive_patients, part.negative_patients), strict=True
    )
    return np.asarray(
        sum(half / (1.0 - own / own.sum())[:, None] * ((n - 1) / n) ** 0.5 for half, own, n in halves), dtype=np.float64
    )


def _curvature(part: Components, weight: Array, direction: Array) -> float:
    """Differentiate a label's AUCs twice when each patient's weight moves along `direction` (P,).

    Once for pairs of a positive and a negative, once because either mean is over images whose weights move too.
    """
    moves = [direction[patients] for patients in part.patients]
    found = 0.0
    for move, half in zip(moves, (part.positive, part.negative), strict=True):
        found -= 2.0 * float(move.mean()) * float((half @ weight) @ direction)
    centred = [(move - move.mean()) / len(move) for move in moves]
    for share, positive, negative in zip(weight, part.scores[0].T, part.scores[1].T, strict=True):
        if share:
            found += 2.0 * float(share) * float(centred[0] @ _weighted_placements(positive, negative, centred[1]))
    return found


def _weighted_placements(positives: Array, negatives: Array, weights: Array) -> Array:
    """Sum for each positive (m,) the weights (n,) of the negatives below it; ties count half."""
    order = np.argsort(negatives, kind="stable")
    below = np.concatenate([[0.0], np.cumsum(weights[order])])
    ranked = negatives[order]
    sides: tuple[Array, Array] = (
        below[np.searchsorted(ranked, positives, "left")],
        below[np.searchsorted(ranked, positives, "right")],
    )
    return (sides[0] + sides[1]) / 2.0


def _factor(patients: int) -> float:
    return patients / (patients - 1)
