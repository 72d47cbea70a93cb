"""The network of a pretraining: for each modality an encoder, two projections, measure heads, visits, a decoder.

What a device needs of it (one encoder, its measure heads, its projections) becomes a `ComprerTeacher`; the rest serves
training only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import msgspec
import torch
from torch import Tensor, nn

from ....runtime.task import Task
from .knobs import Aims, Encoding, taught_projections
from .parts import Compare, Decoder, Encoder, Projection, ValueHead, pooled


class Branch(nn.Module):
    """All that belongs to one modality.

    Args:
        encoding: backbone and input.
        aims: shapes of heads and decoder.
        measures: tasks with a head.
        dims: lengths of the multimodal and the temporal projection.
    """

    def __init__(self, encoding: Encoding, aims: Aims, measures: Sequence[Task], dims: tuple[int, int]) -> None:
        super().__init__()
        self.encoder = Encoder(encoding.backbone, encoding.input)
        width = self.encoder.width
        self.across = Projection(width, dims[0])
        self.along = Projection(width, dims[1])
        self.heads = nn.ModuleDict({task.name: ValueHead(task, width, aims.measure_hidden) for task in measures})
        self.order = Compare(width)
        self.gap = Compare(width)
        decoder = Decoder(width, encoding.input, aims.decoder_width, pooled=aims.rebuilt == "embedding")
        self.decoder = decoder if aims.reconstruction > 0 else None

    def measured(self, h_BF: Tensor) -> dict[str, Tensor]:
        """Raw outputs of the measures."""
        return {name: head(h_BF) for name, head in self.heads.items()}


class Comprer(nn.Module):
    """Branches by modality and the temperatures that they share.

    Args:
        encodings: how each modality is encoded.
        aims: the losses.
        measures: tasks that are learned as measures.
        sizes: lengths of the projections, as embedding tasks ask for them: those that a loss trains come first, the
            multimodal one before the temporal. What is not given is `aims.projection`.
    """

    def __init__(
        self,
        encodings: Mapping[str, Encoding],
        aims: Aims,
        measures: Sequence[Task],
        sizes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.encodings = dict(encodings)
        self.coldest = aims.coldest
        taught = taught_projections(aims)
        self.projections = (*taught, *(name for name in ("across", "along") if name not in taught))
        dims = dict(zip(self.projections, [*sizes, aims.projection, aims.projection], strict=False))
        self.branches = nn.ModuleDict(
            {
                name: Branch(encoding, aims, measures, (dims["across"], dims["along"]))
                for name, encoding in encodings.items()
            }
        )
        start = math.log(aims.temperature)
        self.log_across = nn.Parameter(torch.tensor(start))
        self.log_along = nn.Parameter(torch.tensor(start))

    def __getitem__(self, modality: str) -> Branch:
        return cast(Branch, self.branches[modality])

    def items(self) -> Iterator[tuple[str, Branch]]:
        """Modalities and their branches."""
        return ((name, self[name]) for name in self.encodings)

    def temperature(self, log_tau: Tensor) -> Tensor:
        """Tau of a contrastive loss, never colder than the coldest."""
        return log_tau.exp().clamp(min=self.coldest)

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring the temperatures back into their range, where they still have a gradient."""
        for log_tau in (self.log_across, self.log_along):
            log_tau.clamp_(min=math.log(self.coldest) + 1e-6)


class Seen(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What the encoders make of the pictures of a batch."""

    maps: dict[str, Tensor]  # (N, F, h, w)
    pooled: dict[str, Tensor]  # (N, F)


def see(network: Comprer, images: Mapping[str, Tensor]) -> Seen:
    """Encode the pictures of each modality."""
    maps = {name: network[name].encoder(x) for name, x in images.items()}
    return Seen(maps=maps, pooled={name: pooled(x) for name, x in maps.items()})
