"""Distillation: a student learns from a teacher's cached answers, and from the reference standard where it exists.

- One loss for each kind of task, on raw outputs; which one, `Lessons` says. The files beside this one hold them, each
  with its paper: `scalar_lessons`, `mask_lessons`, `box_lessons`, `embedding_lessons`, `feature_lessons`,
  `task_weights`.
- The teacher is asked once, about the pictures as they are; masks, boxes and features then follow the same warp as the
  picture.
- What is not known of the reference standard is masked: an image without any target teaches through the teacher alone.
- An embedding has no reference standard: the teacher's lesson is its whole loss.
- `answer_losses` needs no network, only its raw outputs, so that whatever gives these can be taught.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...runtime.errors import FoveolaError
from ...runtime.task import Task
from ..batches import Batch
from ..checkpoint import Objective
from ..knobs import Lessons
from ..models.heads import Head, Pyramid
from ..models.network import Network
from .box_lessons import box_lesson
from .embedding_lessons import embedding_lesson
from .feature_lessons import (
    attention_loss,
    common_grid,
    foreground_of,
    hint_loss,
    pooled,
    relation_loss,
    similarity_loss,
)
from .mask_lessons import mask_lesson
from .scalar_lessons import bounded_loss, correlation_loss, decoupled_loss, gaussian_loss, soft_scalar_loss
from .task_weights import Learned


class Distilled(Objective):
    """The student's losses: `soft_weight` of the teacher's lesson, the rest of the reference standard, plus features.

    Args:
        network: student, or a teacher that goes on learning from another.
        lessons: how the teacher's answers enter the loss.
        hint_channels: width of the teacher's features; 0 where there are none.
    """

    network: Network

    def __init__(self, network: Network, lessons: Lessons, *, hint_channels: int) -> None:
        super().__init__(network)
        self.lessons = lessons
        projected = lessons.hint_weight > 0 and hint_channels > 0 and lessons.hint == "cosine"
        self.project = nn.Conv2d(_coarse_channels(network), hint_channels, 1) if projected else None
        self.learned = Learned(network.tasks, lessons)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """One loss a task, and `hint` and `relation` where they have a weight."""
        pyramid = self.network.pyramid(batch.images)
        heads = self.network.ordered_heads()
        raw: dict[str, Tensor] = {}
        for head in heads:
            raw |= head(pyramid)
        losses = answer_losses(heads, raw, batch, self.lessons, pyramid=pyramid, learned=self.learned)
        if batch.hint is not None:
            losses |= self._feature_losses(pyramid[32], batch, batch.hint)
        return losses

    def _feature_losses(self, own: Tensor, batch: Batch, teacher: Tensor) -> dict[str, Tensor]:
        lessons, losses = self.lessons, {}
        if lessons.hint_weight > 0:
            features = own if self.project is None else self.project(own)
            compare = {"cosine": hint_loss, "similarity": similarity_loss, "attention": attention_loss}[lessons.hint]
            focus = _focus(batch, common_grid(own, teacher)) if lessons.hint_foreground > 0 else None
            losses["hint"] = lessons.hint_weight * compare(features, teacher, focus, lessons.hint_foreground)
        if lessons.relation_weight > 0:
            losses["relation"] = lessons.relation_weight * relation_loss(own.mean((2, 3)), pooled(teacher))
        return losses


def answer_losses(
    heads: Sequence[Head],
    raw: dict[str, Tensor],
    batch: Batch,
    lessons: Lessons,
    *,
    pyramid: Pyramid | None = None,
    learned: Learned | None = None,
) -> dict[str, Tensor]:
    """One loss a task from raw outputs, already weighted; it has a gradient also where nothing is known.

    Args:
        heads: which tasks there are and how each is judged against the reference standard (`Network.ordered_heads`).
        raw: outputs by tensor name, as the heads give them.
        batch: targets and the teacher's answers.
        lessons: how the teacher's answers enter the loss; features take no part here.
        pyramid: the feature maps; only the two-stage detector of a teacher needs them.
        learned: weights and variances to be learned with the network; None: fixed ones.
    """
    learned = learned or Learned((), lessons)
    losses: dict[str, Tensor] = {}
    for head in heads:
        task = head.task
        hard = _reference_loss(head, raw, batch, lessons, pyramid, learned)
        soft = _lesson(head, raw, batch, lessons, pyramid, learned)
        if task.kind == "embedding":  # it has no reference standard
            mixed = soft if soft is not None else _untaught(task)
        else:
            mixed = hard if soft is None else (1 - lessons.soft_weight) * hard + lessons.soft_weight * soft
        losses[task.name] = task.weight * learned.weighted(task, mixed)
    return losses


def _reference_loss(
    head: Head, raw: dict[str, Tensor], batch: Batch, lessons: Lessons, pyramid: Pyramid | None, learned: Learned
) -> Tensor:
    """The loss against the reference standard, gaps masked."""
    task = head.task
    target = batch.target(task)
    if task.kind == "regression" and lessons.value_lesson == "uncertain":
        assert isinstance(target, Tensor)
        return gaussian_loss(raw[task.name], target, learned.log_variance(task, teacher=False))
    return head.loss(pyramid or {}, raw, target)


def _lesson(
    head: Head, raw: dict[str, Tensor], batch: Batch, lessons: Lessons, pyramid: Pyramid | None, learned: Learned
) -> Tensor | None:
    """The loss against the teacher, or None where the teacher does not answer this task."""
    task = head.task
    if task.kind == "detection":
        if task.name not in batch.soft_boxes:
            return None
        return box_lesson(lessons.box_lesson, head, raw, batch.soft_boxes[task.name], pyramid)
    if task.name not in batch.soft:
        return None
    own, teacher = raw[task.name], batch.soft[task.name]
    if task.kind == "segmentation":
        return mask_lesson(lessons.mask_lesson, task, own, teacher, batch.view)
    if task.kind == "embedding":
        return embedding_lesson(own, teacher, lessons)
    if task.kind == "regression":
        return _value_lesson(task, own, teacher, batch.scalars[task.name], lessons, learned)
    return _class_lesson(task, own, teacher, batch.scalars[task.name], lessons)


def _untaught(task: Task) -> Tensor:
    fault = "no teacher answers this embedding, and nothing else can teach it"
    raise FoveolaError(f"task {task.name!r}", fault, "name a teacher that does, or leave the task out")


def _class_lesson(task: Task, own: Tensor, teacher: Tensor, target: Tensor, lessons: Lessons) -> Tensor:
    if lessons.class_lesson == "dist":
        return correlation_loss(task, own, teacher, lessons.temperature)
    if lessons.class_lesson == "dkd" and task.kind == "multiclass":  # two answers have no classes beside the right one
        return decoupled_loss(task, own, teacher, target, lessons.temperature)
    return soft_scalar_loss(task, own, teacher, lessons.temperature)


def _value_lesson(
    task: Task, own: Tensor, teacher: Tensor, target: Tensor, lessons: Lessons, learned: Learned
) -> Tensor:
    if lessons.value_lesson == "uncertain":
        return gaussian_loss(own, teacher, learned.log_variance(task, teacher=True))
    if lessons.value_lesson == "bounded":
        return bounded_loss(own, teacher, target)
    return soft_scalar_loss(task, own, teacher, lessons.temperature)


def _focus(batch: Batch, grid: tuple[int, int]) -> Tensor | None:
    """Weight of each cell of a grid by the teacher's boxes; None where it gives none."""
    if not batch.soft_boxes:
        return None
    size = (batch.images.shape[-2], batch.images.shape[-1])
    return foreground_of(list(batch.soft_boxes.values()), size, grid)


def _coarse_channels(network: Network) -> int:
    spec = network.architecture.input
    with torch.no_grad():
        was = network.training
        pyramid = network.eval().pyramid(torch.zeros(1, spec.channels, spec.height, spec.width))
        network.train(was)
    return int(pyramid[32].shape[1])
