"""How far a student's features lie from those of its training images.

The distance is Mahalanobis' (Lee, Lee, Lee and Shin, NeurIPS 2018), of one Gaussian for all training images, since
several tasks have no classes in common; its covariance is that of probabilistic principal components (Tipping and
Bishop, JRSS B 1999): K directions with variances of their own and one variance for all others. What lies outside the K
directions is the residual of ViM (Wang, Li, Feng and Zhang, CVPR 2022). F features cost K F multiplications.

    u = (x - mean) / scale
    z = components u
    distance = sqrt((sum of z_k^2 / variances_k + (|u|^2 - |z|^2) / noise) / F)

An image like the training images has a distance of about 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..errors import FoveolaError
from .manifest import Novelty

Raw = Mapping[str, NDArray[np.float32]]


class Distance:
    """The distance as a function of the graph's outputs; the arrays are read once.

    Args:
        novelty: of the manifest.

    Raises:
        FoveolaError: an array holds NaN or infinity, or a scale that is not positive.
    """

    def __init__(self, novelty: Novelty) -> None:
        arrays = [np.frombuffer(data, "<f4") for data in (novelty.mean, novelty.scale, novelty.components)]
        self._mean, self._scale, flat = arrays
        if not all(np.isfinite(array).all() for array in arrays) or not (self._scale > 0).all():
            raise FoveolaError("fitness.novelty", "its arrays are no statistics", "make the bundle anew")
        self._components = flat.reshape(len(novelty.variances), novelty.channels).astype(np.float64)
        self._weights = 1 / np.array(novelty.variances, np.float64) - 1 / novelty.noise
        self._novelty = novelty

    def __call__(self, raw: Raw) -> float:
        """Give the distance of one image.

        Raises:
            FoveolaError: the output is missing, of another shape, NaN or infinite.
        """
        name, shape = self._novelty.tensor, (1, self._novelty.channels)
        if name not in raw or raw[name].shape != shape:
            found = raw[name].shape if name in raw else "missing"
            raise FoveolaError("fitness.novelty", f"output {name!r} is {found}, not {shape}", "make the bundle anew")
        if not np.isfinite(raw[name]).all():
            fault = f"output {name!r} holds NaN or infinity"
            raise FoveolaError("fitness.novelty", fault, "there is no answer for this image")
        # In double precision, where no quotient of two float32 overflows, nor its square.
        apart = (raw[name][0].astype(np.float64) - self._mean) / self._scale
        along = self._components @ apart
        total = float(self._weights @ along**2) + float(apart @ apart) / self._novelty.noise
        return math.sqrt(max(total, 0.0) / self._novelty.channels)
