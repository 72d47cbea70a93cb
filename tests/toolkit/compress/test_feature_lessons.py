"""Lessons in features, against the published formulas on examples that can be followed by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch.nn import functional

from foveola.toolkit.compress.feature_lessons import (
    ANGLE,
    attention_loss,
    foreground_of,
    hint_loss,
    pooled,
    relation_loss,
    similarity_loss,
)


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_similarity_compares_images_whatever_the_width() -> None:
    own, teacher = draws(4, 3, 2, 2), draws(4, 5, 2, 2, seed=1)
    grams = []
    for x in (own, teacher):
        flat = x.flatten(1).double().numpy()
        gram = flat @ flat.T
        grams.append(gram / np.linalg.norm(gram, axis=1, keepdims=True))
    wanted = np.square(grams[0] - grams[1]).sum() / 16  # Tung and Mori 2019, eq. 4: over b squared

    assert float(similarity_loss(own, teacher)) == pytest.approx(wanted, rel=1e-4)


def test_features_in_another_order_or_scale_have_the_same_similarities() -> None:
    teacher = draws(4, 6, 2, 2)

    assert float(similarity_loss(3 * teacher.flip(1), teacher)) == pytest.approx(0, abs=1e-7)


def test_attention_is_where_the_activity_is() -> None:
    own, teacher = draws(2, 3, 4, 4), draws(2, 5, 4, 4, seed=1)
    wanted = 0.0
    for one, other in zip(own, teacher, strict=True):
        a, b = ((x.double() ** 2).sum(0).flatten().numpy() for x in (one, other))
        wanted += np.square(a / np.linalg.norm(a) - b / np.linalg.norm(b)).sum() / 2

    assert float(attention_loss(own, teacher)) == pytest.approx(wanted, rel=1e-4)


def test_relations_are_distances_over_their_mean_and_cosines_of_angles() -> None:
    own, teacher = draws(4, 3), draws(4, 6, seed=1)
    distances, angles = [], []
    for x in (own.double().numpy(), teacher.double().numpy()):
        apart = cdist(x, x)
        distances.append(apart / apart[apart > 0].mean())
        cosines = np.zeros((4, 4, 4))
        for i, j, k in np.ndindex(4, 4, 4):
            if i not in (j, k):
                a, b = x[j] - x[i], x[k] - x[i]
                cosines[i, j, k] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        angles.append(cosines)
    parts = [float(functional.smooth_l1_loss(torch.from_numpy(a), torch.from_numpy(b))) for a, b in (distances, angles)]

    assert float(relation_loss(own, teacher)) == pytest.approx(parts[0] + ANGLE * parts[1], rel=1e-4)


def test_relations_survive_two_images_that_are_the_same() -> None:
    own = draws(1, 3).repeat(4, 1).requires_grad_()

    relation_loss(own, draws(4, 6)).backward()

    assert own.grad is not None
    assert bool(own.grad.isfinite().all())
    assert float(relation_loss(draws(1, 3), draws(1, 6))) == 0


@pytest.mark.parametrize("loss", [hint_loss, attention_loss, similarity_loss])
def test_cells_outside_the_picture_teach_nothing(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    own, teacher = draws(3, 4, 4, 4), draws(3, 4, 4, 4, seed=1)
    teacher[..., :2] = 0
    changed = own.clone()
    changed[..., :2] += 5

    assert torch.allclose(loss(own, teacher), loss(changed, teacher), atol=1e-6)


def test_pooled_features_are_the_mean_over_the_picture() -> None:
    teacher = torch.ones(1, 2, 4, 4)
    teacher[..., :2] = 0

    assert torch.equal(pooled(teacher), torch.ones(1, 2))


def test_the_foreground_is_every_cell_that_a_box_touches_at_its_best_score() -> None:
    boxes = [torch.tensor([[0.0, 0, 15, 15, 0, 0.5], [10, 10, 31, 12, 0, 0.9]]), torch.zeros(0, 6)]

    found = foreground_of([boxes], (64, 32), (4, 2))  # cells of 16 by 16 pixels

    assert torch.allclose(found[0], torch.tensor([[0.9, 0.9], [0, 0], [0, 0], [0, 0]]))
    assert not found[1].any()


def test_a_hint_on_the_foreground_is_the_weighted_mean_there() -> None:
    own, teacher = draws(1, 4, 2, 2), draws(1, 4, 2, 2, seed=1)
    focus = torch.tensor([[[0.8, 0.0], [0.2, 0.0]]])
    apart = 1 - functional.cosine_similarity(own, teacher, dim=1)[0]
    even, focused = float(apart.mean()), float(0.8 * apart[0, 0] + 0.2 * apart[1, 0])

    found = hint_loss(own, teacher, focus, 0.25)

    assert float(found) == pytest.approx(0.75 * even + 0.25 * focused, rel=1e-5)
    assert torch.equal(hint_loss(own, teacher, focus, 0.0), hint_loss(own, teacher))


def test_similarity_on_the_foreground_sees_the_foreground_alone() -> None:
    own, teacher = draws(3, 4, 2, 2), draws(3, 5, 2, 2, seed=1)
    focus = torch.zeros(3, 2, 2)
    focus[:, 0] = 1.0
    changed = own.clone()
    changed[:, :, 1] += 3

    assert torch.allclose(similarity_loss(own, teacher, focus, 1.0), similarity_loss(changed, teacher, focus, 1.0))
    assert not torch.allclose(similarity_loss(own, teacher, focus, 0.5), similarity_loss(changed, teacher, focus, 0.5))
