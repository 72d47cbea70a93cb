from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
import torch
from factors import COLOUR, COMPLEX, SIMPLE, pictures, teacher_of
from sklearn.preprocessing import RobustScaler
from torch import Tensor

from foveola.runtime.answer import decode
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import TaskOutput
from foveola.runtime.task import Task
from foveola.toolkit.batches import Batch, TrainingData
from foveola.toolkit.data.arrays import Arrays
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.data.samples import Sample
from foveola.toolkit.teachers.sepl.objective import Propagating, factor_loss
from foveola.toolkit.teachers.sepl.scaler import Centres, fit_scalers
from foveola.toolkit.teachers.sepl.views import draw_maps, one_of_four

NAN = float("nan")
AGE = Task(name="age", kind="regression", classes=("age",))
PAIR = Task(name="pair", kind="regression", classes=("low", "high"))


def measured(values: np.ndarray, splits: list[str], task: Task = AGE) -> Dataset:
    """A data set of these values and nothing else."""
    samples = tuple(
        Sample(key=str(i), path=Path(str(i)), patient=str(i), split=split, sha256=str(i), attributes={}, row=i)
        for i, split in enumerate(splits)
    )
    scalars = {task.name: values.reshape(len(splits), -1).astype(np.float32)}
    return Dataset(
        root=Path("here"), tasks=(task,), samples=samples, scalars=scalars, masks={}, ignores={}, boxes={}, digest=""
    )


def scaled(values: np.ndarray, scalers: tuple[Centres, Centres], task: Task = AGE) -> Tensor:
    """These values as a training with these scalers has them, (N, columns)."""
    given: dict[str, Any] = {"masks": {}, "boxes": {}, "geometries": (), "samples": ()}
    scalars = {task.name: values.reshape(len(values), -1).astype(np.float32)}
    arrays = Arrays(images=np.zeros((len(values), 1, 1, 1), np.float32), scalars=scalars, **given)
    return TrainingData(arrays, (task,), *scalers).scalars[task.name]


def test_the_scaler_is_median_and_interquartile_range_and_leaves_outliers_large() -> None:
    values = np.array([1, 2, 3, 4, 100.0])

    scalers = fit_scalers(measured(values, ["train"] * 5), "robust")

    assert scalers == ({"age": (3.0,)}, {"age": (2.0,)})
    assert scaled(values, scalers).flatten().tolist() == [-1.0, -0.5, 0.0, 0.5, 48.5]


def test_the_scaler_is_scikit_learn_s_and_the_device_gives_the_values_back() -> None:
    values, nowhere = np.random.default_rng(0).gamma(2.0, 30.0, (200, 2)), None

    centres, ranges = fit_scalers(measured(values, ["train"] * 200, PAIR), "robust")
    found = scaled(values, (centres, ranges), PAIR)

    theirs: Any = RobustScaler().fit(values.astype(np.float32))
    np.testing.assert_allclose(centres["pair"], theirs.center_, rtol=1e-6)
    np.testing.assert_allclose(ranges["pair"], theirs.scale_, rtol=1e-6)
    np.testing.assert_allclose(found, theirs.transform(values), atol=1e-5)
    output: Any = TaskOutput(task=PAIR, tensors=("pair",), mean=centres["pair"], std=ranges["pair"])
    for raw, wanted in zip(found.numpy(), values, strict=True):
        told = decode((output,), {"pair": raw[None]}, nowhere, COLOUR)  # type: ignore[arg-type]  # pyright: ignore
        assert [one.value for one in told.measurements] == pytest.approx(wanted, rel=1e-5)


def test_the_scaler_looks_at_the_train_split_alone() -> None:
    values, splits = np.arange(20.0), ["train"] * 10 + ["val"] * 5 + ["test"] * 5
    other = values.copy()
    other[10:] *= 1000

    assert fit_scalers(measured(values, splits), "robust") == fit_scalers(measured(other, splits), "robust")


