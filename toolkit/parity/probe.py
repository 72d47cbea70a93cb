"""What a linear probe reads from embeddings: logistic regression, fitted and judged on different patients.

The probe is fitted inside the cases that are judged, patient by patient in `FOLDS` parts: a patient's score comes from
a probe that has seen none of the patient's images (cross-fitting). Teacher and student have the same parts. Nothing is
random: the parts come from the patients' order, and the problem is convex (L2, scikit-learn's C = 1, standardised
numbers), solved to its optimum.

Shapes: N cases, D numbers, C conditions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from .cases import Array

FOLDS = 5


def probe_scores(embedding_ND: Array, truth_NC: Array, patients: NDArray[np.intp]) -> Array:
    """Give each case's log odds of each condition (N, C) by a probe that has not seen its patient.

    Args:
        embedding_ND: NaN where one is missing; its scores are NaN.
        truth_NC: 0, 1 or NaN; cases that are not known are not fitted on, and have no score.
        patients: (N,) numbers.
    """
    scores = np.full(truth_NC.shape, np.nan)
    given = np.isfinite(embedding_ND).all(axis=1)
    for k, column in enumerate(truth_NC.T):
        known = ~np.isnan(column)
        parts = _parts(column > 0.5, known, patients)
        for part in range(FOLDS):
            judged, seen = given & known & (parts == part), given & known & (parts != part)
            if judged.any():
                weights, bias, centre, scale = _fitted(embedding_ND[seen], column[seen] > 0.5)
                scores[judged, k] = (embedding_ND[judged] - centre) / scale @ weights + bias
    return scores


def _parts(positive: NDArray[np.bool_], known: NDArray[np.bool_], patients: NDArray[np.intp]) -> NDArray[np.intp]:
    """Deal the patients to the parts in turn, those with a positive case first, so that each part has both."""
    with_positive = np.zeros(int(patients.max(initial=0)) + 1, dtype=bool)
    with_positive[patients[known & positive]] = True
    part = np.zeros(len(with_positive), dtype=np.intp)
    names = np.unique(patients[known])
    ordered = np.concatenate([names[with_positive[names]], names[~with_positive[names]]])
    part[ordered] = np.arange(len(ordered)) % FOLDS
    return part[patients]


def _fitted(x: Array, positive: NDArray[np.bool_]) -> tuple[Array, float, Array, Array]:
    """Weights, bias, centre and scale of a probe; of one class only, or of none, it says nothing (all zero)."""
    width = x.shape[1]
    if not positive.any() or positive.all():
        return np.zeros(width), 0.0, np.zeros(width), np.ones(width)
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    z, sign = (x - centre) / scale, np.where(positive, 1.0, -1.0)

    def loss(parameters: Array) -> tuple[float, Array]:
        weights, bias = parameters[:-1], parameters[-1]
        margin = sign * (z @ weights + bias)
        pull = -sign * expit(-margin)
        slope = np.concatenate([weights + pull @ z, [pull.sum()]])
        return float(0.5 * weights @ weights + np.logaddexp(0.0, -margin).sum()), slope

    found = minimize(loss, np.zeros(width + 1), jac=True, method="L-BFGS-B", options={"maxiter": 1000, "gtol": 1e-6})
    return found.x[:-1], float(found.x[-1]), centre, scale
