"""Images a second of distillation beside a bare torch loop: the same student, pictures, teacher's answers and losses.

    python bench/distil_speed.py                                     # a small student, for CPUs
    python bench/distil_speed.py --backbone mobilenetv4_conv_medium --size 384 --batch 128 --steps 50     # a GPU

Three loops run in turn, several times, and the ratios of their medians count, which cancels the machine's mood:

- `foveola`: the toolkit's loop as a recipe runs it, with clipping, averaged weights, log and checks;
- `bare`: forward, backward and step on the same batches with the same losses, and nothing else;
- `supervised`: the bare loop without a teacher: what the lessons themselves cost.

`--lessons all` turns on every lesson that a recipe can ask for.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from foveola.runtime.image import Geometry
from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Task
from foveola.toolkit.answers import RawAnswers
from foveola.toolkit.batches import TrainingData, augment
from foveola.toolkit.checkpoint import Objective
from foveola.toolkit.compress.distill import Distilled
from foveola.toolkit.course import Course, Scores
from foveola.toolkit.data.arrays import Arrays
from foveola.toolkit.data.samples import Sample
from foveola.toolkit.fit import Supervised, fit, make_fabric, make_optimizer
from foveola.toolkit.knobs import Lessons, Plan
from foveola.toolkit.models.network import Architecture, Network

TASKS = (
    Task(name="findings", kind="multilabel", classes=tuple("abcdefg")),
    Task(name="age", kind="regression", classes=("age",), unit="years"),
    Task(name="lungs", kind="segmentation", classes=("right", "left")),
    Task(name="boxes", kind="detection", classes=("nodule", "effusion", "opacity")),
)
MEAN: dict[str, tuple[float, ...]] = {"age": (50.0,)}
STD: dict[str, tuple[float, ...]] = {"age": (20.0,)}
FEATURES = 512
LESSONS = {
    "default": Lessons(),
    "all": Lessons(
        class_lesson="dist",
        value_lesson="uncertain",
        mask_lesson="both",
        box_lesson="scores",
        hint_foreground=0.5,
        relation_weight=0.1,
        task_weights="learned",
    ),
}


def main() -> None:
    """See the file's head."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backbone", default="mobilenetv4_conv_small")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12, help="a measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lessons", choices=list(LESSONS), default="default")
    parser.add_argument("--threads", type=int, default=0, help="of torch on a CPU; 0 leaves its own choice")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    spec = InputSpec(height=given.size, width=given.size, channels=1)
    data = made_up(spec, given.batch * given.steps)
    found = measure(given.backbone, spec, data, given.batch, given.repeats, LESSONS[given.lessons])
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    settings = {name: getattr(given, name) for name in ("backbone", "size", "batch", "steps", "repeats", "lessons")}
    print(json.dumps({"device": device, **settings, **found}, indent=1))


def measure(
    backbone: str, spec: InputSpec, data: TrainingData, batch: int, repeats: int, lessons: Lessons
) -> dict[str, float]:
    """Images a second of the three loops, in turn, and their ratios."""
    loops = ("bare", "foveola", "supervised")
    objectives = {name: objective(backbone, spec, None if name == "supervised" else lessons) for name in loops}
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    images = len(data) // batch * batch
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats + 1):
            for name in loops:
                if name == "foveola":
                    seconds = our_loop(objectives[name], data, batch, Path(folder) / str(turn))
                else:
                    seconds = bare_loop(objectives[name], data, batch)
                if turn:  # the first warms up
                    speeds[name].append(images / seconds)
    found = {f"{name}_images_per_second": statistics.median(speeds[name]) for name in loops}
    # Pairs of neighbours in time, so that a slow minute of the machine counts on both sides.
    for name, other in (("foveola", "bare"), ("foveola", "supervised")):
        pairs = zip(speeds[name], speeds[other], strict=True)
        found[f"{name}_to_{other}"] = statistics.median(a / b for a, b in pairs)
    return found


