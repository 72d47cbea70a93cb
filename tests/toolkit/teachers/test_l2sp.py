from __future__ import annotations

import pytest
import torch
from torch import nn

from foveola.toolkit.teachers.l2sp import distance, kernels, l2sp, snapshot


def test_the_worked_example_of_the_reference() -> None:
    shared, head = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)

    omega = l2sp([shared], [torch.zeros(2)], [head], alpha=0.1, beta=0.01)
    omega.backward()

    assert float(omega.detach()) == pytest.approx(0.295)
    assert shared.grad is not None
    assert head.grad is not None
    assert shared.grad.tolist() == pytest.approx([0.1, 0.2])
    assert head.grad.tolist() == pytest.approx([0.03])


def test_at_the_anchor_nothing_is_pulled() -> None:
    module = nn.Conv2d(2, 3, 3)

    omega = l2sp(list(kernels(module).values()), list(snapshot(module).values()), [], alpha=5.0, beta=0.0)

    assert float(omega.detach()) == 0.0


def test_the_anchor_is_a_copy_and_only_kernels_are_held() -> None:
    first = nn.Conv2d(1, 2, 3)
    module = nn.Sequential(first, nn.BatchNorm2d(2))
    anchor = snapshot(module)
    before = anchor["0.weight"].clone()

    with torch.no_grad():
        first.weight.mul_(2)

    assert list(anchor) == ["0.weight"]
    assert not anchor["0.weight"].requires_grad
    assert torch.equal(anchor["0.weight"], before)
    assert distance(module, anchor) == pytest.approx(1.0)
