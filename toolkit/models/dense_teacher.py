"""A teacher as a graph of static shapes, for servers: what its heads compute, without any choice by the picture.

The linear and DeepLabV3 heads are as they are. Faster R-CNN ends before its first suppression: the graph gives the best
proposals of each level, a fixed number, and for every one of them class logits and box offsets. `runtime.two_stage`
does the rest, so that the boxes are those of `FasterRcnnHead.boxes`.

Laws:
- Each level of the feature pyramid gives min(pre-NMS number, its anchors) proposals, by falling objectness.
- A proposal is pooled on every level and one of the results is selected: no shape depends on a picture. Which level it
  is follows from its area (Lin et al., CVPR 2017, eq. 1); the bounds are compared, and no logarithm is rounded.
- Batch 1. The proposals are many times those that torchvision sends on, thus the box head costs more than in torch.

A anchors a cell (or rows of anchors), N proposals, C classes, R pooled cells a side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from ...runtime.errors import UsageError
from ...runtime.manifest import Proposals, TaskOutput
from ...runtime.task import Task
from ...runtime.two_stage import LARGEST_GROWTH
from .heads import Pyramid
from .network import Network
from .structure import merged_copy
from .teacher_heads import LEVELS, FasterRcnnHead

PARTS = ("proposals", "objectness", "classes", "deltas")


def dense_names(task: Task) -> tuple[str, ...]:
    """Names of the graph's outputs that answer a task of a teacher."""
    return tuple(f"{task.name}.{part}" for part in PARTS) if task.kind == "detection" else (task.name,)


def as_graph(network: Network) -> Network | DenseTeacher:
    """The module whose `forward` gives all that a graph of the network answers: itself, or a teacher's dense form.

    Blocks that trained with several branches have them merged.
    """
    # A block that is merged already cannot be merged again (timm's RepMixer of FastViT has no branches left).
    merged = network if network.architecture.structure.merged else merged_copy(network)
    assert isinstance(merged, Network)
    return DenseTeacher(merged) if network.architecture.role == "teacher" else merged


class DenseTeacher(nn.Module):
    """A teacher whose `forward` answers a dict of dense tensors for one image; in evaluation mode.

    Args:
        network: a network of role `teacher`; it is shared, not copied.

    Raises:
        UsageError: a student, which has dense tensors of its own.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        if network.architecture.role != "teacher":
            raise UsageError("dense teacher", "the network is a student", "export the student itself")
        self.network = network.eval()
        with torch.no_grad():
            spec = network.input
            pyramid = network.pyramid(torch.zeros(1, spec.channels, spec.height, spec.width))
            self.detectors = nn.ModuleDict(
                {
                    head.task.name: _DenseRcnn(head, pyramid)
                    for head in network.ordered_heads()
                    if isinstance(head, FasterRcnnHead)
                }
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the graph's outputs, in the order of the tasks."""
        return tuple(name for task in self.network.tasks for name in dense_names(task))

    def forward(self, x_1CHW: Tensor) -> dict[str, Tensor]:
        """Raw outputs by tensor name, as `names` lists them."""
        pyramid = self.network.pyramid(x_1CHW)
        raw: dict[str, Tensor] = {}
        for head in self.network.ordered_heads():
            name = head.task.name
            if name in self.detectors:
                raw |= zip(dense_names(head.task), self.detectors[name](pyramid), strict=True)
            else:
                raw |= head(pyramid)
        return raw

    def output_of(self, task: Task, thresholds: Sequence[float] = ()) -> TaskOutput:
        """Describe a detection task for the manifest: torchvision's own numbers.

        Args:
            task: one of the network's detection tasks, as it ships.
            thresholds: the locked ones.
        """
        detector = self.detectors[task.name]
        assert isinstance(detector, _DenseRcnn)
        return detector.described(task, tuple(thresholds))


