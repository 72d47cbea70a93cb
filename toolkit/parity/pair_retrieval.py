"""How well two models' embeddings find a patient's other images among all others, and how far that is by chance.

Each image that has another one of its patient asks; all images are candidates. The pair percentile of a query is the
share of other patients' images that lie farther than its own patient's (`retrieval.py`), so it is an area under a ROC
curve, and its mean depends on patients twice: as those who ask and as those who stand in the way. Both parts enter the
spread: each patient's contribution is what the mean would change by with more weight on the patient (the infinitesimal
jackknife; for AUCs these are DeLong's components), and the curvature is the second derivative in that direction.

An embedding that the student did not give lies farther from its own patient's images than anything, and nearer to all
others. Images of one patient are never in each other's way.

Shapes: N cases, D numbers, Q queries, P patients, M models, R rivals of one query.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from .cases import Array, renumbered, sum_by_patient
from .retrieval import recall_at
from .tilted import NOTHING, Spread, effective, spread_of

TILE = 256  # queries whose similarities are held at once
FAR, NEAR = -2.0, 2.0  # outside of every cosine


class Retrieved(msgspec.Struct, frozen=True, kw_only=True):
    """Several models' retrieval among the same candidates.

    Args:
        queries: (N,) which cases ask: there is another image of the patient, and one of another.
        percentile: (N, M) pair percentile of each query; NaN elsewhere.
        nearest: (N, M) chance that the nearest candidate is of the same patient; NaN elsewhere.
        rival: (N, M) number of the patient who has the nearest image of another; -1 elsewhere.
        contributions: (P, M) of each patient to the mean percentile; they sum to zero.
        images: (P,) queries of each patient.
        patients: (N,) dense numbers of all candidates' patients; -1 for what is no candidate.
        models: (N, D) the embeddings.
    """

    queries: NDArray[np.bool_]
    percentile: Array
    nearest: Array
    rival: NDArray[np.intp]
    contributions: Array
    images: Array
    patients: NDArray[np.intp]
    models: tuple[Array, ...]

    @property
    def means(self) -> tuple[float, ...]:
        """Mean pair percentile of each model."""
        return tuple(float(mean) for mean in self.percentile[self.queries].mean(axis=0))

    def spread(self, *weights: tuple[float, ...]) -> tuple[Spread, ...]:
        """Give the spread of weighted sums of the models' means: (-1, 1) is second minus first.

        Args:
            weights: (M,) each.
        """
        count = int((self.images > 0).sum())
        freedom = effective(self.images) - 1.0
        if count < 2 or not freedom > 0:
            return (NOTHING,) * len(weights)
        turns = np.array(weights).T  # (M, K)
        plain = self.contributions @ turns
        sharp = plain / (1.0 - self.images / self.images.sum())[:, None] * ((count - 1) / count) ** 0.5
        curvature = self._curvature(plain, turns)
        return tuple(spread_of(one, float(bend), freedom) for one, bend in zip(sharp.T, curvature, strict=True))

    def widening(self, values: Array) -> float:
        """Give the design effect, beyond that of the patients, of a mean over queries that hangs on the nearest images.

        A patient's images are found or not together with those of the patients who are nearest, in whose way they are.
        The variance has the products of such neighbours' sums too (Kojevnikov, Marmer and Song, Journal of
        Econometrics 2021, with links of length one); at least 1.

        Args:
            values: (Q,) of the queries: found or not, or the difference of two models.
        """
        count = len(self.images)
        asking = self.patients[self.queries]
        sums = np.bincount(asking, weights=values - values.mean(), minlength=count)
        links = np.unique(
            np.concatenate([np.stack([asking, one], axis=1) for one in self.rival[self.queries].T]), axis=0
        )
        both = np.unique(np.concatenate([links, links[:, ::-1]]), axis=0)
        alone = float(sums @ sums)
        shared = float(sums[both[:, 0]] @ sums[both[:, 1]])
        return max(1.0, 1.0 + shared / alone) if alone > 0 else 1.0

    def _curvature(self, directions: Array, turns: Array) -> Array:
        """Differentiate each weighted sum twice when the patients' weights move along its direction (P, K)."""
        known = self.patients >= 0
        move = np.where(known[:, None], directions[self.patients], 0.0)
        asked = move[self.queries].mean(axis=0)
        found = np.zeros(turns.shape[1])
        for model, weight in zip(self.models, turns, strict=True):
            first, second = np.zeros(turns.shape[1]), np.zeros(turns.shape[1])
            values = []
            for n, rivals, above in placements(model, self.patients, self.queries):
                value, moved, base = above.mean(), above @ move[rivals] / len(above), move[rivals].mean(axis=0)
                slope = moved - value * base
                first += move[n] * value + slope
                second += 2.0 * (move[n] * slope - base * slope)
                values.append(value)
            mean, first, second = float(np.mean(values)), first / len(values), second / len(values)
            found += weight * (second - 2.0 * first * asked + 2.0 * mean * asked**2)
        return found


