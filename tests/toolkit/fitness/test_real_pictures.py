"""Real pictures, where they are: spoiled ones are caught at the chosen rate of false alarms, good ones pass."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from foveola.runtime.fitness.judge import Gate
from foveola.runtime.fitness.manifest import FitnessKind
from foveola.runtime.image import decode_image
from foveola.runtime.manifest import InputSpec
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.data.samples import Sample
from foveola.toolkit.fitness.find import find_fitness

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"


def pictures(folder: str, source: str) -> Dataset:
    """Train sets the spreads; val and test, which no network here has seen, set the limits and are tried."""
    root = SHARED / folder
    if not (root / "manifest.csv").exists():
        pytest.skip("the shared pictures are not here")
    with (root / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if source in row["source_dataset"]]
    samples = tuple(
        Sample(
            row=number,
            key=row["file"],
            path=root / row["file"],
            patient=row.get("patient_id") or row["file"],
            split="train" if row["split"] == "train" else "val",
            attributes={},
            sha256="",
        )
        for number, row in enumerate(rows)
    )
    return Dataset(root=root, tasks=(), samples=samples, scalars={}, masks={}, ignores={}, boxes={}, digest="")


def caught(kind: FitnessKind, dataset: Dataset, false_alarms: float) -> tuple[dict[str, float], float]:
    spec = InputSpec(height=256, width=256, channels=1 if kind == "radiograph" else 3)

    def silent(done: float, total: float, text: str) -> None: ...

    fitness, _ = find_fitness(kind, dataset, spec, {}, "", false_alarms=false_alarms, progress=silent)

    # Another kind of anatomy too: the first pictures of limbs, or of chests.
    other = SHARED / ("msk" if kind == "radiograph" else "cxr") / "images"
    gate = Gate(fitness, "")
    strangers = [not gate.look(decode_image(path)).fit for path in sorted(other.iterdir())[:60:3]]
    found = {trial.fault: trial.caught / trial.images for trial in fitness.trials}
    return {**found, "other anatomy": sum(strangers) / len(strangers)}, fitness.alarms / fitness.images


def test_faults_of_chest_radiographs_are_caught_at_five_false_alarms_in_a_hundred() -> None:
    found, alarms = caught("radiograph", pictures("cxr", "NIH"), 0.05)

    assert alarms <= 0.1
    sure = set(found) - {"bright mid-tones", "dark mid-tones"}
    assert min(found[name] for name in sure) >= 0.9, found
    assert min(found.values()) >= 0.5, found


def test_faults_of_fundus_photographs_are_caught_at_one_false_alarm_in_ten() -> None:
    found, alarms = caught("fundus", pictures("fundus", "IDRiD"), 0.1)

    assert alarms <= 0.2
    weak = {"no disc", "no macula", "blue cast", "unevenly lit"}
    assert min(found[name] for name in set(found) - weak) >= 0.9, found
    assert min(found[name] for name in weak) > 0.2, found
