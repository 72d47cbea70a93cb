"""Retrieval between embeddings: how near the top a query's true partners stand among the candidates.

Rules:

- Candidates of equal similarity share their ranks (average), so the order in which they come never matters.
- A query's candidates are its partners and its `rivals`; what is neither (the query itself, other images of its patient
  that are no partner) is left out. Without `rivals` every candidate that is no partner is one.
- A query with several partners has the mean over them, each ranked among the rivals alone. A query without a partner
  or without a rival is NaN.

Pair percentile and phenotype-consistent retrieval are the measures that this project uses where the paper of COMPRER
(Lutsker et al. 2024) names a new one without defining it. With one partner, the pair percentile is the area under the
ROC curve of that query's similarities.

    similarity_NM = cosine(query_ND, gallery_MD)
    pair_percentile(similarity_NM, np.arange(len(similarity_NM))).mean()  # 0.5 by chance, 1 perfect

Shapes: N queries, M candidates, D numbers of an embedding, Q measures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from scipy.special import gammaln

from .cases import Array

Partner = NDArray[np.integer[Any]] | NDArray[np.bool_]
Similarity = NDArray[np.floating[Any]]


def unit(embedding_ND: NDArray[np.floating[Any]]) -> Array:
    """Scale each row to length 1; a row of zeros, or with a number that is not finite, becomes NaN."""
    plain = np.array(embedding_ND, dtype=np.float64)
    plain[~np.isfinite(plain).all(axis=1)] = np.nan
    length = np.linalg.norm(plain, axis=1, keepdims=True)
    return plain / np.where(length > 0, length, np.nan)


def cosine(query_ND: NDArray[np.floating[Any]], gallery_MD: NDArray[np.floating[Any]]) -> Array:
    """Cosine of every query with every candidate (N, M); NaN where one of them has no direction."""
    return unit(query_ND) @ unit(gallery_MD).T


def pair_percentile(similarity_NM: Similarity, partner: Partner, rivals_NM: NDArray[np.bool_] | None = None) -> Array:
    """Give each query's pair percentile (N,): 1 - (rank - 1) / (candidates - 1); 0.5 by chance, 1 perfect.

    Args:
        similarity_NM: larger is nearer.
        partner: (N,) index of the one partner, below 0 for none; or (N, M) which candidates are partners.
        rivals_NM: which other candidates compete; None: all that are no partner.
    """
    partners, rivals = _sides(similarity_NM, partner, rivals_NM)
    ahead = ranks(similarity_NM, partners, rivals) - 1.0
    count = rivals.sum(axis=1)
    return 1.0 - ahead / np.where(count > 0, count, np.nan)


def ranks(similarity_NM: Similarity, partner: Partner, rivals_NM: NDArray[np.bool_] | None = None) -> Array:
    """Give each query's rank (N,) of its partner among the rivals, 1 the nearest; see `pair_percentile`."""
    partners, rivals = _sides(similarity_NM, partner, rivals_NM)
    found = np.full(len(partners), np.nan)
    for n in np.flatnonzero(partners.any(axis=1) & rivals.any(axis=1)):
        rising = np.sort(similarity_NM[n, rivals[n]])
        own = similarity_NM[n, partners[n]]
        below, upto = (np.searchsorted(rising, own, side=side) for side in ("left", "right"))
        found[n] = 1.0 + float(np.mean(len(rising) - (below + upto) / 2.0))
    return found


def recall_at(k: int, similarity_NM: Similarity, partner: Partner, rivals_NM: NDArray[np.bool_] | None = None) -> Array:
    """Give each query's chance (N,) that a partner is among its k nearest candidates; 0 or 1 where nothing is tied.

    Of tied candidates every order is equally likely. Of several partners the first found counts.

    Args:
        k: how many are looked at, 1 or more.
        similarity_NM: see `pair_percentile`.
        partner: see there.
        rivals_NM: see there.
    """
    partners, rivals = _sides(similarity_NM, partner, rivals_NM)
    found = np.full(len(partners), np.nan)
    for n in np.flatnonzero(partners.any(axis=1) & rivals.any(axis=1)):
        own, others = similarity_NM[n, partners[n]], similarity_NM[n, rivals[n]]
        best = own.max()
        places = k - int(np.sum(others > best))  # that are left for the partners and what ties with the best of them
        missed = _all_missed(int(np.sum(own == best)), int(np.sum(others == best)), places)
        found[n] = 1.0 - missed
    return found


