"""How well pictures of one person find each other: pair percentile, recall, phenotypes, visits, order.

- One query a patient: the first visit that shows both, one picture of each.
- An interval draws patients with both their parts: as one who asks, and as one who stands in the others' way.
- Every direction has its own figures. Phenotypes leave the patient itself out.
- What the paper's own metric is, is not known; these are ours (`toolkit.parity.retrieval`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...parity import retrieval
from ...parity.bootstrap import interval, replicate_sums
from ...parity.cases import ratio
from ...parity.delong import auc
from .knobs import Roles
from .records import NO_SIDE, Records, Scans, by_subject

NEAREST = 5  # retrieved partners whose measures are compared
RECALLS = (1, 5, 10)
RESAMPLES = 2000
ALPHA = 0.025  # one-sided: 95 % intervals

Places = NDArray[np.int64]
Embeddings = Mapping[str, NDArray[np.float32]]  # modality -> (N, D), any length


class Retrieved(msgspec.Struct, frozen=True, kw_only=True):
    """One direction of retrieval; every query's true partner is among the candidates.

    Args:
        queries: one a patient, and as many candidates.
        pair_percentile: 0.5 by chance, 1 perfect.
        low: lower end of its 95 % interval by patient.
        high: upper end.
        recall: share of the queries whose partner is among the k nearest, by k.
        reciprocal_rank: mean.
        alignment: mean squared distance of the pairs on the unit sphere.
        phenotype: by measure: difference to the nearest over that to anyone; 1 no information, 0 the same value.
    """

    queries: int
    pair_percentile: float
    low: float | None
    high: float | None
    recall: dict[str, float]
    reciprocal_rank: float
    alignment: float
    phenotype: dict[str, float]


class Pairing(msgspec.Struct, frozen=True, kw_only=True):
    """All directions.

    Args:
        across: between modalities (`fundus to carotid`), or between sides, by the multimodal projection.
        along: from a visit to the next one, by modality, by the temporal projection.
        order: AUC of which of two visits was earlier, by modality.
        uniformity: of the multimodal projection, by modality; lower is more even.
    """

    across: dict[str, Retrieved]
    along: dict[str, Retrieved]
    order: dict[str, float]
    uniformity: dict[str, float]


def in_words(pairing: Pairing, split: str) -> list[str]:
    """A line for each direction, for whoever watches."""
    lines = []
    for kind, found in (("", pairing.across), ("visit to visit, ", pairing.along)):
        for name, one in found.items():
            reach = "" if one.low is None else f" ({one.low:.2f} to {one.high:.2f})"
            alike = ", ".join(f"{measure} {ratio:.2f}" for measure, ratio in one.phenotype.items())
            words = f"{split}, {kind}{name}: pair percentile {one.pair_percentile:.2f}{reach} of {one.queries}"
            lines.append(f"{words}; phenotype ratio: {alike}" if alike else words)
    return lines


def pairs_across(records: Records, roles: Roles) -> dict[tuple[str, str, str, str], tuple[Places, Places]]:
    """One pair a patient for each two modalities (or each modality's two sides): places of the first and the second.

    The keys are the two modalities and what the two are called.
    """
    found: dict[tuple[str, str, str, str], tuple[Places, Places]] = {}
    names = list(records.scans)
    if roles.pairs == "sides":
        for name, scans in records.scans.items():
            known = sorted(set(scans.side.tolist()) - {NO_SIDE})[:2]
            if len(known) == 2:
                places = [_first_by_visit(scans, np.flatnonzero(scans.side == side)) for side in known]
                called = [f"{name} {records.sides[side]}" for side in known]
                found[name, name, called[0], called[1]] = _matched(*places)
        return found
    by_visit = {name: _first_by_visit(scans, np.arange(len(scans))) for name, scans in records.scans.items()}
    for a, first in enumerate(names):
        for second in names[a + 1 :]:
            found[first, second, first, second] = _matched(by_visit[first], by_visit[second])
    return found


def pairs_along(scans: Scans) -> tuple[Places, Places]:
    """One pair a patient: a picture of the earliest visit and one of the next, on the same side where there is one.

    Visits are in the order of their years, else of their numbers, else of their names.
    """
    first, second = [], []
    for own in by_subject(scans).values():
        order = np.lexsort((own, scans.visit[own], scans.turn[own], scans.years[own]))
        places = own[order]
        later = places[scans.visit[places] != scans.visit[places[0]]]
        if not len(later):
            continue
        later = later[scans.visit[later] == scans.visit[later[0]]]
        early = places[scans.visit[places] == scans.visit[places[0]]]
        same = [(a, b) for a in early for b in later if scans.side[a] == scans.side[b]]
        a, b = same[0] if same else (early[0], later[0])
        first.append(int(a))
        second.append(int(b))
    return np.array(first, np.int64), np.array(second, np.int64)


def retrieve(
    query_ND: NDArray[np.floating],
    gallery_ND: NDArray[np.floating],
    measures: Mapping[str, tuple[NDArray[np.floating], NDArray[np.floating]]],
    *,
    seed: int = 0,
) -> Retrieved | None:
    """Find each query's partner, which stands at its own place among the candidates; None with fewer than two.

    Args:
        query_ND: of any length.
        gallery_ND: likewise.
        measures: by name: (N,) of the queries and of the candidates, NaN where not known.
        seed: of the interval.
    """
    count = len(query_ND)
    if count < 2:
        return None
    similarity = retrieval.cosine(query_ND, gallery_ND)
    partner = np.arange(count)
    percentile = retrieval.pair_percentile(similarity, partner)
    known = np.isfinite(percentile)
    if not known.any():
        return None
    own = np.where(known, percentile, 0.0) + _in_the_way(similarity, percentile)
    sums = np.stack([own, known.astype(np.float64)], 1)
    drawn = replicate_sums(sums, RESAMPLES, seed)
    value = float(percentile[known].mean())
    reach = interval(value, ratio(drawn[:, 0], drawn[:, 1]), count, ALPHA)
    others = ~np.eye(count, dtype=np.bool_)
    phenotype = {
        name: float(retrieval.phenotype_ratio(similarity, q[:, None], g[:, None], NEAREST, others)[0])
        for name, (q, g) in measures.items()
    }
    return Retrieved(
        queries=count,
        pair_percentile=value,
        low=None if reach is None else max(reach.low, 0.0),
        high=None if reach is None else min(reach.high, 1.0),
        recall={str(k): float(np.nanmean(retrieval.recall_at(k, similarity, partner))) for k in RECALLS if k < count},
        reciprocal_rank=retrieval.mean_reciprocal_rank(similarity, partner),
        alignment=retrieval.alignment(query_ND, gallery_ND),
        phenotype={name: value for name, value in phenotype.items() if np.isfinite(value)},
    )


def _in_the_way(similarity_NN: NDArray[np.float64], percentile_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each candidate (N,) adds to the queries' percentiles, standing below or above their partners; sums to 0."""
    partner = np.diag(similarity_NN)[:, None]
    below = (similarity_NN < partner) + 0.5 * (similarity_NN == partner)
    rivals = np.isfinite(similarity_NN) & ~np.eye(len(similarity_NN), dtype=np.bool_)
    rivals &= np.isfinite(percentile_N)[:, None]
    parts = np.where(rivals, below - percentile_N[:, None], 0.0) / np.maximum(rivals.sum(1, keepdims=True), 1)
    found: NDArray[np.float64] = parts.sum(0)
    return found


def measure_pairing(
    records: Records,
    across: Embeddings,
    along: Embeddings,
    roles: Roles,
    *,
    later: Mapping[str, NDArray[np.floating]] | None = None,
    seed: int = 0,
) -> Pairing:
    """Measure all directions on the pictures of a split.

    Args:
        records: of the split.
        across: multimodal projections of all its pictures.
        along: temporal projections.
        roles: what is a pair.
        later: by modality: for each pair of `pairs_along`, how sure it is that the second is later.
        seed: of the intervals.
    """
    found: dict[str, Retrieved | None] = {}
    for (a, b, called, other), (p, q) in pairs_across(records, roles).items():
        for one, two, place, partner, words in (
            (a, b, p, q, f"{called} to {other}"),
            (b, a, q, p, f"{other} to {called}"),
        ):
            measures = _measures(records.scans[one], place, records.scans[two], partner)
            found[words] = retrieve(across[one][place], across[two][partner], measures, seed=seed)
    visits: dict[str, Retrieved | None] = {}
    order: dict[str, float] = {}
    for name, scans in records.scans.items():
        p, q = pairs_along(scans)
        visits[name] = retrieve(along[name][p], along[name][q], _measures(scans, p, scans, q), seed=seed)
        if later is not None and (area := order_auc(later[name], ahead(scans, p, q))) is not None:
            order[name] = area
    even = {name: retrieval.uniformity(x[_one_each(records.scans[name])]) for name, x in across.items()}
    return Pairing(
        across={name: one for name, one in found.items() if one is not None},
        along={name: one for name, one in visits.items() if one is not None},
        order=order,
        uniformity={name: value for name, value in even.items() if np.isfinite(value)},
    )


def ahead(scans: Scans, first: Places, second: Places) -> NDArray[np.float64]:
    """Years from the first picture of each pair to the second; visits' numbers where years are not known; else NaN."""
    years, turns = (x[second] - x[first] for x in (scans.years, scans.turn))
    return np.where(np.isnan(years), turns, years)


def order_auc(later_P: NDArray[np.floating], ahead_P: NDArray[np.floating]) -> float | None:
    """AUC of telling pairs in their order from the same pairs turned round; None without an ordered pair."""
    known = ~np.isnan(ahead_P) & (ahead_P != 0)
    if not known.any():
        return None
    own = np.asarray(later_P[known], np.float64) * np.sign(ahead_P[known])
    truth = np.repeat([True, False], len(own))
    return float(auc(truth, np.concatenate([own, -own])))


def _measures(
    one: Scans, places: Places, other: Scans, partners: Places
) -> dict[str, tuple[NDArray[np.floating], NDArray[np.floating]]]:
    """Every number of every regression task, of queries and candidates."""
    found: dict[str, tuple[NDArray[np.floating], NDArray[np.floating]]] = {}
    for task in one.dataset.tasks:
        if task.kind == "regression":
            a, b = one.dataset.scalars[task.name][places], other.dataset.scalars[task.name][partners]
            found |= {name: (a[:, i], b[:, i]) for i, name in enumerate(task.classes)}
    return found


def _one_each(scans: Scans) -> Places:
    return np.array([places[0] for places in by_subject(scans).values()], np.int64)


def _first_by_visit(scans: Scans, places: Places) -> dict[int, dict[int, int]]:
    """Subject -> visit, the earliest first -> the first of these pictures by side and place."""
    found: dict[int, dict[int, int]] = {}
    order = np.lexsort((places, scans.side[places], scans.visit[places], scans.turn[places], scans.years[places]))
    for place in places[order].tolist():
        found.setdefault(int(scans.subject[place]), {}).setdefault(int(scans.visit[place]), place)
    return found


def _matched(first: Mapping[int, Mapping[int, int]], second: Mapping[int, Mapping[int, int]]) -> tuple[Places, Places]:
    """One pair a subject: of the first visit that both have."""
    pairs: list[tuple[int, int]] = []
    for subject in sorted(first.keys() & second.keys()):
        shared = [visit for visit in first[subject] if visit in second[subject]]
        if shared:
            pairs.append((first[subject][shared[0]], second[subject][shared[0]]))
    both: Sequence[tuple[int, int]] = pairs
    return np.array([a for a, _ in both], np.int64), np.array([b for _, b in both], np.int64)
