"""An explanation for the terminal: parts, then layers with the worst or heaviest first, then what needs a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from rich.table import Table

from .record import Explained, Layer, Part

Order = Literal["time", "noise", "work", "size", "graph"]
SHOWN = 12  # layers, where not all are asked for
NONE = "-"
LOSS = 0.9  # a slack below it stands out

_KEYS: dict[Order, Callable[[Layer], float]] = {
    "time": lambda layer: -(layer.ms or 0.0),
    "noise": lambda layer: layer.sqnr_db if layer.sqnr_db is not None else float("inf"),
    "work": lambda layer: -float(layer.macs),
    "size": lambda layer: -float(layer.parameters),
    "graph": lambda layer: 0.0,
}


def head_lines(found: Explained) -> list[str]:
    """What the student is, in a few lines."""
    height, width, channels = found.input
    lines = [
        f"{found.name}: {found.backbone}, input {height} x {width} x {channels}, tasks {', '.join(found.tasks)}",
        f"{found.parameters / 1e6:.2f} million parameters, {found.macs / 1e6:.0f} million multiply-adds an answer",
    ]
    timed = found.timed
    if timed is not None:
        beside = f", float32 {timed.float_ms:.2f} ms" if timed.float_ms is not None else ""
        kind = "int8" if found.quantised else "float32"
        where = f"{timed.engine} {timed.version}, {timed.threads} threads, {timed.machine}"
        lines.append(f"{kind} {timed.ms:.2f} ms{beside}; {where}")
    foreseen = found.foreseen
    if foreseen is not None and foreseen.prediction is not None:
        one = foreseen.prediction
        error = f", median error {100 * one.error:.0f} % on networks not seen" if one.error is not None else ""
        lines.append(f"{foreseen.device}: about {one.ms:.2f} ms, predicted by the roofline calibrated here{error}")
    return lines


def part_table(found: Explained) -> Table:
    """Make the table of the parts."""
    tasks = found.tasks if any(part.slacks for part in found.parts) else ()
    table = Table("part", "layers", "par. k", "MMAC", "ms", "in float", "dB", *tasks, box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for part in found.parts:
        table.add_row(*_part_words(part), *(_slack(part.slacks.get(task)) for task in tasks))
    return table


def layer_table(found: Explained, order: Order = "time", most: int | None = SHOWN) -> Table:
    """Make the table of the layers.

    Args:
        found: the explanation.
        order: what comes first: the slowest, the noisiest, the most work, the largest, or the graph's own order.
        most: so many; None: all.
    """
    columns = ["layer", "module", "channels", "par. k", "MMAC", "ms", "dB", "own dB", "clipped", "in"]
    table = Table(*columns, box=None, pad_edge=False)
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for column in table.columns[2:-1]:
        column.justify = "right"
    for layer in sorted_layers(found.layers, order)[:most]:
        table.add_row(*layer_words(layer))
    return table


def sorted_layers(layers: Sequence[Layer], order: Order) -> list[Layer]:
    """The layers in an order; equal ones as in the graph."""
    return sorted(layers, key=_KEYS[order])


def layer_words(layer: Layer) -> list[str]:
    """Write a layer's row."""
    return [
        layer.node,
        layer.module or layer.operator,
        channel_words(layer),
        f"{layer.parameters / 1e3:.1f}",
        f"{layer.macs / 1e6:.2f}",
        NONE if layer.ms is None else f"{layer.ms:.3f}" if layer.ms else "fused",
        _decibels(layer.sqnr_db),
        _decibels(layer.own_db),
        NONE if layer.clipped is None else percent(layer.clipped),
        layer.arithmetic,
    ]


def channel_words(layer: Layer) -> str:
    """Its channels, and those before pruning."""
    if layer.pruned_from is None:
        return str(layer.channels) if layer.channels else NONE
    return f"{layer.pruned_from} → {layer.channels}"


def percent(share: float) -> str:
    """Write a small share: two figures, and no more than anybody reads."""
    return "0" if share == 0 else "< 0.01 %" if share < 1e-4 else f"{100 * share:.2g} %"


def tail_lines(found: Explained) -> list[str]:
    """What was kept in float and why, what was pruned, what must be known."""
    lines = [f"in float: {layer.node} ({layer.module or layer.operator}): {layer.kept_float}" for layer in found.kept]
    lines += _pruned_lines(found)
    if found.folded or found.merged:
        done = ["branches merged"] * found.merged + [f"{found.folded} batch normalisations folded"] * bool(found.folded)
        lines.append(f"structure: {', '.join(done)}")
    weak = [(one.name, task, slack) for one in found.parts for task, slack in one.slacks.items() if slack < LOSS]
    weak += [(one.node, task, slack) for one in found.layers for task, slack in one.slacks.items() if slack < LOSS]
    lines += [
        f"sensitive: {task} keeps {slack:.2f} of its margin where {name} alone is quantised"
        for name, task, slack in sorted(weak, key=lambda one: one[2])
    ]
    return lines + [f"note: {note}" for note in found.notes]


def _pruned_lines(found: Explained) -> list[str]:
    pruned = found.pruned
    if found.pruning or not pruned:
        return [f"pruned: {found.pruning}"] if found.pruning else []
    before, after = sum(one.pruned_from or 0 for one in pruned), sum(one.channels for one in pruned)
    return [f"pruned: {len(pruned)} layers, {before} → {after} channels in all"]


def _part_words(part: Part) -> list[str]:
    return [
        part.name.removeprefix("backbone "),
        f"{part.layers} ({part.float_layers} float)" if part.float_layers else str(part.layers),
        f"{part.parameters / 1e3:.1f}",
        f"{part.macs / 1e6:.2f}",
        NONE if part.ms is None else f"{part.ms:.3f}",
        NONE if part.float_ms is None else f"{part.float_ms:.3f}",
        _decibels(part.least_db),
    ]


def _decibels(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}"


def _slack(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"
