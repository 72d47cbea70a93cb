"""Turns: which sub-model learns at which step (after MT-CooL: alternating updates, a Gauss-Seidel game).

- In an outer iteration every sub-model has one turn of `inner` batches (0: a whole epoch), in the order of the recipe
  or in one that is drawn anew each time. In an epoch all have equally many updates.
- Each sees its own task's labelled images only; the tasks need not share a single image.
- For the first `alone` epochs nobody hears the others. Then the running statistics of all normalisation are estimated
  anew, since from now on the others answer in evaluation mode.
- The encoders' state of an earlier epoch is kept, to see later how much each task depends on what the others became.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...batches import TrainingData
from ...checkpoint import Epoch, Objective, Weights, copy_weights
from ...course import Course, Scores
from ...knobs import Plan
from .norms import settle_norms
from .objective import STEM, Cooperation
from .teacher import Cooperative


class Play(msgspec.Struct, frozen=True, kw_only=True):
    """How the sub-models take turns.

    Args:
        inner: batches a turn; 0 is an epoch.
        order: of the sub-models in an outer iteration: `reshuffled` each time, or `fixed` as in the recipe.
        alone: epochs of single-task training before they cooperate.
        steps: updates of each sub-model in an epoch; 0 is one pass over the largest task's images (with a stem, over
            those of all tasks).
        back: how many epochs before the last the encoders' earlier state is kept; 0 keeps none.
        keep: weights of the `best` epoch by validation among those in which they cooperate, or of the `last`.
    """

    inner: int = 1
    order: Literal["reshuffled", "fixed"] = "reshuffled"
    alone: int = 3
    steps: int = 0
    back: int = 3
    keep: Literal["best", "last"] = "best"


class TurnCourse(Course):
    """One step is one update of one sub-model.

    Args:
        data: all train images.
        validate: score of the teacher on all tasks.
        plan: epochs, batch, rate, optimiser, augmentation.
        play: how they take turns.
        places: by sub-model, in their order: its labelled images.
        seed: of the order.
        stem: whether a shared stem has a turn of its own, on all labelled images.
        names: of the images.
    """

    def __init__(
        self,
        data: TrainingData,
        validate: Callable[[nn.Module], Scores],
        plan: Plan,
        play: Play,
        places: Mapping[str, NDArray[np.int64]],
        *,
        seed: int,
        stem: bool = False,
        names: Sequence[str] = (),
    ) -> None:
        super().__init__(data, validate, plan, names=names)
        self.play, self.seed = play, seed
        self.by_turn = dict(places)
        every = np.unique(np.concatenate(list(places.values())))
        if stem:
            self.by_turn[STEM] = every
        self.every = every
        self.earlier: Weights = {}
        self.drawn: tuple[int, list[str]] = (-1, [])  # an epoch and its turns

    @property
    def updates(self) -> int:
        """Of each sub-model in an epoch."""
        most = max(len(found) for found in self.by_turn.values())
        return self.play.steps or max(1, most // self.plan.batch_size)

    @property
    def earlier_epoch(self) -> int:
        """Of the state that is kept; -1 for none."""
        return self.epochs - 1 - self.play.back if self.play.back else -1

    def images(self, epoch: int) -> int:
        """Images of one epoch, all turns together."""
        return len(self.by_turn) * self.updates * self.plan.batch_size

    def turns(self, epoch: int) -> list[str]:
        """Whose each step of an epoch is."""
        rng, names = np.random.default_rng([self.seed, epoch, 11]), list(self.by_turn)
        inner = self.play.inner or self.updates
        found: list[str] = []
        for done in range(0, self.updates, inner):
            order = [names[int(i)] for i in rng.permutation(len(names))] if self.play.order == "reshuffled" else names
            for name in order:
                found += [name] * min(inner, self.updates - done)
        return found

    def order(self, epoch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Batch after batch, each from the images of whose turn it is."""
        size = self.plan.batch_size
        streams = {name: _stream(found, self.updates * size, rng) for name, found in self.by_turn.items()}
        at = dict.fromkeys(streams, 0)
        parts = []
        for name in self.turns(epoch):
            parts.append(streams[name][at[name] : at[name] + size])
            at[name] += size
        return np.concatenate(parts)

    def begin(self, epoch: int, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
        """Give the first turn; after the epochs alone, estimate the statistics of normalisation anew."""
        assert isinstance(objective, Cooperation)
        if epoch == self.play.alone > 0:
            settle_norms(objective.network, self.data, self.every)
        # Weights of an epoch alone hear nobody, however well they do: the first epoch together takes their place.
        self.keeps_last = self.play.keep == "last" or epoch <= self.play.alone
        self._give(epoch, 0, objective)

    def after_step(self, epoch: int, step: int, steps: int, objective: Objective) -> None:
        """Give the next turn; at the end of the epoch that is to be kept, keep the encoders."""
        assert isinstance(objective, Cooperation)
        if step + 1 < steps:
            self._give(epoch, step + 1, objective)
        elif epoch == self.earlier_epoch:
            self.earlier = copy_weights(objective.network.encoders)

    def _give(self, epoch: int, step: int, objective: Cooperation) -> None:
        if self.drawn[0] != epoch:
            self.drawn = epoch, self.turns(epoch)
        objective.take(self.drawn[1][step], alone=epoch < self.play.alone)

    def line(self, epoch: Epoch) -> Epoch:
        """With losses that are means over a sub-model's own steps."""
        losses = {name: value * len(self.by_turn) for name, value in epoch.losses.items()}
        return msgspec.structs.replace(epoch, losses=losses)

    def memory(self) -> Weights:
        """The encoders' earlier state."""
        return self.earlier

    def remember(self, memory: Weights) -> None:
        """Take it up."""
        self.earlier = dict(memory)


def earlier_encoders(teacher: Cooperative, earlier: Weights) -> dict[str, Weights]:
    """The kept state by encoder; empty where none was kept."""
    if not earlier:
        return {}
    return {
        name: {key.removeprefix(f"{name}."): x for key, x in earlier.items() if key.startswith(f"{name}.")}
        for name in teacher.names
    }


def _stream(places: NDArray[np.int64], length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Passes over these places, each in an order of its own, cut to a length."""
    passes = -(-length // len(places))
    return np.concatenate([rng.permutation(places) for _ in range(passes)])[:length]
