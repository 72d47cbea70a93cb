from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import SPEC, TASKS, TEACHER, silent, squares

from foveola.runtime.errors import FoveolaError
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.finished import read_history
from foveola.toolkit.fresh import new_network
from foveola.toolkit.knobs import Augment, Plan
from foveola.toolkit.teachers.pretrain import Contrastive, Pretrained, by_dataset, check_queue, pretrain
from foveola.toolkit.teachers.sampling import draw_order
from foveola.toolkit.teachers.start import BACKBONE, start_from_step
from foveola.toolkit.train import train_teacher

VIEWS = Augment(rotate=10, scale=0.1, shift=0.05, brightness=0, contrast=0, noise=0, flip=True)
PLAN = Plan(
    epochs=3, batch_size=4, learning_rate=0.03, optimizer="sgd", weight_decay=1e-4, clip=0.0, ema=0.0, augment=VIEWS
)
HOW = Contrastive(queue=8, momentum=0.9, temperature=0.2, dim=16)


def two_sets(root: Path) -> Dataset:
    """The squares, every other one said to come from another data set."""
    data = squares(root, TASKS[:2])
    named = tuple(
        msgspec.structs.replace(sample, attributes={"dataset": "ab"[i % 2]}) for i, sample in enumerate(data.samples)
    )
    renamed: Dataset = msgspec.structs.replace(data, samples=named)
    return renamed


def learn(root: Path, name: str, how: Contrastive = HOW, plan: Plan = PLAN, report: Any = silent) -> dict[str, Any]:
    (root / name).mkdir(exist_ok=True)
    data = two_sets(root / "data")
    pretrain(data, "resnet10t", SPEC, how, plan, folder=root / name, cache=root / "cache", seed=5, report=report)
    return load_file(root / name / BACKBONE)


@pytest.mark.parametrize("method", ["moco", "simclr"])
def test_a_pretraining_leaves_the_backbone_alone_and_it_fits_a_network(method: Any, tmp_path: Path) -> None:
    weights = learn(tmp_path, "out", msgspec.structs.replace(HOW, method=method))

    network = new_network("teacher", squares(tmp_path / "data", TASKS[:2]), TEACHER, 0)
    words = start_from_step(network, tmp_path / "out")
    assert weights.keys() == network.backbone.state_dict().keys()
    assert words == f"{len(weights)} of {len(weights)} tensors of the backbone"
    assert all(torch.equal(x, weights[name]) for name, x in network.backbone.state_dict().items())
    about = msgspec.json.decode((tmp_path / "out/pretrained.json").read_bytes(), type=Pretrained)
    assert about.images == {"a": 4, "b": 4}


def test_a_pretraining_killed_between_epochs_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(done: float, total: float, text: str) -> None:
        if text.startswith("epoch 2/3:"):
            raise KilledError

    whole = learn(tmp_path, "whole")
    with pytest.raises(KilledError):
        learn(tmp_path, "broken", report=kill)
    broken = learn(tmp_path, "broken")

    assert all(torch.equal(x, broken[name]) for name, x in whole.items())
    assert read_history(tmp_path / "whole") == read_history(tmp_path / "broken")


def test_only_train_images_take_part_unless_all_are_asked_for(tmp_path: Path) -> None:
    learn(tmp_path, "train")
    learn(tmp_path, "all", msgspec.structs.replace(HOW, pool="all"))

    counts = [
        sum(msgspec.json.decode((tmp_path / name / "pretrained.json").read_bytes(), type=Pretrained).images.values())
        for name in ("train", "all")
    ]
    assert counts == [8, 16]


def test_the_probe_scores_the_classification_tasks_now_and_then(tmp_path: Path) -> None:
    learn(tmp_path, "out", msgspec.structs.replace(HOW, probe_every=2))

    scores = [set(epoch.scores) for epoch in read_history(tmp_path / "out")]
    assert scores[0] == set()
    assert scores[1] == scores[2] == {"bright", "signs"}


