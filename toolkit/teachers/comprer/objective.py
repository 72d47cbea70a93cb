"""The four losses of a batch of patients, and how they are weighted against each other.

total = l_mm L_mm + l_t L_t + l_meas L_meas + l_rec L_rec, each divided by its value when it was first seen, or weighted
by a learned uncertainty (Kendall et al., CVPR 2018), or as it is. A weight of 0 takes a loss out: nothing of it is
computed and its modules get no gradient. A loss without an eligible sample in a batch is exactly 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ....runtime.task import Task
from ...batches import Batch
from ...checkpoint import Objective
from ..split_norm import gather, processes
from .batch import Pairs, PatientBatch
from .knobs import Aims
from .losses import gap_loss, measure_entries, measure_loss, nothing, order_loss, pair_contrast, rebuild_loss
from .network import Comprer, Seen, see
from .parts import directions

LOSSES = ("multimodal", "temporal", "measures", "reconstruction")
LEAST = 1e-3  # a loss that starts nearer to 0 is not blown up further


class Pretraining(Objective):
    """The network and its four losses.

    Args:
        network: all branches.
        aims: weights and kinds of the losses.
        measures: tasks that are learned as measures.
        gap_scale: years that count as one in the gap loss.
    """

    network: Comprer

    def __init__(self, network: Comprer, aims: Aims, measures: Sequence[Task], gap_scale: float = 1.0) -> None:
        super().__init__(network)
        self.aims, self.measures, self.gap_scale = aims, tuple(measures), gap_scale
        weights = {name: float(getattr(aims, name)) for name in LOSSES if getattr(aims, name) > 0}
        self.balance = Balance(weights, aims.balance)

    def compiled(self) -> list[nn.Module]:
        """None: how many pictures of a modality a batch has differs."""
        return []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted losses that are in, by name."""
        assert isinstance(batch, PatientBatch)
        seen = see(self.network, {name: one.images for name, one in batch.pictures.items()})
        every = {
            "multimodal": self.multimodal,
            "temporal": self.temporal,
            "measures": self.measured,
            "reconstruction": self.reconstruction,
        }
        losses: dict[str, Tensor] = self.balance({name: every[name](batch, seen) for name in self.balance.names})
        if any(loss.requires_grad for loss in losses.values()):
            return losses
        # No loss is eligible: the loop still wants a gradient, and this one is 0.
        first = next(iter(losses))
        return losses | {first: losses[first] + 0.0 * self.network.log_across}

    def multimodal(self, batch: PatientBatch, seen: Seen) -> Tensor:
        """Contrast between modalities, or between sides: the mean over the kinds of pairs that are there."""
        tau = self.network.temperature(self.network.log_across)
        unit = {name: directions(self.network[name].across(h)) for name, h in seen.pooled.items()}
        return _mean([_contrast(pairs, unit, tau) for pairs in batch.across if pairs.subjects > 1], batch)

    def temporal(self, batch: PatientBatch, seen: Seen) -> Tensor:
        """Contrast of visits, their order and the years between them."""
        aims, parts = self.aims, []
        tau = self.network.temperature(self.network.log_along)
        for weight, found in (
            (aims.contrast, [self._visits(pairs, seen, tau) for pairs in batch.along if pairs.subjects > 1]),
            (aims.order, [self._order(pairs, seen) for pairs in batch.along if pairs.ordered]),
            (aims.gap, [self._gap(pairs, seen) for pairs in batch.along if pairs.timed]),
        ):
            if weight > 0 and found:
                parts.append(weight * _mean(found, batch))
        return torch.stack(parts).sum() if parts else nothing(_any(batch))

    def measured(self, batch: PatientBatch, seen: Seen) -> Tensor:
        """Mean over all known measures of all modalities."""
        entries, weights = [], []
        for name, one in batch.pictures.items():
            raw = self.network[name].measured(seen.pooled[name])
            for task in self.measures:
                if one.known[task.name]:
                    target = one.scalars[task.name]
                    entries.append(measure_entries(task, raw[task.name], target, self.aims.measure_loss))
                    weights.append(task.weight)
        return measure_loss(entries, weights) if entries else nothing(_any(batch))

    def reconstruction(self, batch: PatientBatch, seen: Seen) -> Tensor:
        """Mean over the modalities of how far the decoders' pictures are from those that are wanted."""
        found = []
        for name, one in batch.pictures.items():
            branch = self.network[name]
            assert branch.decoder is not None
            normal = branch.encoder.normalise
            rebuilt = branch.decoder(seen.maps[name])
            found.append(rebuild_loss(rebuilt, one.wanted, normal.std, normal.mean, self.aims.rebuild_loss))
        return _mean(found, batch)

    def _visits(self, pairs: Pairs, seen: Seen, tau: Tensor) -> Tensor:
        unit = {pairs.first: directions(self.network[pairs.first].along(seen.pooled[pairs.first]))}
        return _contrast(pairs, unit, tau)

    def _order(self, pairs: Pairs, seen: Seen) -> Tensor:
        h_BF = seen.pooled[pairs.first]
        logit = self.network[pairs.first].order(h_BF[pairs.i], h_BF[pairs.j])
        return order_loss(logit, pairs.ahead, self.aims.full_gap)

    def _gap(self, pairs: Pairs, seen: Seen) -> Tensor:
        h_BF = seen.pooled[pairs.first]
        value = self.network[pairs.first].gap(h_BF[pairs.i], h_BF[pairs.j])
        return gap_loss(value, pairs.years, self.gap_scale)


