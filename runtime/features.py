"""Numbers that describe an image and an answer, so that a drift of either can be seen without keeping any of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .prediction import Prediction, Quality


def input_features(x_CHW: NDArray[np.float32]) -> dict[str, float]:
    """Describe a prepared image (C, H, W) in 0..1: mean, standard deviation, and variance of the Laplacian."""
    grey = x_CHW.mean(axis=0, dtype=np.float32)
    edges = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return {"brightness": float(grey.mean()), "contrast": float(grey.std()), "sharpness": float(edges.var())}


def answer_features(prediction: Prediction) -> dict[str, float]:
    """Describe an answer by "task/label": probabilities and values; masks, boxes and embeddings are left out."""
    found = {f"{one.task}/{one.label}": one.probability for one in prediction.findings}
    for choice in prediction.choices:
        pairs = zip(choice.classes, choice.probabilities, strict=True)
        found |= {f"{choice.task}/{label}": chance for label, chance in pairs}
    found |= {f"{one.task}/{one.name}": one.value for one in prediction.measurements}
    return found


def quality_features(quality: Quality) -> dict[str, float]:
    """Describe an image's fitness by "quality/measure", and "quality/novelty" where that was measured."""
    found = {f"quality/{name}": value for name, value in quality.measures.items()}
    return found if quality.novelty is None else {**found, "quality/novelty": quality.novelty}
