"""Running statistics of normalisation, estimated anew: what a sub-model shows to others it shows in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import update_bn

from ...batches import TrainingData
from ...models.heads import Pyramid
from .teacher import Cooperative

BATCH, MOST = 32, 2048  # images at a time, and at all


@torch.no_grad()
def settle_norms(teacher: Cooperative, data: TrainingData, places: NDArray[np.int64]) -> None:
    """Means over these images, as they are and not varied: of the stem, then of the encoders, then of the readers."""
    teacher.eval()
    if teacher.stem is not None:
        update_bn((teacher.normalise(x) for x in _images(teacher, data, places)), teacher.stem)
    for name in teacher.names:
        update_bn((teacher.see(x) for x in _images(teacher, data, places)), teacher.encoder(name))
    for task in teacher.tasks:
        reader = teacher.reader(task.name)
        for part in (reader.decoder, reader.head):
            if part is not None:
                update_bn(_fed(teacher, task.name, data, places, decoded=part is reader.head), part)
    teacher.eval()


def _fed(
    teacher: Cooperative, name: str, data: TrainingData, places: NDArray[np.int64], *, decoded: bool
) -> Iterator[Pyramid]:
    """What a reader's decoder, or its head, is fed."""
    reader = teacher.reader(name)
    for x in _images(teacher, data, places):
        pyramids = teacher.pyramids(x)
        maps = {other: pyramid[32] for other, pyramid in pyramids.items()}
        own = pyramids[name]
        fused = reader.fusion(reader.settle(own[32], reader.cells(own[32])), teacher.of_others(name, maps, own[32]))
        seen: Pyramid = {**own, 32: fused}
        yield seen | reader.decoder(seen) if decoded and reader.decoder is not None else seen


def _images(teacher: Cooperative, data: TrainingData, places: NDArray[np.int64]) -> Iterator[Tensor]:
    device = next(teacher.parameters()).device
    few = places if len(places) <= MOST else places[np.linspace(0, len(places) - 1, MOST).astype(np.int64)]
    for part in np.array_split(few, max(1, len(few) // BATCH)):
        if len(part) > 1:  # one image has no variance
            yield data.batch(part).images.to(device)
