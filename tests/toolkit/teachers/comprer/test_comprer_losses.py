"""Losses of a pretraining after COMPRER: fixtures, masks, symmetry."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from foveola.runtime.task import Task
from foveola.toolkit.teachers.comprer.losses import (
    gap_loss,
    measure_entries,
    measure_loss,
    order_loss,
    pair_contrast,
    rebuild_loss,
)
from foveola.toolkit.teachers.comprer.parts import Compare

IMT = Task(name="imt", kind="regression", classes=("imt",))


def unit(rows: int, size: int, seed: int) -> torch.Tensor:
    return functional.normalize(torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_two_orthogonal_matched_pairs_cost_what_the_closed_formula_says() -> None:
    matched = torch.eye(2)

    loss = pair_contrast(matched, matched, torch.arange(2), 0.5)

    assert loss.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 1)), abs=1e-6)
    assert loss.item() == pytest.approx(0.126928, abs=1e-6)


def test_matched_orthogonal_embeddings_cost_nothing_as_the_temperature_falls() -> None:
    matched = torch.eye(16)

    losses = [pair_contrast(matched, matched, torch.arange(16), tau).item() for tau in (1.0, 0.3, 0.1, 0.03)]

    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-6


def test_independent_embeddings_cost_the_logarithm_of_their_number() -> None:
    a, b = unit(256, 128, 0), unit(256, 128, 1)

    assert pair_contrast(a, b, torch.arange(256), 1.0).item() == pytest.approx(math.log(256), abs=0.05)


def test_the_contrast_is_symmetric_and_notices_who_belongs_together() -> None:
    a = unit(8, 16, 0)
    b = functional.normalize(a + 0.1 * unit(8, 16, 1), dim=1)
    own = torch.arange(8)

    loss = pair_contrast(a, b, own, 0.1)

    assert loss.item() == pytest.approx(pair_contrast(b, a, own, 0.1).item(), abs=1e-6)
    assert pair_contrast(a, b.roll(1, 0), own, 0.1) > loss + 1


def test_another_pair_of_the_same_person_is_no_negative() -> None:
    a, b = unit(3, 16, 0), unit(3, 16, 1)
    own = np.array([0, 0, 1])
    cosine = (a @ b.T).double().numpy() / 0.2
    left_out = (own[:, None] == own) & ~np.eye(3, dtype=bool)
    shown = np.where(left_out, -np.inf, cosine)
    costs = [np.log(np.exp(row).sum()) - row[i] for side in (shown, shown.T) for i, row in enumerate(side)]

    loss = pair_contrast(a, b, torch.from_numpy(own), 0.2)

    assert loss.item() == pytest.approx(np.mean(costs), abs=1e-5)
    assert loss < pair_contrast(a, b, torch.arange(3), 0.2)


def test_swapped_visits_flip_the_sign_of_what_lies_between_them() -> None:
    compare, a, b = Compare(6), unit(5, 6, 0), unit(5, 6, 1)

    assert torch.allclose(compare(a, b), -compare(b, a), atol=1e-6)
    assert torch.equal(compare(a, a), torch.zeros(5))


def test_the_order_loss_stays_the_same_when_visits_and_label_are_swapped() -> None:
    logit, years = torch.tensor([0.7, -1.2]), torch.tensor([2.0, -0.5])

    assert order_loss(logit, years, 1.0).item() == pytest.approx(order_loss(-logit, -years, 1.0).item(), abs=1e-6)
    assert order_loss(-logit, years, 1.0) > order_loss(logit, years, 1.0)


def test_the_gap_loss_changes_its_sign_with_the_order() -> None:
    years = torch.tensor([3.0, -1.0])

    assert gap_loss(years / 2, years, 2.0).item() == 0
    assert gap_loss(-years / 2, -years, 2.0).item() == 0
    assert gap_loss(-years / 2, years, 2.0) > 0.5


def test_a_pair_without_a_known_order_counts_nothing_and_a_near_one_counts_less() -> None:
    logit = torch.tensor([1.0, 5.0, 5.0])
    years = torch.tensor([2.0, torch.nan, 0.0])
    wrong = torch.tensor([1.0, -5.0])

    assert order_loss(logit, years, 1.0).item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)
    assert order_loss(wrong, torch.tensor([2.0, 0.1]), 1.0) < order_loss(wrong, torch.tensor([2.0, 2.0]), 1.0)
    assert gap_loss(logit, torch.tensor([1.0, torch.nan, torch.nan]), 1.0).item() == 0


def test_a_gap_among_the_measures_is_masked() -> None:
    predicted, values = torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [torch.nan]])

    entries = measure_entries(IMT, predicted, values, "mse")

    assert measure_loss([entries], [1.0]).item() == 1.0
    assert measure_loss([measure_entries(IMT, predicted, values, "huber")], [1.0]).item() == 0.5


@pytest.mark.parametrize(
    ("task", "target"),
    [
        (Task(name="a", kind="binary", classes=("no", "yes")), [[1.0], [torch.nan], [0.0]]),
        (Task(name="b", kind="multilabel", classes=("x", "y")), [[1.0, 0.0], [torch.nan, 1.0], [0.0, torch.nan]]),
        (Task(name="c", kind="multiclass", classes=("x", "y", "z")), [[2.0], [torch.nan], [0.0]]),
        (Task(name="d", kind="ordinal", classes=("x", "y", "z")), [[2.0], [torch.nan], [0.0]]),
    ],
    ids=lambda x: x.kind if isinstance(x, Task) else "",
)
def test_each_kind_of_measure_costs_the_mean_over_what_is_known(task: Task, target: list[list[float]]) -> None:
    from foveola.toolkit.losses import scalar_loss

    raw = torch.randn(3, task.channels, generator=torch.Generator().manual_seed(0), requires_grad=True)
    wanted = torch.tensor(target)

    loss = measure_loss([measure_entries(task, raw, wanted)], [1.0])
    loss.backward()

    assert loss.item() == pytest.approx(scalar_loss(task, raw, wanted).item(), abs=1e-6)
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_a_reconstruction_is_judged_on_normalised_pixels() -> None:
    wanted = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.4, 0.3, 0.2]).reshape(1, 3, 1, 1), torch.tensor([0.2, 0.2, 0.1]).reshape(1, 3, 1, 1)
    rebuilt = (wanted - mean) / std

    assert rebuild_loss(rebuilt, wanted, std, mean).item() == 0
    assert rebuild_loss(rebuilt + 1, wanted, std, mean).item() == pytest.approx(1.0, abs=1e-5)
    assert rebuild_loss(rebuilt, wanted, std, mean, "l1_ssim").item() == pytest.approx(0.0, abs=1e-5)
    assert rebuild_loss(torch.zeros_like(rebuilt), wanted, std, mean, "l1_ssim") > 1


def test_half_precision_embeddings_are_compared_in_single_precision() -> None:
    a, b = unit(8, 16, 0).bfloat16(), unit(8, 16, 1).bfloat16()

    loss = pair_contrast(a, b, torch.arange(8), 0.05)

    assert loss.dtype == torch.float32
    assert np.isfinite(loss.item())
