"""Trainings after COMPRER on twins of 32 pixels: resumed, learned, taken apart, fine-tuned, refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_people import AIMS, CODE, ENCODERS, PLAN, TASKS, silent, twins

from foveola.runtime.errors import FoveolaError, UsageError
from foveola.toolkit.checkpoint import Epoch
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.finished import read_history, read_locked
from foveola.toolkit.review.teachers import review_training
from foveola.toolkit.teachers.comprer.judge import embed
from foveola.toolkit.teachers.comprer.knobs import Prognosis, Roles
from foveola.toolkit.teachers.comprer.learn import new_comprer, prepare_modalities, pretrain_comprer, scale_of
from foveola.toolkit.teachers.comprer.prognosis import encoded, finetune
from foveola.toolkit.teachers.comprer.teach import check_comprer, kept_line, teach_comprer
from foveola.toolkit.teachers.comprer.teacher import ComprerTeacher, teacher_of
from foveola.toolkit.teachers.load import load_teacher
from foveola.toolkit.teachers.team import team_of


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("twins")
    twins(root / "data")
    return root


def teach(root: Path, folder: Path, **changes: Any) -> ComprerTeacher:
    folder.mkdir(parents=True, exist_ok=True)
    data = twins(root / "data")
    how = {"aims": AIMS, "prognosis": Prognosis(), "report": silent, "roles": Roles(), "plan": PLAN} | changes
    plan, aims = how.pop("plan"), how.pop("aims")
    shown = data.having({"modality": "fundus"})
    cache = root / "cache"
    return teach_comprer(data, shown, "fundus", ENCODERS, aims, plan, folder=folder, cache=cache, seed=3, **how)


@pytest.fixture(scope="module")
def taught(drawn: Path) -> Path:
    """A finished step."""
    teach(drawn, drawn / "taught")
    return drawn / "taught"


def test_a_step_leaves_a_teacher_of_the_device_s_modality(taught: Path) -> None:
    teacher = load_teacher(taught)

    assert isinstance(teacher, ComprerTeacher)
    assert [task.name for task in teacher.tasks] == ["age", "imt", "hypertension", "code"]
    assert teacher.input == ENCODERS["fundus"].input
    answered = teacher.answer(torch.rand(2, 3, 32, 32))
    assert {name: tuple(x.shape) for name, x in answered.raw.items()} == {
        "age": (2, 1), "imt": (2, 1), "hypertension": (2, 1), "code": (2, 8),
    }  # fmt: skip
    assert answered.hint is not None
    assert torch.allclose(answered.features["backbone"], answered.hint.mean((2, 3)))
    assert torch.allclose(answered.features["code"].norm(dim=1), torch.ones(2), atol=1e-5)
    assert set(read_locked(taught)) == {"hypertension"}
    assert len(read_history(taught)) == PLAN.epochs


def test_nothing_that_only_training_needs_is_in_the_teacher(taught: Path) -> None:
    keys = load_file(taught / "model.safetensors").keys()
    teacher = load_teacher(taught)
    assert isinstance(teacher, ComprerTeacher)

    assert {key.split(".")[0] for key in keys} == {"encoder", "heads"}
    assert not [key for key in keys if any(word in key for word in ("decoder", "order", "gap", "along", "log_"))]
    backbone = sum(p.numel() for p in teacher.encoder.parameters())
    heads = 3 * (256 + 1) + (256 * 256 + 256) + (256 * 8 + 8)
    assert sum(p.numel() for p in teacher.parameters()) == backbone + heads
    assert sorted(path.name for path in taught.iterdir()) == [
        "carotid", "history.json", "locked.json", "model.json", "model.safetensors", "pairing.json",
    ]  # fmt: skip


def test_the_other_modality_s_encoder_is_kept_apart_for_retrieval(taught: Path) -> None:
    carotid = load_teacher(taught / "carotid")

    assert carotid.input.channels == 1
    assert [task.name for task in carotid.tasks] == ["age", "imt", "code"]
    assert carotid.answer(torch.rand(1, 1, 32, 32)).raw["code"].shape == (1, 8)


def test_a_teacher_asked_for_less_drops_what_that_does_not_need(taught: Path) -> None:
    teacher = load_teacher(taught)
    assert isinstance(teacher, ComprerTeacher)
    x = torch.rand(2, 3, 32, 32)

    smaller = teacher.limited({"age"})
    team = team_of({"ages": teacher}, only={"ages": ["age"]})

    assert torch.equal(smaller.answer(x).raw["age"], teacher.answer(x).raw["age"])
    assert {name.split(".")[1] for name in smaller.state_dict() if name.startswith("heads")} == {"age"}
    assert set(team.answer(x).raw) == {"age"}
    assert "code" in teacher.answer(x).raw


def test_the_encoder_is_usable_alone_as_a_graph(taught: Path) -> None:
    teacher = load_teacher(taught)
    assert isinstance(teacher, ComprerTeacher)

    class Graph(torch.nn.Module):
        def __init__(self, own: ComprerTeacher) -> None:
            super().__init__()
            self.own = own

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return self.own.raw(self.own.encoder(x))

    x = torch.rand(1, 3, 32, 32)
    graph = torch.export.export(Graph(teacher).eval(), (x,))

    found = graph.module()(x)
    assert found.keys() == teacher.answer(x).raw.keys()
    assert all(torch.allclose(found[name], raw, atol=1e-5) for name, raw in teacher.answer(x).raw.items())


def test_a_step_killed_between_epochs_ends_with_the_weights_of_an_uninterrupted_one(drawn: Path, taught: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(done: float, total: float, text: str) -> None:
        if text.startswith("epoch 1/2:"):
            raise KilledError

    broken = drawn / "broken"
    with pytest.raises(KilledError):
        teach(drawn, broken, report=kill)
    assert (broken / "pretraining/checkpoint").is_dir()
    teach(drawn, broken)

    whole, resumed = (load_file(folder / "model.safetensors") for folder in (taught, broken))
    assert all(torch.equal(x, resumed[name]) for name, x in whole.items())
    assert read_history(taught) == read_history(broken)
    assert (taught / "pairing.json").read_bytes() == (broken / "pairing.json").read_bytes()


def test_the_training_report_names_the_epoch_whose_weights_were_kept(taught: Path) -> None:
    judged = [Epoch(i, 0.1, {"measures": 1.0}, -float(i), {}) for i in range(3)]
    tuned = [Epoch(3 + i, 0.1, {"age": 1.0, "keep": 0.0}, score, {}) for i, score in enumerate((0.1, 0.4, 0.2))]

    assert kept_line(judged) == 3
    assert kept_line([*judged, *tuned]) == 5
    assert review_training("teacher", taught).kept == PLAN.epochs


def settle(teacher: ComprerTeacher, x: torch.Tensor) -> None:
    """Let the running statistics catch up with the weights, which so few steps have not done."""
    teacher.train()
    with torch.no_grad():
        for _ in range(25):
            teacher.encoder(x)


def test_a_fine_tuned_teacher_keeps_its_embedding(drawn: Path, taught: Path) -> None:
    shown = twins(drawn / "data").having({"modality": "fundus"})
    before = load_teacher(taught)
    assert isinstance(before, ComprerTeacher)
    x = torch.from_numpy(np.array(prepare_arrays(shown.subset("val"), before.input, cache=drawn / "cache").images))
    settle(before, x)
    near, histories = [], []
    for keep in (20.0, 0.0):
        teacher = copy.deepcopy(before)
        plan = msgspec.structs.replace(PLAN, epochs=2, learning_rate=1e-3)
        folder = drawn / f"tuned-{keep}"
        histories.append(
            finetune(teacher, shown, plan, keep=keep, folder=folder, cache=drawn / "cache", seed=3, report=silent)
        )
        with torch.no_grad():
            codes = [one.eval().answer(x).features["code"] for one in (teacher, before)]
        near.append(float((codes[0] * codes[1]).sum(1).mean()))
        assert {key.split(".")[0] for key in teacher.state_dict()} == {"encoder", "heads"}

    assert near[0] > near[1]
    assert [set(history[0].losses) for history in histories] == [
        {"age", "imt", "hypertension", "keep"},
        {"age", "imt", "hypertension"},
    ]


def test_measures_are_standardised_by_train_people_alone(drawn: Path) -> None:
    data = twins(drawn / "data")
    train = data.subset("train").scalars["age"]

    (mean,), (std,) = scale_of(data)["age"]

    assert mean == pytest.approx(float(np.nanmean(train.astype(np.float64))))
    assert std == pytest.approx(float(np.nanstd(train.astype(np.float64))))
    assert mean != pytest.approx(float(np.nanmean(data.scalars["age"].astype(np.float64))))


def test_a_measure_that_is_constant_is_refused(drawn: Path) -> None:
    data = twins(drawn / "data")
    data.scalars["imt"][:] = 0.7

    with pytest.raises(FoveolaError, match="imt has one value only"):
        scale_of(data)


def test_the_device_s_pictures_must_be_of_its_modality(drawn: Path) -> None:
    data = twins(drawn / "data")

    with pytest.raises(FoveolaError, match=r"the device sees pictures of carotid too.*only: \{modality: fundus\}"):
        check_comprer(data, data, "fundus", ENCODERS, AIMS, Roles())
    with pytest.raises(UsageError, match="no encoder 'retina'"):
        check_comprer(data, data, "retina", ENCODERS, AIMS, Roles())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("imt", 0.7, "imt has one value only"),
        ("hypertension", 1.0, "task 'hypertension': hypertension: all train pictures with a target have the same one"),
        ("hypertension", np.nan, "hypertension: no train picture has a target"),
    ],
)
def test_a_constant_is_refused_before_the_pretraining(drawn: Path, name: str, value: float, words: str) -> None:
    data = twins(drawn / "data")
    data.scalars[name][:] = value

    with pytest.raises(FoveolaError, match=words):
        check_comprer(data, data.having({"modality": "fundus"}), "fundus", ENCODERS, AIMS, Roles())


def test_a_third_embedding_is_refused(drawn: Path) -> None:
    more = tuple(msgspec.structs.replace(CODE, name=f"code{i}") for i in range(2))
    data = twins(drawn / "data", tasks=(*TASKS, *more))

    with pytest.raises(UsageError, match=r"3 embedding\(s\).*only the multimodal and the temporal projection"):
        check_comprer(data, data.having({"modality": "fundus"}), "fundus", ENCODERS, AIMS, Roles())


def test_an_embedding_that_no_loss_trains_is_refused(drawn: Path) -> None:
    data = twins(drawn / "data")
    aims = msgspec.structs.replace(AIMS, multimodal=0.0, contrast=0.0)

    with pytest.raises(UsageError, match=r"1 embedding\(s\) \(code\), but no loss trains a projection"):
        check_comprer(data, data.having({"modality": "fundus"}), "fundus", ENCODERS, aims, Roles())


def test_without_the_multimodal_loss_the_embedding_is_the_temporal_projection(drawn: Path) -> None:
    data = twins(drawn / "data")
    network = new_comprer(data, ENCODERS, msgspec.structs.replace(AIMS, multimodal=0.0), 0)

    teacher = teacher_of(network, "fundus", data.tasks, scale_of(data))

    own, along = teacher.heads["code"].state_dict(), network["fundus"].along.state_dict()
    assert all(torch.equal(x, along[name]) for name, x in own.items())


def test_a_pretraining_alone_gives_embeddings_and_leaves_its_resume_point(drawn: Path) -> None:
    second = msgspec.structs.replace(CODE, name="course", size=6, classes=(), columns=())
    data = twins(drawn / "data", tasks=(*TASKS, second))
    found = pretrain_comprer(
        data, ENCODERS, AIMS, msgspec.structs.replace(PLAN, epochs=1), roles=Roles(), folder=drawn / "alone",
        cache=drawn / "cache", seed=3, report=silent,
    )  # fmt: skip

    records = found.records.subset("val")
    arrays = prepare_modalities(records, ENCODERS, drawn / "cache", silent)
    embedded = embed(found.network, arrays)
    teacher = teacher_of(found.network, "fundus", data.tasks, found.scale)

    assert [path.name for path in (drawn / "alone").iterdir()] == ["checkpoint"]
    assert set(embedded["carotid"].raw) == {"age", "imt"}
    # The first embedding task is the multimodal projection, the second the temporal one.
    own = embedded["fundus"]
    assert own.pooled.shape == (len(records.scans["fundus"]), 256)
    assert np.allclose(own.pooled, encoded(teacher, arrays["fundus"]), atol=1e-5)
    h = torch.from_numpy(own.pooled)
    assert np.allclose(teacher.heads["code"](h).detach(), own.across, atol=1e-5)
    assert np.allclose(teacher.heads["course"](h).detach(), own.along, atol=1e-5)