def retrieve(
    models: tuple[Array, ...],
    patients: NDArray[np.intp],
    candidates: NDArray[np.bool_],
    asking: NDArray[np.bool_] | None = None,
) -> Retrieved | None:
    """Let every image that has another one of its patient look for it; None where none has.

    Args:
        models: embeddings (N, D) of length 1, NaN where a candidate's is missing.
        patients: (N,) numbers.
        candidates: (N,) which cases take part.
        asking: (N,) which of them may ask; None: all.
    """
    numbers = np.full(len(patients), -1, dtype=np.intp)
    numbers[candidates], count = renumbered(patients[candidates])
    size = np.bincount(numbers[candidates], minlength=max(count, 1))
    queries = candidates & (size[numbers] > 1) & (count > 1)
    queries = queries if asking is None else queries & asking
    if not queries.any():
        return None
    percentile, nearest = np.full((2, len(patients), len(models)), np.nan)
    nearest_rival = np.full((len(patients), len(models)), -1, dtype=np.intp)
    contributions = np.zeros((count, len(models)))
    for k, model in enumerate(models):
        rival = np.zeros(len(patients))
        for n, rivals, above in placements(model, numbers, queries):
            value = above.mean()
            percentile[n, k] = value
            rival[rivals] += (above - value) / len(above)
        nearest[:, k], nearest_rival[:, k] = _nearest(model, numbers, queries)
        rival[queries] += percentile[queries, k] - percentile[queries, k].mean()
        contributions[:, k] = sum_by_patient(rival[candidates, None], numbers[candidates], count)[:, 0] / queries.sum()
    return Retrieved(
        queries=queries,
        percentile=percentile,
        nearest=nearest,
        rival=nearest_rival,
        contributions=contributions,
        images=np.bincount(numbers[queries], minlength=count).astype(np.float64),
        patients=numbers,
        models=models,
    )


def placements(
    embedding: Array, patients: NDArray[np.intp], queries: NDArray[np.bool_]
) -> Iterator[tuple[int, NDArray[np.intp], Array]]:
    """Yield each query, its rivals (R,) and the share (R,) of its partners that stand above each; ties count half.

    Args:
        embedding: (N, D).
        patients: (N,) numbers; below 0 is no candidate.
        queries: (N,) which ask.
    """
    for n, similarity in _similarities(embedding, patients, queries):
        partners = patients == patients[n]
        partners[n] = False
        rivals = np.flatnonzero((patients >= 0) & (patients != patients[n]))
        own = np.sort(similarity[partners])
        below, upto = (np.searchsorted(own, similarity[rivals], side=side) for side in ("left", "right"))
        yield n, rivals, 1.0 - (below + upto) / (2.0 * len(own))


def _nearest(
    embedding: Array, patients: NDArray[np.intp], queries: NDArray[np.bool_]
) -> tuple[Array, NDArray[np.intp]]:
    """Give each query's chance of being answered by its own patient, and whose image is the nearest of the others'."""
    found, rival = np.full(len(patients), np.nan), np.full(len(patients), -1, dtype=np.intp)
    for n, similarity in _similarities(embedding, patients, queries):
        partners, others = patients == patients[n], (patients >= 0) & (patients != patients[n])
        partners[n] = False
        found[n] = recall_at(1, similarity[None], partners[None], others[None])[0]
        rival[n] = patients[int(np.argmax(np.where(others, similarity, -np.inf)))]
    return found, rival


def _similarities(
    embedding: Array, patients: NDArray[np.intp], queries: NDArray[np.bool_]
) -> Iterator[tuple[int, Array]]:
    """Yield each query's cosines (N,); where one of the two is missing, what is worst for the model."""
    places = np.flatnonzero(queries)
    missing = np.asarray(~np.isfinite(embedding).all(axis=1))
    filled = np.where(missing[:, None], 0.0, embedding)
    for start in range(0, len(places), TILE):
        rows = places[start : start + TILE]
        for n, cosines in zip(rows.tolist(), filled[rows] @ filled.T, strict=True):
            lost = missing | missing[n]
            yield n, np.where(lost, np.where(patients == patients[n], FAR, NEAR), cosines) if lost.any() else cosines