def bare_loop(objective: Objective, data: TrainingData, batch: int) -> float:
    """Nothing but reading, variation, forward, backward and step; no progress, no logs, no averages, no checks."""
    fabric = make_fabric()
    plan = plan_of(batch)
    optimizer = make_optimizer(objective, plan)
    model, wrapped = fabric.setup(objective.to(memory_format=torch.channels_last), optimizer)
    model.train()
    generator = torch.Generator().manual_seed(0)
    order = np.random.default_rng(0).permutation(len(data))
    start = now()
    for first in range(0, len(order) - batch + 1, batch):
        seen = augment(data.batch(order[first : first + batch]), plan.augment, generator, fabric.device)
        losses = model(seen)
        wrapped.zero_grad(set_to_none=True)
        fabric.backward(torch.stack(list(losses.values())).sum())
        wrapped.step()
    return now() - start


def our_loop(objective: Objective, data: TrainingData, batch: int, folder: Path) -> float:
    """The toolkit's loop, timed from the first step's start to the last step's end."""
    clock: list[float] = []

    class Timed(Course):
        def begin(self, epoch: int, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
            clock.append(now())

        def judge(self, epoch: int, network: torch.nn.Module) -> Scores:
            clock.append(now())
            return Scores(0.0, {})

    course = Timed(data, lambda network: Scores(0.0, {}), plan_of(batch))
    fit(objective, course, seed=0, folder=folder, report=lambda done, total, text: None, log=folder / "curve.csv")
    return clock[1] - clock[0]


def plan_of(batch: int) -> Plan:
    """One epoch with the knobs of the stage `distill`."""
    return Plan(epochs=1, batch_size=batch, learning_rate=1e-3)


def objective(backbone: str, spec: InputSpec, lessons: Lessons | None) -> Objective:
    """A student that is taught, or one that sees the reference standard alone."""
    torch.manual_seed(0)
    plan = Architecture(role="student", backbone=backbone, input=spec, tasks=TASKS, target_mean=MEAN, target_std=STD)
    network = Network(plan)
    return Supervised(network) if lessons is None else Distilled(network, lessons, hint_channels=FEATURES)


def made_up(spec: InputSpec, images: int) -> TrainingData:
    """Random pictures in a file that is mapped into memory, as the cache is, with targets and a teacher's answers."""
    rng = np.random.default_rng(0)
    path = Path(tempfile.mkdtemp()) / "images.npy"
    np.save(path, rng.random((images, 1, spec.height, spec.width), dtype=np.float32))
    samples = tuple(
        Sample(key=str(i), path=path, patient=str(i), split="train", sha256=str(i), attributes={}, row=i)
        for i in range(images)
    )
    arrays = Arrays(
        images=np.load(path, mmap_mode="r"),
        scalars={
            "findings": rng.integers(0, 2, (images, 7)).astype(np.float32),
            "age": rng.normal(50, 20, (images, 1)).astype(np.float32),
        },
        masks={"lungs": rng.integers(0, 3, (images, spec.height, spec.width), dtype=np.uint8)},
        boxes={"boxes": tuple(boxes(rng, spec, 1)[:, :5] for _ in range(images))},
        geometries=tuple[Geometry, ...](),
        samples=samples,
    )
    cells = spec.height // 16, spec.width // 16
    answers = RawAnswers(
        raw={
            "findings": rng.normal(size=(images, 7)).astype(np.float32),
            "age": rng.normal(size=(images, 1)).astype(np.float32),
            "lungs": rng.normal(size=(images, 3, *cells)).astype(np.float32),
        },
        boxes={"boxes": [boxes(rng, spec, 4)[:, [0, 1, 2, 3, 5, 4]] for _ in range(images)]},
        hint=rng.random((images, FEATURES, 8, 8)).astype(np.float16),
    )
    return TrainingData(arrays, TASKS, MEAN, STD, answers)


def boxes(rng: np.random.Generator, spec: InputSpec, count: int) -> np.ndarray:
    """Boxes (count, 6) of a fifth to a half of the picture: corners, label, score."""
    low = rng.uniform(0, 0.5, (count, 2)) * (spec.width, spec.height)
    side = rng.uniform(0.2, 0.5, (count, 2)) * (spec.width, spec.height)
    label, score = rng.integers(0, 3, (count, 1)), rng.uniform(0.05, 1, (count, 1))
    return np.concatenate([low, low + side, label, score], 1).astype(np.float32)


def now() -> float:
    """Seconds, when the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
