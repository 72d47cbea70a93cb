"""An embedding goes the whole road: a hand-made teacher is distilled, quantised, shipped, asked and proved."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from foveola.runtime.bundle import open_bundle
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import InputSpec
from foveola.runtime.predict import open_predictor
from foveola.runtime.prediction import prediction_json
from foveola.runtime.selftest import self_test
from foveola.runtime.task import Task
from foveola.toolkit.data.dataset import Dataset, read_dataset
from foveola.toolkit.finished import lock_teacher
from foveola.toolkit.knobs import Augment, Plan, Shape
from foveola.toolkit.parity.evidence import Evidence
from foveola.toolkit.pipeline import run
from foveola.toolkit.recipe import parse_recipe
from foveola.toolkit.road import compress_teacher
from foveola.toolkit.stages.table import STAGES
from foveola.toolkit.teachers.external import GivenTeacher

SPEC = InputSpec(height=64, width=64, channels=1)
TASK = Task(name="likeness", kind="embedding", size=8, classes=("upright",))
STILL = Augment(rotate=0, scale=0, shift=0, brightness=0, contrast=0, noise=0)
SPLITS = {"train": 48, "val": 10, "calibration": 4, "test": 14}  # patients, with two pictures each


def patterns(root: Path) -> Dataset:
    """Pictures of a grey with upright, level and slanting stripes; a patient's two are alike, more or less."""
    rng, rows = np.random.default_rng(0), []
    (root / "images").mkdir(parents=True)
    y, x = np.mgrid[:64, :64]
    waves = np.stack([np.ones((64, 64)), *(np.sin(2 * np.pi * way / 8) for way in (x, y, x + y))])
    for split, patients in SPLITS.items():
        for patient in range(patients):
            own = rng.uniform((80, 5, 5, 5), (170, 40, 40, 40))
            for visit in range(2):
                seen = own + rng.normal(0, (5, 2, 2, 2))
                picture = np.tensordot(seen, waves, 1) + rng.normal(0, 4, (64, 64))
                file = f"images/{split}-{patient}-{visit}.png"
                Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(root / file)
                rows.append((file, f"{split}{patient}", split, int(own[1] > own[2])))
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerows([("file", "patient_id", "split", "upright"), *rows])
    return read_dataset(root, (TASK,))


class Patterns(nn.Module):
    """Grey and how strong each kind of stripes is, turned into eight numbers."""

    waves: Tensor

    def __init__(self) -> None:
        super().__init__()
        y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
        waves = torch.stack([torch.ones(64, 64), *(torch.sin(2 * torch.pi * way / 8) for way in (x, y, x + y))])
        self.register_buffer("waves", waves)
        self.turn = nn.Linear(4, 8, bias=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        strength = torch.einsum("bchw,khw->bk", x, self.waves) / (64 * 64)
        centre, spread = torch.tensor([0.0, 0.175, 0.175, 0.175]), torch.tensor([0.4, 0.08, 0.08, 0.08])
        return {"likeness": self.turn((strength - centre) / spread)}


def teacher() -> GivenTeacher:
    torch.manual_seed(0)
    return GivenTeacher(Patterns(), (TASK,), SPEC).eval()


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset, Evidence]:
    folder = tmp_path_factory.mktemp("likeness")
    data = patterns(folder / "data")
    evidence = compress_teacher(
        teacher(),
        data,
        folder / "out",
        name="likeness",
        engines=("onnxruntime",),
        precisions=("int8",),
        student=Shape(backbone="mobilenetv4_conv_small_035", input=SPEC, width=16),
        plan=Plan(epochs=10, batch_size=16, learning_rate=4e-3, ema=0.0, augment=STILL),
        calibration_split="calibration",
        min_images=8,
        resamples=100,
    )
    return folder / "out", data, evidence


