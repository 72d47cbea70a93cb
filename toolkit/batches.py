"""Training data as tensors: batches by index, and one augmentation that moves images and targets together.

B batch, C channels, K mask channels, M boxes. All that augmentation draws comes from one generator seeded by epoch, so
that a resumed training sees the same pictures as an uninterrupted one. What a warp brings in from outside the picture
is never a target: masks hold 255 there.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..runtime.task import Task
from .answers import RawAnswers
from .data.arrays import Arrays
from .data.masks import IGNORE
from .knobs import Augment


class Batch(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Images, targets and, for distillation, a teacher's answers.

    No dataclass: Fabric would take it apart and put it together anew at every step.
    """

    images: Tensor  # (B, C, H, W)
    scalars: dict[str, Tensor]  # (B, columns), NaN where not known
    masks: dict[str, Tensor]  # uint8 (B, H, W) or (B, K, H, W), 255 where not known
    boxes: dict[str, list[Tensor | None]]  # (M, 5), None where not annotated
    soft: dict[str, Tensor]  # a teacher's raw outputs: (B, T), or (B, K, h, w) for masks
    soft_boxes: dict[str, list[Tensor]]  # a teacher's boxes (M, 5 + score) in the order x1, y1, x2, y2, label, score
    hint: Tensor | None  # a teacher's features (B, F, h, w)
    view: Tensor  # bool (B, 1, H, W): inside the original picture
    second: Tensor | None = None  # (B, C, H, W) another view of each image, for contrastive learning

    def target(self, task: Task) -> Tensor | list[Tensor | None]:
        """The reference standard of a task."""
        if task.kind == "segmentation":
            return self.masks[task.name]
        return self.boxes[task.name] if task.kind == "detection" else self.scalars[task.name]


class TrainingData:
    """Prepared arrays (and a teacher's answers) as tensors that share their memory."""

    def __init__(
        self,
        arrays: Arrays,
        tasks: Sequence[Task],
        target_mean: dict[str, tuple[float, ...]],
        target_std: dict[str, tuple[float, ...]],
        teacher: RawAnswers | None = None,
        teacher_scale: float = 1.0,
    ) -> None:
        self.images = arrays.images
        self.scalars = {}
        for task in tasks:
            if task.kind in ("segmentation", "detection"):
                continue
            values = torch.from_numpy(np.array(arrays.scalars[task.name], dtype=np.float32))
            if task.kind == "regression":
                values = (values - torch.tensor(target_mean[task.name])) / torch.tensor(target_std[task.name])
            self.scalars[task.name] = values
        self.masks = {task.name: arrays.masks[task.name] for task in tasks if task.kind == "segmentation"}
        self.boxes = {task.name: arrays.boxes[task.name] for task in tasks if task.kind == "detection"}
        self.teacher = teacher
        self.teacher_scale = teacher_scale  # student's input pixels per pixel of the teacher's input

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: NDArray[np.int64]) -> Batch:
        """The cases at these places, not augmented.

        Copied and converted by NumPy, in one thread. This runs beside the training's own arithmetic, and torch would
        start a second team of OpenMP threads here, and the two fight over the cores: 40 % of the speed, measured.
        """
        images = torch.from_numpy(np.asarray(self.images[index]))
        boxes = {
            name: [None if found[i] is None else torch.from_numpy(np.asarray(found[i])) for i in index]
            for name, found in self.boxes.items()
        }
        return Batch(
            images=images,
            scalars={name: values[index] for name, values in self.scalars.items()},
            masks={name: torch.from_numpy(np.asarray(values[index])) for name, values in self.masks.items()},
            boxes=boxes,
            soft={} if self.teacher is None else {n: _float32(v[index]) for n, v in self.teacher.raw.items()},
            soft_boxes={}
            if self.teacher is None
            else {n: [_soft(b[i], self.teacher_scale) for i in index] for n, b in self.teacher.boxes.items()},
            hint=None if self.teacher is None or self.teacher.hint is None else _float32(self.teacher.hint[index]),
            view=torch.from_numpy(np.ones((len(index), 1, *images.shape[-2:]), np.bool_)),
        )


