"""Drawings of the training report: curves over epochs, and intervals on one axis; see `figures.py` for the law.

A curve is named where it ends, so that no legend has to be matched by colour; curves differ in dash as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
from markupsafe import Markup

from ..report.figures import tag
from ..report.wording import compact, number

WIDTH, HEIGHT = 340.0, 172.0  # SVG units
LEFT, TOP, RIGHT, BOTTOM = 46.0, 8.0, 10.0, 32.0
NAMED = 100.0  # room on the right for the names of curves
LETTER, LINE = 6.0, 12.5  # width and height of a name's letter
STYLES = 8  # colours of the style sheet
SPARSE = 24  # points up to which each is marked


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One curve.

    Args:
        name: written at its end; empty for none.
        x: rising.
        y: of the same length.
        dots: places (among the points) that are marked.
        style: number of its colour and dash.
    """

    name: str = ""
    x: tuple[float, ...]
    y: tuple[float, ...]
    dots: tuple[int, ...] = ()
    style: int = 0


class Axis(msgspec.Struct, frozen=True):
    """An axis with round ends and ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Where a value lies, 0 at the low end and 1 at the high one; never outside."""
        return (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)


def axis_of(values: Sequence[float], *, low: float | None = None, high: float | None = None, most: int = 5) -> Axis:
    """An axis that shows all values.

    Args:
        values: to be shown.
        low: a value that is shown too.
        high: likewise.
        most: ticks, about.
    """
    finite = [value for value in (*values, low, high) if value is not None and math.isfinite(value)] or [0.0, 1.0]
    least, largest = min(finite), max(finite)
    span = (largest - least) or abs(largest) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10, 20) if span / (power * factor) <= most)
    first, last = math.floor(least / step + 1e-9), math.ceil(largest / step - 1e-9)
    last = max(last, first + 1)
    ticks = tuple(round(step * place, 12) for place in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def curve_figure(
    lines: Sequence[Line],
    *,
    x_title: str,
    described: str,
    low: float | None = None,
    high: float | None = None,
    kept: int | None = None,
    fences: Sequence[float] = (),
) -> Markup:
    """Curves over epochs or visits, from 1.

    Args:
        lines: the curves.
        x_title: what is counted.
        described: what is seen, for those who cannot.
        low: a value that the axis shows whatever the curves do.
        high: likewise.
        kept: the epoch whose weights were kept, marked by a line.
        fences: places of quiet lines (where a round ends).
    """
    ends = max((line.x[-1] for line in lines if line.x), default=1.0)
    y_axis = axis_of([value for line in lines for value in line.y], low=low, high=high)
    named = any(line.name for line in lines)
    right = WIDTH - (NAMED if named else RIGHT)
    plot = _Plot(x_low=1.0, x_high=max(ends, 2.0), right=right, y=y_axis)
    parts = [_grid(plot, x_title, fences)]
    if kept is not None:
        x = plot.at_x(kept)
        parts.append(tag("path", d=f"M{x:.1f} {TOP:.1f}V{HEIGHT - BOTTOM:.1f}", class_="kept"))
    parts.extend(_drawn(line, plot) for line in lines)
    if named:
        parts.append(_names([line for line in lines if line.y], plot))
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}", class_="chart", role="img", aria_label=described)


class _Plot(msgspec.Struct, frozen=True):
    """Where values lie in the drawing."""

    x_low: float
    x_high: float
    right: float
    y: Axis

    def at_x(self, value: float) -> float:
        return LEFT + (self.right - LEFT) * (value - self.x_low) / (self.x_high - self.x_low)

    def at_y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - self.y.share(value))


def _grid(plot: _Plot, x_title: str, fences: Sequence[float]) -> Markup:
    bottom = HEIGHT - BOTTOM
    parts: list[Markup] = []
    for value in plot.y.ticks:
        y = plot.at_y(value)
        kind = "zero" if value == 0 else "grid"
        parts.append(tag("path", d=f"M{LEFT:.1f} {y:.1f}H{plot.right:.1f}", class_=kind))
        parts.append(tag("text", _tick(value), x=LEFT - 6, y=y + 4, text_anchor="end"))
    parts += [tag("path", d=f"M{plot.at_x(x):.1f} {TOP:.1f}V{bottom:.1f}", class_="grid") for x in fences]
    step = axis_of([plot.x_low, plot.x_high]).ticks
    whole = [value for value in step if value == int(value) and plot.x_low <= value <= plot.x_high]
    for value in dict.fromkeys((plot.x_low, *whole)):
        if value == plot.x_low or plot.at_x(value) - plot.at_x(plot.x_low) > 18:
            parts.append(tag("text", f"{value:g}", x=plot.at_x(value), y=bottom + 14, text_anchor="middle"))
    middle = (LEFT + plot.right) / 2
    parts.append(tag("text", x_title, x=middle, y=HEIGHT - 4, text_anchor="middle", class_="title"))
    return Markup("").join(parts)


