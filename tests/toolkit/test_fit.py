from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from small import PLAN, TASKS, TEACHER, silent, squares
from torch import Tensor

from foveola.runtime.errors import FoveolaError
from foveola.toolkit import fit as fitting
from foveola.toolkit.models.network import load_network
from foveola.toolkit.train import read_history, read_locked, train_teacher


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


def test_the_rate_rises_then_falls_along_a_cosine_to_zero() -> None:
    plan = msgspec.structs.replace(PLAN, learning_rate=1.0, warmup=0.1)
    rates = [fitting._rate(plan, step, 100) for step in range(100)]

    assert rates[9] == pytest.approx(1.0)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5, abs=0.02)
    assert rates[-1] < 1e-3
