"""Perturbed features of the others: worst within a radius, random, or from perturbed weights; pure functions.

B batch. `others` is a list of features (B, ...), one of each other sub-model; a radius is that of all of them together,
for each image. Nothing is changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

Others = list[Tensor]
Loss = Callable[[Others], Tensor]  # of the others' features, a mean over the batch
SMALL = 1e-12


def lengths(parts: Sequence[Tensor]) -> Tensor:
    """Euclidean length (B,) of each image's features, all parts together."""
    return torch.stack([part.flatten(1).square().sum(1) for part in parts]).sum(0).sqrt()


def ascent(loss: Loss, others: Sequence[Tensor], radius: float, *, relative: bool = True) -> Others:
    """The step of each image's features along which the loss rises fastest (SAM, Foret et al., ICLR 2021, eq. 2).

    Args:
        loss: of the features; a sum or mean over images.
        others: where the step begins.
        radius: its length; zero where the loss has no slope.
        relative: the radius is a share of the features' own length.

    Returns:
        The steps, one of the shape of each part, detached.
    """
    leaves = [other.detach().requires_grad_() for other in others]
    with torch.enable_grad():
        slopes = torch.autograd.grad(loss(leaves), leaves)
    own = lengths(others).detach()
    long = radius * own if relative else torch.full_like(own, radius)
    scale = long / (lengths(slopes) + SMALL)
    return [slope * _each(scale, slope) for slope in slopes]


def draws(others: Sequence[Tensor], bound: float) -> Others:
    """A random step: uniform in +-bound, in units of each part's deviation (after F2M, Shi et al., NeurIPS 2021)."""
    return [(torch.rand_like(other) * 2 - 1) * bound * other.std(correction=0) for other in others]


def random_step(others: Sequence[Tensor], radius: float, generator: torch.Generator) -> Others:
    """A step of this relative length in a random direction for each image."""
    steps = [torch.randn(other.shape, generator=generator).to(other) for other in others]
    scale = radius * lengths(others) / (lengths(steps) + SMALL)
    return [step * _each(scale, step) for step in steps]


def moved(others: Sequence[Tensor], steps: Sequence[Tensor]) -> Others:
    """Features after a step."""
    return [other + step for other, step in zip(others, steps, strict=True)]


def quantised(others: Sequence[Tensor], bits: int) -> Others:
    """Features on a grid of 2^bits equal steps between the least and the largest value of each part."""
    found = []
    for other in others:
        low, high = other.min(), other.max()
        step = (high - low).clamp(min=SMALL) / (2**bits - 1)
        found.append(((other - low) / step).round() * step + low)
    return found


def worst_weights(
    loss: Loss,
    modules: Sequence[nn.Module],
    ask: Callable[[Sequence[Callable[[Tensor], object]]], Others],
    radius: float,
) -> Others:
    """Features of others whose weights took the step along which the loss rises fastest; the weights stay as they are.

    Args:
        loss: of the features.
        modules: the others' encoders, in evaluation mode.
        ask: the features, given the encoders as functions.
        radius: length of the step, all weights of all of them together.
    """
    own = [dict(module.named_parameters()) for module in modules]
    leaves = [{name: x.detach().requires_grad_() for name, x in weights.items()} for weights in own]
    flat = [x for weights in leaves for x in weights.values()]
    with torch.enable_grad():
        slopes = torch.autograd.grad(loss(ask(_with(modules, leaves))), flat, allow_unused=True)
    length = torch.stack([slope.square().sum() for slope in slopes if slope is not None]).sum().sqrt()
    scale = radius / (length + SMALL)
    steps = iter(slopes)
    with torch.no_grad():
        risen = [{name: _risen(x, next(steps), scale) for name, x in weights.items()} for weights in leaves]
        return ask(_with(modules, risen))


def _risen(weight: Tensor, slope: Tensor | None, scale: Tensor) -> Tensor:
    return weight.detach() if slope is None else weight.detach() + scale * slope


def _with(modules: Sequence[nn.Module], weights: Sequence[Mapping[str, Tensor]]) -> list[Callable[[Tensor], object]]:
    """The modules as functions that compute with these weights."""

    def one(module: nn.Module, given: Mapping[str, Tensor]) -> Callable[[Tensor], object]:
        return lambda x: functional_call(module, dict(given), (x,))

    return [one(module, given) for module, given in zip(modules, weights, strict=True)]


def _each(scale_B: Tensor, like: Tensor) -> Tensor:
    return scale_B.reshape(-1, *[1] * (like.dim() - 1))


@contextmanager
def steady(module: nn.Module) -> Iterator[None]:
    """Running statistics of normalisation are after the block what they were before it."""
    before = [(x, x.clone()) for x in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for x, kept in before:
                x.copy_(kept)
