"""How a sub-model's head takes in the features of the others, B batch, C own channels, h and w cells.

- Features of the others are settled first: brought to the own cells and normalised without learned scale, so that a
  perturbation's radius means the same for every one of them (Ba et al., arXiv 1607.06450).
- Whatever carries another's features is zero at the start: as long as nothing is learned from the others, a sub-model
  answers exactly as it does alone.
- Vectors are maps of one cell, so that there is one law for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Kind = Literal["concat", "gate", "attention"]


class Settle(nn.Module):
    """Features at the cells of another's, each image's with mean 0 and variance 1 (layer normalisation, no weights)."""

    def forward(self, x_BChw: Tensor, cells: tuple[int, int]) -> Tensor:
        """(B, C, *cells)."""
        x = fit(x_BChw, cells).float()
        return functional.layer_norm(x, x.shape[1:])


def fit(x_BChw: Tensor, cells: tuple[int, int]) -> Tensor:
    """The same features at other cells: averaged where there are fewer, interpolated where there are more."""
    if tuple(x_BChw.shape[-2:]) == cells:
        return x_BChw
    if x_BChw.shape[-2] >= cells[0] and x_BChw.shape[-1] >= cells[1]:
        return functional.adaptive_avg_pool2d(x_BChw, cells)
    return functional.interpolate(x_BChw, size=cells, mode="bilinear", align_corners=False)


class Fusion(nn.Module):
    """Own features and settled ones of the others become features of the own shape.

    Args:
        own: channels of the own features.
        others: channels of each other's.
    """

    def __init__(self, own: int, others: Sequence[int]) -> None:
        super().__init__()
        self.carry = nn.ModuleList([_zero(channels, own) for channels in others])

    def forward(self, own: Tensor, others: Sequence[Tensor] | None) -> Tensor:
        """Fused features; `others` None: the sub-model alone."""
        raise NotImplementedError

    def carried(self, others: Sequence[Tensor]) -> list[Tensor]:
        """What comes from each other, in own channels."""
        return [carry(other) for carry, other in zip(self.carry, others, strict=True)]


class Concat(Fusion):
    """All features side by side and one pointwise layer, written as a sum of pointwise layers."""

    def __init__(self, own: int, others: Sequence[int]) -> None:
        super().__init__(own, others)
        self.own = nn.Conv2d(own, own, 1)

    def forward(self, own: Tensor, others: Sequence[Tensor] | None) -> Tensor:
        """Fused features."""
        fused = self.own(own)
        for part in [] if others is None else self.carried(others):
            fused = fused + part
        return functional.relu(fused)


class Gate(Fusion):
    """Own features and what each other's gate lets through, cell by cell."""

    def __init__(self, own: int, others: Sequence[int]) -> None:
        super().__init__(own, others)
        self.gates = nn.ModuleList([nn.Conv2d(own + channels, own, 1) for channels in others])

    def forward(self, own: Tensor, others: Sequence[Tensor] | None) -> Tensor:
        """Fused features."""
        fused = own
        if others is not None:
            for gate, other, part in zip(self.gates, others, self.carried(others), strict=True):
                fused = fused + torch.sigmoid(gate(torch.cat((own, other), 1))) * part
        return fused


class Attention(Fusion):
    """Each cell asks the sub-models at its place (Vaswani et al., NeurIPS 2017); a look at itself brings nothing."""

    def __init__(self, own: int, others: Sequence[int]) -> None:
        super().__init__(own, others)
        self.scale = own**-0.5
        self.query, self.self_key = nn.Conv2d(own, own, 1), nn.Conv2d(own, own, 1)
        self.keys = nn.ModuleList([nn.Conv2d(channels, own, 1) for channels in others])

    def forward(self, own: Tensor, others: Sequence[Tensor] | None) -> Tensor:
        """Fused features."""
        if others is None:
            return own
        keys = [self.self_key(own), *(key(other) for key, other in zip(self.keys, others, strict=True))]
        asked = self.query(own)
        looks = torch.stack([(asked * key).sum(1, keepdim=True) for key in keys]) * self.scale
        shares = looks.softmax(0)[1:]
        fused = own
        for share, part in zip(shares, self.carried(others), strict=True):
            fused = fused + share * part
        return fused


FUSIONS: dict[Kind, type[Fusion]] = {"concat": Concat, "gate": Gate, "attention": Attention}


def _zero(channels: int, own: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, own, 1, bias=False)
    nn.init.zeros_(layer.weight)
    return layer
