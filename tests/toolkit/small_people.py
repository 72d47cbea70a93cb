"""The tiny valid thing of the tests after COMPRER: people without pictures, and twins with pictures of 32 pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Task
from foveola.toolkit.data.dataset import Columns, Dataset, Sample, read_dataset
from foveola.toolkit.data.phantom_twins import make_twins
from foveola.toolkit.knobs import Augment, Plan
from foveola.toolkit.teachers.comprer.knobs import Aims, Encoding

STILL = Augment(rotate=0, scale=0, shift=0, brightness=0, contrast=0, noise=0)
TINY = "test_byobnet"  # timm's own tiny thing: 0.2 million parameters, 256 features
FUNDUS = Encoding(backbone=TINY, input=InputSpec(height=32, width=32, channels=3), augment=STILL)
CAROTID = Encoding(backbone=TINY, input=InputSpec(height=32, width=32, channels=1), augment=STILL)
ENCODERS = {"fundus": FUNDUS, "carotid": CAROTID}
AIMS = Aims(measured=("age", "imt"), decoder_width=16)
PLAN = Plan(epochs=2, batch_size=8, learning_rate=1e-3, ema=0.0)
CODE = Task(
    name="code", kind="embedding", size=8, classes=("stroke", "later"), columns=("prevalent_stroke", "incident_stroke")
)
TASKS = (
    Task(name="age", kind="regression", classes=("age",), unit="years", plausible=(0, 130)),
    Task(name="imt", kind="regression", classes=("imt",), unit="mm"),
    Task(name="hypertension", kind="binary", classes=("no|0", "yes|1"), columns=("prevalent_hypertension",)),
    CODE,
)
Person = Mapping[str, object]


def people(rows: Sequence[Mapping[str, object]], tasks: tuple[Task, ...] = ()) -> Dataset:
    """A data set of pictures that are nowhere: patient, split, attributes and one column a task."""
    names = ("modality", "visit", "years", "eye")
    samples = tuple(
        Sample(
            key=f"{i}.png",
            path=Path(f"{i}.png"),
            patient=str(row["patient"]),
            split=str(row.get("split", "train")),
            sha256=f"{i:064d}",
            attributes={name: str(row.get(name, "")) for name in names},
            row=i + 2,
        )
        for i, row in enumerate(rows)
    )
    scalars = {
        task.name: np.array([[row.get(name, np.nan) for name in task.manifest_columns] for row in rows], np.float32)
        for task in tasks
    }
    return Dataset(
        root=Path("nowhere"), tasks=tasks, samples=samples, scalars=scalars, masks={}, ignores={}, boxes={}, digest="0"
    )


def two_visits(patients: int = 3, split: str = "train") -> list[dict[str, object]]:
    """Each patient: two visits, both modalities, both sides."""
    return [
        {"patient": f"p{p}", "split": split, "modality": modality, "visit": v, "years": 2.5 * v, "eye": side}
        for p in range(patients)
        for v in (0, 1)
        for modality in ("fundus", "carotid")
        for side in ("left", "right")
    ]


def twins(root: Path, *, patients: int = 20, tasks: tuple[Task, ...] = TASKS) -> Dataset:
    """Twins of 32 pixels, read; drawn where they are not there."""
    if not (root / "manifest.csv").exists():
        shares = {"train": 0.6, "val": 0.2, "test": 0.2}
        make_twins(root, patients=patients, seed=1, size=32, shares=shares)
    return read_dataset(root, tasks, columns=Columns(attributes=("modality", "eye", "visit", "years")))


def silent(done: float, total: float, text: str = "") -> None:
    """No progress."""