def test_the_student_finds_a_patients_other_picture(road: tuple[Path, Dataset, Evidence]) -> None:
    _, _, evidence = road

    found = {(one.engine, one.metric, one.label): one for one in evidence.endpoints}

    assert {metric for _, metric, _ in found} == {"pair_percentile", "recall_at_1", "probe_auc"}
    retrieval = found["onnxruntime", "pair_percentile", ""]
    assert retrieval.teacher is not None
    assert retrieval.student is not None
    assert retrieval.teacher > 0.9
    assert retrieval.student > 0.75
    assert (retrieval.cases, retrieval.patients, retrieval.primary) == (28, 14, True)
    assert found["onnxruntime", "probe_auc", "upright"].teacher is not None
    assert {one.measure for one in evidence.agreements} == {"cosine"}
    assert evidence.agreements[0].agreement > 0.4


def test_the_bundle_answers_a_unit_vector_and_tests_itself_by_its_direction(
    road: tuple[Path, Dataset, Evidence],
) -> None:
    out, data, _ = road
    bundle = open_bundle(out / "likeness.foveola")

    prediction = open_predictor(out / "likeness.foveola").predict(data.samples[0].path)

    (embedding,) = prediction.embeddings
    assert (embedding.task, len(embedding.values)) == ("likeness", 8)
    assert np.linalg.norm(embedding.values) == pytest.approx(1.0, abs=1e-6)
    assert prediction_json(prediction)["embeddings"] == [{"task": "likeness", "values": embedding.values}]
    shipped = bundle.manifest.outputs[0].task
    assert (shipped.kind, shipped.size, shipped.classes) == ("embedding", 8, ("upright",))
    tested = self_test(bundle, "onnxruntime")
    assert tested.ok, tested.faults
    assert tested.drifts[0].relative < 0.1


def test_the_page_says_what_an_embedding_is(road: tuple[Path, Dataset, Evidence]) -> None:
    out, _, _ = road

    page = (out / "report.html").read_text(encoding="utf-8")

    assert "images that resemble each other lie close" in page
    assert "Pair percentile" in page
    assert "conditions probed" in page


def test_a_teacher_of_another_length_is_refused(tmp_path: Path) -> None:
    data = patterns(tmp_path / "data")
    longer = Task(name="likeness", kind="embedding", size=9, classes=("upright",))

    with pytest.raises(FoveolaError, match=r"8 numbers, the task's size is 9 \(write size: 8\)|write size: 8"):
        compress_teacher(
            teacher(),
            read_dataset(data.root, (longer,)),
            tmp_path / "out",
            name="likeness",
            student=Shape(backbone="mobilenetv4_conv_small_035", input=SPEC, width=16),
            plan=Plan(epochs=1, batch_size=16, learning_rate=1e-3),
        )


def test_an_embedding_has_no_threshold_to_lock(tmp_path: Path) -> None:
    assert lock_teacher(teacher(), patterns(tmp_path / "data")) == {}


RECIPE = """
name: alone
device: generic-x86
seed: 3
data: {{stage: manifest, root: {root}}}
tasks:
  likeness: {{kind: embedding, size: 8, classes: [upright]}}
steps:
  {step}
"""
FED = "input: {height: 64, width: 64, channels: 1}"
NET = f"backbone: resnet10t, {FED}, epochs: 1"


@pytest.mark.parametrize(
    "step",
    [
        f"grow: {{stage: train, {NET}}}",
        f"grow: {{stage: finetune, {NET}}}",
        f"grow: {{stage: continual, backbone: resnet10t, {FED}, rounds: 1}}",
    ],
    ids=["train", "finetune", "continual"],
)
def test_a_step_that_would_learn_it_from_the_reference_alone_is_refused_ahead(step: str, tmp_path: Path) -> None:
    root = patterns(tmp_path / "data").root
    recipe = parse_recipe(RECIPE.format(root=root, step=step).encode(), STAGES)

    with pytest.raises(FoveolaError) as raised:
        run(recipe, tmp_path / "runs")

    assert "likeness is an embedding, which nothing but a teacher can teach" in str(raised.value)
    assert "grow" in str(raised.value)
