"""The picture of a search: cost across, slack upwards, every trial a mark, the front a line; see `report/figures.py`.

Trials without a slack (over the budget, refused) stand in a strip below the axis; what lies beyond an end of an axis
stands at that end. The law of drawings holds: shape as well as colour, a description, equal bytes from equal numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from markupsafe import Markup

from ..report.figures import tag
from ..review.figures import Axis, axis_of
from .budget import UNITS, Budget, cost_of
from .front import Standing

WIDTH, HEIGHT = 640.0, 380.0  # SVG units
LEFT, TOP, RIGHT, BOTTOM = 52.0, 14.0, 16.0, 74.0
STRIP = 26.0  # below the axis, for trials without a slack
NUMBER = 8.0  # half the room that a trial's number takes
LOWEST = -2.0  # slack below which a mark stands at the axis' end
WIDEST = 2.5  # budgets; dearer ones stand at the end

# Of the picture alone, where no page's style is around it.
STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#16202a;--soft:#53616e;--line:#d5dce2;--hair:#e8ecf0;--good:#0068a8;
--bad:#b8330b;--gold:#00785a}
@media screen and (prefers-color-scheme:dark){:root{--paper:#12171c;--ink:#e6ebf0;--soft:#9fadb9;--line:#36424d;
--hair:#28323b;--good:#5db8f0;--bad:#ff8a5c;--gold:#4cc9a0}}
"""
MARKS = """
.search text{font:11.5px system-ui,sans-serif;fill:var(--soft)} .search .title{fill:var(--ink)}
.search .ground{fill:none;stroke:var(--line)} .search .grid{stroke:var(--hair);fill:none}
.search .limit{stroke:var(--bad);stroke-dasharray:5 3;fill:none} .search .zero{stroke:var(--soft);fill:none}
.search .front{stroke:var(--good);stroke-width:2;fill:none}
.search .done{fill:none;stroke:var(--soft);stroke-width:1.6} .search .best{fill:var(--good);stroke:none}
.search .stopped{fill:none;stroke:var(--soft);stroke-width:1.6}
.search .over{fill:none;stroke:var(--bad);stroke-width:1.8}
.search .final{fill:none;stroke:var(--gold);stroke-width:2} .search .number{fill:var(--ink);font-weight:600}
"""


class Shape(msgspec.Struct, frozen=True):
    """How a kind of trial is drawn and called."""

    kind: str
    path: str
    called: str


SHAPES = (
    Shape("best", "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0Z", "on the front"),
    Shape("done", "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z", "dominated"),
    Shape("stopped", "M-4.5-4H4.5L0 4.5Z", "stopped in training"),
    Shape("over", "M-4-4L4 4M-4 4L4-4", "over the budget before training, or refused"),
    Shape("final", "M-9 0a9 9 0 1 0 18 0a9 9 0 1 0-18 0Z", "finalist"),
)


def front_figure(trials: Sequence[Standing], budget: Budget, timing: str) -> Markup:
    """Draw the front.

    Args:
        trials: all of them.
        budget: gives the figure and its limit.
        timing: how latencies were found, for the axis' title.
    """
    plot = _plot(trials, budget)
    parts = [_ground(plot, budget, timing), _line(trials, budget, plot)]
    for standing in sorted(trials, key=lambda one: one.front):
        parts += _marks(standing, budget, plot)
    parts += _numbers(trials, budget, plot)
    done = sum(one.row.state == "done" for one in trials)
    said = (
        f"{len(trials)} trials, {done} trained to their end, {sum(one.front for one in trials)} on the front; "
        f"budget {budget.limits[budget.figure]:g} {UNITS[budget.figure]}"
    )
    box = f"0 0 {WIDTH:.0f} {HEIGHT:.0f}"
    return tag("svg", *parts, viewBox=box, class_="search", role="img", aria_label=said)


def front_svg(trials: Sequence[Standing], budget: Budget, timing: str) -> str:
    """The same as a file of its own, with its style and a ground."""
    inner = front_figure(trials, budget, timing)
    ground = Markup('<rect width="100%" height="100%" fill="var(--paper)"/>')
    style = Markup("<style>{}</style>").format(Markup(STYLE + MARKS))
    head, body = str(inner).split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg" width="{WIDTH:.0f}">{style}{ground}{body}\n'


def legend() -> Markup:
    """Each kind of mark with its name."""
    entries = [
        tag(
            "span",
            tag("svg", _mark(shape, 10, 10), width=20, height=20, class_="search", aria_hidden="true"),
            " ",
            shape.called,
            class_="key",
        )
        for shape in SHAPES
    ]
    return tag("div", *entries, class_="legend")


class _Plot(msgspec.Struct, frozen=True):
    x: Axis
    y: Axis

    def at_x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * self.x.share(value)

    def at_y(self, value: float | None) -> float:
        if value is None:
            return HEIGHT - BOTTOM + STRIP / 2 + 3
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - self.y.share(value))