def test_the_loss_of_ever_the_same_pictures_falls(tmp_path: Path) -> None:
    still = Augment(rotate=0, scale=0, shift=0, brightness=0, contrast=0, noise=0)
    plan = msgspec.structs.replace(PLAN, epochs=12, augment=still)
    learn(tmp_path, "out", msgspec.structs.replace(HOW, method="simclr"), plan)

    losses = [epoch.losses["contrast"] for epoch in read_history(tmp_path / "out")]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("sampling", "wanted"), [("uniform", (90, 9, 1)), ("sqrt", (70, 23, 7)), ("balanced", (34, 33, 33))]
)
def test_data_sets_are_drawn_by_size_by_its_root_or_alike(sampling: Any, wanted: tuple[int, ...]) -> None:
    places = {"a": np.arange(90), "b": np.arange(90, 99), "c": np.arange(99, 100)}

    order = draw_order(places, sampling, np.random.default_rng(0))

    counts = [int(np.isin(order, found).sum()) for found in places.values()]
    assert len(order) == 100
    assert counts == pytest.approx(wanted, abs=1)


def test_uniform_sampling_shows_every_image_once() -> None:
    places = {"a": np.arange(7), "b": np.arange(7, 10)}

    order = draw_order(places, "uniform", np.random.default_rng(1))

    assert sorted(order.tolist()) == list(range(10))


def test_a_queue_that_batches_do_not_fill_is_refused_with_numbers_that_would_do() -> None:
    with pytest.raises(FoveolaError, match="queue: 10 keys are no multiple of 4 images a step; give 8 or 12"):
        check_queue(msgspec.structs.replace(HOW, queue=10), 4, 100)
    with pytest.raises(FoveolaError, match="batch_size: 16 images a step, but only 8 images"):
        check_queue(HOW, 16, 8)
    with pytest.raises(FoveolaError, match="splits: 4 images do not part into 3 groups"):
        check_queue(msgspec.structs.replace(HOW, splits=3), 4, 100)


def test_a_data_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    data = two_sets(tmp_path / "data").subset("train")

    assert list(by_dataset(data, "dataset", ("b",), "uniform")) == ["b"]
    with pytest.raises(FoveolaError, match="only: no train image of c; there are a, b"):
        by_dataset(data, "dataset", ("c",), "uniform")
    with pytest.raises(FoveolaError, match="by: no image says its data set: attribute 'site' is not there"):
        by_dataset(data, "site", (), "balanced")


def test_a_checkpoint_of_another_architecture_names_its_keys(tmp_path: Path) -> None:
    learn(tmp_path, "out")
    shape = msgspec.structs.replace(TEACHER, backbone="resnet14t")

    with pytest.raises(
        FoveolaError, match=r"backbone.safetensors: a checkpoint of another architecture: \S+ is missing"
    ):
        start_from_step(new_network("teacher", squares(tmp_path / "data", TASKS[:2]), shape, 0), tmp_path / "out")


def test_a_fine_tuned_network_starts_from_the_step_and_may_keep_its_heads(tmp_path: Path) -> None:
    data = squares(tmp_path / "data", TASKS[:2])
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    plan = Plan(epochs=1, batch_size=4, learning_rate=1e-8, ema=0.0)
    told: list[str] = []
    common: dict[str, Any] = {"cache": tmp_path / "cache", "seed": 3, "report": silent}
    first = train_teacher(data, TEACHER, plan, folder=tmp_path / "first", **common)

    second = train_teacher(
        data,
        TEACHER,
        plan,
        folder=tmp_path / "second",
        start=tmp_path / "first",
        keep_heads=True,
        say=told.append,
        **common,
    )

    count = len(first.backbone.state_dict())
    assert told == [f"starts with {count} of {count} tensors of the backbone and the heads of bright, signs"]
    for name, x in first.named_parameters():
        assert torch.allclose(x, second.get_parameter(name), atol=1e-5)
