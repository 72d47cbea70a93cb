"""How often images of each data set are drawn when several are learned from together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Sampling = Literal["uniform", "sqrt", "balanced"]
POWER: dict[Sampling, float] = {"uniform": 1.0, "sqrt": 0.5, "balanced": 0.0}


def draw_order(
    places: Mapping[str, NDArray[np.int64]], sampling: Sampling, rng: np.random.Generator
) -> NDArray[np.int64]:
    """One epoch's images, as many as there are in all, mixed.

    A data set of n images gets a share in proportion to n (`uniform`: every image once, as the paper has it), to the
    root of n (`sqrt`), or the same as the others (`balanced`). Within a data set images are drawn without replacement,
    again and again where its share is larger than itself.

    Args:
        places: the images of each data set.
        sampling: which share.
        rng: random numbers.
    """
    sizes = np.array([len(found) for found in places.values()], dtype=np.float64)
    shares = sizes ** POWER[sampling]
    wanted = shares / shares.sum() * sizes.sum()
    counts = np.floor(wanted).astype(int)
    rest = int(sizes.sum()) - int(counts.sum())
    counts[np.argsort(counts - wanted, kind="stable")[:rest]] += 1
    drawn = [_repeated(found, count, rng) for found, count in zip(places.values(), counts, strict=True)]
    return np.asarray(rng.permutation(np.concatenate(drawn)))


def _repeated(places: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    passes = -(-count // len(places))
    return np.concatenate([rng.permutation(places) for _ in range(max(passes, 1))])[:count]
