"""The layers of a student arranged for a page: bars by part, noise along the depth, sensitivities, widths, tables.

Drawings obey the law of `figures.py`: no colour of their own, marks that differ in shape, a description for those who
cannot see them. What stands here is in `layers.json` already; nothing is computed but sums and places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from markupsafe import Markup

from ..explain.record import Explained, Layer, Part
from ..explain.words import channel_words, percent
from . import wording
from .figures import tag

WIDTH, HEIGHT = 720.0, 220.0  # SVG units of the drawings along the depth
LEFT, TOP, RIGHT, BOTTOM = 38.0, 26.0, 8.0, 20.0
STEP_DB = 10
SLOWEST = 12  # layers that are in sight
HOTTEST = 24  # layers whose tasks' slacks are shown
LETTER = 5.6  # width of a letter of a part's name
# Slacks from which on a cell has a shade: nothing lost, a little, ..., more than the margin.
SHADES = (0.98, 0.9, 0.75, 0.5, 0.0)


class PartRow(msgspec.Struct, frozen=True, kw_only=True):
    """One part with its bars."""

    name: str
    layers: str
    parameters: str
    macs: str
    ms: str
    float_ms: str
    time_bar: Markup
    parameters_bar: Markup
    macs_bar: Markup
    least_db: str


class HeatRow(msgspec.Struct, frozen=True, kw_only=True):
    """The slack of every task where one part alone is quantised: shade and number."""

    name: str
    cells: tuple[tuple[int, str], ...]


class LayerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One layer as text."""

    node: str
    what: str
    part: str
    channels: str
    parameters: str
    macs: str
    ms: str
    float_ms: str
    sqnr: str
    own: str
    clipped: str
    arithmetic: str


class LayersBlock(msgspec.Struct, frozen=True, kw_only=True):
    """All that a page shows of a student's layers."""

    found: Explained
    facts: tuple[tuple[str, str], ...]
    parts: tuple[PartRow, ...]
    heat: tuple[HeatRow, ...]
    noise: Markup | None
    widths: Markup | None
    slowest: tuple[LayerRow, ...]
    rest: tuple[LayerRow, ...]
    kept: tuple[tuple[str, str, str], ...]  # layer, what it is, why
    by_layer: bool  # whether the sensitivities are those of layers, not of parts


def layers_block(found: Explained) -> LayersBlock:
    """Arrange an explanation."""
    order = sorted(found.layers, key=lambda layer: -(layer.ms if layer.ms is not None else layer.macs))
    weighted = [layer for layer in found.layers if layer.weighted]
    return LayersBlock(
        found=found,
        facts=_facts(found),
        parts=_part_rows(found.parts),
        heat=_heat_rows(found),
        noise=noise_figure(weighted) if any(layer.sqnr_db is not None for layer in weighted) else None,
        widths=widths_figure(weighted) if found.pruned else None,
        slowest=tuple(map(_layer_row, order[:SLOWEST])),
        rest=tuple(map(_layer_row, order[SLOWEST:])),
        kept=tuple((layer.node, _what(layer), layer.kept_float) for layer in found.kept),
        by_layer=any(layer.slacks for layer in found.layers),
    )


