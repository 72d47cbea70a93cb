from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import msgspec
import pytest
import torch
from small import PLAN, SPEC, TASKS, TEACHER, silent, squares
from torch import Tensor

from foveola.runtime.errors import FoveolaError
from foveola.toolkit import fit as fitting
from foveola.toolkit.batches import Batch, TrainingData
from foveola.toolkit.course import Course, Scores
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.finished import read_history, read_locked
from foveola.toolkit.fit import Supervised
from foveola.toolkit.fresh import new_network
from foveola.toolkit.knobs import Plan
from foveola.toolkit.models.network import load_network
from foveola.toolkit.train import train_teacher


def weights(folder: Path) -> dict[str, Tensor]:
    return load_network(folder).state_dict()


def test_a_training_killed_between_epochs_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = squares(tmp_path / "data")
    for name in ("whole", "broken", "cache"):
        (tmp_path / name).mkdir()
    train_teacher(data, TEACHER, PLAN, folder=tmp_path / "whole", cache=tmp_path / "cache", seed=3, report=silent)

    class KilledError(Exception):
        pass

    def kill(done: float, total: float, text: str) -> None:
        if text.startswith("epoch 1/"):
            raise KilledError

    with pytest.raises(KilledError):
        train_teacher(data, TEACHER, PLAN, folder=tmp_path / "broken", cache=tmp_path / "cache", seed=3, report=kill)
    train_teacher(data, TEACHER, PLAN, folder=tmp_path / "broken", cache=tmp_path / "cache", seed=3, report=silent)

    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert read_history(tmp_path / "whole") == read_history(tmp_path / "broken")
    assert not (tmp_path / "broken" / fitting.CHECKPOINT).exists()


def test_a_training_leaves_thresholds_for_every_task_that_decides(tmp_path: Path) -> None:
    data = squares(tmp_path / "data")
    (tmp_path / "out").mkdir()

    train_teacher(data, TEACHER, PLAN, folder=tmp_path / "out", cache=tmp_path / "cache", seed=3, report=silent)

    locked = read_locked(tmp_path / "out")
    assert {name: len(values) for name, values in locked.items()} == {"bright": 1, "signs": 2, "halves": 2, "things": 2}
    assert load_network(tmp_path / "out").tasks == TASKS


def test_a_loss_that_is_not_finite_names_the_place_and_the_images(tmp_path: Path) -> None:
    data = squares(tmp_path / "data")
    (tmp_path / "out").mkdir()
    plan = msgspec.structs.replace(PLAN, learning_rate=1e30, clip=1e30, epochs=6, warmup=0.0)

    with pytest.raises(FoveolaError, match=r"epoch \d+, step \d+: the loss is not finite .* at images/.*learning_rate"):
        train_teacher(data, TEACHER, plan, folder=tmp_path / "out", cache=tmp_path / "cache", seed=3, report=silent)


def course_of(data: Dataset, plan: Plan) -> tuple[Supervised, Course]:
    network = new_network("teacher", data, TEACHER, 3)
    arrays = prepare_arrays(data.subset("train"), SPEC)
    plan_of = network.architecture
    training = TrainingData(arrays, TASKS, plan_of.target_mean, plan_of.target_std)
    return Supervised(network), Course(training, lambda network: Scores(0.0, {}), plan)


def test_bfloat16_as_on_a_gpu_gives_nearly_the_losses_of_float32(tmp_path: Path) -> None:
    data = squares(tmp_path / "data")
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        objective, course = course_of(data, msgspec.structs.replace(PLAN, learning_rate=1e-5))
        history = fitting.fit(
            objective, course, seed=1, folder=tmp_path / precision, report=silent, fabric=fitting.make_fabric(precision)
        )
        losses.append(history[0].losses)

    assert losses[0].keys() == losses[1].keys() == {task.name for task in TASKS}
    for name, loss in losses[0].items():
        assert losses[1][name] == pytest.approx(loss, rel=0.1, abs=0.05), name


