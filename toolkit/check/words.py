"""A check in lines, for people."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...export.bisect import Growth, Parting
from .links import Link
from .run import Check

LARGEST_GROWTHS = 5


def check_lines(check: Check) -> list[str]:
    """Write a check as lines."""
    images = f"{check.images} image{'s' if check.images != 1 else ''}"
    lines = [f"{check.bundle} {check.version}, digest {check.digest[:12]}, {images}", ""]
    for link in check.against:
        lines += [f"{link.other} beside {link.reference}", *_table(link), ""]
    lines.append("step by step")
    for one in check.chain:
        lines += [f"  {one.kind}: {one.link.reference} -> {one.link.other}", *_step(one.link)]
    lines += [f"note: {note}" for note in check.notes]
    return lines


def where(parting: Parting) -> str:
    """Say where two sides part, in one line."""
    module = f" of {parting.module}" if parting.module else ""
    before, at = number(parting.before), number(parting.at)
    if parting.kind == "drift":
        limit = number(parting.tolerance)
        return f"drift apart, past {limit} at {parting.node} ({parting.operator}{module}): {before} -> {at}"
    fused = ", only as it is fused with what follows" if parting.fused else ""
    return f"part at {parting.node} ({parting.operator}{module}){fused}: {before} before, {at} at it"


def number(value: float) -> str:
    """Write a distance; infinity means NaN or infinity on one side."""
    return f"{value:.2g}" if math.isfinite(value) else "NaN"


def _table(link: Link) -> Iterator[str]:
    width = max(len(one.tensor) for one in link.outputs)
    for one in link.outputs:
        flips = f"   {one.flips} of {one.decisions} decisions flip" if one.decisions else ""
        figures = f"largest {number(one.largest):>8}   mean {number(one.mean):>8}   relative {number(one.relative):>8}"
        yield f"  {one.tensor:<{width}}   {figures}{flips}"


def _step(link: Link) -> Iterator[str]:
    worst = max(link.outputs, key=lambda one: one.relative)
    flips = f", {link.flips} decisions flip" if link.flips else ""
    verdict = "agree" if link.agrees else "differ"
    distance = f"relative distance {number(worst.relative)} at {worst.tensor}, tolerance {link.tolerance:g}"
    yield f"    {verdict}: {distance}{flips}"
    if link.parting is not None:
        yield f"    {where(link.parting)}"
    if link.note:
        yield f"    {link.note}"
    if link.layers:
        yield f"    where the distance grows most, of {len(link.layers)} layers:"
        yield from (f"      {_growth(one)}" for one in _largest(link.layers))


def _largest(layers: tuple[Growth, ...]) -> list[Growth]:
    # Squares add up where errors are independent: this is what a layer brings itself.
    return sorted(layers, key=lambda one: one.before**2 - one.at**2)[:LARGEST_GROWTHS]


def _growth(one: Growth) -> str:
    module = f" of {one.step.module}" if one.step.module else ""
    return f"{one.step.node} ({one.step.operator}{module}): {number(one.before)} -> {number(one.at)}"
