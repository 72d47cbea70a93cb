"""What every head is: from the backbone's feature maps to a task's raw outputs and its loss.

B batch, C channels, T task channels. `Pyramid` maps a stride to its feature map; negative strides are decoded maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...runtime.task import Task
from ..losses import scalar_loss

Pyramid = dict[int, Tensor]
Boxes = Tensor  # (M, 5): x1, y1, x2, y2 in input pixels, label; teacher's boxes have a sixth column, the score
Target = Tensor | Sequence[Boxes | None]


class Head(nn.Module):
    """Answers one task."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, pyramid: Pyramid) -> dict[str, Tensor]:
        """Raw outputs by tensor name."""
        raise NotImplementedError

    def loss(self, pyramid: Pyramid, raw: dict[str, Tensor], target: Target) -> Tensor:
        """Loss against the reference standard, over known targets only; zero where there is none."""
        raise NotImplementedError


class LinearHead(Head):
    """Global average pooling, dropout and one linear layer, for all kinds that answer with numbers."""

    def __init__(self, task: Task, channels: int, dropout: float = 0.1) -> None:
        super().__init__(task)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(channels, task.channels)

    def forward(self, pyramid: Pyramid) -> dict[str, Tensor]:
        """`{task: (B, T)}`."""
        pooled = torch.flatten(self.pool(pyramid[32]), 1)
        return {self.task.name: self.linear(self.dropout(pooled))}

    def loss(self, pyramid: Pyramid, raw: dict[str, Tensor], target: Target) -> Tensor:
        """Cross entropy or smooth L1 by kind; regression targets are already standardised."""
        assert isinstance(target, Tensor)
        return scalar_loss(self.task, raw[self.task.name], target)
