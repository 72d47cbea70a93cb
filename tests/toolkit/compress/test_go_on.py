from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from small import PLAN, STUDENT, TEACHER, silent, squares

from foveola.toolkit.batches import TrainingData
from foveola.toolkit.compress.go_on import DrawnCourse, finetune_student
from foveola.toolkit.compress.lessons import TAUGHT, read_taught, write_taught
from foveola.toolkit.course import Course, Scores
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.finished import finish, read_history
from foveola.toolkit.fresh import new_network
from foveola.toolkit.knobs import Lessons
from foveola.toolkit.models.network import Network, load_network, save_network
from foveola.toolkit.models.structure import Structure, resized_layers
from foveola.toolkit.models.student_heads import MaskHead

STEP = msgspec.structs.replace(PLAN, epochs=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    made: Dataset = squares(tmp_path_factory.mktemp("go_on") / "data")
    return made


def student_in(folder: Path, network: Network) -> Path:
    """A finished student, not trained."""
    folder.mkdir()
    save_network(network.eval(), folder)
    write_taught(folder, "a" * 64)
    (folder / "pruned.json").write_text("{}\n")
    return folder


def thinner(network: Network) -> Network:
    """The same network with two channels fewer inside its mask head."""
    plan, fresh = network.architecture, Network(network.architecture)
    head = network.heads["square"]
    assert isinstance(head, MaskHead)
    body, last = head.body, head.last
    keep = slice(0, plan.width - 2)
    pointwise = body[3]
    assert isinstance(pointwise, torch.nn.Conv2d)
    pointwise.weight = torch.nn.Parameter(pointwise.weight[keep].detach())
    for name in ("weight", "bias", "running_mean", "running_var"):
        own = getattr(body[4], name).detach()[keep]
        setattr(body[4], name, torch.nn.Parameter(own) if name in ("weight", "bias") else own)
    last.weight = torch.nn.Parameter(last.weight[:, keep].detach())
    network.architecture = msgspec.structs.replace(plan, structure=Structure(resized=resized_layers(fresh, network)))
    return Network(network.architecture)


def test_equal_draws_are_an_ordinary_epoch(data: Dataset) -> None:
    arrays = prepare_arrays(data.subset("train"), STUDENT.input)
    training = TrainingData(arrays, (), {}, {})
    usual = Course(training, lambda _: Scores(0.0, {}), PLAN)
    drawn = DrawnCourse(training, lambda _: Scores(0.0, {}), PLAN, draws=np.full(8, 3.0))

    orders = [one.order(0, np.random.default_rng(5)).tolist() for one in (usual, drawn)]

    assert orders[0] == orders[1]


def test_a_pruned_student_goes_on_with_its_own_network_and_records(data: Dataset, tmp_path: Path) -> None:
    network = thinner(new_network("student", data, STUDENT, seed=0))
    before = student_in(tmp_path / "student", network)
    (tmp_path / "out").mkdir()

    finetune_student(before, data, STEP, folder=tmp_path / "out", cache=tmp_path / "cache", seed=0, report=silent)

    after = load_network(tmp_path / "out")
    assert after.architecture == network.architecture
    assert after.architecture.structure.resized
    old, new = load_network(before).state_dict(), after.state_dict()
    assert any(not torch.equal(old[name], new[name]) for name in old)
    assert len(read_history(tmp_path / "out")) == 1
    assert read_taught(tmp_path / "out") == "a" * 64  # no teacher was named, and the first one still taught it
    assert (tmp_path / "out/pruned.json").read_text() == "{}\n"
    assert not (tmp_path / "out/checkpoint").exists()


def test_a_teacher_guides_a_students_training_further(data: Dataset, tmp_path: Path) -> None:
    before = student_in(tmp_path / "student", new_network("student", data, STUDENT, seed=0))
    teacher, out = tmp_path / "teacher", tmp_path / "out"
    for folder in (teacher, out):
        folder.mkdir()
    finish(new_network("teacher", data, TEACHER, seed=0), data, [], teacher, tmp_path / "cache")

    finetune_student(
        before,
        data,
        STEP,
        teacher=teacher,
        teacher_digest="b" * 64,
        lessons=Lessons(hint_weight=0.5),
        folder=out,
        cache=tmp_path / "cache",
        seed=0,
        report=silent,
    )

    assert read_taught(out) == "b" * 64
    assert "hint" in read_history(out)[0].losses
    assert (out / TAUGHT).exists()
