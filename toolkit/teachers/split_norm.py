"""Batch statistics that do not give the contrast away: SplitBatchNorm on one device, shuffled keys on all.

A query and its key could be matched by the statistics of the batch that they share, which teaches nothing (He et al.,
CVPR 2020, sec. 3.3). So keys are shuffled before they are encoded, and on one device batches are split into groups,
each with statistics of its own, as if there were several devices.

- A split network's weights are those of the plain one, under the same keys; in evaluation it is the plain one.
- Networks without batch normalisation share no statistics: there is nothing to split, and nothing is changed.
"""

from __future__ import annotations

from typing import cast

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, distributed, nn
from torch.nn import functional

from ...runtime.errors import UsageError


class _Split:
    """What both kinds share: how many groups there are."""

    splits = 1


class SplitBatchNorm2d(nn.BatchNorm2d, _Split):
    """Batch normalisation over groups of the batch in training; the running statistics are means over the groups."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """(B, C, H, W) of the same shape."""
        return by_group(self, input, self.splits) if self.training and self.splits > 1 else super().forward(input)


class SplitBatchNormAct2d(BatchNormAct2d, _Split):  # type: ignore[misc]
    """The same for timm's batch normalisation with activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) of the same shape."""
        if not self.training or self.splits == 1:
            return cast(Tensor, super().forward(x))
        normal = by_group(cast(nn.BatchNorm2d, self), x, self.splits)
        return cast(Tensor, self.act(self.drop(normal)))


def by_group(norm: nn.BatchNorm2d, x_BCHW: Tensor, splits: int) -> Tensor:
    """Normalise each of `splits` equal parts of a batch, in its order, by its own statistics.

    Running statistics move once, by the mean over the groups. The parts are normalised one by one: joined into one
    batch of more channels they would have to be copied twice, and channels-last images would lose their layout.

    Raises:
        UsageError: the batch has no such parts.
    """
    if len(x_BCHW) % splits:
        fault = f"{len(x_BCHW)} images do not part into {splits} groups"
        raise UsageError("splits", fault, "give a divisor of batch_size")
    parts = x_BCHW.chunk(splits)
    mean, variance = norm.running_mean, norm.running_var
    if not norm.track_running_stats or mean is None or variance is None:
        plain = [functional.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps) for x in parts]
        return torch.cat(plain)
    share = _share(norm)
    # Each group moves a copy of its own. A move is linear, so the mean of the copies is moved by the mean.
    means, variances = mean.repeat(splits, 1), variance.repeat(splits, 1)
    normal = [
        functional.batch_norm(x, means[g], variances[g], norm.weight, norm.bias, True, share, norm.eps)
        for g, x in enumerate(parts)
    ]
    with torch.no_grad():
        mean.copy_(means.mean(0))
        variance.copy_(variances.mean(0))
    return torch.cat(normal)


def _share(norm: nn.BatchNorm2d) -> float:
    """How far the running statistics move towards this batch's; counts the batch."""
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    if norm.momentum is not None:
        return norm.momentum
    # torch's own rule: without a momentum they are the mean over all batches so far.
    return 1 / float(norm.num_batches_tracked) if norm.num_batches_tracked is not None else 0.0


def split_batch_norm(module: nn.Module, splits: int) -> nn.Module:
    """Give every batch normalisation of a module statistics by group, in place; keys of the state dict stay.

    Args:
        module: changed.
        splits: groups a batch, as many as there were devices; 1 is ordinary batch normalisation.

    Raises:
        UsageError: fewer than one group.
    """
    if splits < 1:
        raise UsageError("splits", f"{splits} groups", "give 1 or more")
    for part in module.modules():
        # A class that is not one of these two normalises in a way of its own and keeps it.
        if splits > 1 and type(part) is nn.BatchNorm2d:
            part.__class__ = SplitBatchNorm2d
        elif splits > 1 and type(part) is BatchNormAct2d:
            part.__class__ = SplitBatchNormAct2d
        if isinstance(part, _Split):
            part.splits = splits
    return module


def shuffle_keys(x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Mix the images of all processes (He et al., CVPR 2020, sec. 3.3).

    Args:
        x: (B, ...) images of this process; the same number in each.
        generator: of the permutation, on the CPU; None: torch's own. With several processes the first one's counts.

    Returns:
        This process's part of the mixed images, and the inverse permutation, which `unshuffle` needs.
    """
    total, own = len(x) * processes(), own_rows(len(x))
    order = torch.randperm(total, generator=generator).to(x.device, non_blocking=True)
    if processes() > 1:
        distributed.broadcast(order, 0)
    return gather(x)[order[own]], torch.argsort(order)


def unshuffle(k_ND: Tensor, inverse: Tensor) -> Tensor:
    """Bring keys of mixed images back into the order, and to the process, of their images."""
    return gather(k_ND)[inverse[own_rows(len(k_ND))]]


def gather(x: Tensor) -> Tensor:
    """The rows of all processes, in their order, without gradient; alone: one's own, as they are."""
    if processes() == 1:
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(processes())]
    distributed.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def own_rows(count: int) -> slice:
    """Where this process's rows stand among those of all, if each has `count`."""
    start = distributed.get_rank() * count if processes() > 1 else 0
    return slice(start, start + count)


def processes() -> int:
    """How many processes train together."""
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1
