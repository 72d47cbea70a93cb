"""The teacher that a pretraining after COMPRER leaves: one modality's encoder with its heads.

The other modalities' encoders, the decoders, what compares visits and the temperatures are not in it; so a device is
given one kind of picture and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

import msgspec
from torch import Tensor, nn

from ....runtime.errors import UsageError
from ....runtime.task import Task
from ...models.network import Answered
from ..built import BuiltPlan, BuiltTeacher
from .knobs import Aims, taught_projections
from .network import Comprer
from .parts import Encoder, Projection, ValueHead, directions, pooled


class ComprerPlan(BuiltPlan, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="comprer"):
    """What is needed to rebuild the teacher before its weights are loaded.

    Args:
        modality: whose encoder it is.
        backbone: timm's name.
        hidden: width of the hidden layer of each head that has one.
    """

    modality: str
    backbone: str
    hidden: dict[str, int] = {}  # noqa: RUF012

    def build(self) -> ComprerTeacher:
        """The modules, with random weights."""
        return ComprerTeacher(self)

    def of_tasks(self, names: Collection[str]) -> ComprerPlan:
        """The plan of these tasks only."""
        smaller = super().of_tasks(names)
        return msgspec.structs.replace(smaller, hidden={k: v for k, v in self.hidden.items() if k in names})


class ComprerTeacher(BuiltTeacher):
    """Encoder, value heads, and projections as embeddings."""

    def __init__(self, plan: ComprerPlan) -> None:
        super().__init__(plan)
        self.encoder = Encoder(plan.backbone, plan.input)
        width = self.encoder.width
        self.heads = nn.ModuleDict(
            {
                task.name: Projection(width, task.size)
                if task.kind == "embedding"
                else ValueHead(task, width, plan.hidden.get(task.name, 0))
                for task in plan.tasks
            }
        )

    @property
    def backbones(self) -> tuple[str, ...]:
        """The one of its modality."""
        return (cast(ComprerPlan, self.plan).backbone,)

    def raw(self, map_BFhw: Tensor) -> dict[str, Tensor]:
        """Raw outputs by task from the encoder's map; an embedding has any length."""
        h_BF = pooled(map_BFhw)
        return {task.name: self.heads[task.name](h_BF) for task in self.tasks}

    def answer(self, x_BCHW: Tensor) -> Answered:
        """Raw outputs, the map that guides a student, the embedding `backbone` and the unit projections by task."""
        map_BFhw = self.encoder(x_BCHW)
        raw = self.raw(map_BFhw)
        codes = {task.name: directions(raw[task.name]) for task in self.tasks if task.kind == "embedding"}
        return Answered(raw=raw, hint=map_BFhw, features={"backbone": pooled(map_BFhw)} | codes)


def embeddings(tasks: Collection[Task]) -> list[Task]:
    """The embedding tasks: the first is the multimodal projection, a second one the temporal.

    Where the multimodal loss is out, the first is the temporal one (`Comprer.projections`).
    """
    return [task for task in tasks if task.kind == "embedding"]


def check_embeddings(tasks: Collection[Task], aims: Aims) -> None:
    """Refuse more embeddings than the losses train projections.

    Raises:
        UsageError: how many there are.
    """
    found, taught = embeddings(tasks), taught_projections(aims)
    if len(found) > len(taught):
        words = {"across": "the multimodal", "along": "the temporal"}
        known = " and ".join(words[name] for name in taught)
        names = ", ".join(task.name for task in found)
        trained = f"only {known} projection is trained" if taught else "no loss trains a projection"
        fault = f"{len(found)} embedding(s) ({names}), but {trained}"
        raise UsageError("tasks", fault, "drop an embedding, or give its loss a weight")


def teacher_of(
    network: Comprer,
    modality: str,
    tasks: tuple[Task, ...],
    scale: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]],
    *,
    hidden: int = 0,
) -> ComprerTeacher:
    """Take one modality's encoder, measure heads and projections out of a pretrained network, as a copy on the CPU.

    Args:
        network: pretrained.
        modality: whose.
        tasks: what the teacher is to answer; a task that is neither a measure nor an embedding gets a new linear head.
        scale: mean and standard deviation of each regression task.
        hidden: width of the measure heads' hidden layer.
    """
    branch, encoding = network[modality], network.encodings[modality]
    measured = {name: hidden for name in branch.heads if hidden}
    plan = ComprerPlan(
        input=encoding.input,
        # Margins and critical classes are the proof's; a change of them makes no new teacher.
        tasks=tuple(msgspec.structs.replace(task, margins={}, critical=()) for task in tasks),
        target_mean={task.name: scale[task.name][0] for task in tasks if task.kind == "regression"},
        target_std={task.name: scale[task.name][1] for task in tasks if task.kind == "regression"},
        modality=modality,
        backbone=encoding.backbone,
        hidden={task.name: measured[task.name] for task in tasks if task.name in measured},
    )
    teacher = plan.build()
    teacher.encoder.load_state_dict(branch.encoder.state_dict())
    for task, name in zip(embeddings(tasks), network.projections, strict=False):
        teacher.heads[task.name].load_state_dict(getattr(branch, name).state_dict())
    for task in tasks:
        if task.name in branch.heads:
            teacher.heads[task.name].load_state_dict(branch.heads[task.name].state_dict())
    return teacher.eval()
