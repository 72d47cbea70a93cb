"""Teachers that were trained elsewhere: a known architecture with a safetensors checkpoint, or any module in Python.

- From a recipe (stage `load`): a timm classifier or a torchvision classifier or segmentation network, rebuilt by name
  and loaded from safetensors. Its output channels are dealt out to the tasks in order.
- From Python: any `nn.Module` whose `forward` answers a dict with one raw output a task goes through `GivenTeacher`
  into the same functions (docs/teachers.md shows the call).

The answers keep the meaning that `runtime.task` gives to each kind; see there which raw output a task expects.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec
import timm
import torch
import torchvision
from torch import Tensor, nn

from ...runtime.errors import FoveolaError
from ...runtime.manifest import InputSpec
from ...runtime.task import Task
from ..answers import Scale
from ..models.network import Answered, Normalise, load_weights


class External(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="external"):
    """What is needed to rebuild a teacher that was trained elsewhere.

    Args:
        library: `timm` (classifiers) or `torchvision` (classifiers, and segmentation networks that answer `out`).
        architecture: the library's name for it.
        input: how it is fed; `mean` and `std` are those of its training.
        tasks: what it answers, in the order of its output channels.
        outputs: number of output channels of the network; 0 means exactly those of the tasks.
    """

    library: Literal["timm", "torchvision"]
    architecture: str
    input: InputSpec
    tasks: tuple[Task, ...]
    outputs: int = 0


class GivenTeacher(nn.Module):
    """Any module as a teacher.

    Args:
        module: its `forward` takes (B, C, H, W) images, normalised by `spec`, and answers `{task: raw output}`.
        tasks: the tasks that it answers; detection is not among them.
        spec: how it is fed.
        scale: regression: mean and standard deviation by which raw values become units.
    """

    def __init__(self, module: nn.Module, tasks: tuple[Task, ...], spec: InputSpec, scale: Scale | None = None) -> None:
        super().__init__()
        for task in tasks:
            if task.kind == "detection":
                raise FoveolaError(
                    f"task {task.name!r}", "a given module cannot teach boxes", "train a teacher with stage train"
                )
        self.module, self.normalise = module, Normalise(spec)
        self._tasks, self._input = tasks, spec
        self._scale = identity_scale(tasks) | dict(scale or {})

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that it answers."""
        return self._tasks

    @property
    def input(self) -> InputSpec:
        """How it is fed."""
        return self._input

    @property
    def target_scale(self) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
        """Mean and standard deviation of each regression task."""
        return self._scale

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Raw outputs by task."""
        raw = self.module(self.normalise(x_BCHW))
        if not isinstance(raw, dict):
            raise FoveolaError(
                "teacher", f"its forward answers {type(raw).__name__}", "answer a dict with one tensor a task"
            )
        for task in self._tasks:
            if task.name not in raw:
                raise FoveolaError("teacher", f"no output for task {task.name!r}", f"it answers {', '.join(raw)}")
            if raw[task.name].shape[1] != task.channels:
                fault = f"output {task.name!r} has {raw[task.name].shape[1]} channels, not {task.channels}"
                size = f"size {task.size}" if task.kind == "embedding" else f"{len(task.classes)} classes"
                raise FoveolaError("teacher", fault, f"a {task.kind} task of {size} needs {task.channels}")
        return {task.name: raw[task.name] for task in self._tasks}

    def answer(self, x_BCHW: Tensor) -> Answered:
        """Raw outputs; no boxes and no features."""
        return Answered(raw=self(x_BCHW))


def identity_scale(tasks: Iterable[Task]) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Mean 0 and standard deviation 1 of each regression task: values that are answered in their unit."""
    return {task.name: ((0.0,) * task.channels, (1.0,) * task.channels) for task in tasks if task.kind == "regression"}


class Dealt(nn.Module):
    """Deals the channels of a network's one output out to the tasks, in order."""

    def __init__(self, network: nn.Module, tasks: tuple[Task, ...]) -> None:
        super().__init__()
        self.network, self.tasks = network, tasks

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """`{task: (B, channels, ...)}`."""
        found = self.network(x_BCHW)
        whole: Tensor = found["out"] if isinstance(found, dict) else found
        parts = torch.split(
            whole[:, : sum(task.channels for task in self.tasks)], [task.channels for task in self.tasks], 1
        )
        return {task.name: part for task, part in zip(self.tasks, parts, strict=True)}


def build_external(plan: External) -> GivenTeacher:
    """The architecture with random weights.

    Raises:
        FoveolaError: the library knows no such network, or fewer channels than the tasks need.
    """
    where = f"{plan.library} {plan.architecture!r}"
    needed = sum(task.channels for task in plan.tasks)
    outputs = plan.outputs or needed
    if outputs < needed:
        raise FoveolaError(where, f"{outputs} output channels, but its tasks need {needed}", "give it fewer tasks")
    if plan.library == "timm":
        if not timm.is_model(plan.architecture):
            raise FoveolaError(where, "timm has no such network", "see timm.list_models()")
        network = timm.create_model(
            plan.architecture, pretrained=False, num_classes=outputs, in_chans=plan.input.channels
        )
    else:
        if plan.architecture not in torchvision.models.list_models():
            raise FoveolaError(where, "torchvision has no such network", "see torchvision.models.list_models()")
        if plan.input.channels != 3:
            raise FoveolaError(where, "torchvision's networks take three channels", "set input.channels to 3")
        dense = (
            {"weights_backbone": None}
            if plan.architecture in torchvision.models.list_models(torchvision.models.segmentation)
            else {}
        )
        network = torchvision.models.get_model(plan.architecture, weights=None, num_classes=outputs, **dense)
    return GivenTeacher(Dealt(network, plan.tasks), plan.tasks, plan.input)


def load_external(plan: External, weights: Path) -> GivenTeacher:
    """The architecture with its checkpoint, in evaluation mode; the checkpoint's keys are the library's own.

    Raises:
        FoveolaError: see `build_external` and `load_weights`.
    """
    teacher = build_external(plan)
    assert isinstance(teacher.module, Dealt)
    load_weights(teacher.module.network, weights)
    return teacher.eval()
