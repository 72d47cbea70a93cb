"""One sub-model's turn: its loss at the worst, or at random, features of the others (after MT-CooL).

- Only the sub-model whose turn it is learns; the others answer as they are, in evaluation mode and without gradient.
  Nothing of theirs changes, running statistics included.
- `F_i = max_{|d| <= rho} L_i(theta_i; z_-i + d)` is approached by one step of ascent (`perturb.py`); with
  rho 0 it is L_i itself.
- The turn of the stem, if there is one, is the only one in which losses are summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import msgspec
import torch
from torch import Tensor, nn

from ...batches import Batch
from ...checkpoint import Objective
from ...models.heads import Pyramid
from .perturb import Others, ascent, draws, moved, steady, worst_weights
from .teacher import Cooperative

STEM = "stem"  # whose turn it is when nobody's is
Perturb = Literal["sam-feature", "noise", "sam-param", "none"]


class Flat(msgspec.Struct, frozen=True, kw_only=True):
    """How flat minima with respect to the others' features are sought.

    Args:
        perturb: `sam-feature` takes the worst features within rho, `noise` the mean over random ones, `sam-param` the
            features of the worst weights of the others, `none` the features as they are.
        rho: radius: a share of the features' length (sam-feature), a bound in their standard deviations (noise), the
            length of the step of the weights (sam-param). 0 is `none`.
        lam: share of the perturbed loss; the rest is the plain one.
        draws: random features of `noise`.
    """

    perturb: Perturb = "sam-feature"
    rho: float = 0.05
    lam: float = 1.0
    draws: int = 2

    @property
    def plain(self) -> bool:
        """Whether nothing is perturbed."""
        return self.perturb == "none" or self.rho == 0 or self.lam == 0


class Cooperation(Objective):
    """The loss of the sub-model whose turn it is; whose, and whether the others are heard yet, the course says."""

    network: Cooperative

    def __init__(self, network: Cooperative, flat: Flat) -> None:
        super().__init__(network)
        self.flat = flat
        self.turn = network.names[0]
        self.alone = False

    def take(self, turn: str, *, alone: bool) -> None:
        """Give a sub-model (or the stem) the turn.

        Args:
            turn: name.
            alone: the others are not heard: single-task training.
        """
        self.turn, self.alone = turn, alone
        self.train(self.training)

    def learning(self) -> list[nn.Module]:
        """The modules that learn in this turn."""
        if self.turn == STEM:
            assert self.network.stem is not None
            return [self.network.stem]
        return [self.network.encoder(self.turn), self.network.reader(self.turn)]

    def train(self, mode: bool = True) -> Cooperation:
        """As always, but only what learns in this turn leaves evaluation mode."""
        super().train(mode)
        if mode:
            self.network.eval()
            for module in self.learning():
                module.train()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """One loss, under the name of whose turn it is."""
        if self.turn == STEM:
            return {STEM: self._sum(batch)}
        network, reader = self.network, self.network.reader(self.turn)
        with torch.no_grad():
            seen = network.see(batch.images)
        pyramid, target = network.encoder(self.turn)(seen), batch.target(reader.task)
        if self.alone or len(network.names) == 1:
            loss = reader.loss(pyramid, None, target)
        else:
            loss = self._flat(seen, pyramid, lambda maps, others: reader.loss(maps, others, target))
        return {self.turn: reader.task.weight * loss}

    def _flat(self, seen: Tensor, pyramid: Pyramid, loss: Callable[[Pyramid, Others], Tensor]) -> Tensor:
        """The loss where the others' features are perturbed, mixed with the plain one."""
        names = [name for name in self.network.names if name != self.turn]
        encoders = [self.network.encoder(name) for name in names]
        reader, fixed = self.network.reader(self.turn), {stride: x.detach() for stride, x in pyramid.items()}

        def ask(functions: Sequence[Callable[[Tensor], object]]) -> Others:
            maps: list[Tensor] = []
            for function in functions:
                answered = function(seen)
                assert isinstance(answered, dict)
                maps.append(answered[32])
            return reader.others(maps, fixed[32])

        def probe(others: Others) -> Tensor:
            return loss(fixed, others)

        how = self.flat
        with torch.no_grad():
            others = ask(encoders)
        if how.plain:
            return loss(pyramid, others)
        if how.perturb == "noise":
            risen = [moved(others, draws(others, how.rho)) for _ in range(how.draws)]
        else:
            with steady(reader):
                if how.perturb == "sam-feature":
                    risen = [moved(others, ascent(probe, others, how.rho))]
                else:
                    risen = [worst_weights(probe, encoders, ask, how.rho)]
        flat = torch.stack([loss(pyramid, one) for one in risen]).mean()
        return flat if how.lam == 1 else (1 - how.lam) * loss(pyramid, others) + how.lam * flat

    def _sum(self, batch: Batch) -> Tensor:
        """All sub-models' plain losses, summed; the stem alone gets a gradient."""
        network = self.network
        with frozen([network.encoders, network.readers]):
            pyramids = network.pyramids(batch.images)
            maps = {name: pyramid[32] for name, pyramid in pyramids.items()}
            losses = []
            for task in network.tasks:
                others = None if self.alone else network.of_others(task.name, maps, maps[task.name])
                loss = network.reader(task.name).loss(pyramids[task.name], others, batch.target(task))
                losses.append(task.weight * loss)
        return torch.stack(losses).sum()


@contextmanager
def frozen(modules: Sequence[nn.Module]) -> Iterator[None]:
    """What is computed in the block gives these modules' weights no gradient, but passes it on to what they are fed."""
    learnt = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    try:
        for weight in learnt:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in learnt:
            weight.requires_grad_(True)