def _drawn(line: Line, plot: _Plot) -> Markup:
    points = [(plot.at_x(x), plot.at_y(y)) for x, y in zip(line.x, line.y, strict=True)]
    style = f"t{line.style % STYLES}"
    if not points:
        return Markup("")
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    parts = [tag("path", d=path, class_=f"line {style}")]
    parts += [tag("circle", cx=points[i][0], cy=points[i][1], r=3.5, class_=f"dot {style}") for i in line.dots]
    if len(points) == 1 and not line.dots:
        parts.append(tag("circle", cx=points[0][0], cy=points[0][1], r=2.5, class_=f"dot {style}"))
    return Markup("").join(parts)


def _names(lines: Sequence[Line], plot: _Plot) -> Markup:
    """Name each curve at its end; names that would lie on each other are moved apart, a hair leads to the end."""
    order = sorted(lines, key=lambda line: plot.at_y(line.y[-1]))
    wanted = [plot.at_y(line.y[-1]) for line in order]
    places = spread(wanted, LINE, TOP + 2, HEIGHT - BOTTOM)
    most = int((NAMED - 16) / LETTER)
    parts = []
    for line, y, own in zip(order, places, wanted, strict=True):
        style = f"t{line.style % STYLES}"
        x = plot.at_x(line.x[-1])
        text = line.name if len(line.name) <= most else f"{line.name[: most - 1]}…"
        parts.append(tag("path", d=f"M{x + 2:.1f} {own:.1f}L{plot.right + 10:.1f} {y:.1f}", class_=f"lead {style}"))
        parts.append(tag("text", text, x=plot.right + 13, y=y + 4, class_=f"name {style}"))
    return Markup("").join(parts)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones (rising), at least `gap` apart, within `low` and `high` as far as they fit."""
    places: list[float] = []
    for value in wanted:
        places.append(max(value, places[-1] + gap) if places else max(value, low))
    limit = high
    for place in range(len(places) - 1, -1, -1):
        places[place] = min(places[place], limit)
        limit = places[place] - gap
    return places


def _tick(value: float) -> str:
    return number(value, 0) if abs(value) >= 1000 else compact(value)


def interval_axis(axis: Axis) -> Markup:
    """The head of a column of intervals: its ticks."""
    texts = []
    for place, value in enumerate(axis.ticks):
        anchor = "start" if place == 0 else "end" if place == len(axis.ticks) - 1 else "middle"
        texts.append(tag("text", _tick(value), x=_percent(axis, value), y="2.1em", text_anchor=anchor))
    return tag("svg", *texts, class_="axis", role="img", aria_label=f"Axis from {axis.low:g} to {axis.high:g}")


def interval_row(value: float | None, low: float | None, high: float | None, axis: Axis) -> Markup:
    """One value with its interval."""
    parts = [
        tag("line", x1=_percent(axis, tick), x2=_percent(axis, tick), y1=0, y2="100%", class_="grid")
        for tick in axis.ticks
    ]
    if value is None:
        return tag("svg", *parts, class_="row", role="img", aria_label="No value")
    if low is not None and high is not None:
        ends = _percent(axis, low), _percent(axis, high)
        parts.append(tag("line", x1=ends[0], x2=ends[1], y1="50%", y2="50%", class_="interval"))
        parts += [_placed(end, tag("path", d="M0-5V5", class_="cap")) for end in ends]
    parts.append(_placed(_percent(axis, value), tag("circle", r=4.5, class_="mark")))
    told = f"{value:.3f}" if low is None or high is None else f"{value:.3f}, interval {low:.3f} to {high:.3f}"
    return tag("svg", *parts, class_="row measured", role="img", aria_label=told)


def _percent(axis: Axis, value: float) -> str:
    return f"{100 * axis.share(value):.2f}%"


def _placed(x: str, mark: Markup) -> Markup:
    return tag("svg", mark, x=x, y="50%", overflow="visible", width=1, height=1)
