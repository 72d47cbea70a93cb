"""The statistics of a student's features on its training images; `runtime.fitness.novelty` says what they are for.

Channels are divided by their own deviation first, so that the one variance of all minor directions fits them all. A
channel that is nearly silent on the training images would be divided by next to nothing: its deviation counts as a
tenth of the median one at least.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import FoveolaError
from ...runtime.fitness.manifest import MOST_COMPONENTS, MOST_FLOATS, Novelty

SILENT = 0.1  # of the median deviation
IMAGES_A_COMPONENT = 8  # fewer than this many images do not tell a direction
COMPONENTS = 16
LEAST_IMAGES = 16


def fit_novelty(features: NDArray[np.float32], tensor: str) -> Novelty:
    """Fit mean, scales and principal components; the limit is yet to be set.

    Args:
        features: (N, F) of training images.
        tensor: the graph's output.

    Raises:
        FoveolaError: fewer than 16 images, NaN, or features that never change.
    """
    images, channels = features.shape
    if images < LEAST_IMAGES or not np.isfinite(features).all():
        fault = f"{images} images, at least {LEAST_IMAGES} are needed" if images < LEAST_IMAGES else "NaN in features"
        raise FoveolaError("novelty", fault, "leave the novelty out, or add images")
    exact = features.astype(np.float64)
    mean, deviation = exact.mean(axis=0), exact.std(axis=0)
    typical = float(np.median(deviation[deviation > 0])) if (deviation > 0).any() else 0.0
    if typical == 0.0:
        raise FoveolaError("novelty", "the features are the same for all images", "leave the novelty out")
    scale = np.maximum(deviation, SILENT * typical)
    centred = (exact - mean) / scale
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    variances = singular**2 / (images - 1)
    kept = max(1, min(COMPONENTS, images // IMAGES_A_COMPONENT, channels - 1, MOST_COMPONENTS, MOST_FLOATS // channels))
    # Tipping and Bishop 1999, eq. 8: the mean of what the other directions have.
    noise = float(variances[kept:].sum() / max(1, channels - kept))
    noise = max(noise, 1e-6 * float(variances[0]))
    return Novelty(
        tensor=tensor,
        channels=channels,
        mean=mean.astype("<f4").tobytes(),
        scale=scale.astype("<f4").tobytes(),
        components=np.ascontiguousarray(rows[:kept], "<f4").tobytes(),
        variances=tuple(max(one, noise) for one in variances[:kept].tolist()),
        noise=noise,
        limits={"none": 1.0},
    )
