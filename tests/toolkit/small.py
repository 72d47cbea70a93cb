"""The tiny valid thing of the training tests: sixteen pictures of a bright square, with targets of every kind."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Task
from foveola.toolkit.data.dataset import Dataset, read_dataset
from foveola.toolkit.knobs import Plan, Shape

SPEC = InputSpec(height=64, width=64, channels=1)
TASKS = (
    Task(name="bright", kind="binary", classes=("no", "yes")),
    Task(name="signs", kind="multilabel", classes=("left", "top")),
    Task(name="corner", kind="multiclass", classes=("a", "b", "c")),
    Task(name="grade", kind="ordinal", classes=("none", "some", "much")),
    Task(name="side", kind="regression", classes=("side",), unit="px"),
    Task(name="square", kind="segmentation", classes=("square",)),
    Task(name="halves", kind="segmentation", classes=("upper", "lower"), exclusive=False),
    Task(name="things", kind="detection", classes=("square", "other"), columns=("boxes",)),
)
PLAN = Plan(epochs=2, batch_size=4, learning_rate=1e-3)
TEACHER = Shape(backbone="resnet10t", input=SPEC, width=16, output_stride=32)
STUDENT = Shape(backbone="mobilenetv4_conv_small_035", input=SPEC, width=16)
SPLITS = ("train",) * 8 + ("val",) * 4 + ("calibration",) * 2 + ("test",) * 2


def make_squares(root: Path, *, seed: int = 0) -> Path:
    """Write the data set; every third case lacks each dense target, some scalar cells are empty."""
    rng = np.random.default_rng(seed)
    rows = []
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for i, split in enumerate(SPLITS):
        side, x, y = rng.integers(12, 28), rng.integers(2, 32), rng.integers(2, 32)
        picture = rng.normal(60, 8, (64, 64))
        picture[y : y + side, x : x + side] += 60 + 40 * (i % 2)
        inside = np.zeros((64, 64), np.uint8)
        inside[y : y + side, x : x + side] = 1
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(root / f"images/{i}.png")
        Image.fromarray(inside).save(root / f"masks/{i}.png")
        Image.fromarray(inside * (np.arange(64) < 32)[:, None].astype(np.uint8)).save(root / f"masks/{i}_upper.png")
        dense = i % 3 != 2
        box = {"label": "square", "x1": int(x), "y1": int(y), "x2": int(x + side), "y2": int(y + side)}
        rows.append(
            {
                "file": f"images/{i}.png",
                "patient_id": f"p{i}",
                "split": split,
                "bright": i % 2,
                "left": int(x < 16),
                "top": "" if i % 5 == 0 else int(y < 16),
                "corner": "abc"[i % 3],
                "grade": i % 3,
                "side": "" if i % 4 == 3 else int(side),
                "square": f"masks/{i}.png" if dense else "",
                "upper": f"masks/{i}_upper.png" if dense else "",
                "lower": "",
                "boxes": json.dumps([box]) if dense else "",
            }
        )
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


def squares(root: Path, tasks: tuple[Task, ...] = TASKS) -> Dataset:
    """The data set, read; made where it is not there."""
    return read_dataset(root if (root / "manifest.csv").exists() else make_squares(root), tasks)


def silent(done: float, total: float, text: str = "") -> None:
    """No progress."""
