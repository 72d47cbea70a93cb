"""Which channels go at a given ratio: the least important of their scope, in whole multiples of what the device likes.

- `isomorphic`: groups of the same kind are ranked together (Fang et al., ECCV 2024); `global`: all groups; `uniform`:
  every group loses the same share.
- A group keeps one multiple of channels at least, and a tenth of its own; its width is rounded to the nearest multiple.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .graph import Removals
from .groups import Group

Scope = Literal["isomorphic", "global", "uniform"]
LEAST = 0.1  # share of its channels that a group keeps


def choose(groups: Sequence[Group], scores: Sequence[Tensor], ratio: float, scope: Scope, multiple: int) -> Removals:
    """Outputs of each group's first layer that go, least important first.

    Args:
        groups: those that may be thinned.
        scores: of their channels.
        ratio: share of each scope's channels that goes, before rounding.
        scope: see above.
        multiple: widths are multiples of it.
    """
    shares: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        name = {"isomorphic": group.kind, "global": "", "uniform": group.root}[scope]
        shares.setdefault(name, []).append(number)
    removals: dict[str, list[int]] = {}
    for members in shares.values():
        counts = _least([scores[number] for number in members], ratio)
        for number, count in zip(members, counts, strict=True):
            group = groups[number]
            gone = group.width - rounded(group.width - count, group.width, multiple)
            removals[group.root] = torch.argsort(scores[number], stable=True)[:gone].tolist()
    return {group.root: sorted(removals[group.root]) for group in groups if removals[group.root]}


def rounded(kept: int, width: int, multiple: int) -> int:
    """The width nearest to `kept` that a layer of `width` channels may get."""
    least = min(width, max(multiple, _up(width * LEAST, multiple)))
    return min(width, max(least, multiple * int(kept / multiple + 0.5)))


def _up(value: float, multiple: int) -> int:
    return multiple * -int(-value // multiple)


def _least(scores: Sequence[Tensor], ratio: float) -> list[int]:
    """How many of each group are among the least of all of them."""
    together = torch.cat(list(scores))
    owner = torch.cat([torch.full((len(one),), number) for number, one in enumerate(scores)])
    gone = owner[torch.argsort(together, stable=True)[: int(len(together) * ratio)]]
    return torch.bincount(gone, minlength=len(scores)).tolist()
