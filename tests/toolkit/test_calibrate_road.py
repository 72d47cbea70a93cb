"""A tiny recipe with the `calibrate` stage, run whole: what the bundle then brings along."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import log_loss

from foveola.runtime.bundle import Bundle, read_unverified
from foveola.runtime.errors import FoveolaError
from foveola.runtime.features import answer_features
from foveola.runtime.histogram import counted
from foveola.runtime.image import decode_image, prepare
from foveola.runtime.predict import Predictor
from foveola.runtime.seen import SEEN, find_seen
from foveola.runtime.task import Task
from foveola.toolkit.data.dataset import Dataset, read_dataset
from foveola.toolkit.models.network import load_network
from foveola.toolkit.parity.threshold import lock_threshold
from foveola.toolkit.pipeline import run
from foveola.toolkit.recipe import parse_recipe
from foveola.toolkit.ship import CORE, describe_reference
from foveola.toolkit.stages.table import STAGES
from foveola.toolkit.temperature import read_temperatures

INPUT = "{height: 64, width: 64, channels: 1, window: percentile}"
RECIPE = f"""
name: tiny
device: generic-x86
seed: 3
data: {{stage: phantom, patients: 30, size: 64, shares: {{train: 0.25, val: 0.5, calibration: 0.125, test: 0.125}}}}
tasks:
  view: {{kind: binary, classes: [PA, AP]}}
  findings: {{kind: multilabel, classes: [nodule, effusion], columns: [finding_nodule, finding_effusion]}}
  lungs: {{kind: segmentation, classes: [right_lung, left_lung], columns: [mask_lungs]}}
steps:
  teacher: {{stage: train, backbone: resnet10t, input: {INPUT}, width: 8, output_stride: 32, epochs: 1, batch_size: 8}}
  student:
    {{stage: distill, teacher: teacher, backbone: mobilenetv4_conv_small_035, input: {INPUT}, width: 8, epochs: 1}}
  int8: {{stage: quantize, of: student, min_images: 2}}
  warm: {{stage: calibrate, of: int8}}
  bundle: {{stage: export, of: warm, precisions: [int8], nncf: "off", engines: [onnxruntime], compare: 4, golden: 1}}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated")
    run(parse_recipe(RECIPE.encode(), STAGES), folder)
    return folder / "tiny"


def step(runs: Path, name: str) -> Path:
    (folder,) = runs.glob(f"{name}-*")
    return folder


@pytest.fixture(scope="module")
def bundle(runs: Path) -> Bundle:
    return read_unverified(step(runs, "bundle") / CORE)


@pytest.fixture(scope="module")
def data(runs: Path) -> Dataset:
    tasks = [
        Task(name="view", kind="binary", classes=("PA", "AP")),
        Task(
            name="findings",
            kind="multilabel",
            classes=("nodule", "effusion"),
            columns=("finding_nodule", "finding_effusion"),
        ),
    ]
    return read_dataset(step(runs, "data"), tasks)


def test_the_manifest_carries_the_temperatures_that_were_fitted(runs: Path, bundle: Bundle, data: Dataset) -> None:
    fits = read_temperatures(step(runs, "warm"))

    assert bundle.manifest.temperatures == fits
    assert [(fit.task, fit.split, fit.images) for fit in fits] == [
        (name, "val", len(data.subset("val"))) for name in ("view", "findings")
    ]
    warmth = {output.task.name: output.temperature for output in bundle.manifest.outputs}
    assert warmth == {fit.task: fit.temperature for fit in fits} | {"lungs": 1.0}
    assert set(warmth.values()) != {1.0}
    assert all(fit.after <= fit.before for fit in fits)


def test_what_was_calibrated_is_what_was_quantised(runs: Path) -> None:
    before, after = step(runs, "int8"), step(runs, "warm")

    names = {path.name for path in before.iterdir()} - {"step.json"}
    assert {path.name for path in after.iterdir()} - {"step.json", "temperature.json"} == names
    assert all((before / name).read_bytes() == (after / name).read_bytes() for name in names)


def test_the_loss_in_the_manifest_is_that_of_the_device(bundle: Bundle, data: Dataset) -> None:
    """Image by image, from the files, at the temperature: what the device says is what was fitted."""
    predictor, cases = Predictor(bundle), data.subset("val")
    chances = np.array([[one.probability for one in predictor.predict(s.path).findings] for s in cases.samples])

    for fit, columns in zip(bundle.manifest.temperatures, (slice(0, 1), slice(1, 3)), strict=True):
        target = cases.scalars[fit.task]
        assert log_loss(target.ravel(), chances[:, columns].ravel()) == pytest.approx(fit.after, abs=1e-5)


