"""Visits of one task after another: the course and the loss of multitask continual learning (`continual.py`).

A round visits every task once; a visit is one epoch of the loop. The rate follows eq. 4 of MTPret (Liao et al. 2024),
L2-SP pulls the backbone to an anchor (eq. 5), and the weights at the cycle's minimum are judged and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..batches import Batch, TrainingData
from ..checkpoint import Epoch, Objective, TrainingState, Weights, copy_weights
from ..course import Course, Scores
from ..knobs import Plan
from ..models.network import Network
from ..models.teacher_heads import DeepLabHead
from ..schedule import cyclic_rate
from .l2sp import distance, kernels, l2sp, snapshot

Anchor = Literal["task_start", "round_start", "stage_start"]


class Rounds(msgspec.Struct, frozen=True, kw_only=True):
    """The knobs of continual learning.

    Args:
        rounds: visits of each task.
        steps: steps a visit; 0 is one pass over the task's images.
        reshuffle: draw the order of the tasks anew for each round; False keeps the order of the recipe.
        schedule: `cyclic` follows eq. 4; `constant` keeps the cycle's mean, so that the paths are equally long.
        cycle: what eq. 4 calls T: a `visit`, a `round`, or `period` steps (`fixed`).
        period: steps a cycle, where it is fixed.
        low: eta_min.
        task_low: eta_min of single tasks.
        alpha: pull of the backbone to the anchor; 0 for none.
        beta: decay of the head.
        anchor: when the anchor is taken anew.
        norms: `shared` lets the running statistics of batch normalisation follow every task; `frozen` keeps those of
            the start, as constants.
        evaluate: whether the weights at the cycle's `minimum` or at the visit's `end` are judged and kept; `both`
            judges both and keeps the minimum.
        recalibrate: images of a task on which the statistics are estimated anew before it is judged; 0 for none.
        mask_entropy: cross entropy beside soft Dice for masks; the paper has soft Dice alone (eq. 7).
    """

    rounds: int = 20
    steps: int = 0
    reshuffle: bool = True
    schedule: Literal["cyclic", "constant"] = "cyclic"
    cycle: Literal["visit", "round", "fixed"] = "visit"
    period: int = 0
    low: float = 1e-4
    task_low: Mapping[str, float] = {}
    alpha: float = 0.1
    beta: float = 0.01
    anchor: Anchor = "task_start"
    norms: Literal["shared", "frozen"] = "shared"
    evaluate: Literal["minimum", "end", "both"] = "minimum"
    recalibrate: int = 0
    mask_entropy: bool = False


class Visited(Objective):
    """One task's loss and L2-SP; which task, and where the anchor is, the course says."""

    network: Network

    def __init__(self, network: Network, rounds: Rounds) -> None:
        super().__init__(network)
        self.rounds = rounds
        self.task = network.tasks[0].name
        self.anchor: Weights = {}
        for head in network.ordered_heads():
            if isinstance(head, DeepLabHead):
                head.entropy = rounds.mask_entropy

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The visited task's loss, and `l2sp` where there is a pull."""
        head = next(head for head in self.network.ordered_heads() if head.task.name == self.task)
        pyramid = self.network.pyramid(batch.images)
        losses = {self.task: head.loss(pyramid, head(pyramid), batch.target(head.task))}
        if self.rounds.alpha > 0 or self.rounds.beta > 0:
            shared = kernels(self.network.backbone)
            anchor = [self.anchor[name] for name in shared]
            new = list(kernels(head).values())
            losses["l2sp"] = l2sp(list(shared.values()), anchor, new, alpha=self.rounds.alpha, beta=self.rounds.beta)
        return losses

    def train(self, mode: bool = True) -> Visited:
        """As always, but frozen normalisation of the backbone stays in evaluation mode."""
        super().train(mode)
        if mode and self.rounds.norms == "frozen":
            for module in self.network.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


