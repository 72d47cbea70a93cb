"""Whether a student is larger than the teacher that it learns from: a road that leads nowhere, told in one line."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..models.network import Network, Teacher
from ..teachers.load import load_teacher


def warn_if_larger(student: Network, teachers: Sequence[Path], log: Callable[[str], None]) -> None:
    """Log a warning when a student has more parameters or multiply-adds than all its teachers together.

    Args:
        student: not changed.
        teachers: folders of finished steps.
        log: takes the line.
    """
    loaded = [load_teacher(folder) for folder in teachers]
    own, theirs = _parameters(student), sum(_parameters(one) for one in loaded)
    work, their_work = multiply_adds(student), sum(multiply_adds(one) for one in loaded)
    if own > theirs or work > their_work:
        log(
            f"warning: the student has {own / 1e6:.2f} M parameters and {work / 1e6:.0f} M multiply-adds, its teacher "
            f"{theirs / 1e6:.2f} M and {their_work / 1e6:.0f} M: it is larger than what it shall replace"
        )


def multiply_adds(network: Teacher) -> int:
    """Multiply-adds of convolutions and matrix products for one empty picture, counted by torch; at least."""
    spec = network.input
    # A copy, since the mode of a network that is about to train is its own affair.
    asked = copy.deepcopy(network).eval() if isinstance(network, nn.Module) else network
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        asked.answer(torch.zeros(1, spec.channels, spec.height, spec.width))
    return int(counter.get_total_flops()) // 2


def _parameters(network: Teacher) -> int:
    return sum(x.numel() for x in network.parameters()) if isinstance(network, nn.Module) else 0