def _plot(trials: Sequence[Standing], budget: Budget) -> _Plot:
    limit = budget.limits[budget.figure]
    prices = [min(price, WIDEST * limit) for one in trials if (price := _price(one, budget)) is not None]
    slacks = [max(slack, LOWEST) for one in trials if (slack := slack_of(one)) is not None]
    return _Plot(axis_of([*prices, limit], low=0.0, most=8), axis_of([*slacks, 0.0, 1.0], most=6))


def slack_of(standing: Standing) -> float | None:
    """A trial's slack; of one that was stopped the best it had by then."""
    row = standing.row
    if row.state == "stopped":
        return max((value for curve in row.curves.values() for value in curve), default=None)
    return row.slack


def _price(standing: Standing, budget: Budget) -> float | None:
    return None if standing.row.cost is None else cost_of(standing.row.cost, budget.figure)


def _ground(plot: _Plot, budget: Budget, timing: str) -> Markup:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [tag("rect", x=LEFT, y=TOP, width=right - LEFT, height=bottom - TOP, class_="ground")]
    for value in plot.y.ticks:
        y = plot.at_y(value)
        parts.append(tag("path", d=f"M{LEFT:.1f} {y:.1f}H{right:.1f}", class_="zero" if value == 0 else "grid"))
        parts.append(tag("text", f"{value:g}", x=LEFT - 6, y=y + 4, text_anchor="end"))
    for value in plot.x.ticks:
        x = plot.at_x(value)
        parts.append(tag("path", d=f"M{x:.1f} {TOP:.1f}V{bottom:.1f}", class_="grid"))
        parts.append(tag("text", f"{value:g}", x=x, y=bottom + STRIP + 14, text_anchor="middle"))
    limit = plot.at_x(budget.limits[budget.figure])
    parts.append(tag("path", d=f"M{limit:.1f} {TOP:.1f}V{bottom + STRIP:.1f}", class_="limit"))
    parts.append(tag("text", "budget", x=limit - 4, y=TOP + 12, text_anchor="end"))
    parts.append(tag("text", "none", x=LEFT - 6, y=bottom + STRIP / 2 + 7, text_anchor="end"))
    what = f"Latency, ms, {timing}" if budget.figure == "latency_ms" else "Size of the graph, MB"
    parts.append(tag("text", what, x=(LEFT + right) / 2, y=HEIGHT - 8, text_anchor="middle", class_="title"))
    middle = (TOP + bottom) / 2
    turn = f"rotate(-90 13 {middle:.1f})"
    named = "Slack of the worst task (1: as the teacher)"
    parts.append(tag("text", named, x=13, y=middle, text_anchor="middle", transform=turn, class_="title"))
    return Markup("").join(parts)


def _line(trials: Sequence[Standing], budget: Budget, plot: _Plot) -> Markup:
    """The front as stairs: what a cost up to here can buy."""
    points = sorted(
        (price, slack)
        for one in trials
        if one.front and (price := _price(one, budget)) is not None and (slack := slack_of(one)) is not None
    )
    if not points:
        return Markup("")
    path = f"M{plot.at_x(points[0][0]):.1f} {plot.at_y(points[0][1]):.1f}"
    path += "".join(f"H{plot.at_x(x):.1f}V{plot.at_y(y):.1f}" for x, y in points[1:])
    return tag("path", d=path, class_="front")


def _marks(standing: Standing, budget: Budget, plot: _Plot) -> list[Markup]:
    price = _price(standing, budget)
    if price is None:
        return []
    kind = {"done": "done", "stopped": "stopped"}.get(standing.row.state, "over")
    shape = next(one for one in SHAPES if one.kind == ("best" if standing.front else kind))
    x, y = plot.at_x(price), plot.at_y(slack_of(standing) if kind != "over" else None)
    parts = [_mark(shape, x, y)]
    if standing.finalist:
        parts.append(_mark(SHAPES[-1], x, y))
    return parts


def _numbers(trials: Sequence[Standing], budget: Budget, plot: _Plot) -> list[Markup]:
    """The numbers of the front's trials, to the left of a mark whose right-hand neighbour is close."""
    front = [(price, one) for one in trials if one.front and (price := _price(one, budget)) is not None]
    front.sort(key=lambda pair: pair[0])
    places = [(plot.at_x(price), plot.at_y(slack_of(one)), str(one.row.number)) for price, one in front]
    parts = []
    for place, (x, y, number) in enumerate(places):
        next_x, next_y, _ = places[place + 1] if place + 1 < len(places) else (2 * WIDTH, 0.0, "")
        close = next_x - x < 3 * NUMBER and y - next_y < 2 * NUMBER
        side = ("end", x - 7) if close else ("start", x + 8)
        parts.append(tag("text", number, x=side[1], y=y - 7, text_anchor=side[0], class_="number"))
    return parts


def _mark(shape: Shape, x: float, y: float) -> Markup:
    return tag("path", d=shape.path, transform=f"translate({x:.1f} {y:.1f})", class_=shape.kind)
