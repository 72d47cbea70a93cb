"""Laws of a turn: who learns, who stays as it is, and that the game is played and not the sum."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from mtcool_small import BUILD, NUMBERS, PLAIN, PLAN, PLAY, STILL, awake, longer, made, some, trained, unjudged
from small import silent
from torch import Tensor, nn

from foveola.runtime.task import Task
from foveola.toolkit.batches import Batch, TrainingData
from foveola.toolkit.checkpoint import Objective, copy_weights
from foveola.toolkit.fit import fit, make_optimizer
from foveola.toolkit.knobs import Plan
from foveola.toolkit.models.heads import Pyramid, Target
from foveola.toolkit.teachers.mtcool.course import Play, TurnCourse
from foveola.toolkit.teachers.mtcool.objective import STEM, Cooperation, Flat, Perturb
from foveola.toolkit.teachers.mtcool.perturb import ascent, moved
from foveola.toolkit.teachers.mtcool.teacher import Cooperative, Encoder, Reader

MODES: tuple[Perturb, ...] = ("sam-feature", "noise", "sam-param", "none")


def one_step(objective: Cooperation, batch: Batch) -> None:
    optimizer = make_optimizer(objective, PLAN)
    loss = torch.stack(list(objective(batch).values())).sum()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("perturb", MODES)
def test_a_turn_changes_no_weight_and_no_statistic_of_another_sub_model_bit_for_bit(
    perturb: Perturb, tmp_path: Path
) -> None:
    teacher, _, data = made(tmp_path)
    awake(teacher)
    objective = Cooperation(teacher, Flat(perturb=perturb, rho=0.2))
    objective.take("corner", alone=False)
    before = {name: x.clone() for name, x in teacher.state_dict().items()}

    one_step(objective.train(), some(data))

    changed = {name for name, x in teacher.state_dict().items() if not torch.equal(before[name], x)}
    assert {name.split(".")[1] for name in changed} == {"corner"}
    assert any("running_mean" in name for name in changed)
    assert any(name.startswith("readers.corner.fusion.carry") for name in changed)
    assert all(x.grad is None for name, x in teacher.named_parameters() if name.split(".")[1] != "corner")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_momentum_and_decay_move_nobody_whose_turn_it_is_not(optimizer: str, tmp_path: Path) -> None:
    moved_by: list[set[str]] = []

    class Watched(TurnCourse):
        def begin(self, epoch: int, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
            super().begin(epoch, objective, optimizer)
            self.before = copy_weights(objective.network)

        def after_step(self, epoch: int, step: int, steps: int, objective: Objective) -> None:
            now = copy_weights(objective.network)
            changed = {name.split(".")[1] for name, x in now.items() if not torch.equal(x, self.before[name])}
            moved_by.append(changed ^ {self.turns(epoch)[step]})
            self.before = now
            super().after_step(epoch, step, steps, objective)

    teacher, dataset, data = made(tmp_path)
    plan = msgspec.structs.replace(PLAN, optimizer=optimizer, momentum=0.9, weight_decay=0.1)
    places = {task.name: np.flatnonzero(dataset.subset("train").known(task.name)) for task in dataset.tasks}
    course = Watched(data, unjudged, plan, PLAY, places, seed=1)
    fit(Cooperation(teacher, Flat(rho=0.1)), course, seed=1, folder=tmp_path / "run", report=silent)

    assert len(moved_by) == 2 * 3 * course.updates
    assert not any(moved_by)


@pytest.mark.parametrize("perturb", MODES)
def test_bfloat16_trains_as_float32_does_but_for_its_rounding(perturb: Perturb, tmp_path: Path) -> None:
    flat, build = Flat(perturb=perturb, rho=0.1, lam=0.5), msgspec.structs.replace(BUILD, stem=4)

    _, exact = trained(tmp_path / "exact", flat, plan=longer(1), build=build)
    teacher, rounded = trained(tmp_path / "rounded", flat, plan=longer(1), build=build, precision="bf16-mixed")

    assert rounded[0] == pytest.approx(exact[0], rel=0.2)
    assert rounded != exact
    assert all(x.dtype == torch.float32 for x in teacher.parameters())


def test_a_stem_learns_also_from_a_batch_that_some_tasks_do_not_label(tmp_path: Path) -> None:
    teacher, _, data = made(tmp_path, msgspec.structs.replace(BUILD, stem=4))
    objective = Cooperation(teacher, PLAIN).train()
    objective.take(STEM, alone=False)
    data.scalars["bright"][:], data.masks["square"][:] = torch.nan, 255

    one_step(objective, some(data))

    assert teacher.stem is not None
    slopes = [x.grad for x in teacher.stem.parameters()]
    assert all(slope is not None and bool(slope.isfinite().all()) for slope in slopes)
    assert any(slope is not None and bool(slope.any()) for slope in slopes)


def test_only_the_sub_model_in_turn_leaves_evaluation_mode(tmp_path: Path) -> None:
    teacher, _, _ = made(tmp_path)
    objective = Cooperation(teacher, PLAIN).train()

    objective.take("square", alone=False)

    training = {name for name, module in teacher.named_modules() if module.training}
    assert training
    assert all(name.split(".")[1] == "square" for name in training)
    assert not any(module.training for module in objective.eval().modules())


@pytest.mark.parametrize("flat", [Flat(rho=0.0), Flat(perturb="noise", rho=0.0), Flat(lam=0.0), Flat(perturb="none")])
def test_without_a_radius_the_loss_is_the_plain_one_exactly(flat: Flat, tmp_path: Path) -> None:
    teacher, _, data = made(tmp_path)
    awake(teacher)
    batch = some(data)

    loss = Cooperation(teacher, flat).eval()(batch)["bright"]

    pyramids = teacher.pyramids(batch.images)
    others = teacher.of_others("bright", {name: one[32] for name, one in pyramids.items()}, pyramids["bright"][32])
    assert torch.equal(loss, teacher.reader("bright").loss(pyramids["bright"], others, batch.scalars["bright"]))


@pytest.mark.parametrize("perturb", ["sam-feature", "sam-param"])
def test_the_worst_loss_is_above_the_plain_one_and_half_of_lam_lies_between(perturb: Perturb, tmp_path: Path) -> None:
    teacher, _, data = made(tmp_path)
    awake(teacher)
    batch = some(data)

    plain, half, worst = (
        float(Cooperation(teacher, Flat(perturb=perturb, rho=0.1, lam=lam)).eval()(batch)["bright"].detach())
        for lam in (0.0, 0.5, 1.0)
    )

    assert plain < worst
    assert half == pytest.approx((plain + worst) / 2, rel=1e-5)


def test_a_task_s_weight_scales_its_loss(tmp_path: Path) -> None:
    tasks = tuple(msgspec.structs.replace(task, weight=3.0) for task in NUMBERS)
    (teacher, _, data), (heavy, _, _) = made(tmp_path, BUILD, NUMBERS), made(tmp_path, BUILD, tasks)

    losses = [Cooperation(one, PLAIN).eval()(some(data))["bright"] for one in (teacher, heavy)]

    assert torch.allclose(3 * losses[0], losses[1])


@pytest.mark.parametrize("perturb", MODES)
def test_with_others_features_carried_by_zeros_training_is_single_task_training(
    perturb: Perturb, tmp_path: Path
) -> None:
    class Deaf(Cooperation):
        def take(self, turn: str, *, alone: bool) -> None:
            super().take(turn, alone=alone)
            for name, weight in self.network.named_parameters():
                if ".carry." in name:
                    weight.requires_grad_(False)

    found = []
    for kind, alone in ((Deaf, 0), (Cooperation, 9)):
        teacher, dataset, data = made(tmp_path, BUILD, NUMBERS)
        places = {task.name: np.flatnonzero(dataset.subset("train").known(task.name)) for task in NUMBERS}
        play = msgspec.structs.replace(PLAY, alone=alone)
        course = TurnCourse(data, unjudged, longer(1), play, places, seed=2)
        history = fit(
            kind(teacher, Flat(perturb=perturb, rho=0.3)), course, seed=2, folder=tmp_path / f"{alone}", report=silent
        )
        found.append(([epoch.losses for epoch in history], list(teacher.parameters())))

    assert found[0][0] == found[1][0]
    assert all(torch.equal(x, y) for x, y in zip(found[0][1], found[1][1], strict=True))


def test_the_stem_learns_in_its_own_turn_alone_and_nothing_else_learns_in_it(tmp_path: Path) -> None:
    teacher, _, data = made(tmp_path, msgspec.structs.replace(BUILD, stem=4))
    awake(teacher)
    objective = Cooperation(teacher, Flat(rho=0.1)).train()
    changed = {}
    for turn in ("bright", STEM):
        objective.zero_grad(set_to_none=True)
        objective.take(turn, alone=False)
        before = {name: x.clone() for name, x in teacher.state_dict().items()}
        one_step(objective, some(data))
        after = teacher.state_dict()
        changed[turn] = {name for name in after if not torch.equal(before[name], after[name])}

    assert not any(name.startswith("stem") for name in changed["bright"])
    assert changed[STEM]
    assert all(name.startswith("stem") for name in changed[STEM])
    assert all(x.requires_grad for x in teacher.parameters())


def test_in_the_stem_s_turn_the_loss_is_the_weighted_sum_of_all(tmp_path: Path) -> None:
    teacher, _, data = made(tmp_path, msgspec.structs.replace(BUILD, stem=4))
    awake(teacher)
    objective, batch = Cooperation(teacher, PLAIN).eval(), some(data)

    parts = []
    for name in teacher.names:
        objective.take(name, alone=False)
        parts.append(objective(batch)[name])
    objective.take(STEM, alone=False)

    assert torch.allclose(objective(batch)[STEM], torch.stack(parts).sum(), rtol=1e-5)


class Number(Encoder):
    """An encoder of the toy: one number, whatever it sees."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.value = nn.Parameter(torch.tensor([0.2]))

    def forward(self, seen: Tensor) -> Pyramid:
        return {32: self.value.expand(len(seen), 1)[:, :, None, None]}


