"""Heads for the edge: a light decoder, a mask head and an anchor-free detector, all with static shapes.

Only operators that int8 kernels of every engine know: convolution, addition, ReLU and nearest upsampling. Decoding of
boxes and suppression of overlaps live in `runtime.answer`, outside the graph.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ...runtime.answer import decode_boxes
from ...runtime.task import Task
from ..losses import anchor_free_loss, mask_loss
from .heads import Head, Pyramid, Target

# A student's boxes: overlap of which the weaker is dropped, least score, most boxes an image.
NMS_IOU, SCORE_FLOOR, MAX_BOXES = 0.5, 0.05, 50


class SeparableConv(nn.Sequential):
    """Depthwise 3x3 and pointwise convolution, each with BatchNorm and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )


class LightDecoder(nn.Module):
    """A feature pyramid with separable convolutions, shared by the dense heads (after Lin et al., CVPR 2017)."""

    def __init__(self, channels: dict[int, int], width: int) -> None:
        super().__init__()
        self.strides = sorted(channels, reverse=True)  # coarse to fine
        self.lateral = nn.ModuleDict(
            {
                str(stride): nn.Sequential(
                    nn.Conv2d(channels[stride], width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
                )
                for stride in self.strides
            }
        )
        self.smooth = nn.ModuleDict({str(stride): SeparableConv(width) for stride in self.strides[1:]})

    def forward(self, pyramid: Pyramid) -> Pyramid:
        """Decoded maps under their negated strides, without the coarsest."""
        decoded: Pyramid = {}
        x = self.lateral[str(self.strides[0])](pyramid[self.strides[0]])
        for stride in self.strides[1:]:
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest") + self.lateral[str(stride)](pyramid[stride])
            x = self.smooth[str(stride)](x)
            decoded[-stride] = x
        return decoded


class MaskHead(Head):
    """A separable convolution and a pointwise one: logits (B, K, H / stride, W / stride)."""

    def __init__(self, task: Task, width: int, stride: int) -> None:
        super().__init__(task)
        self.stride = stride
        self.body = SeparableConv(width)
        self.last = nn.Conv2d(width, task.channels, 1)

    def forward(self, pyramid: Pyramid) -> dict[str, Tensor]:
        """`{task: logits}`."""
        return {self.task.name: self.last(self.body(pyramid[-self.stride]))}

    def loss(self, pyramid: Pyramid, raw: dict[str, Tensor], target: Target) -> Tensor:
        """Cross entropy and soft Dice at the target's resolution."""
        assert isinstance(target, Tensor)
        return mask_loss(self.task, raw[self.task.name], target)


class AnchorFreeHead(Head):
    """One grid: distances to the four sides, and a score a class (FCOS, Tian et al., ICCV 2019)."""

    def __init__(self, task: Task, width: int, stride: int) -> None:
        super().__init__(task)
        self.stride = stride
        self.score_body, self.box_body = (nn.Sequential(SeparableConv(width), SeparableConv(width)) for _ in range(2))
        self.score_last = nn.Conv2d(width, task.channels, 1)
        self.box_last = nn.Conv2d(width, 4, 1)
        # Start from a rare-object prior of 1 % (Lin et al., ICCV 2017, sec. 4.1).
        nn.init.constant_(self.score_last.bias, -math.log(99.0))  # type: ignore[arg-type]

    def forward(self, pyramid: Pyramid) -> dict[str, Tensor]:
        """`{task.boxes: (B, 4, h, w), task.scores: (B, T, h, w)}`."""
        x = pyramid[-self.stride]
        name = self.task.name
        return {f"{name}.boxes": self.box_last(self.box_body(x)), f"{name}.scores": self.score_last(self.score_body(x))}

    def loss(self, pyramid: Pyramid, raw: dict[str, Tensor], target: Target) -> Tensor:
        """Quality focal loss and GIoU loss over annotated images."""
        assert not isinstance(target, Tensor)
        name = self.task.name
        return anchor_free_loss(raw[f"{name}.boxes"], raw[f"{name}.scores"], target, self.stride)

    def boxes(self, pyramid: Pyramid, raw: dict[str, Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Per image (K, 6): x1, y1, x2, y2 in input pixels, score, label: the device's own decoding."""
        sides, scores = (
            raw[name].float().cpu().numpy() for name in (f"{self.task.name}.boxes", f"{self.task.name}.scores")
        )
        return [
            torch.from_numpy(grid_boxes(side, score, self.stride, size))
            for side, score in zip(sides, scores, strict=True)
        ]


def grid_boxes(
    sides_4hw: NDArray[np.float32], scores_Thw: NDArray[np.float32], stride: int, size: tuple[int, int]
) -> NDArray[np.float64]:
    """A student's boxes (K, 6) of one image, decoded as its bundle's manifest says; `size` is the input's (H, W)."""
    return decode_boxes(
        sides_4hw,
        scores_Thw,
        stride=stride,
        height=size[0],
        width=size[1],
        nms_iou=NMS_IOU,
        score_floor=SCORE_FLOOR,
        max_boxes=MAX_BOXES,
    )