def test_thresholds_are_locked_after_the_temperature(bundle: Bundle, data: Dataset) -> None:
    predictor, cases = Predictor(bundle), data.subset("val")
    chances = np.array([[one.probability for one in predictor.predict(s.path).findings] for s in cases.samples])
    targets = np.hstack([cases.scalars["view"], cases.scalars["findings"]]) > 0.5

    locked = [limit for output in bundle.manifest.outputs[:2] for limit in output.thresholds]
    assert locked == pytest.approx([lock_threshold("youden", targets[:, k], chances[:, k]) for k in range(3)], abs=1e-6)


def test_decisions_are_compared_with_torch_at_the_temperature(runs: Path, bundle: Bundle, data: Dataset) -> None:
    """A flip is one of the probabilities that the thresholds were locked for."""
    network, predictor, cases = load_network(step(runs, "warm")), Predictor(bundle), data.subset("val")
    (view,) = (output for output in bundle.manifest.outputs if output.task.name == "view")
    flips, largest = 0, 0.0
    for sample in cases.samples[:4]:
        x_CHW, _ = prepare(decode_image(sample.path), bundle.manifest.input)
        with torch.inference_mode():
            ours = network(torch.from_numpy(x_CHW[None]))["view"].item() / view.temperature
        theirs = predictor.run(x_CHW[None])["view"].item() / view.temperature
        flips += (expit(ours) >= view.thresholds[0]) != (expit(theirs) >= view.thresholds[0])
        largest = max(largest, abs(ours - theirs))

    told = next(one for one in bundle.manifest.comparisons[0].outputs if one.tensor == "view")
    assert (told.decisions, told.flips) == (4, flips)
    assert told.largest == pytest.approx(largest, rel=1e-3)


# --- what else the bundle brings


def test_the_bundle_knows_every_image_but_those_of_the_proof(bundle: Bundle, data: Dataset) -> None:
    asked = [sample.sha256 for sample in data.samples]

    found = find_seen(bundle.members[SEEN], asked)

    assert set(found) == {sample.sha256 for sample in data.samples if sample.split != "test"}
    assert set(found) != set(asked)


def test_the_reference_holds_what_the_device_says_of_the_validation_images(bundle: Bundle, data: Dataset) -> None:
    predictor, cases, reference = Predictor(bundle), data.subset("val"), bundle.manifest.reference
    assert reference is not None
    assert (reference.split, reference.images) == ("val", len(cases))
    assert reference.patients == len({sample.patient for sample in cases.samples})
    assert set(reference.answers) == {"view/AP", "findings/nodule", "findings/effusion"}
    assert set(reference.inputs) == {"brightness", "contrast", "sharpness"}

    described = [answer_features(predictor.predict(sample.path)) for sample in cases.samples]
    for name, histogram in reference.answers.items():
        values = np.array([one[name] for one in described])
        assert counted(values, histogram.edges) == histogram.counts


def test_an_image_that_is_refused_is_described_nowhere(bundle: Bundle, data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    first = data.subset("val").take([0, 1])
    broken = msgspec.structs.replace(first.samples[1], path=tmp_path / "broken.png", patient="another")
    half = msgspec.structs.replace(first, samples=(first.samples[0], broken))

    described = describe_reference(Predictor(bundle), half, "val")

    assert described is not None
    assert (described.images, described.patients) == (1, 1)
    assert all(sum(one.counts) == 1 for one in described.inputs.values())
    assert describe_reference(Predictor(bundle), half.take([1]), "val") is None


def test_the_recipe_of_the_document_is_valid() -> None:
    text = (Path(__file__).parents[2] / "docs/recipes.md").read_text(encoding="utf-8")
    whole, part = (block.split("```")[0] for block in text.split("```yaml\n")[1:3])
    assert "stage: calibrate" in part
    before, rest = whole.split("  int8:")
    after = rest[rest.index("  proof:") :]

    steps = {step.name: step.kind for step in parse_recipe((before + part + after).encode(), STAGES).road}

    assert list(steps)[4:7] == ["int8", "warm", "bundle"]
    assert steps["warm"] == "calibrate"


def test_too_few_images_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    recipe = parse_recipe(RECIPE.encode(), STAGES, ["data.patients=10"])

    with pytest.raises(FoveolaError, match="^steps.warm: .*'view' has .* images with a target, 20 are needed"):
        run(recipe, tmp_path)
    assert not list((tmp_path / "tiny").glob("teacher-*"))
