"""The one training loop, for every course: supervised, distilled, contrastive, continual.

- It runs on Lightning Fabric: one CPU, one GPU in bf16, or several GPUs and nodes started by torchrun.
- What is random in an epoch follows from the seed and the epoch's number alone, and the last epoch is kept on disk, so
  that a training killed at any step and started again gives the curve and the weights of an uninterrupted one (same
  machine, same number of threads and processes).
- The device is never waited for: batches are read ahead, and a step's loss is looked at after the next step was sent.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from ..runtime.errors import FoveolaError
from .batches import Batch, pin
from .checkpoint import Borrowed, Epoch, Objective, TrainingState
from .course import Course, Report
from .curve_log import CurveLog
from .feed import Index, read_ahead
from .knobs import Plan
from .models.network import Network
from .models.teacher_heads import DeepLabHead

CHECKPOINT = "checkpoint"
COMPILE = "FOVEOLA_COMPILE"  # 0: networks are not compiled on a GPU


class Supervised(Objective):
    """The reference standard alone, gaps masked."""

    network: Network

    def __init__(self, network: Network, *, mask_entropy: bool = True) -> None:
        super().__init__(network)
        for head in network.ordered_heads():
            if isinstance(head, DeepLabHead):
                head.entropy = mask_entropy

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """One loss a task."""
        pyramid = self.network.pyramid(batch.images)
        losses = {}
        for head in self.network.ordered_heads():
            losses[head.task.name] = head.task.weight * head.loss(pyramid, head(pyramid), batch.target(head.task))
        return losses


def make_fabric(precision: Literal["32-true", "bf16-mixed"] | None = None) -> Fabric:
    """Fabric for this machine: float32 on a CPU, bf16 mixed on CUDA, DDP where torchrun started several processes."""
    cuda = torch.cuda.is_available()
    workers = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if torch.distributed.is_torchelastic_launched() else 1
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", "1")) if torch.distributed.is_torchelastic_launched() else 1
    several = workers * nodes > 1
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=workers,
        num_nodes=nodes,
        # Heads of tasks that a batch does not label get no gradient. Running statistics stay each process's own: the
        # leader's are kept, and a queue of keys would be sent at every step for nothing.
        strategy=DDPStrategy(find_unused_parameters=True, broadcast_buffers=False) if several else "auto",
        precision=precision or ("bf16-mixed" if cuda else "32-true"),
    )
    fabric.launch()
    return fabric


def fit(
    objective: Objective,
    course: Course,
    *,
    seed: int,
    folder: Path,
    report: Report,
    log: Path | None = None,
    fabric: Fabric | None = None,
) -> list[Epoch]:
    """Train `objective` along a course, leaving its network with the weights to keep, and return the history.

    Args:
        objective: network and losses; changed in place.
        course: what is done in each epoch.
        seed: of everything random.
        folder: where the last epoch is kept for a resume; removed at the end by `forget`.
        report: progress.
        log: CSV of the curve, a row a step.
        fabric: devices and precision; None: those of this machine.

    Raises:
        FoveolaError: a loss is not finite (epoch, step and images are named), or the GPU's memory is full.
    """
    fabric = fabric or make_fabric()
    plan = course.plan
    objective = objective.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(objective, plan)
    state = TrainingState(objective, optimizer, averages=plan.ema > 0)
    state.restore(folder / CHECKPOINT)
    course.remember(state.course)
    _compile(objective)
    model, wrapped = fabric.setup(objective, optimizer)
    state.to(fabric.device)
    curve = CurveLog(log if fabric.is_global_zero else None, len(state.history))
    total = sum(course.images(epoch) for epoch in range(course.epochs))
    for number in range(len(state.history), course.epochs):
        if plan.patience and state.stale >= plan.patience:
            break
        course.begin(number, objective, optimizer)
        done = sum(course.images(epoch) for epoch in range(number))
        voice = _Voice(report, curve, number, course.epochs, done, total)
        losses, rate = _train_epoch(fabric, model, wrapped, course, objective, state, seed, number, voice)
        epoch = _close_epoch(fabric, course, objective, state, number, losses, rate)
        objective.to(fabric.device).train()
        if fabric.is_global_zero:
            state.course = course.memory()
            state.save(folder / CHECKPOINT)
        fabric.barrier()
        curve.flush()
        shown = " ".join(f"{name} {score:.3f}" for name, score in epoch.scores.items())
        report(done + course.images(number), total, f"epoch {number + 1}/{course.epochs}: {shown}")
    objective.network.load_state_dict(state.kept)
    objective.network.eval()
    return state.history


def forget(folder: Path) -> None:
    """Remove the resume point once the step is done."""
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)


def make_optimizer(module: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """The plan's optimiser; biases and normalisation are not decayed."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=plan.learning_rate, momentum=plan.momentum)
    kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=plan.learning_rate)


def _compile(objective: Objective) -> None:
    """Compile what has fixed shapes, where it pays: on a GPU."""
    if torch.cuda.is_available() and os.environ.get(COMPILE, "1") != "0":
        for part in objective.compiled():
            part.compile()


def _close_epoch(
    fabric: Fabric,
    course: Course,
    objective: Objective,
    state: TrainingState,
    number: int,
    losses: dict[str, float],
    rate: float,
) -> Epoch:
    """Judge the epoch's weights and note the line of the history."""
    weights = course.judged(state)
    with Borrowed(objective.network, weights):
        # Running statistics are each process's own, and so would be scores and the end by patience: the leader says.
        scores = fabric.broadcast(course.judge(number, objective.network))
    plain = Epoch(number, rate, losses, scores.total, scores.by_task, measures=scores.measures)
    epoch = course.line(plain)
    state.close_epoch(epoch, weights, last=course.keeps_last)
    return epoch