def _float32(values: NDArray[np.floating]) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))


def _soft(boxes: NDArray[np.float32], scale: float) -> Tensor:
    soft = torch.from_numpy(boxes[:, [0, 1, 2, 3, 5, 4]].astype(np.float32))
    soft[:, :4] *= scale
    return soft


def augment(batch: Batch, how: Augment, generator: torch.Generator, device: torch.device | None = None) -> Batch:
    """A varied copy on `device`: one random affine warp and one random change of light for each image.

    Args:
        batch: on the CPU.
        how: how far.
        generator: of the CPU; it draws the same warps whatever the device.
        device: where the copy goes and the pixels are moved; None: the CPU.
    """
    count, height, width = len(batch.images), batch.images.shape[-2], batch.images.shape[-1]
    forward = _affine(count, height, width, how, generator)
    inverse = torch.linalg.inv(forward)[:, :2]
    boxes = {name: _move_known(found, forward, batch) for name, found in batch.boxes.items()}
    soft_boxes = {name: _move_list(found, forward, batch) for name, found in batch.soft_boxes.items()}
    placed = msgspec.structs.replace(batch, boxes=boxes, soft_boxes=soft_boxes)
    moved = move(placed, device or torch.device("cpu"))
    inverse = inverse.to(moved.images.device)

    def warp(x_BCHW: Tensor, mode: str) -> Tensor:
        grid = functional.affine_grid(inverse, list(x_BCHW.shape), align_corners=False)
        return functional.grid_sample(x_BCHW, grid, mode=mode, padding_mode="zeros", align_corners=False)

    def warp_labels(mask: Tensor) -> Tensor:
        channels = mask if mask.dim() == 4 else mask[:, None]
        # Zero stands for "outside" in grid_sample, so labels are moved until 255 is zero.
        labels = warp(channels.float() - IGNORE, "nearest") + IGNORE
        return labels.to(torch.uint8).reshape(mask.shape)

    return msgspec.structs.replace(
        moved,
        images=_relight(warp(moved.images, "bilinear"), how, generator).contiguous(memory_format=torch.channels_last),
        masks={name: warp_labels(mask) for name, mask in moved.masks.items()},
        soft={name: warp(raw, "bilinear") if raw.dim() == 4 else raw for name, raw in moved.soft.items()},
        hint=None if moved.hint is None else warp(moved.hint, "bilinear"),
        view=warp(moved.view.float(), "bilinear") > 0.999,
    )


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device; copies from pinned memory do not hold up the processor."""

    def there(x: Tensor) -> Tensor:
        return x.to(device, non_blocking=True)

    def lists(many: dict[str, list[Tensor | None]]) -> dict[str, list[Tensor | None]]:
        return {name: [None if one is None else there(one) for one in found] for name, found in many.items()}

    return Batch(
        images=there(batch.images).contiguous(memory_format=torch.channels_last),
        scalars={name: there(x) for name, x in batch.scalars.items()},
        masks={name: there(x) for name, x in batch.masks.items()},
        boxes=lists(batch.boxes),
        soft={name: there(x) for name, x in batch.soft.items()},
        soft_boxes={name: [there(one) for one in found] for name, found in batch.soft_boxes.items()},
        hint=None if batch.hint is None else there(batch.hint),
        view=there(batch.view),
        second=None if batch.second is None else there(batch.second).contiguous(memory_format=torch.channels_last),
    )


def pin(batch: Batch) -> Batch:
    """The same batch with its large tensors in page-locked memory, from where a GPU takes them by itself."""
    return msgspec.structs.replace(
        batch,
        images=batch.images.pin_memory(),
        masks={name: x.pin_memory() for name, x in batch.masks.items()},
        view=batch.view.pin_memory(),
    )


def _move_list(found: list[Tensor], forward: Tensor, batch: Batch) -> list[Tensor]:
    height, width = batch.images.shape[-2], batch.images.shape[-1]
    return [_move_boxes(one, forward[i], height, width) for i, one in enumerate(found)]


def _move_known(found: list[Tensor | None], forward: Tensor, batch: Batch) -> list[Tensor | None]:
    height, width = batch.images.shape[-2], batch.images.shape[-1]
    return [None if one is None else _move_boxes(one, forward[i], height, width) for i, one in enumerate(found)]


def _affine(count: int, height: int, width: int, how: Augment, generator: torch.Generator) -> Tensor:
    """(B, 3, 3) maps from original to warped places, in normalised coordinates (-1..1 are the picture's edges)."""
    draw = torch.rand(count, 5, generator=generator) * 2 - 1
    angle = torch.deg2rad(draw[:, 0] * how.rotate)
    size = 1 + draw[:, 1] * how.scale
    mirror = torch.where(draw[:, 4] > 0, -1.0, 1.0) if how.flip else torch.ones(count)
    aspect = width / height  # a rotation is one in pixels, not in normalised coordinates
    forward = torch.zeros(count, 3, 3)
    forward[:, 0, 0] = angle.cos() * size * mirror
    forward[:, 0, 1] = -angle.sin() * size / aspect
    forward[:, 1, 0] = angle.sin() * size * aspect * mirror
    forward[:, 1, 1] = angle.cos() * size
    forward[:, 0, 2], forward[:, 1, 2] = draw[:, 2] * 2 * how.shift, draw[:, 3] * 2 * how.shift
    forward[:, 2, 2] = 1
    return forward


def _relight(images: Tensor, how: Augment, generator: torch.Generator) -> Tensor:
    """Brightness and contrast about the image's own mean, then noise; clipped to 0..1 as the device's input is."""
    draw = torch.rand(len(images), 3, 1, 1, 1, generator=generator).to(images.device)
    mean = images.mean((1, 2, 3), keepdim=True)
    contrast = 1 + (draw[:, 0] * 2 - 1) * how.contrast
    images = (images - mean) * contrast + mean + (draw[:, 1] * 2 - 1) * how.brightness
    if how.noise > 0:
        # On a GPU its own generator draws: so many numbers would take the processor longer than the network's step.
        own = generator if images.device.type == "cpu" else None
        noise = torch.randn(images.shape, generator=own, device=images.device)
        images = images + noise * (draw[:, 2] * how.noise)
    return images.clamp(0, 1)


def _move_boxes(boxes: Tensor, forward_33: Tensor, height: int, width: int, keep: float = 0.4) -> Tensor:
    """Upright boxes around the moved corners, clipped; a box of which less than `keep` stays in view is dropped."""
    if len(boxes) == 0:
        return boxes
    size = torch.tensor([width, height], dtype=torch.float32)
    corners = boxes[:, [0, 1, 2, 1, 0, 3, 2, 3]].reshape(-1, 4, 2).float() / size * 2 - 1
    moved = (corners @ forward_33[:2, :2].T + forward_33[:2, 2] + 1) / 2 * size
    low, high = moved.amin(1), moved.amax(1)
    # The upright frame of a rotated box is too large; shrink it to the box's own size about its centre.
    side = (boxes[:, 2:4] - boxes[:, :2]) * torch.linalg.det(forward_33[:2, :2]).abs().sqrt()
    side = torch.minimum(side, high - low)
    centre = (low + high) / 2
    low, high = centre - side / 2, centre + side / 2
    clipped_low, clipped_high = torch.maximum(low, torch.zeros(2)), torch.minimum(high, size)
    left = (clipped_high - clipped_low).clamp(min=0).prod(1) / side.prod(1).clamp(min=1e-6)
    return torch.cat((clipped_low, clipped_high, boxes[:, 4:].float()), 1)[left >= keep]
