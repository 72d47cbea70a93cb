"""From a recipe's word to a bundle that answers about fit images and gives reasons for the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from foveola.devices.profile import load_profile
from foveola.export.features import FEATURES
from foveola.runtime.bundle import Bundle
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import InputSpec
from foveola.runtime.predict import Predictor
from foveola.runtime.task import Task
from foveola.toolkit.compress.lessons import write_taught
from foveola.toolkit.compress.quantise import quantise_student
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.data.dataset import Dataset, read_dataset
from foveola.toolkit.data.phantom_chest import make_chest
from foveola.toolkit.fitness.find import Account, check_images
from foveola.toolkit.fitness.knobs import FITNESS, FitnessKnobs
from foveola.toolkit.fresh import new_network
from foveola.toolkit.knobs import Shape
from foveola.toolkit.models.network import save_network
from foveola.toolkit.proof.collect import _ask
from foveola.toolkit.ship import make_core

SPEC = InputSpec(height=64, width=64, channels=1, window="percentile")
TASK = Task(name="findings", kind="multilabel", classes=("nodule",), columns=("finding_nodule",))
Make = Callable[[FitnessKnobs | None, str], tuple[Bundle, Path]]


def silent(done: float, total: float, text: str = "") -> None:
    """No progress."""


@pytest.fixture(scope="module")
def chests(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("drawn") / "chest"
    shares = {"train": 0.35, "val": 0.5, "calibration": 0.05, "test": 0.1}
    make_chest(folder, patients=70, seed=5, size=96, shares=shares, gaps={})
    return read_dataset(folder, (TASK,))


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, chests: Dataset) -> Make:
    """Make a core of one untrained, quantised student: its features tell enough."""
    root = tmp_path_factory.mktemp("cores")
    for name in ("student", "int8", "cache"):
        (root / name).mkdir()
    with torch.random.fork_rng():
        network = new_network("student", chests, Shape(backbone="test_efficientnet", input=SPEC, width=8), 0).train()
        pictures = prepare_arrays(chests.subset("train"), SPEC, cache=root / "cache").images[:16]
        with torch.no_grad():
            for _ in range(5):
                network(torch.from_numpy(np.array(pictures)))
    save_network(network.eval(), root / "student")
    write_taught(root / "student", "0" * 64)
    quantise_student(
        root / "student", chests, split="calibration", images=4, min_images=2, method="minmax", opset=20,
        weight_bits=8, folder=root / "int8", cache=root / "cache", progress=silent,
    )  # fmt: skip

    def core(fitness: FitnessKnobs | None, name: str) -> tuple[Bundle, Path]:
        folder = root / name
        folder.mkdir()
        made = make_core(
            root / "int8", chests, engines=("onnxruntime",), precisions=("int8",), nncf="off", pick="first", compare=2,
            golden=1, name="chest", version="1.0.0", fitness=fitness, device=load_profile("generic-x86"),
            recipe_digest="", seed=0, folder=folder, cache=root / "cache", progress=silent,
        )  # fmt: skip
        return made, folder

    return core


@pytest.fixture(scope="module")
def ruled(make: Make) -> tuple[Bundle, Path]:
    return make(FitnessKnobs(kind="radiograph", false_alarms=0.1), "ruled")


def test_the_manifest_has_bounds_statistics_and_what_they_caught(ruled: tuple[Bundle, Path]) -> None:
    fitness = ruled[0].manifest.fitness
    assert fitness is not None
    assert fitness.novelty is not None

    assert fitness.novelty.tensor == FEATURES
    assert list(fitness.novelty.limits) == ["onnxruntime"]
    assert fitness.alarms <= 0.25 * fitness.images
    caught = {trial.fault: trial.caught / trial.images for trial in fitness.trials}
    assert min(caught[name] for name in ("inverted", "turned by 180 degrees", "clipped")) > 0.9
    assert caught["a phantom's fundus"] == 1.0


def test_the_account_tells_how_often_good_images_are_refused_and_whose(ruled: tuple[Bundle, Path]) -> None:
    account = msgspec.json.decode((ruled[1] / FITNESS).read_bytes(), type=Account)

    fitness = ruled[0].manifest.fitness
    assert fitness is not None
    assert account.ungradable["onnxruntime"].refused == fitness.alarms
    assert account.ungradable["onnxruntime"].images == fitness.images


def test_the_reference_has_the_measures_by_which_a_drift_is_seen(ruled: tuple[Bundle, Path]) -> None:
    reference = ruled[0].manifest.reference
    assert reference is not None

    assert {"brightness", "quality/brightness", "quality/focus", "quality/novelty"} <= set(reference.inputs)


def test_the_bundle_answers_about_a_good_image_and_refuses_its_negative(
    ruled: tuple[Bundle, Path], chests: Dataset
) -> None:
    predictor = Predictor(ruled[0], "onnxruntime")
    pictures = [Image.open(sample.path) for sample in chests.subset("test").samples]

    good = [predictor.answer(picture) for picture in pictures]
    inverted = [
        predictor.answer(ImageOps.invert(Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))))
        for picture in pictures
    ]

    assert np.mean([bool(one.findings) for one in good]) > 0.6
    assert not any(one.findings for one in inverted)
    assert all(one.quality is not None and one.quality.reasons for one in inverted)


def test_equal_inputs_give_equal_bytes_and_without_a_rule_nothing_is_added(
    make: Make, ruled: tuple[Bundle, Path]
) -> None:
    again, _ = make(FitnessKnobs(kind="radiograph", false_alarms=0.1), "again")
    plain, folder = make(None, "plain")

    assert again.digest == ruled[0].digest
    assert plain.manifest.fitness is None
    assert b"foveola.features" not in plain.members["model.onnx"]
    assert b'"fitness"' not in plain.members["manifest.json"]
    assert not (folder / FITNESS).exists()


def test_measures_alone_need_no_second_output(make: Make) -> None:
    bundle, _ = make(FitnessKnobs(kind="radiograph", false_alarms=0.1, novelty=False), "measures")

    assert bundle.manifest.fitness is not None
    assert bundle.manifest.fitness.novelty is None
    assert b"foveola.features" not in bundle.members["model.onnx"]


def test_too_few_images_for_so_small_a_share_are_refused_ahead(chests: Dataset) -> None:
    with pytest.raises(FoveolaError, match=r"are needed for 0\.01 false alarms"):
        check_images(chests, 0.01, novelty=True)


def test_the_proof_describes_the_measures_of_its_cases(ruled: tuple[Bundle, Path], chests: Dataset) -> None:
    predictors = {"onnxruntime": Predictor(ruled[0], "onnxruntime")}

    answered, seen = _ask(chests.subset("test"), 0, predictors, describe=True)

    assert answered["onnxruntime"] is not None
    assert {"brightness", "quality/focus", "quality/upright"} <= set(seen[""])
