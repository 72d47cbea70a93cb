"""Teachers that are more than one network with heads: what is saved of them, and how they are rebuilt.

- A plan holds all that is needed to rebuild the modules before their weights are loaded; `model.json` is a plan.
- What serves training only (queues, key encoders, decoders, perturbations) is no module of a `BuiltTeacher`, so that it
  is neither saved nor counted.
- One contract for all teachers: `toolkit.models.network.Teacher`.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

import msgspec
from torch import Tensor, nn

from ...runtime.errors import FoveolaError
from ...runtime.manifest import InputSpec
from ...runtime.task import Task
from ..models.network import Answered, load_weights, save_model

P = TypeVar("P", bound="BuiltPlan")


class BuiltPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is needed to rebuild a teacher before its weights are loaded; a subclass has a tag of its own.

    Args:
        input: how it is fed.
        tasks: what it answers, in this order.
        target_mean: regression: what is subtracted from each measure (mean or median of the training data).
        target_std: regression: what it is then divided by (standard deviation or interquartile range).
    """

    input: InputSpec
    tasks: tuple[Task, ...]
    target_mean: dict[str, tuple[float, ...]] = {}
    target_std: dict[str, tuple[float, ...]] = {}

    def __post_init__(self) -> None:
        """Refuse a plan whose answers would have no unit.

        Raises:
            FoveolaError: a measure without a scaler.
        """
        for task in self.tasks:
            if task.kind != "regression":
                continue
            sizes = [len(given.get(task.name, ())) for given in (self.target_mean, self.target_std)]
            if sizes != [task.channels, task.channels] or not all(x > 0 for x in self.target_std[task.name]):
                fault = f"no scaler for {task.name!r}: its answers would have no unit"
                raise FoveolaError("model.json", fault, "take the model.json that training wrote, or train again")

    @property
    def target_scale(self) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
        """Centre and scale of each regression task."""
        return {name: (self.target_mean[name], self.target_std[name]) for name in self.target_mean}

    def build(self) -> BuiltTeacher:
        """The modules, with random weights."""
        raise NotImplementedError

    def of_tasks(self: P, names: Collection[str]) -> P:
        """The plan of what answers these of its tasks only; a subclass leaves out what they do not need."""
        return msgspec.structs.replace(
            self,
            tasks=tuple(task for task in self.tasks if task.name in names),
            target_mean={name: values for name, values in self.target_mean.items() if name in names},
            target_std={name: values for name, values in self.target_std.items() if name in names},
        )


class BuiltTeacher(nn.Module):
    """A teacher that is rebuilt from its plan; see `toolkit.models.network.Teacher` for the contract."""

    def __init__(self, plan: BuiltPlan) -> None:
        super().__init__()
        self._plan = plan

    @property
    def plan(self) -> BuiltPlan:
        """What rebuilds it."""
        return self._plan

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that it answers."""
        return self._plan.tasks

    @property
    def input(self) -> InputSpec:
        """How it is fed."""
        return self._plan.input

    @property
    def target_scale(self) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
        """Centre and scale of each regression task."""
        return self._plan.target_scale

    @property
    def backbones(self) -> tuple[str, ...]:
        """Names of its backbones, for reports."""
        raise NotImplementedError

    def answer(self, x_BCHW: Tensor) -> Answered:
        """Raw outputs by task, the map that guides a student, and features by name; evaluation mode only."""
        raise NotImplementedError

    def attended(self, x_BCHW: Tensor, task: str) -> tuple[Tensor, Tensor]:
        """The coarsest map (B, F, h, w) by which a task is answered, and its raw output, which hangs on that map.

        For attention pictures: gradients are wanted.
        """
        answered = self.answer(x_BCHW)
        assert answered.hint is not None
        return answered.hint, answered.raw[task]

    def limited(self, names: Collection[str]) -> BuiltTeacher:
        """A teacher that answers these of its tasks only, without the modules that none of them needs.

        The plan of these tasks (`BuiltPlan.of_tasks`) says which modules are left.
        """
        smaller = self._plan.of_tasks(names).build()
        weights = self.state_dict()
        smaller.load_state_dict({key: weights[key] for key in smaller.state_dict()})
        return smaller.train(self.training)


def save_teacher(teacher: BuiltTeacher, folder: Path) -> None:
    """Write `model.json` and `model.safetensors`; `load_built` gives the same answers back."""
    save_model(teacher.plan, teacher, folder)


def load_built(plan: BuiltPlan, weights: Path) -> BuiltTeacher:
    """The teacher with its weights, in evaluation mode.

    Raises:
        FoveolaError: see `load_weights`.
    """
    teacher = plan.build()
    load_weights(teacher, weights)
    return teacher.eval()
