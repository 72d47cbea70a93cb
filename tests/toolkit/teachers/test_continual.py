from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from small import SPEC, TASKS, TEACHER, silent, squares
from torch import Tensor

from foveola.runtime.errors import FoveolaError
from foveola.toolkit.batches import TrainingData
from foveola.toolkit.checkpoint import Epoch
from foveola.toolkit.course import Scores
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.finished import read_history, read_locked
from foveola.toolkit.fit import fit, make_optimizer
from foveola.toolkit.fresh import new_network
from foveola.toolkit.knobs import Augment, Plan
from foveola.toolkit.models.network import Network, load_network
from foveola.toolkit.teachers.continual import check_pull, labelled_places, learn_continually
from foveola.toolkit.teachers.l2sp import distance, snapshot
from foveola.toolkit.teachers.visits import ContinualCourse, Rounds, Visited, task_order

KINDS = ("bright", "corner", "square", "things")  # binary, multiclass, masks, boxes
FOUR = tuple(task for task in TASKS if task.name in KINDS)
STILL = Augment(rotate=0, scale=0, shift=0, brightness=0, contrast=0, noise=0)
PLAN = Plan(epochs=1, batch_size=4, learning_rate=1e-2, optimizer="sgd", weight_decay=0.0, ema=0.0, augment=STILL)
ROUNDS = Rounds(rounds=2, low=1e-4)


def learn(root: Path, name: str, rounds: Rounds = ROUNDS, plan: Plan = PLAN, report: Any = silent) -> Network:
    (root / name).mkdir(exist_ok=True)
    data = squares(root / "data", FOUR)
    return learn_continually(
        data, TEACHER, plan, rounds, folder=root / name, cache=root / "cache", seed=5, report=report
    )


def course(rounds: Rounds, plan: Plan = PLAN, sizes: dict[str, int] | None = None) -> ContinualCourse:
    """A course without data, for its arithmetic."""
    places = {name: np.arange(size) for name, size in (sizes or {"a": 16, "b": 8, "c": 12}).items()}
    empty = TrainingData.__new__(TrainingData)
    empty.images = np.zeros((16, 1, 1, 1), np.float32)
    return ContinualCourse(empty, lambda network: Scores(0.0, {}), plan, rounds, places, seed=3)


def test_every_task_is_visited_once_a_round_in_an_order_of_its_own_that_the_seed_gives_again() -> None:
    tasks = ["a", "b", "c", "d"]
    orders = [task_order(tasks, turn, 9, reshuffle=True) for turn in range(12)]

    assert all(sorted(order) == tasks for order in orders)
    assert len({tuple(order) for order in orders}) > 4
    assert orders == [task_order(tasks, turn, 9, reshuffle=True) for turn in range(12)]
    assert task_order(tasks, 5, 9, reshuffle=False) == tasks


def test_the_rate_begins_anew_at_every_visit_and_keeps_each_task_s_own_minimum() -> None:
    c = course(Rounds(rounds=3, low=0.001, task_low={"b": 0.004}), msgspec.structs.replace(PLAN, batch_size=2))

    for visit in range(c.epochs):
        steps = c.steps(visit)
        rates = [c.rate(visit, step, steps) for step in range(steps)]
        assert rates[0] == pytest.approx(PLAN.learning_rate)
        assert min(rates) == pytest.approx(0.004 if c.visited(visit) == "b" else 0.001)
        assert rates.index(min(rates)) == steps // 2


def test_a_cycle_may_last_a_round_or_a_fixed_number_of_steps() -> None:
    plan = msgspec.structs.replace(PLAN, batch_size=2)
    whole, fixed = course(Rounds(cycle="round"), plan), course(Rounds(cycle="fixed", period=5), plan)
    length = sum(whole.steps(visit) for visit in range(3))

    assert whole.phase(3, 0, whole.steps(3)) == (0, length)
    assert whole.phase(5, 1, whole.steps(5)) == (whole.steps(3) + whole.steps(4) + 1, length)
    assert fixed.phase(1, 0, fixed.steps(1)) == (fixed.steps(0) % 5, 5)


def test_a_constant_rate_is_the_mean_of_the_cycle() -> None:
    c = course(Rounds(schedule="constant", low=0.002))

    assert c.rate(0, 1, 4) == pytest.approx((0.002 + PLAN.learning_rate) / 2)


