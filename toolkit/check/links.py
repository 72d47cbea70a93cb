"""Two sides of a network compared: differences, decisions that flip, and where they part.

The search for the layer starts at the output that differs most, on the images that differ most there. It looks for a
distance above the tolerance, or above half of the output's own where that is within the tolerance. Where it finds a
drift only, every layer is measured: a fault whose trace has faded at the output hides in there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...export.bisect import Growth, Parting, Step, first_parting, growth, parting_at, points_of, sharpest
from ...export.compare import Difference, compare_outputs, distance
from ...runtime.manifest import Arithmetic, TaskOutput
from ...runtime.selftest import TOLERANCE
from .sides import Input, Raw, Side

PROBES = 4  # images on which tensors inside are measured
NOISE = 0.25  # of the tolerance: what rounding may bring at a single layer; a coarse int8 grid brings 0.02


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """Two sides beside each other.

    Args:
        reference: name of the first side.
        other: name of the second.
        images: compared.
        tolerance: relative distance up to which outputs count as equal.
        outputs: one line per output tensor.
        parting: where they part; None where they do not, or where it was not looked for.
        layers: the distance at every layer, where that was measured.
        note: why there is no parting; empty where there is one, or where both agree.
    """

    reference: str
    other: str
    images: int
    tolerance: float
    outputs: tuple[Difference, ...]
    parting: Parting | None = None
    layers: tuple[Growth, ...] = ()
    note: str = ""

    @property
    def flips(self) -> int:
        """Decisions that differ, over all outputs."""
        return sum(one.flips for one in self.outputs)

    @property
    def agrees(self) -> bool:
        """Whether no decision flips and no output differs by more than the tolerance."""
        return not self.flips and all(one.relative <= self.tolerance for one in self.outputs)


def tolerance_between(first: Arithmetic, second: Arithmetic) -> float:
    """Give the self-test's tolerance for the coarser of two arithmetics."""
    return max(TOLERANCE[first], TOLERANCE[second])


def compare_sides(
    reference: Side,
    other: Side,
    inputs: Sequence[Input],
    outputs: Sequence[TaskOutput],
    *,
    tolerance: float | None = None,
) -> Link:
    """Compare two sides on the same inputs, both at the temperatures that ship."""

    def pairs() -> Iterator[tuple[Raw, Raw]]:
        for x in inputs:
            yield tuple_of(_tempered(outputs, side.run(x)) for side in (reference, other))

    images, differences = compare_outputs(pairs(), outputs)
    return Link(
        reference=reference.name,
        other=other.name,
        images=images,
        tolerance=tolerance_between(reference.arithmetic, other.arithmetic) if tolerance is None else tolerance,
        outputs=differences,
    )


def find_parting(
    link: Link,
    reference: Side,
    other: Side,
    steps: Sequence[Step],
    inputs: Sequence[Input],
    *,
    layers: bool | None = None,
) -> Link:
    """Look for the layer at which two sides part; gives the link with what was found.

    Args:
        link: their comparison.
        reference: the first side.
        other: the second side.
        steps: of the network's graph.
        inputs: those of the comparison.
        layers: measure every layer: always, never, or (None) where a drift is found.
    """
    common = reference.tensors & other.tensors
    names = [one.tensor for one in link.outputs if one.tensor in common]
    if len(common) <= len(names) or not names:
        return msgspec.structs.replace(link, note="their graphs share no names of tensors; no layer can be compared")
    worst = max((one for one in link.outputs if one.tensor in common), key=lambda one: one.relative)
    probes = _most_parted(reference, other, worst.tensor, inputs)
    measure = _measure(reference, other, probes)
    points = points_of(steps, common, reference.quantised | other.quantised)
    apart = measure(worst.tensor)
    limit = link.tolerance if apart > link.tolerance else apart / 2
    bare = {
        step.output: _bare(reference, other, step.output, probes)
        for step in steps
        if step.output in reference.bare & other.bare
        and (step.output not in points or step.output in reference.quantised | other.quantised)
    }
    floor = link.tolerance * NOISE
    parting = first_parting(steps, worst.tensor, measure, points, tolerance=limit, floor=floor, bare=bare)
    if parting is None:
        return msgspec.structs.replace(link, note=f"the graphs cut at {worst.tensor} agree")
    found: tuple[Growth, ...] = ()
    if layers or (layers is None and parting.kind == "drift"):
        found = growth(steps, measure, points)
        jump = sharpest(found, floor)
        if jump is not None and parting.kind == "drift":
            parting = parting_at(jump, worst.tensor, limit, floor=floor, fused=False, measured=len(found))
    return msgspec.structs.replace(link, parting=parting, layers=found)


def tuple_of(pair: Iterator[Raw]) -> tuple[Raw, Raw]:
    """Two, and typed so."""
    first, second = pair
    return first, second


def _tempered(outputs: Sequence[TaskOutput], raw: Mapping[str, NDArray[np.float32]]) -> Raw:
    """Divide by the tasks' temperatures, for which the thresholds are meant; NaN and infinity are let through."""
    warm = {one.tensors[0]: one.temperature for one in outputs if one.temperature != 1.0}
    return {name: values / np.float32(warm[name]) if name in warm else values for name, values in raw.items()}


def _most_parted(reference: Side, other: Side, tensor: str, inputs: Sequence[Input]) -> list[Input]:
    apart = [distance(reference.run(x)[tensor], other.run(x)[tensor]) for x in inputs]
    order = np.argsort(np.negative(apart), kind="stable")[:PROBES]
    return [inputs[index] for index in order]


def _measure(reference: Side, other: Side, probes: Sequence[Input]) -> Callable[[str], float]:
    known: dict[str, float] = {}

    def measure(tensor: str) -> float:
        if tensor not in known:
            known[tensor] = distance(reference.values(tensor, probes), other.values(tensor, probes))
        return known[tensor]

    return measure


def _bare(reference: Side, other: Side, tensor: str, probes: Sequence[Input]) -> Callable[[], float]:
    return lambda: distance(reference.values(tensor, probes, bare=True), other.values(tensor, probes, bare=True))
