"""Images a second in training: Foveola's loop beside a bare torch loop on the same network, data and augmentation.

    python bench/train_throughput.py                                    # a small size, for CPUs
    python bench/train_throughput.py --backbone resnet50 --size 224 --batch 256 --steps 50     # a GPU

Two trainings: a MoCo step, and supervised multitask training (findings, masks). Both loops run in turn, several times,
and the ratio of their medians is what counts: it cancels the machine's mood. The share of peak puts the network's
multiply-adds a second beside those of one large matrix product or convolution, whichever is faster there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from foveola.runtime.image import Geometry
from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Task
from foveola.toolkit.batches import TrainingData, augment
from foveola.toolkit.checkpoint import Objective
from foveola.toolkit.course import Course, Scores
from foveola.toolkit.data.arrays import Arrays
from foveola.toolkit.data.samples import Sample
from foveola.toolkit.fit import Supervised, fit, make_fabric, make_optimizer
from foveola.toolkit.knobs import Augment, Plan
from foveola.toolkit.models.network import Architecture, Network
from foveola.toolkit.teachers.contrast import Encoder, MoCo
from foveola.toolkit.teachers.pretrain import Contrast, ContrastCourse

TASKS = (
    Task(name="findings", kind="multilabel", classes=tuple("abcdefghijklmn")),
    Task(name="lungs", kind="segmentation", classes=("right", "left")),
)
HOW = Augment(rotate=10, scale=0.1, shift=0.05, brightness=0, contrast=0, noise=0, flip=True)


def main() -> None:
    """See the file's head."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12, help="a measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="of torch on a CPU; 0 leaves its own choice")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    spec = InputSpec(height=given.size, width=given.size, channels=1)
    data = made_up(spec, given.batch * given.steps)
    peak = measured_peak()
    found: dict[str, dict[str, float]] = {}
    for name in ("moco", "supervised"):
        make = moco if name == "moco" else supervised
        work = flops(make(given.backbone, spec, given.batch), data, given.batch, name)
        found[name] = compare(make, data, name, given, work, peak)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(
        json.dumps(
            {
                "device": device,
                "backbone": given.backbone,
                "size": given.size,
                "batch": given.batch,
                "peak_tflops": peak / 1e12,
                **found,
            },
            indent=1,
        )
    )


def compare(
    make: Callable[[str, InputSpec, int], Objective],
    data: TrainingData,
    name: str,
    given: argparse.Namespace,
    work: float,
    peak: float,
) -> dict[str, float]:
    """Images a second of both loops, in turn, and their ratio."""
    images = given.batch * given.steps
    speeds: dict[str, list[float]] = {"bare": [], "foveola": []}
    bare, ours = make(given.backbone, spec_of(data), given.batch), make(given.backbone, spec_of(data), given.batch)
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(given.repeats + 1):
            plain = bare_loop(bare, data, given.batch, name)
            full = our_loop(ours, data, given.batch, name, Path(folder) / str(turn))
            if turn:  # the first warms up
                speeds["bare"].append(images / plain)
                speeds["foveola"].append(images / full)
    bare_speed, our_speed = (statistics.median(speeds[which]) for which in ("bare", "foveola"))
    return {
        "bare_images_per_second": bare_speed,
        "foveola_images_per_second": our_speed,
        "ratio": our_speed / bare_speed,
        "share_of_peak": our_speed * work / peak,
    }


def bare_loop(objective: Objective, data: TrainingData, batch: int, name: str) -> float:
    """Nothing but forward, backward and step; no progress, no logs, no check of the loss."""
    fabric = make_fabric()
    optimizer = make_optimizer(objective, plan_of(batch))
    model, wrapped = fabric.setup(objective.to(memory_format=torch.channels_last), optimizer)
    model.train()
    generator = torch.Generator().manual_seed(0)
    order = np.random.default_rng(0).permutation(len(data))
    start = now()
    for first in range(0, len(order), batch):
        read = data.batch(order[first : first + batch])
        seen = augment(read, HOW, generator, fabric.device)
        if name == "moco":
            second = augment(read, HOW, generator, fabric.device)
            seen = msgspec.structs.replace(seen, second=second.images)
        losses = model(seen)
        wrapped.zero_grad(set_to_none=True)
        fabric.backward(torch.stack(list(losses.values())).sum())
        wrapped.step()
    return now() - start


