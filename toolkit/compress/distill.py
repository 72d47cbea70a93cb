"""Distillation: a student learns from a teacher's cached answers, and from the reference standard where it exists.

One loss for each kind of task, on raw outputs (Hinton et al. 2015, sec. 2, for classes; Romero et al., ICLR 2015, for
feature hints; quality focal targets weighted by the teacher's confidence for boxes). The teacher is asked once, about
the pictures as they are; masks, boxes and features then follow the same warp as the picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...runtime.task import Task
from ..batches import Batch
from ..checkpoint import Objective
from ..knobs import Lessons
from ..losses import anchor_free_loss, masked_mean
from ..models.network import Network

BOX_SCORE_FLOOR = 0.3  # a teacher's box below this is no lesson


class Distilled(Objective):
    """The student's losses: `soft_weight` of the teacher's lesson, the rest of the reference standard, plus a hint."""

    network: Network

    def __init__(self, network: Network, lessons: Lessons, *, hint_channels: int) -> None:
        super().__init__(network)
        self.lessons = lessons
        own = _coarse_channels(network)
        self.project = nn.Conv2d(own, hint_channels, 1) if lessons.hint_weight > 0 and hint_channels > 0 else None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """One loss a task, and `hint`."""
        pyramid = self.network.pyramid(batch.images)
        losses: dict[str, Tensor] = {}
        for head in self.network.ordered_heads():
            task = head.task
            raw = head(pyramid)
            hard = head.loss(pyramid, raw, batch.target(task))
            soft = self._lesson(task, raw, batch)
            mixed = hard if soft is None else (1 - self.lessons.soft_weight) * hard + self.lessons.soft_weight * soft
            losses[task.name] = task.weight * mixed
        if self.project is not None and batch.hint is not None:
            losses["hint"] = self.lessons.hint_weight * hint_loss(self.project(pyramid[32]), batch.hint)
        return losses

    def _lesson(self, task: Task, raw: dict[str, Tensor], batch: Batch) -> Tensor | None:
        """The loss against the teacher, or None where the teacher does not answer this task."""
        if task.kind == "detection":
            if task.name not in batch.soft_boxes:
                return None
            boxes = [one[one[:, 5] >= BOX_SCORE_FLOOR] for one in batch.soft_boxes[task.name]]
            return anchor_free_loss(
                raw[f"{task.name}.boxes"], raw[f"{task.name}.scores"], boxes, self.network.architecture.box_stride
            )
        if task.name not in batch.soft:
            return None
        if task.kind == "segmentation":
            return soft_mask_loss(task, raw[task.name], batch.soft[task.name], batch.view)
        return soft_scalar_loss(task, raw[task.name], batch.soft[task.name], self.lessons.temperature)


def soft_scalar_loss(task: Task, raw_BT: Tensor, teacher_BT: Tensor, temperature: float) -> Tensor:
    """Softened cross entropy above the teacher's own entropy, times T^2 (Hinton et al. 2015); smooth L1 for values."""
    if task.kind == "regression":
        return functional.smooth_l1_loss(raw_BT, teacher_BT)
    student, teacher = raw_BT / temperature, teacher_BT / temperature
    if task.kind == "multiclass":
        return (
            functional.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)
            * temperature**2
        )
    return binary_divergence(student, teacher).mean() * temperature**2


def binary_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of two Bernoulli variables given as logits, element by element; zero where equal."""
    wanted = teacher.sigmoid()
    cross = functional.binary_cross_entropy_with_logits(student, wanted, reduction="none")
    return cross - functional.binary_cross_entropy_with_logits(teacher, wanted, reduction="none")


def soft_mask_loss(task: Task, raw_BKhw: Tensor, teacher: Tensor, view_B1HW: Tensor) -> Tensor:
    """Pixel-wise divergence from the teacher's mask, on the student's grid, inside the picture."""
    size = raw_BKhw.shape[-2:]
    teacher = functional.interpolate(teacher, size=size, mode="bilinear", align_corners=False)
    known = functional.interpolate(view_B1HW.float(), size=size, mode="area") > 0.999
    if task.exclusive:
        divergence = functional.kl_div(
            raw_BKhw.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True
        ).sum(1, keepdim=True)
        return masked_mean(divergence, known)
    return masked_mean(binary_divergence(raw_BKhw, teacher), known.expand_as(raw_BKhw))


def hint_loss(projected_BFhw: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine similarity of feature vectors, cell by cell, on the smaller of the two grids."""
    size = (min(projected_BFhw.shape[-2], teacher.shape[-2]), min(projected_BFhw.shape[-1], teacher.shape[-1]))
    own = functional.adaptive_avg_pool2d(projected_BFhw, size)
    wanted = functional.adaptive_avg_pool2d(teacher, size)
    # Cells that the warp brought in from outside the picture hold zeros and teach nothing.
    known = wanted.abs().sum(1) > 1e-6
    return masked_mean(1 - functional.cosine_similarity(own, wanted, dim=1), known)


def _coarse_channels(network: Network) -> int:
    spec = network.architecture.input
    with torch.no_grad():
        was = network.training
        pyramid = network.eval().pyramid(torch.zeros(1, spec.channels, spec.height, spec.width))
        network.train(was)
    return int(pyramid[32].shape[1])