class _DenseRcnn(nn.Module):
    """One Faster R-CNN head up to its dense tensors."""

    def __init__(self, head: FasterRcnnHead, pyramid: Pyramid) -> None:
        super().__init__()
        self.head = head
        maps, images = head.levels(pyramid)
        shapes = [tuple(one.shape[-2:]) for one in maps.values()]
        generator = head.rpn.anchor_generator
        together: Tensor = generator(images, list(maps.values()))[0]
        each = generator.num_anchors_per_location()
        counts = [height * width * number for (height, width), number in zip(shapes, each, strict=True)]
        self.levels = tuple(min(head.rpn.pre_nms_top_n(), count) for count in counts)
        for level, anchors in enumerate(together.split(counts)):
            self.register_buffer(f"anchors_{level}", anchors.clone(), persistent=False)
        self.scales = [_scale(height, head.size[0]) for height, _ in shapes[: len(LEVELS)]]
        pooler = head.roi.box_roi_pool
        self.bounds = _area_bounds(self.scales, pooler.canonical_scale, pooler.canonical_level)

    def forward(self, pyramid: Pyramid) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Proposals (1, N, 4), objectness (1, N), class logits (1, N, C + 1) and offsets (1, N, C, 4)."""
        maps = list(self.head.levels(pyramid)[0].values())
        proposals, objectness = self.proposed(maps)
        pooled = self.pooled(maps, proposals)
        logits, deltas = self.head.roi.box_predictor(self.head.roi.box_head(pooled))
        rows, classes = logits.shape
        return proposals[None], objectness[None], logits[None], deltas.reshape(1, rows, classes, 4)[:, :, 1:]

    def proposed(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Best proposals of each level (N, 4), clipped to the input, and their logits (N,)."""
        scores, offsets = self.head.rpn.head(maps)
        boxes: list[Tensor] = []
        best: list[Tensor] = []
        for level, count in enumerate(self.levels):
            strength, place = _by_anchor(scores[level], 1).reshape(-1).topk(count)
            anchors = self.get_buffer(f"anchors_{level}").index_select(0, place)
            moved = _by_anchor(offsets[level], 4).index_select(0, place)
            boxes.append(_moved(anchors, moved, self.head.size))
            best.append(strength)
        return torch.cat(boxes), torch.cat(best)

    def pooled(self, maps: list[Tensor], proposals: Tensor) -> Tensor:
        """Each proposal's features (N, width, R, R), from the level that its area names."""
        pooler = self.head.roi.box_roi_pool
        rois = torch.cat((torch.zeros_like(proposals[:, :1]), proposals), 1)
        # A product of two activations (Mul) would be taken for arithmetic worth quantising.
        area = (proposals[:, 2:] - proposals[:, :2]).prod(1).reshape(-1, 1, 1, 1)
        chosen: Tensor | None = None
        for x, scale, bound in zip(maps, self.scales, self.bounds, strict=False):
            if bound == math.inf and chosen is not None:
                break  # no box is pooled there; and TensorRT takes no constant that is infinite
            cells = roi_align(x, rois, pooler.output_size, scale, pooler.sampling_ratio)
            chosen = cells if chosen is None else torch.where(area >= bound, cells, chosen)
        assert chosen is not None
        return chosen

    def described(self, task: Task, thresholds: tuple[float, ...]) -> TaskOutput:
        """The manifest's description of the task."""
        rpn, roi = self.head.rpn, self.head.roi
        return TaskOutput(
            task=task,
            tensors=dense_names(task),
            thresholds=thresholds,
            nms_iou=roi.nms_thresh,
            score_floor=roi.score_thresh,
            max_boxes=roi.detections_per_img,
            proposals=Proposals(
                levels=self.levels,
                nms_iou=rpn.nms_thresh,
                kept=rpn.post_nms_top_n(),
                min_side=rpn.min_size,
                weights=roi.box_coder.weights,
            ),
        )


def _by_anchor(x_1AhW: Tensor, width: int) -> Tensor:
    """A map (1, A * width, h, w) as rows (h * w * A, width), in the order of the anchors."""
    _, channels, high, wide = x_1AhW.shape
    split = x_1AhW.reshape(channels // width, width, high, wide)
    return split.permute(2, 3, 0, 1).reshape(-1, width)


def _moved(anchors: Tensor, offsets: Tensor, size: tuple[int, int]) -> Tensor:
    """Anchors (A, 4) after their offsets, clipped to the input: torchvision's `BoxCoder.decode` with weights 1."""
    x1, y1, x2, y2 = anchors.unbind(1)
    dx, dy, dw, dh = offsets.unbind(1)
    width, height = x2 - x1, y2 - y1
    x, y = dx * width + (x1 + 0.5 * width), dy * height + (y1 + 0.5 * height)
    half_width = 0.5 * (torch.exp(dw.clamp(max=LARGEST_GROWTH)) * width)
    half_height = 0.5 * (torch.exp(dh.clamp(max=LARGEST_GROWTH)) * height)
    rows, columns = size
    across = (x - half_width).clamp(0, columns), (x + half_width).clamp(0, columns)
    down = (y - half_height).clamp(0, rows), (y + half_height).clamp(0, rows)
    return torch.stack((across[0], down[0], across[1], down[1]), 1)


def _scale(cells: int, pixels: int) -> float:
    """Cells a pixel as a power of two, as torchvision's pooler takes it."""
    return float(2.0 ** round(math.log2(cells / pixels)))


def _area_bounds(scales: Sequence[float], canonical_side: float, canonical_level: int) -> list[float]:
    """Least area, in square pixels, of the proposals that are pooled on each level or a coarser one.

    Level k of torchvision's `LevelMapper` is floor(canonical_level + log2(side / canonical_side) + 1e-6), held between
    the first and the last level; the 1e-6 sends a box that lies on a bound to the coarser level, whatever is rounded.
    """
    first = round(-math.log2(scales[0]))
    last = round(-math.log2(scales[-1]))
    bounds: list[float] = []
    for level in range(first, first + len(scales)):
        side = canonical_side * 2.0 ** (level - canonical_level - 1e-6)
        bounds.append(side * side if level <= last else math.inf)
    return bounds