class Toy(Reader):
    """A reader of the toy: the loss of `own` against the other's number."""

    def __init__(self, task: Task, goal: float) -> None:
        nn.Module.__init__(self)
        self.task, self.goal = task, goal

    def others(self, maps: Sequence[Tensor], own: Tensor) -> list[Tensor]:
        return list(maps)

    def loss(self, pyramid: Pyramid, others: Sequence[Tensor] | None, target: Target) -> Tensor:
        assert others is not None
        return ((pyramid[32] - others[0]) ** 2 + (pyramid[32] - self.goal) ** 2).mean()


def toy(root: Path) -> tuple[Cooperative, TrainingData]:
    """Two players, a and b: `(a - b)^2 + a^2` and `(b - a)^2 + (b - 1)^2`."""
    two = tuple(task for task in NUMBERS if task.name in ("bright", "corner"))
    teacher, _, data = made(root, BUILD, two)
    for task, goal in zip(two, (0.0, 1.0), strict=True):
        teacher.encoders[task.name] = Number()
        teacher.readers[task.name] = Toy(task, goal)
    return teacher, data


def players(teacher: Cooperative) -> list[nn.Parameter]:
    found = []
    for module in teacher.encoders.values():
        assert isinstance(module, Number)
        found.append(module.value)
    return found


