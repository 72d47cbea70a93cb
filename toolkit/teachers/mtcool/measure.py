"""How flat a finished cooperation is, how it bears coarse features and other states of its sub-models, what it costs.

All on the validation split, with weights as they were kept: nothing here changes a teacher. B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ....runtime.task import Task
from ...answers import RawAnswers
from ...batches import Batch, TrainingData
from ...checkpoint import Borrowed, Weights
from ...compress.size import multiply_adds
from ...data.arrays import Arrays
from ...models.heads import Pyramid
from ...score import score_answers
from .perturb import Others, ascent, moved, quantised, random_step
from .teacher import Cooperative

RADII = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # shares of the features' length
BITS = (8, 4)
BATCH = 64
PLAIN = "plain"
Change = Callable[[Others, Callable[[Others], Tensor]], Others]  # features and their loss -> other features


class Kept(msgspec.Struct, frozen=True):
    """What a task is worth: its mean loss, and its validation score (1 is perfect; None without a known target)."""

    loss: float
    score: float | None


class Radius(msgspec.Struct, frozen=True, kw_only=True):
    """Rise of the loss at a radius: mean over random directions, and in the worst one to first order."""

    radius: float
    random: float
    worst: float


class Flatness(msgspec.Struct, frozen=True, kw_only=True):
    """One task of a cooperation.

    Args:
        plain: with the features as they are.
        radii: rise of the loss by radius.
        bits: with the others' features on a grid of so many bits.
        earlier: by other sub-model: with that one's encoder as it was `back` epochs before the last.
    """

    plain: Kept
    radii: tuple[Radius, ...]
    bits: dict[str, Kept]
    earlier: dict[str, Kept]


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters and multiply-adds of one answer to one image."""

    parameters: int
    multiply_adds: int


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What K encoders cost, and what one of them with all readers would.

    Args:
        encoders: by sub-model.
        teacher: all together.
        one_encoder: the largest encoder and all readers: about what a student with one shared encoder of that size has.
    """

    encoders: dict[str, Cost]
    teacher: Cost
    one_encoder: Cost


class CooperationReport(msgspec.Struct, frozen=True, kw_only=True):
    """`cooperation.json`: what a finished cooperation costs and bears.

    Args:
        costs: of the teacher.
        flatness: by task.
        earlier_epoch: number (from 1) of the epoch whose encoders were tried in place of the kept ones; 0: none.
        images: labelled ones of the validation split.
    """

    costs: Costs
    flatness: dict[str, Flatness]
    earlier_epoch: int
    images: int


def measure_flatness(
    teacher: Cooperative,
    data: TrainingData,
    arrays: Arrays,
    earlier: Mapping[str, Weights],
    *,
    seed: int,
    radii: Sequence[float] = RADII,
) -> dict[str, Flatness]:
    """Every task's flatness with respect to the others' features.

    Args:
        teacher: in evaluation mode.
        data: validation images with standardised targets.
        arrays: the same images, with targets in their units.
        earlier: state of the encoders at an earlier epoch, by name; may be empty.
        seed: of the random directions.
        radii: shares of the features' length.
    """
    changes: dict[str, Change] = {PLAIN: as_they_are}
    for radius in radii:
        changes |= {f"random {radius}": randomly(radius, seed), f"worst {radius}": worst(radius)}
    changes |= {str(bits): coarsely(bits) for bits in BITS}
    found = judge_changed(teacher, data, arrays, changes)
    swapped: dict[str, dict[str, Kept]] = {}
    for name, weights in earlier.items():
        with Borrowed(teacher.encoder(name), weights):
            again = judge_changed(teacher, data, arrays, {PLAIN: as_they_are})
        swapped[name] = {task: kept[PLAIN] for task, kept in again.items()}
    return {
        task: Flatness(
            plain=kept[PLAIN],
            radii=tuple(
                Radius(
                    radius=radius,
                    random=kept[f"random {radius}"].loss - kept[PLAIN].loss,
                    worst=kept[f"worst {radius}"].loss - kept[PLAIN].loss,
                )
                for radius in radii
            ),
            bits={str(bits): kept[str(bits)] for bits in BITS},
            earlier={name: by_task[task] for name, by_task in swapped.items() if name != task},
        )
        for task, kept in found.items()
    }


@torch.no_grad()
def judge_changed(
    teacher: Cooperative, data: TrainingData, arrays: Arrays, changes: Mapping[str, Change]
) -> dict[str, dict[str, Kept]]:
    """Loss and score of every task under each change of the others' features, before its reader takes them in."""
    device, many = next(teacher.parameters()).device, len(data)
    known = {task.name: set(known_places(data, task).tolist()) for task in teacher.tasks}
    losses: dict[tuple[str, str], float] = {}
    raws: dict[tuple[str, str], list[NDArray[np.float32]]] = {}
    for part in np.array_split(np.arange(many), max(1, -(-many // BATCH))):
        batch = data.batch(part)
        pyramids = teacher.pyramids(batch.images.to(device))
        for task in teacher.tasks:
            here = [i for i, place in enumerate(part) if int(place) in known[task.name]]
            if not here:
                continue
            few = {name: {stride: x[here] for stride, x in pyramid.items()} for name, pyramid in pyramids.items()}
            heard = Heard(teacher, task, few, _target(batch, task, device)[here])
            for name, change in changes.items():
                others = change(heard.others, heard.loss) if heard.others else []
                place = task.name, name
                losses[place] = losses.get(place, 0.0) + float(heard.loss(others)) * len(here)
                raws.setdefault(place, []).append(heard.raw(others))
    return {
        task.name: {name: _kept(teacher, task, arrays, known[task.name], losses, raws, name) for name in changes}
        for task in teacher.tasks
        if known[task.name]
    }


class Heard:
    """One task on some images: what it hears of the others, and what it makes of it."""

    def __init__(self, teacher: Cooperative, task: Task, pyramids: Mapping[str, Pyramid], target: Tensor) -> None:
        self.reader, self.own, self.target = teacher.reader(task.name), pyramids[task.name], target
        maps = {name: pyramid[32] for name, pyramid in pyramids.items()}
        self.others = teacher.of_others(task.name, maps, self.own[32])

    def loss(self, others: Others) -> Tensor:
        """Mean loss."""
        return self.reader.loss(self.own, others, self.target)

    def raw(self, others: Others) -> NDArray[np.float32]:
        """Raw output."""
        found: NDArray[np.float32] = self.reader.read(self.own, others)[1][self.reader.task.name].float().cpu().numpy()
        return found


def _kept(
    teacher: Cooperative,
    task: Task,
    arrays: Arrays,
    known: set[int],
    losses: Mapping[tuple[str, str], float],
    raws: Mapping[tuple[str, str], list[NDArray[np.float32]]],
    name: str,
) -> Kept:
    places, place = np.array(sorted(known)), (task.name, name)
    answers = RawAnswers({task.name: np.concatenate(raws[place])})
    score = score_answers([task], answers, _some(arrays, task, places), teacher.target_scale)
    return Kept(losses[place] / len(places), score.by_task.get(task.name))


def known_places(data: TrainingData, task: Task) -> NDArray[np.int64]:
    """Images with a known target of the task."""
    if task.kind == "segmentation":
        masks = data.masks[task.name]
        return np.flatnonzero([bool((one != 255).any()) for one in masks])
    return np.flatnonzero(~data.scalars[task.name].isnan().all(1).numpy())


def _target(batch: Batch, task: Task, device: torch.device) -> Tensor:
    target = batch.target(task)
    assert isinstance(target, Tensor)
    return target.to(device)


def _some(arrays: Arrays, task: Task, places: NDArray[np.int64]) -> Arrays:
    """The targets of one task at these places."""
    if task.kind == "segmentation":
        return msgspec.structs.replace(arrays, masks={task.name: arrays.masks[task.name][places]})
    return msgspec.structs.replace(arrays, scalars={task.name: arrays.scalars[task.name][places]})


def as_they_are(others: Others, loss: Callable[[Others], Tensor]) -> Others:
    """No change."""
    return others


def randomly(radius: float, seed: int) -> Change:
    """A step of this relative length in a random direction."""
    generator = torch.Generator().manual_seed(seed)
    return lambda others, loss: moved(others, random_step(others, radius, generator))


def worst(radius: float) -> Change:
    """A step of this relative length along which the loss rises fastest."""
    return lambda others, loss: moved(others, ascent(loss, others, radius))


def coarsely(bits: int) -> Change:
    """A grid of 2^bits values."""
    return lambda others, loss: quantised(others, bits)


def measure_costs(teacher: Cooperative) -> Costs:
    """Parameters and multiply-adds, counted on one blank image."""
    whole = Cost(parameters=_count(teacher), multiply_adds=multiply_adds(teacher))
    spec = teacher.input
    with torch.no_grad():
        seen = teacher.see(torch.zeros(1, spec.channels, spec.height, spec.width))
        encoders = {name: _encoder_cost(teacher.encoder(name), seen) for name in teacher.names}
    largest = max(encoders.values(), key=lambda cost: cost.multiply_adds)
    parameters = whole.parameters - sum(cost.parameters for cost in encoders.values()) + largest.parameters
    work = whole.multiply_adds - sum(cost.multiply_adds for cost in encoders.values()) + largest.multiply_adds
    return Costs(encoders=encoders, teacher=whole, one_encoder=Cost(parameters=parameters, multiply_adds=work))


def _encoder_cost(encoder: nn.Module, seen: Tensor) -> Cost:
    with FlopCounterMode(display=False) as counter:
        encoder(seen)
    return Cost(parameters=_count(encoder), multiply_adds=counter.get_total_flops() // 2)


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def relative_gain(
    scores: Mapping[str, float], single: Mapping[str, float], lower_is_better: Sequence[str] = ()
) -> float:
    """Delta_m: the mean over tasks of how much better a score is than single-task training's, relative to that.

    Args:
        scores: by task.
        single: of single-task training.
        lower_is_better: tasks that are judged by an error.
    """
    gains = [
        (single[name] - score if name in lower_is_better else score - single[name]) / single[name]
        for name, score in scores.items()
    ]
    return float(np.mean(gains))