def test_a_measure_half_of_whose_values_are_equal_is_scaled_by_its_deviation_and_said() -> None:
    values, said = np.array([5.0] * 8 + [6.0, NAN, 9.0]), list[str]()

    centres, ranges = fit_scalers(measured(values, ["train"] * 11), "robust", said.append)

    assert centres == {"age": (5.0,)}
    assert ranges["age"][0] == pytest.approx(np.nanstd(values))
    assert said == ["age: half of its values are equal, so that its standard deviation is the scale"]


def test_of_several_measures_the_one_without_a_range_is_named() -> None:
    values, said = np.array([[5.0, 1.0], [5.0, 2.0], [5.0, 3.0], [5.0, 4.0], [6.0, 5.0]]), list[str]()

    fit_scalers(measured(values, ["train"] * 5, PAIR), "robust", said.append)

    assert [line.split(":")[0] for line in said] == ["low"]


def test_a_constant_measure_is_refused() -> None:
    with pytest.raises(FoveolaError, match="task 'age': age has one value only"):
        fit_scalers(measured(np.array([7.0, 7.0, NAN, 7.0]), ["train"] * 4), "robust")


def test_a_measure_loses_by_absolute_error_and_a_class_by_cross_entropy() -> None:
    said, wanted = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [5.0]])
    sex = Task(name="sex", kind="binary", classes=("f", "m"))

    assert float(factor_loss(AGE, said, wanted)) == 2.0
    assert float(factor_loss(AGE, said, wanted, clip=2.5)) == 0.75
    by_torch = torch.nn.functional.binary_cross_entropy_with_logits(said, torch.tensor([[0.0], [1.0]]))
    torch.testing.assert_close(factor_loss(sex, said, torch.tensor([[0.0], [1.0]])), by_torch)


def batch_of(targets: dict[str, Tensor]) -> Batch:
    x = pictures(4)
    view = torch.ones(4, 1, 64, 64, dtype=torch.bool)
    return Batch(images=x, scalars=targets, masks={}, boxes={}, soft={}, soft_boxes={}, hint=None, view=view)


