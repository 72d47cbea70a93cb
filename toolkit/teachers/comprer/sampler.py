"""Which pictures of a patient are seen in an epoch: up to two visits, every modality, one side.

- All of a patient's drawn pictures are in the same batch, so that there are pairs; patients with pairs are spread
  over the batches, or meet two by two where they are few.
- Two eyes of one visit are no two samples: one side is drawn for a patient and taken at both visits, where it is there.
  Only where the sides are the pairs (`roles.pairs: sides`) are both taken.
- Of several pictures of one side at one visit, one is drawn.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from .knobs import Roles
from .records import Records, by_subject

VISITS = 2  # of a patient in an epoch

Places = NDArray[np.int64]
Drawn = dict[int, dict[str, Places]]  # subject -> modality -> places of its pictures
Shelf = dict[int, dict[str, dict[int, list[int]]]]  # visit -> modality -> side -> places


def shelves(records: Records) -> dict[int, Shelf]:
    """Each subject's pictures by visit, modality and side."""
    found: dict[int, Shelf] = {}
    for modality, scans in records.scans.items():
        for subject, places in by_subject(scans).items():
            shelf = found.setdefault(subject, {})
            for place in places.tolist():
                sides = shelf.setdefault(int(scans.visit[place]), {}).setdefault(modality, {})
                sides.setdefault(int(scans.side[place]), []).append(place)
    return dict(sorted(found.items()))


def draw(shelf: Shelf, roles: Roles, rng: np.random.Generator) -> dict[str, Places]:
    """Draw one patient's pictures, by modality."""
    sides = sorted({side for visit in shelf.values() for own in visit.values() for side in own})
    side = sides[int(rng.integers(len(sides)))]
    found: dict[str, list[int]] = {}
    for visit in draw_visits(shelf, roles, rng):
        for modality, by_side in shelf[visit].items():
            if roles.pairs == "sides":
                chosen = list(by_side.values())
            else:
                chosen = [by_side.get(side) or by_side[sorted(by_side)[int(rng.integers(len(by_side)))]]]
            found.setdefault(modality, []).extend(own[int(rng.integers(len(own)))] for own in chosen)
    return {modality: np.array(places, np.int64) for modality, places in found.items()}


def draw_visits(shelf: Shelf, roles: Roles, rng: np.random.Generator) -> list[int]:
    """Up to two visits: the first one of those with a pair, where there are any, the second one any other."""
    shuffled = [sorted(shelf)[int(i)] for i in rng.permutation(len(shelf))]
    first = next((visit for visit in shuffled if has_pair(shelf, visit, roles)), shuffled[0])
    return [first, *(visit for visit in shuffled if visit != first)][:VISITS]


def has_pair(shelf: Shelf, visit: int, roles: Roles) -> bool:
    """Whether a visit has two modalities, or two sides of one."""
    if roles.pairs == "sides":
        return any(len(set(sides) - {-1}) > 1 for sides in shelf[visit].values())
    return len(shelf[visit]) > 1


def mix(pairs: Collection[int], returns: Collection[int], everyone: Collection[int], size: int,
        rng: np.random.Generator) -> NDArray[np.int64]:  # fmt: skip
    """All subjects in a random order in which each batch has its share of those with pairs.

    A contrast needs two of them in a batch: where they are too few for that, they are dealt to fewer batches.

    Args:
        pairs: subjects with a pair for the multimodal loss.
        returns: subjects with a second visit; none where the temporal loss is out.
        everyone: all subjects.
        size: subjects of a batch.
        rng: random numbers.
    """
    enough = 2 * max(1, len(everyone) // size)
    if all(not group or len(group) >= enough for group in (pairs, returns)):
        return spread([s for s in everyone if s in pairs], [s for s in everyone if s not in pairs], rng)
    kinds = [(True, True), (True, False), (False, True), (False, False)]
    return deal([[s for s in everyone if (s in pairs, s in returns) == kind] for kind in kinds], size, rng)


def spread(paired: list[int], others: list[int], rng: np.random.Generator) -> NDArray[np.int64]:
    """All subjects in a random order in which any stretch holds about the same share of paired ones."""
    keys = [(np.arange(len(group)) + rng.random()) / max(len(group), 1) for group in (paired, others)]
    mixed = [np.asarray(group, np.int64)[rng.permutation(len(group))] for group in (paired, others)]
    order = np.argsort(np.concatenate(keys), kind="stable")
    return np.concatenate(mixed)[order]


def deal(groups: Sequence[Sequence[int]], size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """All subjects in a random order in which a group of few is in few batches, two or three in each.

    What is left over, at the end, is of the last groups.

    Args:
        groups: subjects, the scarcest first; nobody is in two.
        size: subjects of a batch.
        rng: random numbers.
    """
    batches: list[list[int]] = [[] for _ in range(max(1, sum(map(len, groups)) // size))]
    left: list[int] = []
    for number, group in enumerate(groups):
        last = number == len(groups) - 1
        wide = len(batches) if last else min(len(batches), max(1, len(group) // 2))
        start = int(rng.integers(len(batches)))
        for turn, subject in enumerate(rng.permutation(np.asarray(group, np.int64)).tolist()):
            tried = ((start + turn % wide + step) % len(batches) for step in range(len(batches)))
            place = next((place for place in tried if len(batches[place]) < size), None)
            (left if place is None else batches[place]).append(subject)
    mixed = [rng.permutation(np.asarray(batch, np.int64)) for batch in (*batches, left)]
    return np.concatenate(mixed)
