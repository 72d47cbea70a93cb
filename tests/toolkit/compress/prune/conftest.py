"""Tiny networks with every head, whose normalisation is as lively as a trained one's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from small import SPEC, TASKS
from torch import nn

from foveola.toolkit.models.network import Architecture, Network

Make = Callable[..., Network]


@pytest.fixture
def make() -> Make:
    return _lively


def _lively(role: Literal["teacher", "student"], backbone: str, width: int = 16) -> Network:
    torch.manual_seed(0)
    scale: dict[str, tuple[float, ...]] = {"side": (1.0,)}
    network = Network(
        Architecture(
            role=role, backbone=backbone, input=SPEC, tasks=TASKS, width=width, target_mean=scale, target_std=scale
        )
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return network.eval()
