"""The tiny valid thing of these tests: a cooperation of three sub-models on the pictures of squares."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from small import TASKS, silent, squares

from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Task
from foveola.toolkit.batches import Batch, TrainingData
from foveola.toolkit.course import Scores
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.fit import fit, make_fabric
from foveola.toolkit.knobs import Augment, Plan
from foveola.toolkit.teachers.continual import labelled_places
from foveola.toolkit.teachers.mtcool.course import Play, TurnCourse
from foveola.toolkit.teachers.mtcool.learn import Build, learn_cooperatively, new_cooperative, tensors
from foveola.toolkit.teachers.mtcool.objective import Cooperation, Flat
from foveola.toolkit.teachers.mtcool.teacher import Cooperative

SPEC = InputSpec(height=32, width=32, channels=1)
STILL = Augment(rotate=0, scale=0, shift=0, brightness=0, contrast=0, noise=0)
THREE = tuple(task for task in TASKS if task.name in ("bright", "corner", "square"))  # binary, multiclass, masks
NUMBERS = tuple(task for task in TASKS if task.name in ("bright", "corner", "side"))
PLAN = Plan(
    epochs=2, batch_size=4, learning_rate=1e-2, optimizer="adam", weight_decay=0.0, warmup=0.0, ema=0.0, augment=STILL
)
BUILD = Build(backbone="test_efficientnet", input=SPEC, width=8)
PLAIN = Flat(perturb="none")
PLAY = Play(alone=0, back=0, keep="last")


def unjudged(network: object) -> Scores:
    return Scores(0.0, {})


def awake(teacher: Cooperative, seed: int = 7) -> Cooperative:
    """What carries the others' features is zero at the start; here it is not."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in teacher.named_parameters():
            if ".carry." in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return teacher


def made(
    root: Path, build: Build = BUILD, tasks: tuple[Task, ...] = THREE
) -> tuple[Cooperative, Dataset, TrainingData]:
    dataset = squares(root / "data", tasks)
    teacher = new_cooperative(dataset, build, 3)
    return teacher, dataset, tensors(teacher, prepare_arrays(dataset.subset("train"), SPEC))


def some(data: TrainingData, *places: int) -> Batch:
    return data.batch(np.array(places or (0, 1, 3, 4)))


def trained(
    root: Path,
    flat: Flat = PLAIN,
    play: Play = PLAY,
    plan: Plan = PLAN,
    build: Build = BUILD,
    tasks: tuple[Task, ...] = THREE,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
) -> tuple[Cooperative, list[dict[str, float]]]:
    """After a training without validation, and its losses by epoch."""
    teacher, dataset, data = made(root, build, tasks)
    course = TurnCourse(data, unjudged, plan, play, labelled_places(dataset), seed=1, stem=teacher.stem is not None)
    fabric = make_fabric(precision)
    history = fit(Cooperation(teacher, flat), course, seed=1, folder=root / "run", report=silent, fabric=fabric)
    return teacher, [epoch.losses for epoch in history]


def learned(
    root: Path,
    name: str,
    *,
    flat: Flat = PLAIN,
    play: Play = PLAY,
    plan: Plan = PLAN,
    tasks: tuple[Task, ...] = THREE,
) -> Cooperative:
    (root / name).mkdir()
    return learn_cooperatively(
        squares(root / "data", tasks),
        BUILD,
        plan,
        play,
        flat,
        folder=root / name,
        cache=root / "cache",
        seed=5,
        report=silent,
    )


def longer(epochs: int) -> Plan:
    return msgspec.structs.replace(PLAN, epochs=epochs)
