"""The one training loop: cosine schedule, gradient clipping, EMA, best by validation, resume at the last epoch.

It runs on Lightning Fabric: one CPU, one GPU in bf16, or several GPUs started by torchrun. What is random in an epoch
follows from the seed and the epoch's number alone, so that a training killed at any point and started again ends with
the weights of an uninterrupted one (same machine, same number of threads).
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from ..runtime.errors import FoveolaError
from .batches import Batch, TrainingData, augment
from .checkpoint import Epoch, Objective, TrainingState
from .knobs import Plan
from .models.network import Network

CHECKPOINT = "checkpoint"


class Supervised(Objective):
    """The reference standard alone, gaps masked."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """One loss a task."""
        pyramid = self.network.pyramid(batch.images)
        losses = {}
        for head in self.network.ordered_heads():
            losses[head.task.name] = head.task.weight * head.loss(pyramid, head(pyramid), batch.target(head.task))
        return losses


class Scores(msgspec.Struct, frozen=True):
    """A validation: higher is better, 1 is perfect; tasks without a known target are absent."""

    total: float
    by_task: dict[str, float]


class Report(Protocol):
    """Where progress goes."""

    def __call__(self, done: int, total: int, text: str) -> None:
        """`done` of `total` images, and a few words."""


def make_fabric() -> Fabric:
    """Fabric for this machine: float32 on a CPU, bf16 mixed on CUDA, DDP where torchrun started several processes."""
    cuda = torch.cuda.is_available()
    workers = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if torch.distributed.is_torchelastic_launched() else 1
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=workers,
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")) if workers > 1 else 1,
        # Heads of tasks that a batch does not label get no gradient.
        strategy=DDPStrategy(find_unused_parameters=True) if workers > 1 else "auto",
        precision="bf16-mixed" if cuda else "32-true",
    )
    fabric.launch()
    return fabric


def fit(
    objective: Objective,
    data: TrainingData,
    validate: Callable[[Network], Scores],
    plan: Plan,
    *,
    seed: int,
    folder: Path,
    report: Report,
    names: Sequence[str] = (),
) -> list[Epoch]:
    """Train `objective`, leaving its network with the best weights, and return the history.

    Args:
        objective: network and losses; changed in place.
        data: training images and targets.
        validate: score of a network on the validation images.
        plan: the knobs.
        seed: of everything random.
        folder: where the last epoch is kept for a resume; removed at the end by `forget`.
        report: progress.
        names: a name an image, for errors.

    Raises:
        FoveolaError: a loss is not finite (epoch, step and images are named).
    """
    fabric = make_fabric()
    objective = objective.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(_parameter_groups(objective, plan.weight_decay), lr=plan.learning_rate)
    state = TrainingState(objective, optimizer)
    state.restore(folder / CHECKPOINT)
    model, wrapped = fabric.setup(objective, optimizer)
    state.to(fabric.device)
    for epoch in range(len(state.history), plan.epochs):
        losses, rate = _train_epoch(fabric, model, wrapped, data, plan, seed, epoch, state, report, names)
        with state.averaged(plan.ema > 0):
            scores = validate(objective.network)
        objective.to(fabric.device).train()
        state.close_epoch(Epoch(epoch, rate, losses, scores.total, scores.by_task), plan.ema > 0)
        if fabric.is_global_zero:
            state.save(folder / CHECKPOINT)
        fabric.barrier()
        shown = " ".join(f"{name} {score:.3f}" for name, score in scores.by_task.items())
        report(len(data) * (epoch + 1), len(data) * plan.epochs, f"epoch {epoch + 1}/{plan.epochs}: {shown}")
    objective.network.load_state_dict(state.best)
    objective.network.eval()
    return state.history


def forget(folder: Path) -> None:
    """Remove the resume point once the step is done."""
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)


def _parameter_groups(module: nn.Module, decay: float) -> list[dict[str, object]]:
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _rate(plan: Plan, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero (Loshchilov and Hutter, ICLR 2017)."""
    rising = max(1, round(plan.warmup * steps))
    if step < rising:
        return plan.learning_rate * (step + 1) / rising
    return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _train_epoch(
    fabric: Fabric,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: TrainingData,
    plan: Plan,
    seed: int,
    epoch: int,
    state: TrainingState,
    report: Report,
    names: Sequence[str],
) -> tuple[dict[str, float], float]:
    """One pass; returns the mean losses by name and the last learning rate."""
    seed = seed * 100_003 + epoch
    order = np.random.default_rng(seed).permutation(len(data))
    torch.manual_seed(seed * 1009 + fabric.global_rank)
    generator = torch.Generator().manual_seed(seed * 1013 + fabric.global_rank)
    size = max(1, min(plan.batch_size, len(data)) // fabric.world_size)
    batches = max(1, len(data) // (size * fabric.world_size))
    totals: dict[str, float] = {}
    rate = 0.0
    model.train()
    for step in range(batches):
        first = (step * fabric.world_size + fabric.global_rank) * size
        index = order[first : first + size]
        batch = move(augment(data.batch(index), plan.augment, generator), fabric.device)
        rate = _rate(plan, epoch * batches + step, plan.epochs * batches)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = model(batch)
        total = torch.stack(list(losses.values())).sum()
        if not bool(torch.isfinite(total)):
            shown = ", ".join(names[int(i)] for i in index[:4]) if names else f"images {index[:4].tolist()}"
            wrong = ", ".join(name for name, loss in losses.items() if not bool(torch.isfinite(loss)))
            fault = f"the loss is not finite ({wrong}) at {shown}"
            raise FoveolaError(
                f"epoch {epoch + 1}, step {step + 1}", fault, "lower learning_rate, or look at these images"
            )
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(total)
        fabric.clip_gradients(model, optimizer, max_norm=plan.clip, error_if_nonfinite=False)
        optimizer.step()
        state.average(plan.ema, epoch * batches + step)
        for name, loss in losses.items():
            totals[name] = totals.get(name, 0.0) + float(loss.detach())
        report(
            epoch * len(data) + (step + 1) * size * fabric.world_size,
            plan.epochs * len(data),
            f"loss {float(total.detach()):.3f}",
        )
    return {name: value / batches for name, value in totals.items()}, rate


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device, images in channels-last order."""

    def there(many: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: x.to(device) for name, x in many.items()}

    return Batch(
        images=batch.images.to(device).contiguous(memory_format=torch.channels_last),
        scalars=there(batch.scalars),
        masks=there(batch.masks),
        boxes={name: [None if one is None else one.to(device) for one in many] for name, many in batch.boxes.items()},
        soft=there(batch.soft),
        soft_boxes={name: [one.to(device) for one in many] for name, many in batch.soft_boxes.items()},
        hint=None if batch.hint is None else batch.hint.to(device),
        view=batch.view.to(device),
    )
