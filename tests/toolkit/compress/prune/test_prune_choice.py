from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foveola.toolkit.checkpoint import Objective
from foveola.toolkit.compress.prune.groups import Group
from foveola.toolkit.compress.prune.importance import fill_gradients
from foveola.toolkit.compress.prune.search import MOST, NEIGHBOURS, TOLERANCE, TRIES, find_ratio, off
from foveola.toolkit.compress.prune.widths import choose, rounded


def made(*widths: int, kinds: Sequence[str] = ()) -> list[Group]:
    kinds = kinds or ["a"] * len(widths)
    return [
        Group(root=f"layer{number}", width=width, parts=frozenset(), kind=kind, items=None)
        for number, (width, kind) in enumerate(zip(widths, kinds, strict=True))
    ]


def counted(groups: Sequence[Group], marks: Sequence[Tensor], ratio: float, scope: str, multiple: int) -> list[int]:
    removals = choose(groups, marks, ratio, scope, multiple)  # type: ignore[arg-type]
    return [len(removals.get(group.root, ())) for group in groups]


def test_the_least_important_channels_go() -> None:
    removals = choose(made(4), [torch.tensor([3.0, 1.0, 2.0, 4.0])], 0.5, "uniform", 1)

    assert removals == {"layer0": [1, 2]}


def test_scopes_rank_within_a_layer_a_kind_or_the_network() -> None:
    groups = made(8, 8, 8, kinds=("a", "a", "b"))
    marks = [torch.arange(8.0), torch.arange(8.0) + 8, torch.arange(8.0) + 100]

    assert counted(groups, marks, 0.25, "uniform", 1) == [2, 2, 2]
    assert counted(groups, marks, 0.25, "isomorphic", 1) == [4, 0, 2]
    assert counted(groups, marks, 0.25, "global", 1) == [6, 0, 0]


@pytest.mark.parametrize(
    ("kept", "width", "multiple", "wanted"),
    [
        pytest.param(19, 64, 8, 16, id="to the nearest multiple"),
        pytest.param(20, 64, 8, 24, id="halves go up"),
        pytest.param(1, 64, 8, 8, id="one multiple stays"),
        pytest.param(1, 960, 8, 96, id="a tenth stays"),
        pytest.param(3, 6, 8, 6, id="a layer below the multiple stays whole"),
        pytest.param(22, 23, 8, 23, id="never more than there were"),
        pytest.param(13, 64, 1, 13, id="no multiple"),
    ],
)
def test_widths_are_multiples_of_what_the_device_likes(kept: int, width: int, multiple: int, wanted: int) -> None:
    assert rounded(kept, width, multiple) == wanted


# --- the search ---


def test_a_smooth_speed_up_is_found_in_a_few_measurements() -> None:
    found = find_ratio(3.0, lambda ratio: (1 - ratio) ** -1.4)

    assert found.meets(3.0)
    assert len(found.tried) <= 4


@pytest.mark.parametrize("wanted", [1.3, 2.0, 2.6, 4.0])
def test_a_sawtooth_is_searched_and_the_nearest_wins(wanted: float) -> None:
    # Widths in steps of an eighth, every second of which is slower than the one before: TP's issue 38.
    def measure(ratio: float) -> float:
        steps = round(8 * (1 - ratio)) or 1
        return float((8 / steps) ** 1.2) * (0.9 if steps % 2 else 1.0)

    best = min(off(measure(ratio / 1000), wanted) for ratio in range(1, 901))

    found = find_ratio(wanted, measure)

    assert off(found.speedup, wanted) <= max(best, TOLERANCE)
    assert len(found.tried) <= TRIES + len(NEIGHBOURS)


def test_a_speed_up_that_cannot_be_had_gives_the_nearest_after_few_measurements() -> None:
    found = find_ratio(10.0, lambda ratio: 1 + ratio)

    assert not found.meets(10.0)
    assert found.ratio == MOST
    assert len(found.tried) <= 4 + len(NEIGHBOURS)


# --- gradients ---


class Linear(Objective):
    """Loss of one image: (w . x)^2 / 2, so that the gradient is (w . x) x."""

    def __init__(self, weight: Tensor) -> None:
        layer = nn.Linear(2, 1, bias=False)
        layer.weight.data = weight[None]
        super().__init__(layer)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"loss": self.network(batch).pow(2).mean() / 2}


class Rows:
    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def batch(self, index: np.ndarray) -> Tensor:
        return self.rows[index]


def test_hessian_takes_the_mean_of_the_squared_gradients_of_all_images() -> None:
    rows, weight = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), torch.tensor([3.0, 0.5])
    objective = Linear(weight)
    each = (rows @ weight)[:, None] * rows

    fill_gradients(objective, Rows(rows), np.arange(3), "hessian")  # type: ignore[arg-type]

    (layer,) = objective.network.parameters()
    assert layer.grad is not None
    assert torch.allclose(layer.grad[0], each.pow(2).mean(0))


def test_taylor_takes_the_gradient_of_the_loss() -> None:
    rows, weight = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([3.0, 0.5])
    objective = Linear(weight)

    fill_gradients(objective, Rows(rows), np.arange(2), "taylor")  # type: ignore[arg-type]

    (layer,) = objective.network.parameters()
    assert layer.grad is not None
    assert torch.allclose(layer.grad[0], ((rows @ weight)[:, None] * rows).mean(0))


def test_importances_are_those_of_their_papers_on_a_hand_example() -> None:
    import torch_pruning

    from foveola.toolkit.compress.prune.importance import scores

    network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False))
    first, second = network[0], network[1]
    first.weight.data = torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]])
    second.weight.data = torch.tensor([[1.0, 4.0, 2.0]])
    graph = torch_pruning.DependencyGraph().build_dependency(network, torch.rand(1, 2))
    items = graph.get_pruning_group(first, torch_pruning.prune_linear_out_channels, [0, 1, 2])
    group = Group(root="0", width=3, parts=frozenset(), kind="", items=items)
    first.weight.grad = torch.tensor([[1.0, 1.0], [2.0, 2.0], [0.5, 9.0]])
    second.weight.grad = torch.tensor([[1.0, 0.25, 1.0]])

    magnitude = torch.tensor([1.0 + 4 + 1, 1.0 + 16, 9.0 + 4])  # squares of the weights
    taylor = torch.tensor([1.0 + 2 + 1, 2.0 + 1, 1.5 + 2])  # |w g|
    hessian = torch.tensor([1.0 + 4 + 1, 2.0 + 4, 4.5 + 4])  # w^2 h
    for kind, wanted in (("magnitude", magnitude), ("taylor", taylor), ("hessian", hessian)):
        assert torch.allclose(scores([group], kind)[0], wanted / wanted.mean())  # type: ignore[arg-type]
