"""How much a frozen backbone knows: logistic regression and nearest neighbours on its pooled features.

N images, F features, L labels. Both are scikit-learn's or closed formulas: nothing is trained through the backbone.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from ...runtime.task import Kind
from ..models.network import Network
from .contrast import Encoder


def pooled_features(
    network: Network | Encoder, images: NDArray[np.float32], *, device: torch.device, batch_size: int = 64
) -> NDArray[np.float32]:
    """(N, F): the coarsest map averaged over the picture, in evaluation mode; the network's own mode is given back.

    Args:
        network: on `device`.
        images: as `prepare_arrays` makes them, (N, C, H, W), one or more.
        device: where to compute.
        batch_size: images at a time.
    """
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    found = []
    try:
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                x = torch.from_numpy(np.array(images[start : start + batch_size])).to(device)
                pooled = network.features(x) if isinstance(network, Encoder) else network.pyramid(x)[32].mean((2, 3))
                found.append(pooled.float().cpu().numpy())
    finally:
        # Part by part: a network in training may hold parts that are frozen.
        for part, mode in modes:
            part.training = mode
    return np.concatenate(found)


def linear_probe(
    train_x: NDArray[np.floating],
    train_y: NDArray[np.floating],
    test_x: NDArray[np.floating],
    test_y: NDArray[np.floating],
    kind: Kind,
    *,
    c: float = 1.0,
) -> dict[str, float]:
    """Logistic regression on standardised features, a label at a time; several classes by one softmax.

    Args:
        train_x: (N, F).
        train_y: (N, L) 0 or 1 for binary and multilabel, (N, 1) index for multiclass; NaN is a gap.
        test_x: (M, F).
        test_y: (M, L).
        kind: binary, multilabel or multiclass.
        c: inverse strength of the regularisation.

    Returns:
        `auc`, the mean over the labels of which both classes occur on both sides, or `accuracy` for multiclass; empty
        where nothing can be judged.
    """
    assert kind in ("binary", "multilabel", "multiclass"), kind
    scaler = StandardScaler().fit(train_x)
    train_z, test_z = np.asarray(scaler.transform(train_x)), np.asarray(scaler.transform(test_x))
    if kind == "multiclass":
        known, judged = ~np.isnan(train_y[:, 0]), ~np.isnan(test_y[:, 0])
        if len(np.unique(train_y[known, 0])) < 2 or not judged.any():
            return {}
        model = _fitted(train_z[known], train_y[known, 0], c)
        return {"accuracy": float((model.predict(test_z[judged]) == test_y[judged, 0]).mean())}
    areas = []
    for label in range(train_y.shape[1]):
        known, judged = ~np.isnan(train_y[:, label]), ~np.isnan(test_y[:, label])
        if len(np.unique(train_y[known, label])) < 2 or len(np.unique(test_y[judged, label])) < 2:
            continue
        answered = _fitted(train_z[known], train_y[known, label], c).decision_function(test_z[judged])
        areas.append(roc_auc_score(test_y[judged, label], answered))
    return {"auc": float(np.mean(areas))} if areas else {}


def knn_accuracy(
    train_x: NDArray[np.floating],
    train_y: NDArray[np.integer],
    test_x: NDArray[np.floating],
    test_y: NDArray[np.integer],
    k: int = 200,
    temperature: float = 0.1,
) -> float:
    """Share of images whose class the k most similar train images give (Wu et al., CVPR 2018, sec. 3.4).

    A neighbour votes for its class with exp(cosine / temperature).

    Args:
        train_x: (N, F).
        train_y: (N,) classes.
        test_x: (M, F).
        test_y: (M,) classes.
        k: neighbours; all there are, where there are fewer.
        temperature: tau; the smaller, the less a far neighbour counts.
    """
    similar = _unit(test_x) @ _unit(train_x).T
    k = min(k, len(train_x))
    nearest = np.argpartition(-similar, k - 1, axis=1)[:, :k]
    # Less one in the exponent: the shares stay, and nothing overflows at a small temperature.
    votes = np.exp((np.take_along_axis(similar, nearest, 1) - 1) / temperature)
    classes = np.unique(train_y)
    totals = np.stack([(votes * (train_y[nearest] == label)).sum(1) for label in classes], 1)
    return float((classes[totals.argmax(1)] == test_y).mean())


def _unit(x: NDArray[np.floating]) -> NDArray[np.floating]:
    # Features behind a ReLU can all be zero: such an image is equally far from every other.
    unit: NDArray[np.floating] = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return unit


def _fitted(x: NDArray[Any], y: NDArray[Any], c: float) -> LogisticRegression:
    with warnings.catch_warnings():
        # Few images and many features separate perfectly: the regularised optimum is near enough.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=c, max_iter=300).fit(x, y)
