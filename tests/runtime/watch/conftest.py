"""One small bundle to watch, whose reference can be drawn again, and a clock that goes when it is told to."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from foveola.runtime.fitness.manifest import Bound, Fitness
from foveola.runtime.histogram import Reference, histograms
from foveola.runtime.manifest import (
    FORMAT,
    Calibration,
    InputSpec,
    Manifest,
    OnnxRuntimeOptions,
    Provenance,
    TaskOutput,
)
from foveola.runtime.prediction import Box, Finding, Mask, Prediction, Quality
from foveola.runtime.task import Task
from foveola.runtime.watch.audit import Audit
from foveola.runtime.watch.watch import Limits, Watch

OUTPUTS = (
    TaskOutput(task=Task(name="nodule", kind="binary", classes=("no", "yes")), tensors=("nodule",)),
    TaskOutput(task=Task(name="lungs", kind="segmentation", classes=("lung",)), tensors=("lungs",)),
    TaskOutput(task=Task(name="spots", kind="detection", classes=("spot",)), tensors=("a", "b"), stride=4),
)


@pytest.fixture(scope="session")
def watched_manifest() -> Manifest:
    rng = np.random.default_rng(7)
    inputs = {"brightness": rng.normal(0.5, 0.1, 800), "contrast": rng.normal(0.2, 0.05, 800)}
    reference = Reference(
        split="val",
        images=800,
        patients=400,
        inputs=histograms(inputs),
        answers=histograms({"nodule/yes": rng.beta(2, 5, 800)}),
    )
    return Manifest(
        format=FORMAT,
        name="chest",
        version="3",
        device="generic-x86",
        input=InputSpec(height=8, width=8, channels=1),
        outputs=OUTPUTS,
        engines=(OnnxRuntimeOptions(),),
        calibration=Calibration(method="none", images=0, min_images=0, images_digest=""),
        fitness=Fitness(kind="fundus", bounds=(Bound(measure="focus", low=0.3), Bound(measure="white", high=0.2))),
        reference=reference,
        provenance=Provenance(
            recipe="tiny", recipe_digest="", data_digest="", teacher_digest="", student_digest="", seed=0, versions={}
        ),
    )


@pytest.fixture(autouse=True)
def no_disk_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test reads back does not depend on it; a slow disk would make the tests slow."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Clock:
    """A clock that stands until it is told to go."""

    def __init__(self) -> None:
        self.at = datetime(2026, 3, 2, 9, 30)

    def __call__(self) -> datetime:
        return self.at

    def days(self, count: int) -> None:
        self.at += timedelta(days=count)


class Sensors:
    """Sensors that say what they are told to."""

    def __init__(self) -> None:
        self.celsius: float | None = 61.0
        self.throttled: int | None = 5

    def temperature_c(self) -> float | None:
        return self.celsius

    def throttles(self) -> int | None:
        return self.throttled


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sensors() -> Sensors:
    return Sensors()


@pytest.fixture
def open_watch(tmp_path: Path, watched_manifest: Manifest, clock: Clock, sensors: Sensors) -> Callable[..., Watch]:
    """Open a watch on the test's own folder; it writes at each image unless other limits are given."""

    def make(limits: Limits | None = None, manifest: Manifest | None = None) -> Watch:
        limits = limits or Limits(flush_s=0, sense_s=0)
        return Watch(tmp_path / "watch", manifest or watched_manifest, limits, now=clock, sensors=sensors)

    return make


@pytest.fixture
def answered() -> Callable[..., Prediction]:
    def make(probability: float = 0.25, boxes: int = 0, quality: Quality | None = None) -> Prediction:
        if quality is not None and not quality.fit:
            return Prediction(quality=quality)
        box = Box(task="spots", label="spot", score=0.9, x1=0, y1=0, x2=1, y2=1, positive=True)
        finding = Finding(
            task="nodule", label="yes", probability=probability, threshold=0.5, positive=probability >= 0.5
        )
        mask = Mask(task="lungs", label="lung", pixels=np.ones((2, 2), np.bool_), area_px=4, fraction=0.33)
        return Prediction(findings=(finding,), masks=(mask,), boxes=(box,) * boxes, quality=quality)

    return make


@pytest.fixture
def make_log(tmp_path: Path) -> Callable[..., Path]:
    """Write an audit log of so many lines and give its folder."""

    def make(lines: int = 8, folder: str = "audit") -> Path:
        audit = Audit(tmp_path / folder)
        for n in range(lines):
            audit.write("answer", {"way": "http", "seconds": n / 8, "image": audit.mark(str(n))})
        return tmp_path / folder

    return make
