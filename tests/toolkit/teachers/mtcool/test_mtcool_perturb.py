from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from foveola.toolkit.teachers.mtcool.perturb import (
    ascent,
    draws,
    lengths,
    moved,
    quantised,
    random_step,
    steady,
    worst_weights,
)


def features(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 3, 1, 1, generator=generator), torch.randn(5, 2, 4, 4, generator=generator)]


def uneven(others: Sequence[Tensor]) -> Tensor:
    return torch.stack([(other**3).flatten(1).mean(1) for other in others]).sum(0).exp().log1p().mean()


def test_on_a_quadratic_the_worst_step_is_parallel_to_the_gradient_and_the_rise_is_exact() -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    own, other, y = (torch.randn(1, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    rho = 0.3

    def loss(others: Sequence[Tensor]) -> Tensor:
        return 0.5 * (own @ a.T + others[0] @ b.T - y).square().sum()

    (delta,) = ascent(loss, [other], rho, relative=False)
    slope = (own @ a.T + other @ b.T - y) @ b  # B^T r
    rise = loss([other + delta]) - loss([other])

    assert torch.allclose(delta / delta.norm(), slope / slope.norm(), atol=1e-9)
    assert delta.norm().item() == pytest.approx(rho, abs=1e-9)
    assert rise.item() == pytest.approx((rho * slope.norm() + 0.5 * (delta @ b.T).square().sum()).item(), abs=1e-9)


@pytest.mark.parametrize("radius", [0.01, 0.1, 1.0])
def test_a_step_is_as_long_as_asked_for_each_image_over_all_parts_together(radius: float) -> None:
    others = features()

    worst, randomly = ascent(uneven, others, radius), random_step(others, radius, torch.Generator().manual_seed(1))

    assert torch.allclose(lengths(worst), radius * lengths(others), rtol=1e-4)
    assert torch.allclose(lengths(randomly), radius * lengths(others), rtol=1e-4)


def test_a_small_worst_step_raises_the_loss_more_than_a_random_one() -> None:
    others = features()
    before, risen = uneven(others), uneven(moved(others, ascent(uneven, others, 0.01)))

    tries = [uneven(moved(others, random_step(others, 0.01, torch.Generator().manual_seed(k)))) for k in range(20)]

    assert risen > before
    assert all(risen > one for one in tries)


def test_without_a_slope_there_is_no_step() -> None:
    others = features()

    steps = ascent(lambda given: sum((0.0 * one).sum() for one in given) + torch.tensor(1.0), others, 0.5)

    assert all(bool((step == 0).all()) for step in steps)


def test_random_draws_stay_within_the_bound_in_deviations_and_fill_it() -> None:
    others = [torch.randn(200, 8, generator=torch.Generator().manual_seed(0)) * 3 + 5]

    (noise,) = draws(others, 0.2)

    limit = 0.2 * others[0].std(correction=0)
    assert noise.abs().max() <= limit
    assert noise.abs().max() > 0.9 * limit
    assert abs(float(noise.mean())) < 0.1 * limit


@pytest.mark.parametrize(("bits", "values"), [(8, 256), (4, 16), (1, 2)])
def test_coarse_features_lie_on_a_grid_that_keeps_the_extremes(bits: int, values: int) -> None:
    other = torch.randn(3000, generator=torch.Generator().manual_seed(0))

    (coarse,) = quantised([other], bits)

    assert len(coarse.unique()) <= values
    assert torch.allclose(torch.stack([coarse.min(), coarse.max()]), torch.stack([other.min(), other.max()]))
    assert (coarse - other).abs().max() <= (other.max() - other.min()) / (values - 1) / 2 + 1e-6


def encoders() -> list[nn.Module]:
    torch.manual_seed(2)
    return [nn.Linear(4, 3).eval(), nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).eval()]


def ask(seen: Tensor) -> Callable[[Sequence[Callable[[Tensor], object]]], list[Tensor]]:
    def features_of(functions: Sequence[Callable[[Tensor], object]]) -> list[Tensor]:
        found = [function(seen) for function in functions]
        assert all(isinstance(one, Tensor) for one in found)
        return [one for one in found if isinstance(one, Tensor)]

    return features_of


def test_the_worst_weights_are_a_step_along_torch_s_own_gradient_and_the_modules_keep_theirs() -> None:
    modules, seen, radius = encoders(), torch.randn(6, 4, generator=torch.Generator().manual_seed(4)), 0.2
    before = [x.clone() for module in modules for x in module.parameters()]

    risen = worst_weights(uneven, modules, ask(seen), radius)

    again = encoders()
    uneven(ask(seen)(again)).backward()
    slopes = [x.grad for module in again for x in module.parameters()]
    length = torch.stack([slope.square().sum() for slope in slopes if slope is not None]).sum().sqrt()
    with torch.no_grad():
        for x, slope in zip((x for module in again for x in module.parameters()), slopes, strict=True):
            assert slope is not None
            x.add_(radius * slope / length)
        wanted = ask(seen)(again)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(risen, wanted, strict=True))
    after = [x for module in modules for x in module.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(x.grad is None for x in after)


def test_the_others_keep_their_weights_also_when_the_loss_fails() -> None:
    modules = encoders()
    before = [x.clone() for module in modules for x in module.parameters()]

    def broken(others: Sequence[Tensor]) -> Tensor:
        raise ValueError("no loss")

    with pytest.raises(ValueError, match="no loss"):
        worst_weights(broken, modules, ask(torch.randn(2, 4)), 0.1)
    assert all(torch.equal(x, y) for x, y in zip(before, (x for m in modules for x in m.parameters()), strict=True))


def test_running_statistics_are_steady_over_a_probe_also_when_it_fails() -> None:
    norm = nn.BatchNorm1d(3)
    before = norm.running_mean
    assert before is not None
    kept = before.clone()

    def fail() -> None:
        with steady(norm):
            norm(torch.randn(8, 3))
            assert not torch.equal(before, kept)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert torch.equal(before, kept)