def test_a_visit_shows_the_task_s_labelled_images_only_and_as_many_as_its_steps_need() -> None:
    c = course(Rounds(steps=10))

    drawn = c.order(0, np.random.default_rng(0))

    size = len(c.by_task[c.visited(0)])
    assert len(drawn) == 40
    assert set(drawn) == set(range(size))
    assert np.bincount(drawn).max() - np.bincount(drawn).min() <= 1


def one_visit(root: Path, rounds: Rounds, plan: Plan = PLAN) -> tuple[dict[str, Tensor], Visited, ContinualCourse]:
    """Weights before, and the objective after, a single visit."""
    data = squares(root / "data", FOUR)
    network = new_network("teacher", data, TEACHER, 1)
    before = {name: x.clone() for name, x in network.state_dict().items()}
    arrays = prepare_arrays(data.subset("train"), SPEC)
    training = TrainingData(arrays, FOUR, {}, {})
    only = {"square": labelled_places(data)["square"]}
    visited = Visited(network, rounds)
    c = ContinualCourse(training, lambda network: Scores(0.0, {}), plan, rounds, only, seed=3)
    fit(visited, c, seed=1, folder=root / "run", report=silent)
    return before, visited, c


def test_a_visit_leaves_the_heads_of_other_tasks_as_they_were_bit_for_bit(tmp_path: Path) -> None:
    before, visited, _ = one_visit(tmp_path, Rounds(rounds=1))

    after = visited.network.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert {name.split(".")[1] for name in changed if name.startswith("heads.")} == {"square"}
    assert any(name.startswith("backbone.") for name in changed)


def test_a_strong_pull_holds_the_backbone_while_the_head_learns(tmp_path: Path) -> None:
    rounds = Rounds(rounds=1, steps=8, alpha=1e4, beta=0.0, evaluate="end")
    plan = msgspec.structs.replace(PLAN, learning_rate=1e-4, clip=0.0, momentum=0.0)

    before, visited, _ = one_visit(tmp_path, rounds, plan)

    after = visited.network.state_dict()
    kernels = [n for n, x in after.items() if n.startswith("backbone.") and x.dim() > 1]
    heads = [n for n, x in after.items() if n.startswith("heads.square.") and x.dim() > 1]
    assert max(float((after[name] - before[name]).abs().max()) for name in kernels) < 1e-4
    assert any(not torch.equal(after[name], before[name]) for name in heads)


def test_a_stronger_pull_moves_the_backbone_less_in_a_visit(tmp_path: Path) -> None:
    plan = msgspec.structs.replace(PLAN, momentum=0.0, batch_size=4)
    drifts = []
    for alpha in (0.0, 1.0, 10.0, 50.0):
        _, _, c = one_visit(tmp_path / str(alpha), Rounds(rounds=1, steps=12, alpha=alpha), plan)
        drifts.append(c.measures["visit_drift"])

    assert drifts == sorted(drifts, reverse=True)
    assert drifts[-1] < 0.8 * drifts[0]


@pytest.mark.parametrize(
    ("anchor", "zero"), [("task_start", (0, 1, 2, 3)), ("round_start", (0, 2)), ("stage_start", (0,))]
)
def test_the_anchor_is_taken_anew_when_the_recipe_says(anchor: Any, zero: tuple[int, ...], tmp_path: Path) -> None:
    data = squares(tmp_path / "data", FOUR[:2])
    network = new_network("teacher", data, TEACHER, 1)
    visited = Visited(network, Rounds(rounds=2, anchor=anchor))
    c = course(visited.rounds, sizes={"bright": 8, "corner": 8})
    optimizer = make_optimizer(visited, PLAN)
    away = []
    for visit in range(4):
        c.begin(visit, visited, optimizer)
        away.append(distance(network.backbone, visited.anchor))
        with torch.no_grad():
            for p in network.backbone.parameters():
                p.mul_(1.01)

    assert [i for i, moved in enumerate(away) if moved == 0.0] == list(zero)


def test_frozen_norms_keep_their_statistics_and_shared_ones_follow(tmp_path: Path) -> None:
    def moved(norms: Any) -> bool:
        before, visited, _ = one_visit(tmp_path / norms, Rounds(rounds=1, norms=norms))
        after = visited.network.backbone.state_dict()
        return any(not torch.equal(x, before[f"backbone.{n}"]) for n, x in after.items() if n.endswith("running_mean"))

    assert not moved("frozen")
    assert moved("shared")