def values(teacher: Cooperative) -> tuple[float, float]:
    a, b = players(teacher)
    return a.item(), b.item()


SGD = Plan(
    epochs=12,
    batch_size=1,
    learning_rate=0.25,
    optimizer="sgd",
    momentum=0.0,
    weight_decay=0.0,
    schedule="constant",
    warmup=0.0,
    clip=0.0,
    ema=0.0,
    augment=STILL,
)


def test_the_toy_game_ends_where_the_game_ends_and_not_where_the_sum_does(tmp_path: Path) -> None:
    teacher, data = toy(tmp_path)
    seen: list[tuple[float, float]] = []

    class Watched(TurnCourse):
        def after_step(self, epoch: int, step: int, steps: int, objective: Objective) -> None:
            if step + 1 == steps or self.turns(epoch)[step] != self.turns(epoch)[step + 1]:
                seen.append(values(teacher))
            super().after_step(epoch, step, steps, objective)

    places = dict.fromkeys(teacher.names, np.arange(1))
    play = Play(inner=0, order="fixed", alone=0, steps=8, back=0, keep="last")
    fit(
        Cooperation(teacher, PLAIN),
        Watched(data, unjudged, SGD, play, places, seed=0),
        seed=0,
        folder=tmp_path / "run",
        report=silent,
    )

    b = 0.2
    for found in zip(seen[::2], seen[1::2], strict=True):  # each turn is an exact minimisation
        a = b / 2
        assert found[0] == pytest.approx((a, b), abs=1e-5)
        b = (a + 1) / 2
        assert found[1] == pytest.approx((a, b), abs=1e-5)
    assert values(teacher) == pytest.approx((1 / 3, 2 / 3), abs=1e-5)


