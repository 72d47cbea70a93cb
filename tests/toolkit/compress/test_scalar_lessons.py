"""Lessons in numbers, against the published formulas on examples that can be followed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.nn import functional

from foveola.runtime.task import Kind, Task
from foveola.toolkit.compress.scalar_lessons import (
    DECOUPLED,
    bounded_loss,
    correlation_loss,
    decoupled_loss,
    gaussian_loss,
    soft_scalar_loss,
)

EXCLUSIVE = Task(name="t", kind="multiclass", classes=("a", "b", "c", "d"))
LABELS = Task(name="t", kind="multilabel", classes=("a", "b"))


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_dist_of_exclusive_classes_is_one_less_pearson_along_rows_and_along_columns() -> None:
    student, teacher = draws(6, 4), draws(6, 4, seed=1)
    p, q = (torch.softmax(x / 2.0, 1).double().numpy() for x in (student, teacher))
    rows = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    columns = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])

    found = correlation_loss(EXCLUSIVE, student, teacher, 2.0)

    assert float(found) == pytest.approx(4.0 * (rows + columns), rel=1e-4)


def test_dist_of_labels_is_their_correlation_along_the_batch() -> None:
    student, teacher = draws(8, 2), draws(8, 2, seed=1)
    wanted = np.mean(
        [1 - np.corrcoef(student[:, k].sigmoid().numpy(), teacher[:, k].sigmoid().numpy())[0, 1] for k in range(2)]
    )

    assert float(correlation_loss(LABELS, student, teacher, 1.0)) == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize("kind", ["binary", "multilabel", "multiclass", "ordinal"])
def test_a_correlated_student_has_nothing_to_learn(kind: Kind) -> None:
    task = Task(name="t", kind=kind, classes=("a", "b", "c") if kind in ("multiclass", "ordinal") else ("a", "b"))
    teacher = draws(6, task.channels)

    assert float(correlation_loss(task, teacher, teacher, 1.0)) == pytest.approx(0, abs=1e-5)
    assert float(correlation_loss(task, -teacher, teacher, 1.0)) > 0.5


def test_dist_of_labels_is_blind_to_their_level() -> None:
    probability = torch.tensor([[0.1, 0.5], [0.3, 0.2], [0.6, 0.4]])
    higher = 0.2 + probability / 2

    assert float(correlation_loss(LABELS, higher.logit(), probability.logit(), 1.0)) == pytest.approx(0, abs=1e-5)


def test_a_label_that_the_teacher_answers_alike_for_all_images_teaches_no_correlation() -> None:
    teacher = torch.tensor([[1.0, -1.0], [1.0, 2.0], [1.0, 0.0]])
    student = draws(3, 2).requires_grad_()

    correlation_loss(LABELS, student, teacher, 1.0).backward()

    assert student.grad is not None
    assert torch.equal(student.grad[:, 0], torch.zeros(3))
    assert student.grad[:, 1].abs().sum() > 0


def test_decoupled_distillation_is_the_old_one_with_another_weight_among_the_wrong_classes() -> None:
    # Zhao et al. 2022, eq. 6: KD = TCKD + (1 - the teacher's probability of the right class) NCKD.
    student, teacher = draws(5, 4), draws(5, 4, seed=1)
    right = torch.tensor([[0.0], [1.0], [3.0], [2.0], [0.0]])
    index = right[:, 0].long()
    p, q = student.softmax(1), teacher.softmax(1)
    wrong = ~functional.one_hot(index, 4).bool()
    own, theirs = (x[wrong].reshape(5, 3) / x[wrong].reshape(5, 3).sum(1, keepdim=True) for x in (p, q))
    among = (theirs * (theirs / own).log()).sum(1)
    kd = (q * (q / p).log()).sum(1)
    target = kd - (1 - q[torch.arange(5), index]) * among

    found = decoupled_loss(EXCLUSIVE, student, teacher, right, 1.0)

    assert float(found) == pytest.approx(float((target + DECOUPLED * among).mean()), rel=1e-4)


def test_where_the_right_class_is_not_known_the_teachers_choice_stands_for_it() -> None:
    student, teacher = draws(5, 4), draws(5, 4, seed=1)
    unknown = torch.full((5, 1), torch.nan)
    chosen = teacher.argmax(1, keepdim=True).float()

    assert torch.equal(
        decoupled_loss(EXCLUSIVE, student, teacher, unknown, 2.0),
        decoupled_loss(EXCLUSIVE, student, teacher, chosen, 2.0),
    )


def test_a_student_that_beats_its_teacher_is_left_in_peace() -> None:
    # Chen et al. 2017, eq. 4; errors of the student 1, 3, and of the teacher 2, 2; the last has no reference.
    teacher, target = torch.tensor([[2.0], [2.0], [1.0]]), torch.tensor([[0.0], [0.0], [torch.nan]])
    student = torch.tensor([[1.0], [3.0], [4.0]])

    assert float(bounded_loss(student, teacher, target)) == pytest.approx((0 + 9.0 + 2.5) / 3)  # smooth L1 of 3 is 2.5


def test_a_learned_variance_gives_the_normal_likelihood_without_its_constant() -> None:
    student, target = torch.tensor([[0.5], [2.0], [1.0]]), torch.tensor([[0.0], [1.0], [torch.nan]])
    spread = math.log(0.25)
    wanted = [-norm.logpdf(a, b, 0.5) - 0.5 * math.log(2 * math.pi) for a, b in ((0.5, 0.0), (2.0, 1.0))]

    found = gaussian_loss(student, target, torch.tensor([spread]))

    assert float(found) == pytest.approx(np.mean(wanted), rel=1e-5)


def test_the_variance_that_is_learned_is_the_mean_squared_error() -> None:
    student, target = draws(200, 1) * 3, torch.zeros(200, 1)
    spread = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([spread], max_iter=50)

    def closure() -> float:
        optimizer.zero_grad()
        loss = gaussian_loss(student, target, spread)
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)

    assert float(spread.detach().exp()) == pytest.approx(float(student.square().mean()), rel=1e-3)


def test_hinton_is_still_the_default() -> None:
    student, teacher = draws(5, 4), draws(5, 4, seed=1)
    p, q = (torch.softmax(x / 3.0, 1) for x in (student, teacher))

    found = soft_scalar_loss(EXCLUSIVE, student, teacher, 3.0)

    assert float(found) == pytest.approx(float(9 * (q * (q / p).log()).sum(1).mean()), rel=1e-5)