def targets(**changes: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    drawn = {task.name: torch.randn(4, 1, generator=generator) for task in (*SIMPLE, *COMPLEX)}
    return drawn | {"sex": torch.tensor([[0.0], [1.0], [1.0], [0.0]])} | changes


def gradients(losses: dict[str, Tensor], objective: Propagating) -> dict[str, Tensor]:
    objective.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    return {name: one.grad.clone() for name, one in objective.named_parameters() if one.grad is not None}


def test_a_gap_gives_the_gradient_of_a_sum_without_that_term() -> None:
    objective = Propagating(teacher_of())
    gap = targets(glucose=torch.full((4, 1), NAN))

    masked = gradients(objective(batch_of(gap)), objective)
    losses = objective(batch_of(targets()))
    without = gradients({name: loss for name, loss in losses.items() if name != "glucose"}, objective)

    for name, gradient in masked.items():
        torch.testing.assert_close(gradient, without.get(name, torch.zeros_like(gradient)))


@pytest.mark.parametrize("weights", ["fixed", "learned"])
def test_a_batch_in_which_nothing_is_known_teaches_nothing(weights: Literal["fixed", "learned"]) -> None:
    objective = Propagating(teacher_of(), weights=weights)
    nothing = {name: torch.full_like(x, NAN) for name, x in targets().items()}

    losses = objective(batch_of(nothing))
    found = gradients(losses, objective)

    assert all(loss == 0 for loss in losses.values())
    assert found
    assert all(bool((gradient == 0).all()) for gradient in found.values())


def test_gaps_of_some_pictures_leave_the_mean_of_the_others() -> None:
    said = torch.tensor([[1.0], [2.0], [9.0]], requires_grad=True)

    loss = factor_loss(AGE, said, torch.tensor([[0.0], [0.0], [NAN]]))
    (gradient,) = torch.autograd.grad(loss, said)

    assert loss.item() == 1.5
    assert gradient.flatten().tolist() == [0.5, 0.5, 0.0]


def test_the_simple_factors_alone_leave_experts_and_gates_without_gradient() -> None:
    objective = Propagating(teacher_of())
    objective.simple_only = True

    losses = objective(batch_of(targets()))
    found = gradients(losses, objective)

    assert set(losses) == {task.name for task in SIMPLE}
    assert not any("complex" in name for name in found)
    assert any("backbone" in name for name in found)


@pytest.mark.parametrize("prior", ["guide", "reference"])
def test_in_bfloat16_the_losses_are_those_of_float32_but_for_its_rounding(prior: str) -> None:
    objective, batch = Propagating(teacher_of(prior=prior)), batch_of(targets())

    exact = objective(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = objective(batch)
    found = gradients(rounded, objective)

    assert all(loss.dtype == torch.float32 for loss in rounded.values())
    assert {name: x.item() for name, x in rounded.items()} == pytest.approx(
        {name: x.item() for name, x in exact.items()}, rel=0.05, abs=0.02
    )
    assert all(bool(gradient.isfinite().all()) for gradient in found.values())


def test_task_weights_count_and_may_be_learned() -> None:
    plain = Propagating(teacher_of())
    heavy = (*SIMPLE, *(msgspec.structs.replace(task, weight=3.0) for task in COMPLEX))
    weighted, learned = Propagating(teacher_of(tasks=heavy)), Propagating(teacher_of(), weights="learned")

    one, three = (objective(batch_of(targets()))["sbp"] for objective in (plain, weighted))

    torch.testing.assert_close(three, 3 * one)
    assert sum("learned" in name for name, _ in plain.named_parameters()) == 0
    assert sum("learned" in name for name, _ in learned.named_parameters()) == 15


def views(count: int, height: int = 8, width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, their views, and the maps that were drawn for them."""
    given: dict[str, Any] = {"scalars": {}, "masks": {}, "boxes": {}, "soft": {}, "soft_boxes": {}, "hint": None}
    x = torch.rand(count, 3, height, width)
    batch = Batch(images=x, view=torch.ones(count, 1, height, width, dtype=torch.bool), **given)
    seen = one_of_four(batch, torch.Generator().manual_seed(seed), torch.device("cpu")).images
    return x, seen, draw_maps(count, width / height, torch.Generator().manual_seed(seed))


def test_a_picture_is_seen_in_exactly_one_of_four_ways() -> None:
    x, seen, maps = views(200)

    likened = (x, x.flip(3), x.flip(2))
    plain, mirrored, upside = (
        torch.tensor([torch.allclose(a, b, atol=1e-5) for a, b in zip(seen, other, strict=True)]) for other in likened
    )
    turned = maps[:, 0, 1] != 0
    ways = torch.stack((plain, mirrored, upside, turned))
    assert ways.sum(0).tolist() == [1] * 200
    assert int(ways.sum(1).min()) > 30
    angles = torch.rad2deg(torch.asin(maps[turned, 1, 0]))
    assert float(angles.abs().max()) <= 15.0
    assert angles.min() < -5 < 5 < angles.max()


def test_a_turn_is_one_in_pixels_also_where_a_picture_is_wide() -> None:
    _, _, maps = views(50, 10, 20)

    turned = maps[maps[:, 0, 1] != 0]

    # In pixels the map is a rotation: half the width times what half the height is divided by.
    torch.testing.assert_close(turned[:, 0, 1] * 2, -turned[:, 1, 0] / 2)
    torch.testing.assert_close(turned[:, 0, 0] ** 2 + (turned[:, 1, 0] / 2) ** 2, torch.ones(len(turned)))


def test_the_same_seed_draws_the_same_views() -> None:
    assert torch.equal(views(20)[2], views(20)[2])
    assert not torch.equal(views(20)[2], views(20, seed=1)[2])
