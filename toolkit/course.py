"""What one training does, epoch by epoch: which images in which order, at which rate, and how it is judged.

`fit` is the loop; a course fills in what differs between supervised training, contrastive pretraining and continual
learning. What is random in an epoch follows from the seed and the epoch's number alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .batches import Batch, TrainingData, augment
from .checkpoint import Epoch, Objective, TrainingState, Weights
from .knobs import Plan
from .schedule import warmed_rate


class Scores(msgspec.Struct, frozen=True):
    """A validation: higher is better, 1 is perfect; tasks without a known target are absent."""

    total: float
    by_task: dict[str, float]
    measures: dict[str, float] = {}


class Report(Protocol):
    """Where progress goes."""

    def __call__(self, done: int, total: int, text: str) -> None:
        """`done` of `total` images, and a few words."""


class Course:
    """Supervised training; others override what differs.

    Args:
        data: training images and targets.
        validate: score of a network on the validation images.
        plan: the knobs of the loop.
        names: a name an image, for errors.
        places: the images that take part; None: all.
    """

    keeps_last = False  # True: the last weights are the result, not those of the best epoch

    def __init__(
        self,
        data: TrainingData,
        validate: Callable[[nn.Module], Scores],
        plan: Plan,
        *,
        names: Sequence[str] = (),
        places: NDArray[np.int64] | None = None,
    ) -> None:
        self.data, self.validate, self.plan, self.names = data, validate, plan, names
        self.places = np.arange(len(data)) if places is None else places

    @property
    def epochs(self) -> int:
        """How many there are."""
        return self.plan.epochs

    def images(self, epoch: int) -> int:
        """Images of one epoch."""
        return len(self.places)

    def order(self, epoch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """The epoch's images in the order in which they are seen."""
        return np.asarray(self.places[rng.permutation(len(self.places))])

    def vary(self, batch: Batch, generator: torch.Generator, device: torch.device) -> Batch:
        """The batch as the network sees it, on its device."""
        return augment(batch, self.plan.augment, generator, device)

    def rate(self, epoch: int, step: int, steps: int) -> float:
        """Learning rate of a step; `steps` is their number in this epoch."""
        return warmed_rate(self.plan, epoch * steps + step, self.epochs * steps)

    def begin(self, epoch: int, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
        """Before the first step of an epoch."""

    def after_step(self, epoch: int, step: int, steps: int, objective: Objective) -> None:
        """After each step."""

    def judged(self, state: TrainingState) -> Weights | None:
        """The weights that are validated and kept; None: the network's own."""
        return state.ema or None

    def judge(self, epoch: int, network: nn.Module) -> Scores:
        """Score of the network at the end of an epoch."""
        return self.validate(network)

    def line(self, epoch: Epoch) -> Epoch:
        """The epoch's line in the history, with what only the course knows."""
        return epoch

    def memory(self) -> Weights:
        """What a resume must know beside the weights."""
        return {}

    def remember(self, memory: Weights) -> None:
        """Take up what `memory` gave."""

    def name(self, place: int) -> str:
        """An image's name in errors."""
        return self.names[place] if self.names else f"image {place}"