class ContinualCourse(Course):
    """One epoch is one visit of one task.

    Args:
        data: all train images.
        validate: score of a network on all tasks.
        plan: batch, rate (eta_max), optimiser, clipping, augmentation; its epochs do not count.
        rounds: the knobs of continual learning.
        places: by task, in the order of the tasks: its labelled images.
        seed: of the order of the tasks.
        names: of the images.
    """

    keeps_last = True

    def __init__(
        self,
        data: TrainingData,
        validate: Callable[[nn.Module], Scores],
        plan: Plan,
        rounds: Rounds,
        places: Mapping[str, NDArray[np.int64]],
        *,
        seed: int,
        names: Sequence[str] = (),
    ) -> None:
        super().__init__(data, validate, plan, names=names)
        self.rounds, self.by_task, self.seed = rounds, places, seed
        self.start: Weights = {}
        self.anchor: Weights = {}
        self.visit_start: Weights = {}
        self.low: Weights | None = None
        self.measures: dict[str, float] = {}

    @property
    def epochs(self) -> int:
        """Visits in all."""
        return self.rounds.rounds * len(self.by_task)

    def visited(self, epoch: int) -> str:
        """The task of a visit: every task once a round."""
        turn, place = divmod(epoch, len(self.by_task))
        return task_order(list(self.by_task), turn, self.seed, reshuffle=self.rounds.reshuffle)[place]

    def steps(self, epoch: int) -> int:
        """Steps of a visit."""
        count = len(self.by_task[self.visited(epoch)])
        size = max(1, min(self.plan.batch_size, count))
        return self.rounds.steps or max(1, count // size)

    def images(self, epoch: int) -> int:
        """Images of a visit."""
        count = len(self.by_task[self.visited(epoch)])
        return self.steps(epoch) * max(1, min(self.plan.batch_size, count))

    def order(self, epoch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """The task's images, as often as its steps need them."""
        places = self.by_task[self.visited(epoch)]
        passes = -(-self.images(epoch) // len(places))
        return np.concatenate([rng.permutation(places) for _ in range(passes)])[: self.images(epoch)]

    def rate(self, epoch: int, step: int, steps: int) -> float:
        """Eq. 4, or the mean of its cycle."""
        task = self.visited(epoch)
        low, high = self.rounds.task_low.get(task, self.rounds.low), self.plan.learning_rate
        if self.rounds.schedule == "constant":
            return (low + high) / 2
        t, period = self.phase(epoch, step, steps)
        return cyclic_rate(low, high, t, period)

    def phase(self, epoch: int, step: int, steps: int) -> tuple[int, int]:
        """Step inside the cycle, and the cycle's length."""
        if self.rounds.cycle == "visit":
            return step, steps
        if self.rounds.cycle == "fixed":
            return (sum(self.steps(before) for before in range(epoch)) + step) % self.rounds.period, self.rounds.period
        first = epoch - epoch % len(self.by_task)
        lengths = [self.steps(visit) for visit in range(first, first + len(self.by_task))]
        return sum(lengths[: epoch - first]) + step, sum(lengths)

    def begin(self, epoch: int, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
        """Choose the task, take the anchor anew, forget the momentum."""
        assert isinstance(objective, Visited)
        objective.task = self.visited(epoch)
        optimizer.state.clear()
        backbone = objective.network.backbone
        self.visit_start = snapshot(backbone)
        if epoch == 0:
            self.start = snapshot(backbone)
        turns = {"task_start": True, "round_start": epoch % len(self.by_task) == 0, "stage_start": epoch == 0}
        device = next(backbone.parameters()).device
        anchor = self.visit_start if turns[self.rounds.anchor] else self.anchor
        self.anchor = objective.anchor = {name: x.to(device) for name, x in anchor.items()}
        self.low = None

    def after_step(self, epoch: int, step: int, steps: int, objective: Objective) -> None:
        """Keep the weights at the cycle's minimum; measure at the visit's end."""
        assert isinstance(objective, Visited)
        t, period = self.phase(epoch, step, steps)
        if self.rounds.evaluate != "end" and self.rounds.schedule == "cyclic" and t == period // 2:
            self.low = copy_weights(objective.network)
        if step == steps - 1:
            backbone = objective.network.backbone
            self.measures = {
                "drift": distance(backbone, self.start),
                "visit_drift": distance(backbone, self.visit_start),
            }
            if self.rounds.evaluate == "both":
                scores = self.validate(objective.network.eval())
                self.measures |= {f"end/{name}": score for name, score in scores.by_task.items()}
                objective.train()

    def judged(self, state: TrainingState) -> Weights | None:
        """The weights at the cycle's minimum, where this visit had one."""
        return self.low

    def judge(self, epoch: int, network: nn.Module) -> Scores:
        """All tasks, also those that were not visited yet."""
        scores = self.validate(network)
        return msgspec.structs.replace(scores, measures=self.measures)

    def line(self, epoch: Epoch) -> Epoch:
        """With the visited task, its round, and the cycle's smallest rate."""
        task = self.visited(epoch.epoch)
        cyclic = self.rounds.schedule == "cyclic"
        rate = self.rounds.task_low.get(task, self.rounds.low) if cyclic else epoch.learning_rate
        turn = epoch.epoch // len(self.by_task)
        return msgspec.structs.replace(epoch, task=task, round=turn, learning_rate=rate)

    def memory(self) -> Weights:
        """Where the stage began, and the anchor."""
        parts = {"start": self.start, "anchor": self.anchor}
        return {f"{part}/{name}": x for part, weights in parts.items() for name, x in weights.items()}

    def remember(self, memory: Weights) -> None:
        """Take up both; the objective gets its anchor in `begin`."""
        self.start = {name.removeprefix("start/"): x for name, x in memory.items() if name.startswith("start/")}
        self.anchor = {name.removeprefix("anchor/"): x for name, x in memory.items() if name.startswith("anchor/")}


def task_order(tasks: Sequence[str], turn: int, seed: int, *, reshuffle: bool) -> list[str]:
    """The tasks in the order of one round: a permutation of its own for each round, or always the given order."""
    if not reshuffle:
        return list(tasks)
    return [tasks[int(i)] for i in np.random.default_rng([seed, turn, 7]).permutation(len(tasks))]
