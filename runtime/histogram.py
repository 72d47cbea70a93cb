"""What images and answers looked like when a bundle was made, as histograms: so that a drift can be seen later.

The bins hold about equally many of the reference's values each (deciles), which is what the population stability index
wants. Kept are the counts and nine values at most, the deciles themselves: no image can be read off them, and whose a
value was is not told.

    edges = decile_edges(values)
    Histogram(edges=edges, counts=counted(values, edges))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

BINS = 10
MOST_BINS = 64
MOST_HISTOGRAMS = 2048  # of inputs, and of answers
MOST_COUNT = 2**40  # what is larger counts no images, and may be no number that arithmetic takes

Positive = Annotated[int, msgspec.Meta(gt=0)]


class Histogram(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Counts of values between edges; the first and the last bin are open.

    Args:
        edges: (B - 1,) inner edges, rising; a value that equals one lies above it.
        counts: (B,).
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot be a histogram.

        Raises:
            ValueError: not one count more than edges, too many, edges that do not rise, a count out of range.
        """
        if len(self.counts) != len(self.edges) + 1 or len(self.counts) > MOST_BINS:
            raise ValueError(f"{len(self.counts)} counts for {len(self.edges)} edges, at most {MOST_BINS}")
        if not np.isfinite(self.edges).all() or any(b <= a for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("the edges do not rise")
        if not all(0 <= count <= MOST_COUNT for count in self.counts):
            raise ValueError(f"a count is not in 0 to {MOST_COUNT}")


Histograms = Annotated[dict[str, Histogram], msgspec.Meta(max_length=MOST_HISTOGRAMS)]


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The images that a bundle was made with, described.

    Args:
        split: which images they were.
        images: how many.
        patients: how many.
        inputs: by feature of the prepared image (`input_features`).
        answers: by "task/label" of the shipped artefact's answers (`answer_features`).
    """

    split: str
    images: Positive
    patients: Positive
    inputs: Histograms
    answers: Histograms


def decile_edges(values: NDArray[np.floating], bins: int = BINS) -> tuple[float, ...]:
    """Choose inner edges with about equally many of the values between them; equal values stay in one bin."""
    finite = np.sort(values[np.isfinite(values)])
    if not len(finite):
        return ()
    edges = np.unique(finite[(np.arange(1, bins) * len(finite)) // bins])
    return tuple(edges[edges > finite[0]].tolist())


def counted(values: NDArray[np.floating], edges: tuple[float, ...]) -> tuple[int, ...]:
    """Count the finite values in each bin."""
    places = np.searchsorted(np.asarray(edges), values[np.isfinite(values)], side="right")
    return tuple(np.bincount(places, minlength=len(edges) + 1).tolist())


def histograms(values: Mapping[str, NDArray[np.floating]]) -> dict[str, Histogram]:
    """Make one histogram of each; what has no finite value has none."""
    found = {}
    for name, many in values.items():
        edges = decile_edges(many)
        counts = counted(many, edges)
        if sum(counts):
            found[name] = Histogram(edges=edges, counts=counts)
    return found
