"""The losses of a pretraining after COMPRER, as functions of tensors.

- A term without an eligible sample is exactly 0 and has no gradient (`nothing`).
- What is not known (NaN) is masked and never counted.
- Cosines, logits and errors are float32 whatever the precision.

N pairs, D length of a projection, F features, K numbers, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ....runtime.task import Task
from ...losses import above_grades, masked_mean


def nothing(like: Tensor) -> Tensor:
    """The loss of nothing: 0, without a gradient."""
    return torch.zeros((), device=like.device)


def pair_contrast(a_ND: Tensor, b_ND: Tensor, subject_N: Tensor, temperature: Tensor | float) -> Tensor:
    """Symmetric InfoNCE: each must find its partner among all partners, from both sides (CLIP, Radford et al. 2021).

    Other pairs of the same person (another visit, the other eye) are no negatives: they are left out.

    Args:
        a_ND: one side of each pair, of unit length.
        b_ND: the other.
        subject_N: whose pair it is.
        temperature: tau, inside the exponent.

    Returns:
        The mean over pairs and directions.
    """
    with torch.autocast(a_ND.device.type, enabled=False):
        logits = a_ND.float() @ b_ND.float().T / temperature
        own = subject_N[:, None] == subject_N[None, :]
        own.fill_diagonal_(False)
        logits = logits.masked_fill(own, -torch.inf)
        wanted = torch.arange(len(logits), device=logits.device)
        return (functional.cross_entropy(logits, wanted) + functional.cross_entropy(logits.T, wanted)) / 2


def order_loss(logit_N: Tensor, ahead_N: Tensor, full_gap: float) -> Tensor:
    """Binary cross entropy of "the second visit is later", weighted by how far the visits are apart.

    A pair nearer than the noise of what is seen carries no order: its weight falls to zero with its distance.

    Args:
        logit_N: that the second visit is the later one.
        ahead_N: years from the first visit to the second; their sign is what is predicted. NaN is not known, and
            neither that nor 0 counts; one of another kind must be there.
        full_gap: years from which a pair counts fully.
    """
    weight = (ahead_N.nan_to_num().abs() / full_gap).clamp(max=1.0)
    later = (ahead_N > 0).float()
    loss = functional.binary_cross_entropy_with_logits(logit_N.float(), later, reduction="none")
    return (weight * loss).sum() / weight.sum()


def gap_loss(value_N: Tensor, years_N: Tensor, scale: float | Tensor) -> Tensor:
    """Smooth L1 of the years from the first visit to the second, in units of `scale`; NaN is masked."""
    known = ~years_N.isnan()
    return masked_mean(
        functional.smooth_l1_loss(value_N.float(), years_N.nan_to_num() / scale, reduction="none"), known
    )


def measure_entries(task: Task, raw_BT: Tensor, target: Tensor, kind: str = "huber") -> tuple[Tensor, Tensor]:
    """Loss of each target, and which of them are known; a gap's loss is 0.

    Args:
        task: regression (standardised values), binary, multilabel, ordinal or multiclass.
        raw_BT: raw outputs.
        target: as `scalar_loss` takes it.
        kind: `huber` or `mse`, for regression.
    """
    raw_BT = raw_BT.float()
    if task.kind == "multiclass":
        known = ~target[:, :1].isnan()
        index = target[:, 0].nan_to_num().long()
        loss = functional.cross_entropy(raw_BT, index, reduction="none")[:, None]
        return torch.where(known, loss, torch.zeros_like(loss)), known
    if task.kind == "ordinal":
        target = above_grades(target, len(task.classes))
    known = ~target.isnan()
    filled = target.nan_to_num()
    if task.kind != "regression":
        loss = functional.binary_cross_entropy_with_logits(raw_BT, filled, reduction="none")
    elif kind == "mse":
        loss = functional.mse_loss(raw_BT, filled, reduction="none")
    else:
        loss = functional.smooth_l1_loss(raw_BT, filled, reduction="none")
    return torch.where(known, loss, torch.zeros_like(loss)), known


def measure_loss(entries: list[tuple[Tensor, Tensor]], weights: list[float]) -> Tensor:
    """Mean over all that is known, whatever its task or modality.

    Args:
        entries: as `measure_entries` gives them; at least one is known.
        weights: one each.
    """
    total = torch.stack([weight * loss.sum() for (loss, _), weight in zip(entries, weights, strict=True)]).sum()
    return total / torch.stack([known.sum() for _, known in entries]).sum()


def rebuild_loss(rebuilt_BCHW: Tensor, wanted_BCHW: Tensor, std_C: Tensor, mean_C: Tensor, kind: str = "mse") -> Tensor:
    """How far reconstructed pictures are from those that were wanted.

    Args:
        rebuilt_BCHW: normalised pixels.
        wanted_BCHW: pixels 0..1.
        std_C: of the normalisation, (1, C, 1, 1).
        mean_C: likewise.
        kind: `mse` on normalised pixels; `l1_ssim` on them and on pixels 0..1 (Wang et al. 2004).
    """
    rebuilt = rebuilt_BCHW.float()
    normal = (wanted_BCHW.float() - mean_C) / std_C
    if kind == "mse":
        return functional.mse_loss(rebuilt, normal)
    # Needed for this one loss, and slow to import.
    from torchmetrics.functional.image import structural_similarity_index_measure

    ssim = structural_similarity_index_measure(rebuilt * std_C + mean_C, wanted_BCHW.float(), data_range=1.0)
    assert isinstance(ssim, Tensor)
    return functional.l1_loss(rebuilt, normal) + 1 - ssim
