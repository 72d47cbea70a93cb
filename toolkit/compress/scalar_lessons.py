"""What a teacher's numbers teach: classes by divergence or correlation, values by their distance or a variance.

B batch, T task channels. All losses are means over the batch, and zero where student and teacher agree (but for the
one with a learned variance, which is a likelihood).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ...runtime.task import Task
from ..losses import masked_mean

DECOUPLED = 8.0  # weight of the classes beside the right one (Zhao et al. 2022, table 6: 8 for ResNets on CIFAR)
FAR = 1e4  # taken off a logit that is left out of a softmax


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


def correlation_loss(task: Task, raw_BT: Tensor, teacher_BT: Tensor, temperature: float) -> Tensor:
    """1 - Pearson's correlation of the probabilities, times T^2: DIST (Huang et al., NeurIPS 2022, eq. 6 to 10).

    Between classes within an image and between images within a class, for exclusive classes; for the others, whose
    probabilities do not add up to one, between images alone. It leaves their level free, which the reference standard
    must then fix: a task without any is better taught by `soft_scalar_loss`.
    """
    student, teacher = raw_BT.float() / temperature, teacher_BT / temperature
    if task.kind == "multiclass":
        student, teacher = student.softmax(1), teacher.softmax(1)
        return (_uncorrelated(student, teacher) + _uncorrelated(student.T, teacher.T)) * temperature**2
    return _uncorrelated(student.sigmoid().T, teacher.sigmoid().T) * temperature**2


def _uncorrelated(a: Tensor, b: Tensor) -> Tensor:
    """1 - Pearson's correlation of the rows, mean over those in which the teacher's (`b`) differ at all."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    varied = b.abs().amax(1) > 1e-7
    return masked_mean(1 - functional.cosine_similarity(a, b, dim=1), varied)


def decoupled_loss(task: Task, raw_BT: Tensor, teacher_BT: Tensor, target_B1: Tensor, temperature: float) -> Tensor:
    """Decoupled distillation (Zhao et al., CVPR 2022, eq. 7): right against wrong, then among the wrong classes.

    Args:
        task: multiclass.
        raw_BT: the student's logits.
        teacher_BT: the teacher's.
        target_B1: index of the right class; where it is not known, the teacher's choice stands for it.
        temperature: T.
    """
    assert task.kind == "multiclass"
    chosen = teacher_BT.argmax(1)
    right = torch.where(target_B1[:, 0].isnan(), chosen, target_B1[:, 0].nan_to_num().long())
    mask = functional.one_hot(right, raw_BT.shape[1]).bool()
    student, teacher = raw_BT.float() / temperature, teacher_BT / temperature
    target_part = binary_divergence(_odds(student, mask), _odds(teacher, mask)).mean()
    others = functional.kl_div(
        (student - FAR * mask).log_softmax(1), (teacher - FAR * mask).log_softmax(1), reduction="none", log_target=True
    )
    return (target_part + DECOUPLED * others.sum(1).mean()) * temperature**2


def _odds(logits_BT: Tensor, mask: Tensor) -> Tensor:
    """Logit of the one class that is marked, against all others together."""
    rest = logits_BT.masked_fill(mask, -FAR).logsumexp(1)
    return logits_BT[mask] - rest


def bounded_loss(raw_BT: Tensor, teacher_BT: Tensor, target_BT: Tensor) -> Tensor:
    """Squared error where the student is further from the reference than its teacher, else nothing.

    Teacher-bounded regression (Chen et al., NeurIPS 2017, eq. 4, without a margin). Where there is no reference the
    teacher's value is the target, by smooth L1.
    """
    known = ~target_BT.isnan()
    reference = target_BT.nan_to_num()
    own, theirs = (raw_BT - reference).square(), (teacher_BT - reference).square()
    bounded = torch.where(own > theirs, own, torch.zeros_like(own))
    return torch.where(known, bounded, functional.smooth_l1_loss(raw_BT, teacher_BT, reduction="none")).mean()


def gaussian_loss(raw_BT: Tensor, target_BT: Tensor, log_variance_T: Tensor | float) -> Tensor:
    """Negative log likelihood with one learned variance a measure (Kendall et al., CVPR 2018, eq. 5), gaps masked."""
    known = ~target_BT.isnan()
    error = (raw_BT - target_BT.nan_to_num()).square()
    spread = torch.as_tensor(log_variance_T, dtype=error.dtype, device=error.device)
    return masked_mean(0.5 * (error * torch.exp(-spread) + spread), known)