def test_the_curve_is_a_table_that_a_resumed_training_goes_on_writing(tmp_path: Path) -> None:
    log = tmp_path / "logs/teacher.csv"
    objective, course = course_of(squares(tmp_path / "data"), PLAN)

    class KilledError(Exception):
        pass

    def kill(done: float, total: float, text: str) -> None:
        if text.startswith("epoch 1/2:"):
            raise KilledError

    with pytest.raises(KilledError):
        fitting.fit(objective, course, seed=1, folder=tmp_path, report=kill, log=log)
    objective, course = course_of(squares(tmp_path / "data"), PLAN)
    fitting.fit(objective, course, seed=1, folder=tmp_path, report=silent, log=log)

    with log.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]
    assert all(float(row["loss"]) > 0 and float(row["images_per_second"]) > 0 for row in rows)
    assert {"bright", "things"} <= rows[0].keys()


def test_progress_tells_epoch_loss_rate_and_pace(tmp_path: Path) -> None:
    told: list[str] = []
    objective, course = course_of(squares(tmp_path / "data"), PLAN)

    fitting.fit(objective, course, seed=1, folder=tmp_path, report=lambda done, total, text: told.append(text))

    assert re.fullmatch(r"epoch 1/2, loss \d+\.\d+, rate [\d.e-]+, \d+ images/s", told[0]), told[0]
    assert told[-1].startswith("epoch 2/2: ")


def test_patience_ends_a_training_that_gets_no_better(tmp_path: Path) -> None:
    plan = msgspec.structs.replace(PLAN, epochs=9, patience=2)
    objective, course = course_of(squares(tmp_path / "data"), plan)

    assert len(fitting.fit(objective, course, seed=1, folder=tmp_path, report=silent)) == 3


def test_several_processes_end_by_the_leader_s_scores_and_not_each_by_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = msgspec.structs.replace(PLAN, epochs=9, patience=2)
    rising = iter(range(9))
    objective, course = course_of(squares(tmp_path / "data"), plan)
    fabric = fitting.make_fabric()

    def leaders(own: Scores, src: int = 0) -> Scores:
        return msgspec.structs.replace(own, total=float(next(rising)))

    monkeypatch.setattr(fabric, "broadcast", leaders)
    history = fitting.fit(objective, course, seed=1, folder=tmp_path, report=silent, fabric=fabric)

    assert [epoch.score for epoch in history] == [float(number) for number in range(9)]


def test_a_full_gpu_says_which_knob_to_turn(tmp_path: Path) -> None:
    objective, course = course_of(squares(tmp_path / "data"), PLAN)

    def full(batch: Batch) -> dict[str, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    objective.forward = full  # type: ignore[method-assign]

    with pytest.raises(FoveolaError, match=r"epoch 1, step 1: the GPU's memory is full .*lower batch_size \(now 4\)"):
        fitting.fit(objective, course, seed=1, folder=tmp_path, report=silent)


def test_the_last_good_checkpoint_is_kept_when_a_loss_is_not_finite(tmp_path: Path) -> None:
    objective, course = course_of(squares(tmp_path / "data"), msgspec.structs.replace(PLAN, epochs=3))
    plain, closed = Supervised.forward, list[str]()

    def breaks(batch: Batch) -> dict[str, Tensor]:
        losses = plain(objective, batch)
        return {name: loss * (math.nan if closed else 1.0) for name, loss in losses.items()}

    objective.forward = breaks  # type: ignore[method-assign]

    def count(done: float, total: float, text: str) -> None:
        closed.extend([text] if text.startswith("epoch 1/3:") else [])

    with pytest.raises(FoveolaError, match="epoch 2, step 1: .* the checkpoint of epoch 1 is kept"):
        fitting.fit(objective, course, seed=1, folder=tmp_path, report=count)
    assert (tmp_path / fitting.CHECKPOINT / "progress.json").is_file()
