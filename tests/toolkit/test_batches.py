from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from foveola.runtime.task import Task
from foveola.toolkit.answers import RawAnswers
from foveola.toolkit.batches import Batch, TrainingData, augment
from foveola.toolkit.data.arrays import Arrays
from foveola.toolkit.knobs import Augment

STILL = Augment(rotate=0, scale=0, shift=0, brightness=0, contrast=0, noise=0)


def batch(height: int = 48, width: int = 64) -> Batch:
    images = torch.zeros(2, 1, height, width)
    images[:, :, 16:32, 20:40] = 0.8
    mask = (images[:, 0] > 0).to(torch.uint8)
    gap = torch.full_like(mask, 255)
    boxes = torch.tensor([[20.0, 16, 40, 32, 1]])
    return Batch(
        images=images,
        scalars={"x": torch.tensor([[1.0], [math.nan]])},
        masks={"square": mask, "gap": gap},
        boxes={"things": [boxes, None]},
        soft={"square": torch.stack((-images[:, 0], images[:, 0]), 1), "x": torch.ones(2, 1)},
        soft_boxes={"things": [torch.cat((boxes, torch.tensor([[0.7]])), 1)] * 2},
        hint=images[:, :, ::8, ::8].clone(),
        view=torch.ones(2, 1, height, width, dtype=torch.bool),
    )


def test_nothing_moves_when_every_variation_is_off() -> None:
    before = batch()
    after = augment(before, STILL, torch.Generator().manual_seed(0))

    assert torch.allclose(before.images, after.images, atol=1e-5)
    assert torch.equal(before.masks["square"], after.masks["square"])
    assert before.boxes["things"][0] is not None
    assert after.boxes["things"][0] is not None
    assert torch.allclose(before.boxes["things"][0], after.boxes["things"][0], atol=1e-4)
    assert bool(after.view.all())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_image_mask_and_box_move_together(seed: int, flip: bool) -> None:
    how = Augment(rotate=0, scale=0.2, shift=0.1, brightness=0, contrast=0, noise=0, flip=flip)

    after = augment(batch(), how, torch.Generator().manual_seed(seed))

    inside = after.images[0, 0] > 0.4
    rows, columns = torch.nonzero(inside.any(1)).flatten(), torch.nonzero(inside.any(0)).flatten()
    box = after.boxes["things"][0]
    assert box is not None
    seen = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
    assert torch.allclose(box[0, :4], seen, atol=1.01)
    assert int(((after.masks["square"][0] == 1) != inside).sum()) <= 70  # the border's pixels


def test_what_comes_in_from_outside_is_no_target() -> None:
    after = augment(batch(), Augment(shift=0.4, noise=0), torch.Generator().manual_seed(5))

    assert bool((after.masks["gap"] == 255).all())
    outside = ~after.view[:, 0]
    assert bool(outside.any())
    assert bool((after.masks["square"][outside & (after.images[:, 0] == 0)] != 1).all())


def test_gaps_stay_gaps_and_the_same_seed_gives_the_same_picture() -> None:
    one = augment(batch(), Augment(), torch.Generator().manual_seed(1))
    two = augment(batch(), Augment(), torch.Generator().manual_seed(1))

    assert torch.equal(one.images, two.images)
    assert one.boxes["things"][1] is None
    assert bool(one.scalars["x"][1].isnan())
    assert 0 <= float(one.images.min()) <= float(one.images.max()) <= 1


def test_a_box_mostly_out_of_view_is_dropped() -> None:
    shifted = [
        augment(batch(), Augment(rotate=0, scale=0, shift=0.9), torch.Generator().manual_seed(s)) for s in range(12)
    ]

    counts = {0 if boxes is None else len(boxes) for one in shifted for boxes in one.boxes["things"][:1]}
    assert counts == {0, 1}


@pytest.fixture
def two_threads() -> Iterator[None]:
    """A team of two, which the other tests do without."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_reading_a_batch_starts_no_second_team_of_threads(two_threads: None) -> None:
    """Two OpenMP teams fight over the cores: with one in the reader a training on a CPU lost 40 % of its speed."""
    rng = np.random.default_rng(0)
    images, place = 64, np.arange(32)
    arrays = Arrays(
        images=rng.random((images, 1, 96, 96), dtype=np.float32),
        scalars={"findings": rng.random((images, 3)).astype(np.float32)},
        masks={"lungs": np.zeros((images, 96, 96), np.uint8)},
        boxes={"nodules": (np.ones((2, 5), np.float32),) * images},
        geometries=(),
        samples=(),
    )
    tasks = (
        Task(name="findings", kind="multilabel", classes=("a", "b", "c")),
        Task(name="lungs", kind="segmentation", classes=("lung",)),
        Task(name="nodules", kind="detection", classes=("nodule",)),
    )
    answers = RawAnswers(
        raw={"findings": np.zeros((images, 3), np.float32), "lungs": np.zeros((images, 2, 48, 48), np.float32)},
        boxes={"nodules": [np.ones((2, 6), np.float32)] * images},
        hint=np.zeros((images, 256, 8, 8), np.float16),
    )
    data = TrainingData(arrays, tasks, {}, {}, answers)
    started = dict.fromkeys(("batch", "torch"), 0)

    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    def read() -> None:
        before = threads()
        data.batch(place)
        started["batch"] = threads() - before
        torch.ones(32, 1, 256, 256)
        started["torch"] = threads() - before

    reader = threading.Thread(target=read)
    reader.start()
    reader.join()

    assert started["batch"] == 0
    assert started["torch"] > 0, "the test would see a team"