class _Voice:
    """Looks at each step's losses one step late, so that the device need not be waited for, and tells of them."""

    def __init__(self, report: Report, curve: CurveLog, epoch: int, epochs: int, before: int, total: int) -> None:
        self.report, self.curve, self.epoch, self.epochs = report, curve, epoch, epochs
        self.done, self.total = before, total
        self.sums: dict[str, float] = {}
        self.count = 0
        self.clock = time.perf_counter()
        self.waiting: tuple[int, float, int, list[str], dict[str, Tensor]] | None = None

    def say(self, step: int, rate: float, images: int, names: list[str], losses: dict[str, Tensor]) -> None:
        """A step was sent; look at the one before."""
        before = self.waiting
        stacked = torch.stack([loss.detach().float() for loss in losses.values()])
        self.waiting = (step, rate, images, names, dict(zip(losses, stacked, strict=True)))
        if before is not None:
            self._look(*before)

    def close(self) -> dict[str, float]:
        """Look at the last step; means of the losses over the epoch.

        Raises:
            FoveolaError: a loss was not finite.
        """
        if self.waiting is not None:
            self._look(*self.waiting)
            self.waiting = None
        return {name: value / self.count for name, value in self.sums.items()}

    def _look(self, step: int, rate: float, images: int, names: list[str], losses: dict[str, Tensor]) -> None:
        values = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
        total = sum(values.values())
        if not np.isfinite(total):
            wrong = ", ".join(name for name, value in values.items() if not np.isfinite(value))
            kept = f"; the checkpoint of epoch {self.epoch} is kept" if self.epoch else ""
            fault = f"the loss is not finite ({wrong}) at {', '.join(names)}{kept}"
            mend = "lower learning_rate, or look at these images"
            raise FoveolaError(f"epoch {self.epoch + 1}, step {step + 1}", fault, mend)
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        self.done += images
        now = time.perf_counter()
        pace = images / max(now - self.clock, 1e-9)
        self.clock = now
        self.curve.add(self.epoch + 1, step + 1, rate=rate, images_per_second=pace, loss=total, losses=values)
        told = f"epoch {self.epoch + 1}/{self.epochs}, loss {total:.3f}, rate {rate:.2g}, {pace:.0f} images/s"
        self.report(min(self.done, self.total), self.total, told)


def _train_epoch(
    fabric: Fabric,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    course: Course,
    objective: Objective,
    state: TrainingState,
    seed: int,
    epoch: int,
    voice: _Voice,
) -> tuple[dict[str, float], float]:
    """One pass; returns the mean losses by name and the last learning rate."""
    plan, mixed = course.plan, seed * 100_003 + epoch
    order = course.order(epoch, np.random.default_rng(mixed))
    torch.manual_seed(mixed * 1009 + fabric.global_rank)
    generator = torch.Generator().manual_seed(mixed * 1013 + fabric.global_rank)
    parts, together = _parts(order, plan.batch_size, fabric)
    rate, step = 0.0, 0
    model.train()
    state.begin_epoch()
    try:
        for step, (index, read) in enumerate(_batches(course, parts, fabric)):
            batch = course.vary(read, generator, fabric.device)
            rate = course.rate(epoch, step, len(parts))
            for group in optimizer.param_groups:
                group["lr"] = rate
            losses = model(batch)
            optimizer.zero_grad(set_to_none=True)
            fabric.backward(torch.stack(list(losses.values())).sum())
            if plan.clip > 0:
                fabric.clip_gradients(model, optimizer, max_norm=plan.clip, error_if_nonfinite=False)
            optimizer.step()
            state.average(plan.ema, epoch * len(parts) + step)
            course.after_step(epoch, step, len(parts), objective)
            voice.say(step, rate, together, [course.name(int(place)) for place in index[:4]], losses)
    except torch.OutOfMemoryError:
        raise _no_memory(epoch, step, len(parts[0]), batch_size=plan.batch_size) from None
    return voice.close(), rate


def _parts(order: Index, batch_size: int, fabric: Fabric) -> tuple[list[Index], int]:
    """Share of every batch that is this process's, and the images of a batch over all; a rest is left out."""
    size = max(1, min(batch_size, len(order)) // fabric.world_size)
    together = size * fabric.world_size
    starts = [step * together + fabric.global_rank * size for step in range(max(1, len(order) // together))]
    return [order[start : start + size] for start in starts], together


def _batches(course: Course, parts: list[Index], fabric: Fabric) -> Iterator[tuple[Index, Batch]]:
    cuda = fabric.device.type == "cuda"

    def read(index: Index) -> Batch:
        batch = course.data.batch(index)
        return pin(batch) if cuda else batch

    return read_ahead(read, parts, threads=4 if cuda else 1)


def _no_memory(epoch: int, step: int, size: int, *, batch_size: int) -> FoveolaError:
    held = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    fault = f"the GPU's memory is full ({held:.1f} GiB were in use, {size} images a step on each device)"
    mend = f"lower batch_size (now {batch_size}) or the input's size, or use more devices"
    return FoveolaError(f"epoch {epoch + 1}, step {step + 1}", fault, mend)
