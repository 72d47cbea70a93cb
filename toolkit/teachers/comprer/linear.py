"""Linear probes as linear layers: scikit-learn's logistic regression, or ridge for values, on standardised features.

How strongly a probe is held back is chosen by cross-validation over patients; the standardisation is folded into the
layer's weights.

N pictures, F features, T channels.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, make_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold

from ....runtime.task import Task
from .records import check_varied

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of the logistic regression
FOLDS = 5
ABSENT = 10.0  # logits below the others: a class, or a grade's limit, without a train picture on one side

Weights = tuple[NDArray[np.float64], NDArray[np.float64]]  # (T, F) and (T,), or (F,) twice


def fit_probe(task: Task, x_NF: NDArray[np.float64], y: NDArray[np.float64], patients: NDArray[np.integer]) -> Weights:
    """The linear layer that answers a task from features.

    Args:
        task: binary, multilabel, ordinal, multiclass, or regression with standardised values.
        x_NF: features.
        y: targets as a data set holds them; NaN is a gap.
        patients: (N,) whose picture it is.

    Raises:
        FoveolaError: targets of one kind only.
    """
    check_varied(task, y)
    if task.kind == "multiclass":
        return _classes(task, x_NF, y[:, 0], patients)
    if task.kind == "ordinal":
        y = np.where(np.isnan(y), np.nan, y > np.arange(len(task.classes) - 1)).astype(np.float64)
    rows = [_column(task, x_NF, column, patients) for column in y.T]
    return np.stack([weight for weight, _ in rows]), np.array([bias for _, bias in rows])


def _column(
    task: Task, x_NF: NDArray[np.float64], y_N: NDArray[np.float64], patients: NDArray[np.integer]
) -> tuple[NDArray[np.float64], float]:
    """One output channel: weights of unstandardised features, and bias."""
    known = ~np.isnan(y_N)
    if task.kind == "ordinal" and len(np.unique(y_N[known])) < 2:  # nobody is above this grade, or all are
        return np.zeros(x_NF.shape[1]), ABSENT if y_N[known][0] else -ABSENT
    mean, std = _spread(x_NF[known])
    z, y, groups = (x_NF[known] - mean) / std, y_N[known], patients[known]
    if task.kind == "regression":
        model = _strongest(Ridge(), {"alpha": [1 / c for c in STRENGTHS]}, z, y, groups)
    else:
        model = _strongest(LogisticRegression(max_iter=1000), {"C": list(STRENGTHS)}, z, y.astype(int), groups)
    weight: NDArray[np.float64] = np.asarray(np.ravel(model.coef_) / std, np.float64)
    return weight, float(np.ravel(model.intercept_)[0] - weight @ mean)


def _classes(task: Task, x_NF: NDArray[np.float64], y_N: NDArray[np.float64], patients: NDArray[np.integer]) -> Weights:
    """One softmax over the classes; one that no train picture shows is as good as never answered."""
    known = ~np.isnan(y_N)
    present = np.unique(y_N[known]).astype(int)
    mean, std = _spread(x_NF[known])
    z, y, groups = (x_NF[known] - mean) / std, y_N[known].astype(int), patients[known]
    model = _strongest(LogisticRegression(max_iter=1000), {"C": list(STRENGTHS)}, z, y, groups)
    own, offset = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if len(present) == 2:  # scikit-learn then answers the second class alone
        own, offset = np.stack([0 * own[0], own[0]]), np.array([0.0, offset[0]])
    weight = np.zeros((len(task.classes), x_NF.shape[1]))
    bias = np.full(len(task.classes), offset.min() - ABSENT)
    weight[present] = own / std
    bias[present] = offset - weight[present] @ mean
    return weight, bias


def _spread(x_NF: NDArray[np.float64]) -> Weights:
    """Mean and standard deviation of each feature; 1 where it does not vary."""
    std = x_NF.std(axis=0)
    return x_NF.mean(axis=0), np.where(std > 1e-9, std, 1.0)


def _strongest(
    model: LogisticRegression | Ridge,
    grid: dict[str, list[float]],
    z: NDArray[np.float64],
    y: NDArray[np.float64] | NDArray[np.int64],
    groups: NDArray[np.integer],
) -> LogisticRegression | Ridge:
    """Fit with the strength that cross-validation over patients prefers; with too few patients, with a middle one."""
    name, values = next(iter(grid.items()))
    logistic = isinstance(model, LogisticRegression)
    rare = min(len(np.unique(groups[y == value])) for value in np.unique(y)) if logistic else len(np.unique(groups))
    cuts = _cuts(z, y, groups, min(FOLDS, rare), stratified=logistic)
    with warnings.catch_warnings():
        # Few pictures and many features separate perfectly: the regularised optimum is near enough.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if not cuts:
            model.set_params(**{name: values[len(values) // 2]})
            return model.fit(z, y)
        # A fold need not show every class, so the score is told which there are.
        likelihood = make_scorer(
            log_loss, greater_is_better=False, response_method="predict_proba", labels=np.unique(y)
        )
        search = GridSearchCV(model, grid, scoring=likelihood if logistic else "neg_mean_squared_error", cv=cuts)
        best: LogisticRegression | Ridge = search.fit(z, y).best_estimator_
    return best


def _cuts(
    z: NDArray[np.float64],
    y: NDArray[np.float64] | NDArray[np.int64],
    groups: NDArray[np.integer],
    folds: int,
    *,
    stratified: bool,
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Parts to fit on and to judge by, of different patients; none where there are too few.

    A part to fit on in which a class is missing answers another question, and is left out.
    """
    if folds < 2:
        return []
    if not stratified:
        return list(GroupKFold(folds).split(z, y, groups))
    every = len(np.unique(y))
    cuts = StratifiedGroupKFold(folds).split(z, y, groups)
    return [(fitted, judged) for fitted, judged in cuts if len(np.unique(y[fitted])) == every]
