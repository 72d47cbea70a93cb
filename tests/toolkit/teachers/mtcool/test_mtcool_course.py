"""Laws of the turns: whose each step is, which images it sees, and what the history says."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from mtcool_small import BUILD, NUMBERS, PLAIN, PLAN, PLAY, longer, made, trained, unjudged
from small import silent

from foveola.toolkit.batches import TrainingData
from foveola.toolkit.checkpoint import Weights, copy_weights
from foveola.toolkit.course import Scores
from foveola.toolkit.fit import fit
from foveola.toolkit.teachers.continual import labelled_places
from foveola.toolkit.teachers.mtcool.course import Play, TurnCourse
from foveola.toolkit.teachers.mtcool.norms import settle_norms
from foveola.toolkit.teachers.mtcool.objective import STEM, Cooperation

SIZES = {"a": 16, "b": 9, "c": 3}


def course(play: Play = PLAY, *, stem: bool = False) -> TurnCourse:
    """A course without data, for its arithmetic: three tasks that share no image."""
    starts = np.cumsum([0, *SIZES.values()])
    places = {name: np.arange(size) + start for (name, size), start in zip(SIZES.items(), starts, strict=False)}
    empty = TrainingData.__new__(TrainingData)
    empty.images = np.zeros((28, 1, 1, 1), np.float32)
    return TurnCourse(empty, unjudged, PLAN, play, places, seed=3, stem=stem)


@pytest.mark.parametrize("inner", [0, 1, 2, 3])
@pytest.mark.parametrize("order", ["fixed", "reshuffled"])
def test_all_have_equally_many_updates_in_turns_of_the_length_asked_for(inner: int, order: str) -> None:
    c = course(msgspec.structs.replace(PLAY, inner=inner, order=order, steps=7))

    turns = c.turns(1)

    assert {name: turns.count(name) for name in SIZES} == dict.fromkeys(SIZES, 7)
    long = inner or 7
    for start in range(0, 7, long):
        held = min(long, 7 - start)
        block = turns[3 * start : 3 * (start + held)]
        players = [block[i * held : (i + 1) * held] for i in range(3)]
        assert all(len(set(player)) == 1 for player in players)
        assert sorted(player[0] for player in players) == sorted(SIZES)


def test_the_order_is_that_of_the_recipe_or_drawn_anew_each_time_and_given_again_by_the_seed() -> None:
    fixed = course(msgspec.structs.replace(PLAY, order="fixed", steps=10)).turns(0)
    shuffled = [course(msgspec.structs.replace(PLAY, steps=10)).turns(0) for _ in range(2)]

    assert fixed == ["a", "b", "c"] * 10
    assert shuffled[0] == shuffled[1]
    assert len({tuple(shuffled[0][i : i + 3]) for i in range(0, 30, 3)}) > 2


def test_each_batch_holds_the_labelled_images_of_whose_turn_it_is_equally_often() -> None:
    c = course()
    order, turns = c.order(0, np.random.default_rng(0)), c.turns(0)

    assert c.updates == 4  # one pass over the largest task's images
    assert len(order) == c.images(0) == 3 * 4 * PLAN.batch_size
    for name, places in c.by_turn.items():
        seen = np.concatenate([order[4 * i : 4 * i + 4] for i, turn in enumerate(turns) if turn == name])
        assert set(seen) == set(places)
        counts = np.bincount(seen)[places]
        assert counts.max() - counts.min() <= 1


def test_a_stem_has_turns_of_its_own_on_all_images() -> None:
    c = course(stem=True)

    assert sorted(set(c.turns(0))) == [*SIZES, STEM]
    assert len(c.by_turn[STEM]) == sum(SIZES.values())


def test_alone_nobody_s_fusion_learns_and_then_everybody_s_does(tmp_path: Path) -> None:
    def carried(alone: int) -> float:
        teacher, _ = trained(tmp_path / f"{alone}", play=msgspec.structs.replace(PLAY, alone=alone), tasks=NUMBERS)
        return sum(float(x.detach().abs().sum()) for name, x in teacher.named_parameters() if ".carry." in name)

    assert carried(2) == 0
    assert carried(1) > 0


@pytest.mark.parametrize(("keep", "kept"), [("best", 2), ("last", 3)])
def test_an_epoch_alone_is_not_kept_however_well_it_does(keep: str, kept: int, tmp_path: Path) -> None:
    seen: list[Weights] = []

    def judged(network: torch.nn.Module) -> Scores:
        seen.append(copy_weights(network))
        return Scores((0.9, 0.5, 0.6, 0.4)[len(seen) - 1], {})

    teacher, dataset, data = made(tmp_path, BUILD, NUMBERS)
    play = msgspec.structs.replace(PLAY, alone=1, keep=keep)
    course = TurnCourse(data, judged, longer(4), play, labelled_places(dataset), seed=1)
    fit(Cooperation(teacher, PLAIN), course, seed=1, folder=tmp_path / "run", report=silent)

    assert all(torch.equal(x, seen[kept][name]) for name, x in teacher.state_dict().items())


def test_losses_of_the_history_are_means_over_a_sub_model_s_own_steps(tmp_path: Path) -> None:
    plan = msgspec.structs.replace(longer(1), learning_rate=1e-12)
    _, (losses,) = trained(tmp_path, plan=plan, tasks=NUMBERS)

    assert set(losses) == {"bright", "corner", "side"}
    assert losses["corner"] == pytest.approx(np.log(3), abs=0.6)  # three classes, not yet learned
    assert losses["bright"] == pytest.approx(np.log(2), abs=0.5)


def test_statistics_are_estimated_anew_as_torch_s_own_mean_and_variance_over_the_images(tmp_path: Path) -> None:
    teacher, _, data = made(tmp_path, msgspec.structs.replace(BUILD, stem=4))
    assert teacher.stem is not None

    settle_norms(teacher, data, np.arange(8))

    first, norm = teacher.stem[0], teacher.stem[1]
    with torch.no_grad():
        seen = first(teacher.normalise(data.batch(np.arange(8)).images))
    assert isinstance(norm, torch.nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(norm.running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.running_var, seen.var((0, 2, 3)), atol=1e-5)
    assert not any(module.training for module in teacher.modules())


def test_statistics_of_readers_follow_too(tmp_path: Path) -> None:
    teacher, _, data = made(tmp_path)
    before = {name: x.clone() for name, x in teacher.named_buffers() if "running_mean" in name}

    settle_norms(teacher, data, np.arange(8))

    after = dict(teacher.named_buffers())
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert any(name.startswith("readers.square") for name in before)