class Balance(nn.Module):
    """Weighs losses against each other.

    Args:
        weights: by loss; those above 0.
        how: `start` divides each by its first value that was not 0, `uncertainty` learns s of exp(-s) L + s / 2,
            `fixed` does neither.
    """

    first: Tensor

    def __init__(self, weights: dict[str, float], how: str) -> None:
        super().__init__()
        self.weights, self.how = weights, how
        self.register_buffer("first", torch.full((len(weights),), torch.nan))
        self.log_variance = nn.Parameter(torch.zeros(len(weights))) if how == "uncertainty" else None
        self.settled = False

    @property
    def names(self) -> tuple[str, ...]:
        """The losses, in order."""
        return tuple(self.weights)

    def forward(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same losses weighted; one without a gradient stays as it is."""
        if self.how == "start" and self.training:
            self._note([losses[name] for name in self.weights])
        found = {}
        for place, (name, weight) in enumerate(self.weights.items()):
            loss = losses[name]
            if not loss.requires_grad:
                found[name] = loss
            elif self.how == "start":
                found[name] = weight * loss / self.first[place].clamp(min=LEAST)
            elif self.log_variance is not None:
                s = self.log_variance[place]
                found[name] = weight * (torch.exp(-s) * loss + s / 2)
            else:
                found[name] = weight * loss
        return found

    @torch.no_grad()
    def _note(self, losses: Sequence[Tensor]) -> None:
        """Keep each loss's first value; with several processes the mean over those that saw it."""
        if self.settled:
            return
        unseen = torch.full_like(self.first[0], torch.nan)
        now = torch.stack([loss.detach().float() if loss.requires_grad else unseen for loss in losses])
        if processes() > 1:
            now = gather(now[None]).nanmean(0)
        self.first.copy_(torch.where(self.first.isnan(), now, self.first))
        self.settled = not bool(self.first.isnan().any())


def _contrast(pairs: Pairs, unit: dict[str, Tensor], tau: Tensor) -> Tensor:
    return pair_contrast(unit[pairs.first][pairs.i], unit[pairs.second][pairs.j], pairs.subject, tau)


def _mean(found: list[Tensor], batch: PatientBatch) -> Tensor:
    return torch.stack(found).mean() if found else nothing(_any(batch))


def _any(batch: PatientBatch) -> Tensor:
    return next(iter(batch.pictures.values())).images