def test_what_is_kept_are_the_weights_at_the_cycle_s_minimum(tmp_path: Path) -> None:
    _, low, c = one_visit(tmp_path / "low", Rounds(rounds=1, steps=6))
    _, end, _ = one_visit(tmp_path / "end", Rounds(rounds=1, steps=6, evaluate="end"))
    _, half, _ = one_visit(tmp_path / "half", Rounds(rounds=1, steps=6, evaluate="end"))

    assert c.low is not None
    kept = low.network.state_dict()
    assert all(torch.equal(x, c.low[name]) for name, x in kept.items())
    assert all(torch.equal(x, half.network.state_dict()[name]) for name, x in end.network.state_dict().items())
    assert any(not torch.equal(x, kept[name]) for name, x in end.network.state_dict().items())


def test_learning_leaves_a_whole_teacher_and_a_line_for_every_visit(tmp_path: Path) -> None:
    learn(tmp_path, "out", Rounds(rounds=2, evaluate="both", recalibrate=4))

    history = read_history(tmp_path / "out")
    assert [epoch.round for epoch in history] == [0] * 4 + [1] * 4
    assert sorted(epoch.task for epoch in history[:4]) == sorted(KINDS)
    assert {epoch.learning_rate for epoch in history} == {1e-4}
    assert all({"drift", "visit_drift", "end/bright"} <= set(epoch.measures) for epoch in history)
    assert all(epoch.scores for epoch in history)
    assert load_network(tmp_path / "out").tasks == FOUR
    assert {"bright", "things"} <= set(read_locked(tmp_path / "out"))


def test_a_stage_killed_between_visits_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(done: float, total: float, text: str) -> None:
        if text.startswith("epoch 6/"):
            raise KilledError

    rounds = Rounds(rounds=2, anchor="round_start")
    learn(tmp_path, "whole", rounds)
    with pytest.raises(KilledError):
        learn(tmp_path, "broken", rounds, report=kill)
    learn(tmp_path, "broken", rounds)

    whole, broken = (load_network(tmp_path / name).state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(x, broken[name]) for name, x in whole.items())
    histories: list[list[Epoch]] = [read_history(tmp_path / name) for name in ("whole", "broken")]
    assert histories[0] == histories[1]


def test_pulls_that_overshoot_and_tasks_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FoveolaError, match="alpha: .*overshoot.*keep alpha below 200"):
        check_pull(PLAN, Rounds(alpha=300.0))
    with pytest.raises(FoveolaError, match="period: a cycle of 0 steps"):
        check_pull(PLAN, Rounds(cycle="fixed"))
    data = squares(tmp_path / "data", FOUR)
    bare = msgspec.structs.replace(data, scalars=data.scalars | {"bright": data.scalars["bright"] * np.nan})
    with pytest.raises(FoveolaError, match="no train image has a target for bright"):
        labelled_places(bare)


def test_contradicting_tasks_are_forgotten_less_with_a_stronger_pull() -> None:
    """The conflict toy: two tasks on the same inputs, partly with opposite labels; plain steps."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 10, generator=generator)
    truth = torch.randn(10, generator=generator)
    first = (x @ truth > 0).float()
    second = torch.where(x[:, 0] > -0.5, 1 - first, first)

    def accuracy_of_the_first_task(alpha: float) -> float:
        torch.manual_seed(0)
        backbone, heads = torch.nn.Linear(10, 4, bias=False), [torch.nn.Linear(4, 1) for _ in range(2)]
        # The pull acts in the second task alone: its anchor is what the first one has learned.
        for labels, head, strength in zip((first, second), heads, (0.0, alpha), strict=True):
            anchor = snapshot(backbone)
            optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.5)
            for _ in range(400):
                loss = torch.nn.functional.binary_cross_entropy_with_logits(head(backbone(x).tanh())[:, 0], labels)
                pull = 0.5 * strength * (backbone.weight - anchor["weight"]).square().sum()
                optimizer.zero_grad()
                (loss + pull).backward()
                optimizer.step()
        return float(((heads[0](backbone(x).tanh())[:, 0] > 0) == first.bool()).float().mean())

    accuracies = [accuracy_of_the_first_task(alpha) for alpha in (0.0, 0.01, 0.03, 0.1)]

    assert accuracies == sorted(accuracies)
    assert accuracies[-1] > accuracies[0] + 0.02