def noise_figure(layers: Sequence[Layer]) -> Markup:
    """SQNR along the depth: discs with the noise of all layers before, rings with a layer's own; up is better."""
    values = [value for one in layers for value in (one.sqnr_db, one.own_db) if value is not None]
    low = min(0.0, STEP_DB * (min(values) // STEP_DB))
    high = min(STEP_DB * (max(values) // STEP_DB + 1), 60.0)
    at_y = _scale(low, high)
    ticks = [low + STEP_DB * number for number in range(int((high - low) / STEP_DB) + 1)]
    parts = [_grid(ticks, at_y, "dB"), _bands(layers)]
    points = []
    for x, layer in zip(_places(len(layers)), layers, strict=True):
        if layer.own_db is not None:
            parts.append(tag("circle", cx=x, cy=at_y(layer.own_db), r=2.5, class_="own"))
        if layer.sqnr_db is not None:
            points.append(f"{x:.1f} {at_y(layer.sqnr_db):.1f}")
            parts.append(_dot(layer, x, at_y(layer.sqnr_db)))
    parts.append(tag("path", d="M" + "L".join(points), class_="trail"))
    worst = min((one for one in layers if one.sqnr_db is not None), key=lambda one: one.sqnr_db or 0.0)
    told = f"SQNR of {len(points)} layers in graph order; the lowest is {worst.sqnr_db:.1f} dB at {worst.node}"
    return _wide(parts, told)


def widths_figure(layers: Sequence[Layer]) -> Markup:
    """Channels of every layer: pale before pruning, solid after."""
    most = max(layer.pruned_from or layer.channels for layer in layers)
    step = next(size for size in (8, 16, 32, 64, 128, 256, 512, 1024) if most / size <= 6 or size == 1024)
    high = float(step * (most // step + 1))
    at_y = _scale(0.0, high)
    ticks = [float(step * number) for number in range(int(high / step) + 1)]
    parts = [_grid(ticks, at_y, "channels"), _bands(layers)]
    wide = max(0.7 * (WIDTH - LEFT - RIGHT) / len(layers), 1.5)
    for x, layer in zip(_places(len(layers)), layers, strict=True):
        for kind, count in (("before", layer.pruned_from or layer.channels), ("after", layer.channels)):
            y = at_y(float(count))
            parts.append(tag("rect", x=x - wide / 2, y=y, width=wide, height=at_y(0.0) - y, class_=kind))
    pruned = [layer for layer in layers if layer.pruned_from is not None]
    return _wide(parts, f"Channels of {len(layers)} layers before and after pruning; {len(pruned)} are narrower")


def _facts(found: Explained) -> tuple[tuple[str, str], ...]:
    height, width, channels = found.input
    facts = [
        ("network", found.backbone),
        ("input", f"{height} × {width} × {channels}"),
        ("parameters", f"{found.parameters / 1e6:.2f} million"),
        ("multiply-adds", f"{found.macs / 1e6:.0f} million"),
    ]
    if found.timed is not None:
        timed = found.timed
        facts.append(("int8" if found.quantised else "float32", wording.milliseconds(timed.ms)))
        if timed.float_ms is not None:
            facts.append(("float32", wording.milliseconds(timed.float_ms)))
        facts.append(("measured", f"{timed.engine} {timed.version}, {timed.threads} threads, {timed.machine}"))
    if found.foreseen is not None and found.foreseen.prediction is not None:
        facts.append((found.foreseen.device, f"about {wording.milliseconds(found.foreseen.prediction.ms)}, predicted"))
    return tuple(facts)


def _part_rows(parts: Sequence[Part]) -> tuple[PartRow, ...]:
    slowest = max((max(part.ms or 0.0, part.float_ms or 0.0) for part in parts), default=0.0)
    largest = max((part.parameters for part in parts), default=0)
    heaviest = max((part.macs for part in parts), default=0)
    return tuple(
        PartRow(
            name=part.name,
            layers=f"{part.layers}" + (f" ({part.float_layers} float)" if part.float_layers else ""),
            parameters=f"{part.parameters / 1e3:.1f}",
            macs=f"{part.macs / 1e6:.2f}",
            ms=_number(part.ms, 3),
            float_ms=_number(part.float_ms, 3),
            time_bar=bar(part.ms or 0.0, slowest, part.float_ms or 0.0),
            parameters_bar=bar(part.parameters, largest),
            macs_bar=bar(part.macs, heaviest),
            least_db=_number(part.least_db, 1),
        )
        for part in parts
    )


def bar(value: float, most: float, behind: float = 0.0) -> Markup:
    """A bar from the left, and a pale one behind it; lengths are shares of the column."""
    longest = max(most, 1e-12)
    parts = [
        tag("rect", x="0", y=2, width=f"{100 * behind / longest:.1f}%", height=10, class_="behind"),
        tag("rect", x="0", y=2, width=f"{100 * value / longest:.1f}%", height=10, class_="front"),
    ]
    return tag("svg", *(parts if behind else parts[1:]), class_="part-bar", aria_hidden="true")


def _heat_rows(found: Explained) -> tuple[HeatRow, ...]:
    """Of the layers where they were measured one by one, the worst first; else of the parts."""
    layers = sorted((one for one in found.layers if one.slacks), key=lambda one: min(one.slacks.values()))
    named = [(f"{one.node} {one.module}".rstrip(), one.slacks) for one in layers[:HOTTEST]]
    named = named or [(part.name, part.slacks) for part in found.parts if part.slacks]
    return tuple(
        HeatRow(name=name, cells=tuple(_cell(slacks.get(task)) for task in found.tasks)) for name, slacks in named
    )


def _cell(slack: float | None) -> tuple[int, str]:
    if slack is None:
        return 0, wording.NOTHING
    return sum(slack < limit for limit in SHADES), wording.number(slack, 2)


def _layer_row(layer: Layer) -> LayerRow:
    return LayerRow(
        node=layer.node,
        what=_what(layer),
        part=layer.part,
        channels=channel_words(layer),
        parameters=f"{layer.parameters / 1e3:.1f}",
        macs=f"{layer.macs / 1e6:.2f}",
        ms="fused" if layer.ms == 0 else _number(layer.ms, 3),
        float_ms="fused" if layer.float_ms == 0 else _number(layer.float_ms, 3),
        sqnr=_number(layer.sqnr_db, 1),
        own=_number(layer.own_db, 1),
        clipped=wording.NOTHING if layer.clipped is None else percent(layer.clipped),
        arithmetic=layer.arithmetic,
    )


def _what(layer: Layer) -> str:
    return layer.module or layer.operator


def _number(value: float | None, digits: int) -> str:
    return wording.number(value, digits)


def _scale(low: float, high: float) -> Callable[[float], float]:
    """From a value to its height in the drawing; nothing leaves the frame."""

    def at_y(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)

    return at_y


def _places(count: int) -> list[float]:
    width = (WIDTH - LEFT - RIGHT) / max(count, 1)
    return [LEFT + width * (number + 0.5) for number in range(count)]


def _dot(layer: Layer, x: float, y: float) -> Markup:
    if layer.kept_float:
        return tag("rect", x=x - 3.5, y=y - 3.5, width=7, height=7, class_="kept-float")
    return tag("circle", cx=x, cy=y, r=3, class_="all")


def _grid(ticks: Sequence[float], at_y: Callable[[float], float], unit: str) -> Markup:
    parts = []
    for value in ticks:
        parts.append(tag("path", d=f"M{LEFT:.0f} {at_y(value):.1f}H{WIDTH - RIGHT:.0f}", class_="grid"))
        parts.append(tag("text", wording.number(value, 0), x=LEFT - 6, y=at_y(value) + 4, text_anchor="end"))
    parts.append(tag("text", unit, x=2, y=12, class_="title"))
    return Markup("").join(parts)


def _bands(layers: Sequence[Layer]) -> Markup:
    """A line where a new part begins, and its name where there is room."""
    parts: list[Markup] = []
    width = (WIDTH - LEFT - RIGHT) / max(len(layers), 1)
    start = 0
    for number in range(1, len(layers) + 1):
        if number < len(layers) and layers[number].part == layers[start].part:
            continue
        x, end = LEFT + start * width, LEFT + number * width
        name = layers[start].part.split(" ")[-1]
        if start:
            parts.append(tag("path", d=f"M{x:.1f} {TOP:.0f}V{HEIGHT - BOTTOM:.0f}", class_="fence"))
        if len(name) * LETTER < end - x:
            parts.append(tag("text", name, x=(x + end) / 2, y=HEIGHT - 6, text_anchor="middle"))
        start = number
    return Markup("").join(parts)


def _wide(parts: Sequence[Markup], described: str) -> Markup:
    box = f"0 0 {WIDTH:.0f} {HEIGHT:.0f}"
    return tag("svg", *parts, viewBox=box, class_="depth", role="img", aria_label=described)