def test_the_sum_of_the_toy_s_losses_ends_elsewhere(tmp_path: Path) -> None:
    teacher, _ = toy(tmp_path)
    optimizer = torch.optim.SGD(players(teacher), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        maps = [teacher.encoder(name)(torch.zeros(1))[32] for name in teacher.names]
        losses = [
            teacher.reader(name).loss({32: own}, [other], torch.zeros(1))
            for name, own, other in zip(teacher.names, maps, maps[::-1], strict=True)
        ]
        torch.stack(losses).sum().backward()
        optimizer.step()

    assert values(teacher) == pytest.approx((2 / 5, 3 / 5), abs=1e-5)


def leaning(seed: int, rho: float) -> float:
    """What a linear reader puts on the other's misleading feature.

    The other offers a feature that tells the truth, if less well than the own one, and one that goes with the truth in
    the little training data alone.
    """
    generator = torch.Generator().manual_seed(seed)
    truth, noise = torch.randn(40, 1, generator=generator), torch.randn(40, 3, generator=generator)
    own, shared = truth + 0.6 * noise[:, :1], truth + noise[:, 1:2]
    others = [torch.cat((shared, 0.8 * truth + 0.7 * noise[:, 2:]), 1)]
    reader = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(reader.weight)
    optimizer = torch.optim.SGD(reader.parameters(), lr=0.1)

    def loss(given: Sequence[Tensor]) -> Tensor:
        found: Tensor = (reader(torch.cat((own, *given), 1)) - truth).square().mean()
        return found

    for _ in range(100):
        optimizer.zero_grad()
        loss(moved(others, ascent(loss, others, rho))).backward()
        optimizer.step()
    return abs(reader.weight[0, 2].item())


@pytest.mark.parametrize("seed", range(5))
def test_flat_training_leans_less_on_the_other_s_misleading_feature(seed: int) -> None:
    assert leaning(seed, 0.3) < 0.8 * leaning(seed, 0.0)


def test_a_killed_training_goes_on_to_the_same_weights_losses_and_earlier_state(tmp_path: Path) -> None:
    play, plan = Play(alone=1, back=1, keep="last"), longer(3)
    whole, history = trained(tmp_path / "whole", Flat(rho=0.1), play, plan, tasks=NUMBERS)

    def broken(killed: int) -> list[dict[str, float]]:
        class Killed(TurnCourse):
            def begin(self, epoch: int, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
                if epoch == killed:
                    raise KeyboardInterrupt
                super().begin(epoch, objective, optimizer)

        teacher, dataset, data = made(tmp_path / "broken", BUILD, NUMBERS)
        places = {task.name: np.flatnonzero(dataset.subset("train").known(task.name)) for task in dataset.tasks}
        course = Killed(data, unjudged, plan, play, places, seed=1)
        folder = tmp_path / "broken/run"
        lines = fit(Cooperation(teacher, Flat(rho=0.1)), course, seed=1, folder=folder, report=silent)
        assert course.earlier
        assert all(torch.equal(x, y) for x, y in zip(whole.parameters(), teacher.parameters(), strict=True))
        return [line.losses for line in lines]

    for epoch in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            broken(epoch)

    assert broken(9) == history
