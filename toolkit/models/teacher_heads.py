"""Full heads for teachers: torchvision's DeepLabV3 and Faster R-CNN on a timm backbone.

They serve accuracy, not the device: what they know travels to the student as answers (`toolkit.answers`).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.segmentation.deeplabv3 import DeepLabHead as TorchvisionDeepLab
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from ...runtime.task import Task
from ..losses import mask_loss
from .heads import Head, Pyramid, Target

LEVELS = (4, 8, 16, 32)  # strides that carry the feature pyramid; a fifth level is pooled from the last


class DeepLabHead(Head):
    """Atrous spatial pyramid pooling on the coarsest map (Chen et al., arXiv 1706.05587)."""

    def __init__(self, task: Task, channels: int) -> None:
        super().__init__(task)
        self.deeplab = TorchvisionDeepLab(channels, task.channels)
        self.entropy = True  # False: soft Dice alone, without cross entropy

    def forward(self, pyramid: Pyramid) -> dict[str, Tensor]:
        """`{task: logits (B, K, H/32, W/32)}`."""
        return {self.task.name: self.deeplab(pyramid[32])}

    def loss(self, pyramid: Pyramid, raw: dict[str, Tensor], target: Target) -> Tensor:
        """Cross entropy and soft Dice at the target's resolution."""
        assert isinstance(target, Tensor)
        return mask_loss(self.task, raw[self.task.name], target, entropy=self.entropy)


class FasterRcnnHead(Head):
    """Feature pyramid, region proposals and box heads (Ren et al., NeurIPS 2015; Lin et al., CVPR 2017).

    Its boxes come from `boxes`, not from `forward`: their number depends on the picture.
    """

    def __init__(self, task: Task, channels: dict[int, int], size: tuple[int, int], width: int) -> None:
        super().__init__(task)
        self.size = size
        self.fpn = FeaturePyramidNetwork(
            [channels[stride] for stride in LEVELS], width, extra_blocks=LastLevelMaxPool()
        )
        # Anchors follow the input's size: an eighth of a cell row at stride 4 up to half of the picture.
        sides = tuple((max(size) * share,) for share in (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2))
        anchors = AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * len(sides))
        self.rpn = RegionProposalNetwork(
            anchors,
            RPNHead(width, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=128,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 500, "testing": 300},
            post_nms_top_n={"training": 200, "testing": 100},
            nms_thresh=0.7,
        )
        self.roi = RoIHeads(
            MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=2),
            TwoMLPHead(width * 49, 4 * width),
            FastRCNNPredictor(4 * width, len(task.classes) + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=64,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=50,
        )

    def forward(self, pyramid: Pyramid) -> dict[str, Tensor]:
        """No dense output; see `boxes`."""
        return {}

    def loss(self, pyramid: Pyramid, raw: dict[str, Tensor], target: Target) -> Tensor:
        """Sum of the four Faster R-CNN losses over annotated images."""
        assert not isinstance(target, Tensor)
        known = [(i, boxes) for i, boxes in enumerate(target) if boxes is not None]
        if not known:
            return pyramid[32].sum() * 0.0
        places = [i for i, _ in known]
        features, images = self.levels({stride: x[places] for stride, x in pyramid.items()})
        wanted = [{"boxes": boxes[:, :4].float(), "labels": boxes[:, 4].long() + 1} for _, boxes in known]
        proposals, rpn_losses = self.rpn(images, features, wanted)
        _, roi_losses = self.roi(features, proposals, images.image_sizes, wanted)
        losses: list[Tensor] = [*rpn_losses.values(), *roi_losses.values()]
        return torch.stack(losses).sum()

    def boxes(self, pyramid: Pyramid, raw: dict[str, Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Per image (K, 6): x1, y1, x2, y2 in input pixels, score, label; best first. Evaluation mode only."""
        features, images = self.levels(pyramid)
        proposals, _ = self.rpn(images, features)
        found, _ = self.roi(features, proposals, images.image_sizes)
        return [torch.cat((one["boxes"], one["scores"][:, None], one["labels"][:, None] - 1.0), 1) for one in found]

    def levels(self, pyramid: Pyramid) -> tuple[dict[str, Tensor], ImageList]:
        """Maps of the feature pyramid, finest first, and the images as torchvision's modules want them."""
        maps = OrderedDict((str(level), pyramid[stride].float()) for level, stride in enumerate(LEVELS))
        batch = len(pyramid[32])
        # torchvision's modules ask the image tensor for its size, type and device only.
        blank = pyramid[32].new_zeros((1, 1, 1, 1), dtype=torch.float32).expand(batch, 3, *self.size)
        return self.fpn(maps), ImageList(blank, [self.size] * batch)