def our_loop(objective: Objective, data: TrainingData, batch: int, name: str, folder: Path) -> float:
    """The toolkit's loop, timed from the first step's start to the last step's end: log, progress, checks and all."""
    clock: list[float] = []

    class Timed(ContrastCourse if name == "moco" else Course):  # type: ignore[misc]
        def begin(self, *_: object) -> None:
            clock.append(now())

        def judge(self, *_: object) -> Scores:
            clock.append(now())
            return Scores(0.0, {})

    plan = plan_of(batch)
    if name == "moco":
        course = Timed(data, plan, {"": np.arange(len(data))}, "uniform", probe=None, probe_every=0, names=[])
    else:
        course = Timed(data, lambda network: Scores(0.0, {}), plan)
    fit(objective, course, seed=0, folder=folder, report=lambda done, total, text: None, log=folder / "curve.csv")
    return clock[1] - clock[0]


def plan_of(batch: int) -> Plan:
    """One epoch of SGD without clipping or averaging, so that both loops do the same."""
    return Plan(epochs=1, batch_size=batch, learning_rate=1e-3, optimizer="sgd", clip=0.0, ema=0.0, augment=HOW)


def moco(backbone: str, spec: InputSpec, batch: int) -> Objective:
    """The contrastive learner."""
    torch.manual_seed(0)
    return Contrast(MoCo(Encoder(backbone, spec), queue=batch * 16, momentum=0.99, temperature=0.1))


def supervised(backbone: str, spec: InputSpec, batch: int) -> Objective:
    """A multitask teacher."""
    torch.manual_seed(0)
    return Supervised(Network(Architecture(role="teacher", backbone=backbone, input=spec, tasks=TASKS)))


def made_up(spec: InputSpec, images: int) -> TrainingData:
    """Random pictures and targets in a file that is mapped into memory, as the cache is."""
    rng = np.random.default_rng(0)
    path = Path(tempfile.mkdtemp()) / "images.npy"
    np.save(path, rng.random((images, 1, spec.height, spec.width), dtype=np.float32))
    samples = tuple(
        Sample(key=str(i), path=path, patient=str(i), split="train", sha256=str(i), attributes={}, row=i)
        for i in range(images)
    )
    arrays = Arrays(
        images=np.load(path, mmap_mode="r"),
        scalars={"findings": rng.integers(0, 2, (images, 14)).astype(np.float32)},
        masks={"lungs": rng.integers(0, 3, (images, spec.height, spec.width), dtype=np.uint8)},
        boxes={},
        geometries=tuple[Geometry, ...](),
        samples=samples,
    )
    return TrainingData(arrays, TASKS, {}, {})


def spec_of(data: TrainingData) -> InputSpec:
    """The input of the made-up pictures."""
    return InputSpec(height=data.images.shape[-2], width=data.images.shape[-1], channels=1)


def flops(objective: Objective, data: TrainingData, batch: int, name: str) -> float:
    """Floating point operations of one image's step (two a multiply-add), counted by torch."""
    seen = augment(data.batch(np.arange(batch)), HOW, torch.Generator().manual_seed(0))
    if name == "moco":
        seen = msgspec.structs.replace(seen, second=seen.images)
    with FlopCounterMode(display=False) as counter:
        torch.stack(list(objective.train()(seen).values())).sum().backward()
    return float(counter.get_total_flops()) / batch


def measured_peak() -> float:
    """Operations a second of one large matrix product or convolution, in the precision of training: the best seen."""
    cuda = torch.cuda.is_available()
    place, kind = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    size, batch, channels, side = (8192, 64, 512, 56) if cuda else (1536, 8, 256, 28)
    a = torch.randn(size, size, device=place, dtype=kind)
    x = torch.randn(batch, channels, side, side, device=place, dtype=kind).to(memory_format=torch.channels_last)
    w = torch.randn(channels, channels, 3, 3, device=place, dtype=kind).to(memory_format=torch.channels_last)
    product = min(timed(lambda: a @ a))
    convolution = min(timed(lambda: torch.nn.functional.conv2d(x, w, padding=1)))
    return max(2 * size**3 / product, 2 * 9 * channels**2 * batch * side**2 / convolution)


def timed(work: Callable[[], object], repeats: int = 8) -> Iterator[float]:
    """Seconds of each repeat, after one to warm up."""
    work()
    for _ in range(repeats):
        start = now()
        work()
        yield now() - start


def now() -> float:
    """Seconds, when the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
