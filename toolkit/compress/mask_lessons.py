"""What a teacher's masks teach, inside the picture: each pixel by itself, or each channel over the whole picture.

B batch, K mask channels, h and w the student's grid.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ...runtime.task import Task
from ..knobs import MaskLesson
from ..losses import masked_mean
from .scalar_lessons import FAR, binary_divergence

CHANNEL_TEMPERATURE = 4.0  # Shu et al. 2021, sec. 4.1


def mask_lesson(how: MaskLesson, task: Task, raw_BKhw: Tensor, teacher: Tensor, view_B1HW: Tensor) -> Tensor:
    """The loss against a teacher's mask logits; `both` is the mean of the two kinds."""
    if how == "pixels":
        return soft_mask_loss(task, raw_BKhw, teacher, view_B1HW)
    if how == "channels":
        return channel_loss(raw_BKhw, teacher, view_B1HW)
    return (soft_mask_loss(task, raw_BKhw, teacher, view_B1HW) + channel_loss(raw_BKhw, teacher, view_B1HW)) / 2


def soft_mask_loss(task: Task, raw_BKhw: Tensor, teacher: Tensor, view_B1HW: Tensor) -> Tensor:
    """Pixel-wise divergence from the teacher's mask, on the student's grid, inside the picture."""
    teacher, known = _on_grid(raw_BKhw, teacher, view_B1HW)
    if task.exclusive:
        divergence = functional.kl_div(
            raw_BKhw.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True
        ).sum(1, keepdim=True)
        return masked_mean(divergence, known)
    return masked_mean(binary_divergence(raw_BKhw, teacher), known.expand_as(raw_BKhw))


def channel_loss(
    raw_BKhw: Tensor, teacher: Tensor, view_B1HW: Tensor, temperature: float = CHANNEL_TEMPERATURE
) -> Tensor:
    """Channel-wise divergence (CWD; Shu et al., ICCV 2021, eq. 4 and 5): each channel is a distribution over places.

    It cares for where a structure is and not for its level: a constant added to a channel changes nothing.
    """
    teacher, known = _on_grid(raw_BKhw, teacher, view_B1HW)
    own, wanted = (
        (x.float() / temperature).masked_fill(~known, -FAR).flatten(2).log_softmax(2) for x in (raw_BKhw, teacher)
    )
    divergence = functional.kl_div(own, wanted, reduction="none", log_target=True).sum(2)
    return divergence.mean() * temperature**2


def _on_grid(raw_BKhw: Tensor, teacher: Tensor, view_B1HW: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's logits on the student's grid, and its cells that lie wholly inside the picture."""
    size = raw_BKhw.shape[-2:]
    teacher = functional.interpolate(teacher, size=size, mode="bilinear", align_corners=False)
    return teacher, functional.interpolate(view_B1HW.float(), size=size, mode="area") > 0.999
