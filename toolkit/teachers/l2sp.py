"""L2-SP: the pull of a network's shared weights towards where they were (Li et al., ICML 2018; MTPret's eq. 5).

S are the weights shared with the source model (the backbone), the others are new (a head). As in the first authors'
standard mode only kernels and matrices are held: no biases, no normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..checkpoint import Weights


def l2sp(
    shared: Sequence[Tensor], anchor: Sequence[Tensor], new: Sequence[Tensor], *, alpha: float, beta: float
) -> Tensor:
    """Omega(w) = alpha / 2 |w_S - w0_S|^2 + beta / 2 |w_new|^2, a scalar.

    Args:
        shared: weights of the backbone.
        anchor: where they are pulled to, in the same order; constants.
        new: weights of the head.
        alpha: strength of the pull.
        beta: strength of the head's decay.
    """
    pulled = [0.5 * alpha * (w - w0).square().sum() for w, w0 in zip(shared, anchor, strict=True)]
    decayed = [0.5 * beta * w.square().sum() for w in new]
    return torch.stack(pulled + decayed).sum()


def kernels(module: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that L2-SP holds, by name."""
    return {name: p for name, p in module.named_parameters() if p.dim() > 1}


def snapshot(module: nn.Module) -> Weights:
    """A detached copy of the weights that L2-SP holds."""
    return {name: p.detach().clone() for name, p in kernels(module).items()}


def distance(module: nn.Module, start: Weights) -> float:
    """|w - w0| / |w0| over the weights that L2-SP holds."""
    moved, size = 0.0, 0.0
    for name, p in kernels(module).items():  # always in the module's order: a sum of floats depends on it
        w0 = start[name].to(p.device)
        moved += float((p.detach() - w0).double().square().sum())
        size += float(w0.double().square().sum())
    return math.sqrt(moved / size)