def _all_missed(own: int, others: int, places: int) -> float:
    """Chance that none of `own` is among the first `places` of a shuffled row of `own` and `others`."""
    if places <= 0:
        return 1.0
    if places > others:
        return 0.0
    # C(others, places) / C(own + others, places)
    logs = gammaln([others + 1, own + others - places + 1, others - places + 1, own + others + 1])
    return float(np.exp(logs[0] + logs[1] - logs[2] - logs[3]))


def mean_reciprocal_rank(
    similarity_NM: Similarity, partner: Partner, rivals_NM: NDArray[np.bool_] | None = None
) -> float:
    """Mean over the queries of 1 / rank; NaN where no query has a partner."""
    found = 1.0 / ranks(similarity_NM, partner, rivals_NM)
    return _mean(found)


def mean_percentile(similarity_NM: Similarity, partner: Partner, rivals_NM: NDArray[np.bool_] | None = None) -> float:
    """Mean over the queries of `pair_percentile`; NaN where no query has a partner."""
    return _mean(pair_percentile(similarity_NM, partner, rivals_NM))


def phenotype_ratio(
    similarity_NM: Similarity,
    query_NQ: NDArray[np.floating[Any]],
    gallery_MQ: NDArray[np.floating[Any]],
    k: int = 5,
    allowed_NM: NDArray[np.bool_] | None = None,
) -> Array:
    """Give for each measure (Q,) how alike the k nearest are: 1 no better than chance, 0 the same value.

    The mean absolute difference between a query's measure and its k nearest candidates', over the same with every
    allowed candidate (which is what candidates drawn at random have on average). Leave the query's own patient out by
    `allowed_NM`. Candidates tied at the k-th place share it. NaN is a measure that is not known; a measure that does
    not vary has no ratio (NaN).

    Args:
        similarity_NM: larger is nearer.
        query_NQ: measures of the queries.
        gallery_MQ: measures of the candidates.
        k: how many are looked at.
        allowed_NM: which candidates may be retrieved; None: all.
    """
    allowed = np.ones(similarity_NM.shape, dtype=bool) if allowed_NM is None else allowed_NM
    found = np.full(query_NQ.shape[1], np.nan)
    for q in range(query_NQ.shape[1]):
        apart = np.abs(query_NQ[:, q, None].astype(np.float64) - gallery_MQ[None, :, q])
        usable = allowed & np.isfinite(apart) & np.isfinite(similarity_NM)
        near, far = [], []
        for n in np.flatnonzero(usable.any(axis=1)):
            own = apart[n, usable[n]]
            near.append(float(np.average(own, weights=_nearest(similarity_NM[n, usable[n]], k))))
            far.append(float(own.mean()))
        if sum(far) > 0:
            found[q] = sum(near) / sum(far)
    return found


def _nearest(similarity: Similarity, k: int) -> Array:
    """Weights of the k nearest of one query's candidates; those tied at the last place share what is left of it."""
    k = min(k, len(similarity))
    last = np.partition(similarity, len(similarity) - k)[len(similarity) - k]
    tied = similarity == last
    weights = (similarity > last).astype(np.float64)
    weights[tied] = (k - weights.sum()) / tied.sum()
    return np.asarray(weights)


def alignment(first_ND: NDArray[np.floating[Any]], second_ND: NDArray[np.floating[Any]]) -> float:
    """Mean squared distance of true pairs on the unit sphere, 0 perfect (Wang & Isola 2020)."""
    return _mean(np.sum((unit(first_ND) - unit(second_ND)) ** 2, axis=1))


def uniformity(embedding_ND: NDArray[np.floating[Any]]) -> float:
    """Log of the mean Gaussian potential of all pairs on the unit sphere, lower is more even (Wang & Isola 2020)."""
    directions = unit(embedding_ND)
    directions = directions[np.isfinite(directions).all(axis=1)]
    if len(directions) < 2:
        return float("nan")
    return float(np.log(np.mean(np.exp(-2.0 * pdist(directions, "sqeuclidean")))))


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _sides(
    similarity: Similarity, partner: Partner, rivals: NDArray[np.bool_] | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which candidates are partners and which are rivals, (N, M) both; a similarity that is NaN is no rival."""
    if partner.dtype == np.bool_:
        partners = np.asarray(partner, dtype=bool)
    else:
        partners = partner[:, None] == np.arange(similarity.shape[1])
    assert partners.shape == similarity.shape, (partners.shape, similarity.shape)
    known = np.isfinite(similarity)
    others = ~partners if rivals is None else rivals & ~partners
    return partners & known, others & known
