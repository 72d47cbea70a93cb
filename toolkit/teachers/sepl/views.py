"""How SePL varies a picture: exactly one of four, by chance (Ko et al., MICCAI 2025, released code).

As it is, mirrored left and right, upside down, or turned by up to 15 degrees. None of these may change a target: where
a factor is a place in the picture or the side of the eye, take `views: affine` and say how far.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from ...batches import Batch, move

TURN = 15.0  # degrees, both ways


def one_of_four(batch: Batch, generator: torch.Generator, device: torch.device) -> Batch:
    """The batch on its device, each picture in one of four views.

    Args:
        batch: on the CPU; its targets are numbers alone.
        generator: of the CPU; it draws the same views whatever the device.
        device: where the pictures are moved.
    """
    height, width = batch.images.shape[-2:]
    maps = draw_maps(len(batch.images), width / height, generator).to(device)
    moved = move(batch, device)
    grid = functional.affine_grid(maps, list(moved.images.shape), align_corners=False)
    images = functional.grid_sample(moved.images, grid, padding_mode="zeros", align_corners=False)
    return msgspec.structs.replace(moved, images=images.contiguous(memory_format=torch.channels_last))


def draw_maps(count: int, aspect: float, generator: torch.Generator) -> Tensor:
    """(B, 2, 3) maps from the places of a view to those of the picture, in coordinates from -1 to 1.

    Args:
        count: B.
        aspect: width over height; a rotation is one in pixels.
        generator: draws which view, and how far it is turned.
    """
    which = torch.randint(0, 4, (count,), generator=generator)
    angle = torch.deg2rad((torch.rand(count, generator=generator) * 2 - 1) * TURN)
    angle = torch.where(which == 3, angle, torch.zeros_like(angle))
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0] = torch.where(which == 1, -1.0, angle.cos())
    maps[:, 1, 1] = torch.where(which == 2, -1.0, angle.cos())
    maps[:, 0, 1], maps[:, 1, 0] = -angle.sin() / aspect, angle.sin() * aspect
    return maps
