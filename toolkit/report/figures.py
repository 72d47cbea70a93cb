"""The report's drawings as inline SVG: no picture files, no script, no colour of its own.

- Colours and line styles come from the page's style sheet by class, so that one drawing serves light, dark and print.
- Every series differs in shape or dash as well as in colour, and every drawing has a description for those who cannot
  see it.
- Horizontal positions in a table's cell are percentages: the drawing is as wide as the column, its marks keep their
  shape.
- Numbers are printed with a fixed count of decimals: equal inputs give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
from markupsafe import Markup

from ..parity.evidence import Curve, Endpoint, Subgroup
from .wording import MINUS, NOTHING, bound_digits, number, signed

TEACHER = "teacher"
PLOT = 200.0  # side of the square of a curve, in SVG units
LEFT, TOP, RIGHT, BOTTOM = 36.0, 8.0, 8.0, 34.0  # room for the axes around it
UNIT_TICKS = ((0.0, "0"), (0.25, ""), (0.5, "0.5"), (0.75, ""), (1.0, "1"))
FROC = (1 / 8, 8.0)  # false positives an image, the ends of the axis
FROC_SPAN = math.log2(FROC[1] / FROC[0])
FROC_TICKS = ((1 / 8, "1/8"), (1 / 4, ""), (1 / 2, "1/2"), (1.0, "1"), (2.0, "2"), (4.0, ""), (8.0, "8"))

# Marks by verdict, around (0, 0); their meaning is also written in the row.
MARKS = {
    "pass": Markup('<circle r="5"/>'),
    "fail": Markup('<path d="M-5-5L5 5M-5 5L5-5"/>'),
    "underpowered": Markup('<path d="M0-6L6 0L0 6L-6 0Z"/>'),
}
INWARDS = 16  # pixels from the end of the axis to a mark that lies beyond it


class Scale(msgspec.Struct, frozen=True):
    """A horizontal axis in units of the margin: -1 is minus the margin, 0 no difference."""

    low: float
    high: float

    def clip(self, value: float) -> float:
        """Return the value, or the end of the axis beyond which it lies."""
        return min(max(value, self.low), self.high)

    def at(self, value: float) -> str:
        """Position as a percentage of the width."""
        return f"{100 * (self.clip(value) - self.low) / (self.high - self.low):.2f}%"


class Point(msgspec.Struct, frozen=True):
    """An operating point on a ROC curve."""

    series: str
    x: float  # 1 - specificity
    y: float  # sensitivity


def tag(name: str, *children: Markup | str, **attributes: str | float) -> Markup:
    """One element; `class_` is written `class`, `stroke_width` `stroke-width`; text and values are escaped."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _short(value)) for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, Markup("").join(children))


def _short(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.2f}".rstrip("0").rstrip(".")


def forest_scale(endpoints: Sequence[Endpoint]) -> Scale:
    """One axis for all rows of a forest plot."""
    drawn = [e for e in endpoints if e.margin > 0]
    estimates = [e.difference / e.margin for e in drawn if e.difference is not None]
    ends = [value / e.margin for e in drawn for value in (e.low, e.high) if value is not None]
    return scale_of(estimates, ends)


def scale_of(estimates: Sequence[float], ends: Sequence[float]) -> Scale:
    """Choose an axis that shows the estimates, and the ends of intervals as far as they do not squeeze the rest.

    Args:
        estimates: differences in units of the margin; shown down to -4 and up to 3.
        ends: ends of intervals in the same units; those beyond -2.2 and 1.8 become arrows.
    """
    low = min([-1.5, *(max(value, -3.7) for value in estimates), *(max(value, -2.0) for value in ends)])
    high = max([1.0, *(min(value, 2.7) for value in estimates), *(min(value, 1.6) for value in ends)])
    return Scale(low - 0.25, high + 0.25)


def forest_axis(scale: Scale) -> Markup:
    """Draw the head of the forest plot's column."""
    width = scale.high - scale.low
    # Over more than four margins minus the margin and zero lie too close for both names; at the edge there is no room.
    narrow = width > 4 and -1 - scale.low > 0.3 * width
    ticks = [
        tag("text", f"{MINUS}margin", x=scale.at(-1), y="2.1em", text_anchor="end" if narrow else "middle"),
        tag("text", "0", x=scale.at(0), y="2.1em", text_anchor="middle"),
        tag("text", "← worse", x=scale.at(-0.12), y="0.85em", text_anchor="end"),
        tag("text", "better →", x=scale.at(0.12), y="0.85em", text_anchor="start"),
    ]
    return tag(
        "svg", *ticks, class_="axis", role="img", aria_label="Axis: student worse to the left, better to the right"
    )


def forest_lines(scale: Scale) -> Markup:
    """Draw the ground of each row: the zone below minus the margin, the margin and the line of no difference."""
    return Markup("").join(
        (
            tag("rect", x=0, y=0, width=scale.at(-1), height="100%", class_="zone"),
            tag("line", x1=scale.at(-1), x2=scale.at(-1), y1=0, y2="100%", class_="margin"),
            tag("line", x1=scale.at(0), x2=scale.at(0), y1=0, y2="100%", class_="zero"),
        )
    )


def forest_ground(scale: Scale) -> Markup:
    """Draw a row without an interval, so that the lines run on through it."""
    return tag("svg", forest_lines(scale), class_="row", aria_hidden="true")


def forest_row(endpoint: Endpoint, scale: Scale) -> Markup:
    """One interval against its margin."""
    if endpoint.difference is None or endpoint.margin <= 0:
        text = tag("text", "no estimate", x=scale.at(0), dx=8, y="50%", dy="0.35em", class_="none")
        return tag("svg", forest_lines(scale), text, class_="row", role="img", aria_label="No estimate")
    parts = [forest_lines(scale)]
    margin = endpoint.margin
    low = endpoint.difference if endpoint.low is None else endpoint.low
    high = endpoint.difference if endpoint.high is None else endpoint.high
    parts.append(
        tag("line", x1=scale.at(low / margin), x2=scale.at(high / margin), y1="50%", y2="50%", class_="interval")
    )
    if low / margin < scale.high:
        parts.append(_end(low / margin, scale, beyond=low / margin < scale.low, leftwards=True))
    if high / margin > scale.low:
        parts.append(_end(high / margin, scale, beyond=high / margin > scale.high, leftwards=False))
    parts.append(_whole_mark(endpoint.difference / margin, scale, MARKS[endpoint.verdict]))
    return tag("svg", *parts, class_=f"row {endpoint.verdict}", role="img", aria_label=_described(endpoint))


def _end(value: float, scale: Scale, *, beyond: bool, leftwards: bool) -> Markup:
    """Draw a cap where the interval ends, an arrow where it runs beyond the axis."""
    turn = "" if leftwards else "rotate(180)"
    shape = "M8-5L1 0L8 5" if beyond else "M0-5V5"
    return _placed(scale.at(value), tag("path", d=shape, transform=turn, class_="cap"))


def _whole_mark(value: float, scale: Scale, mark: Markup) -> Markup:
    """Draw a whole mark; one that lies beyond the axis stands beside the arrow at its end."""
    inwards = INWARDS if value < scale.low else -INWARDS if value > scale.high else 0
    return _placed(scale.at(value), tag("g", mark, class_="mark", transform=f"translate({inwards})"))


def _placed(x: str, mark: Markup) -> Markup:
    return tag("svg", mark, x=x, y="50%", overflow="visible", width=1, height=1)


def _described(endpoint: Endpoint) -> str:
    count = bound_digits(endpoint)
    low, high = signed(endpoint.low, count), signed(endpoint.high, count)
    return (
        f"Difference {signed(endpoint.difference, count)}, interval {low} to {high}, "
        f"margin {number(endpoint.margin, count)}: {endpoint.verdict}"
    )


def group_row(group: Subgroup, scale: Scale) -> Markup:
    """Draw a group's or label's difference on the forest plot's axis: a disc; flagged a cross, few patients a ring."""
    if group.difference is None or group.margin <= 0:
        text = tag("text", "no estimate", x=scale.at(0), dx=8, y="50%", dy="0.35em", class_="none")
        return tag("svg", forest_lines(scale), text, class_="row", role="img", aria_label="No estimate")
    parts = [forest_lines(scale)]
    margin, difference = group.margin, group.difference
    if group.low is not None and group.high is not None:
        ends = group.low / margin, group.high / margin
        parts.append(tag("line", x1=scale.at(ends[0]), x2=scale.at(ends[1]), y1="50%", y2="50%", class_="interval"))
        parts.append(_end(ends[0], scale, beyond=ends[0] < scale.low, leftwards=True))
        parts.append(_end(ends[1], scale, beyond=ends[1] > scale.high, leftwards=False))
    mark = MARKS["fail"] if group.flagged else Markup('<circle r="4"/>')
    if scale.low < difference / margin < scale.high:
        parts.append(_placed(scale.at(difference / margin), tag("g", mark, class_="mark")))
    else:
        parts.append(_end(difference / margin, scale, beyond=True, leftwards=difference < 0))
    kind = "group" + (" fail" if group.flagged else "") + (" few" if group.few else "")
    return tag("svg", *parts, class_=f"row {kind}", role="img", aria_label=f"Difference {signed(difference)}")


def group_scale(groups: Sequence[Subgroup]) -> Scale:
    """One axis for all groups of a table."""
    drawn = [group for group in groups if group.margin > 0]
    estimates = [group.difference / group.margin for group in drawn if group.difference is not None]
    ends = [value / group.margin for group in drawn for value in (group.low, group.high) if value is not None]
    return scale_of(estimates, ends)


def latency_bar(latency_ms: float, p95_ms: float, longest_ms: float) -> Markup:
    """Median as a bar, the way to the 95th percentile paler, on one linear axis for all artefacts."""
    bars = [
        tag("rect", x=0, y="28%", width=f"{100 * value / longest_ms:.2f}%", height="44%", class_=name)
        for name, value in (("p95", p95_ms), ("bar", latency_ms))
    ]
    label = f"Median {latency_ms:.2f} ms, 95th percentile {p95_ms:.2f} ms"
    return tag("svg", *bars, class_="row latency", role="img", aria_label=label)


def roc_figure(curves: Sequence[Curve], points: Sequence[Point], series: Sequence[str]) -> Markup:
    """ROC curves of one label: teacher broad and pale, students on top, operating points marked.

    Args:
        curves: the teacher's and each engine's.
        points: where the locked thresholds lie.
        series: `teacher`, then the engines, in the order that decides colour and dash everywhere.
    """
    parts = [_frame("False positive rate", "Sensitivity"), _diagonal()]
    for curve in _ordered(curves, series):
        path = "M" + "L".join(_xy(x, y) for x, y in zip(curve.x, curve.y, strict=True))
        parts.append(tag("path", d=path, class_=f"curve s{series.index(curve.engine)}"))
    parts.extend(_mark(point.series, point.x, point.y, 5.0, series) for point in points if point.series in series)
    return _square(parts, f"ROC curves of {_series_text(curves, series)}")


def calibration_figure(curves: Sequence[Curve], series: Sequence[str]) -> Markup:
    """Observed frequency over predicted probability of one label; marks grow with the cases of a bin."""
    parts = [_frame("Predicted probability", "Observed frequency"), _diagonal()]
    largest = max((max(curve.n, default=1) for curve in curves), default=1)
    for curve in _ordered(curves, series):
        path = "M" + "L".join(_xy(x, y) for x, y in zip(curve.x, curve.y, strict=True))
        if curve.x:
            parts.append(tag("path", d=path, class_=f"curve s{series.index(curve.engine)}"))
        counts = curve.n or (largest,) * len(curve.x)
        for x, y, n in zip(curve.x, curve.y, counts, strict=True):
            parts.append(_mark(curve.engine, x, y, 2 + 3 * math.sqrt(n / largest), series))
    return _square(parts, f"Calibration of {_series_text(curves, series)}")


def froc_figure(curves: Sequence[Curve], series: Sequence[str]) -> Markup:
    """Sensitivity over false positives an image, on a logarithmic axis from 1/8 to 8 (Setio et al. 2017)."""
    ticks = [(math.log2(value / FROC[0]) / FROC_SPAN, name) for value, name in FROC_TICKS]
    parts = [_frame("False positives an image", "Sensitivity", ticks)]
    for curve in _ordered(curves, series):
        inside = [(max(x, FROC[0]), y) for x, y in zip(curve.x, curve.y, strict=True) if x <= FROC[1]]
        if inside:
            path = "M" + "L".join(_xy(math.log2(x / FROC[0]) / FROC_SPAN, y) for x, y in inside)
            parts.append(tag("path", d=path, class_=f"curve s{series.index(curve.engine)}"))
    return _square(parts, f"FROC curves of {_series_text(curves, series)}")


def legend(series: Sequence[str]) -> Markup:
    """Line, mark and name of each series."""
    entries = []
    for name in series:
        line = tag("line", x1=1, x2=33, y1=8, y2=8, class_=f"curve s{series.index(name)}")
        mark = _shape(name, 17, 8, 4.0, series)
        entries.append(
            tag("span", tag("svg", line, mark, width=34, height=16, aria_hidden="true"), " ", name, class_="key")
        )
    return tag("div", *entries, class_="legend")


def _ordered(curves: Sequence[Curve], series: Sequence[str]) -> list[Curve]:
    known = [curve for curve in curves if curve.engine in series and curve.x]
    return sorted(known, key=lambda curve: series.index(curve.engine))


def _series_text(curves: Sequence[Curve], series: Sequence[str]) -> str:
    return ", ".join(curve.engine for curve in _ordered(curves, series)) or NOTHING


def _xy(x: float, y: float) -> str:
    return f"{LEFT + PLOT * x:.1f} {TOP + PLOT * (1 - y):.1f}"


def _mark(name: str, x: float, y: float, radius: float, series: Sequence[str]) -> Markup:
    return _shape(name, LEFT + PLOT * x, TOP + PLOT * (1 - y), radius, series)


def _shape(name: str, cx: float, cy: float, radius: float, series: Sequence[str]) -> Markup:
    """Teacher: ring. First engine: disc. Second: square. Further: triangle."""
    index = series.index(name)
    kind = f"mark s{index}"
    r = radius
    if index < 2:
        return tag("circle", cx=cx, cy=cy, r=r + (1.5 if index == 0 else 0), class_=kind)
    if index == 2:
        return tag("rect", x=cx - 0.8 * r, y=cy - 0.8 * r, width=1.6 * r, height=1.6 * r, class_=kind)
    return tag("path", d=f"M{cx:.1f} {cy - r:.1f}l{r:.1f} {1.8 * r:.1f}h{-2 * r:.1f}z", class_=kind)


def _diagonal() -> Markup:
    return tag("line", x1=LEFT, y1=TOP + PLOT, x2=LEFT + PLOT, y2=TOP, class_="diagonal")


def _frame(x_title: str, y_title: str, x_ticks: Sequence[tuple[float, str]] = UNIT_TICKS) -> Markup:
    """Axes with quiet grid lines; the upward one from 0 to 1, the other with the ticks given."""
    parts = [tag("rect", x=LEFT, y=TOP, width=PLOT, height=PLOT, class_="frame")]
    for value, name in x_ticks:
        x = LEFT + PLOT * value
        if 0 < value < 1:
            parts.append(tag("path", d=f"M{x:.1f} {TOP:.1f}v{PLOT:.1f}", class_="grid"))
        parts.append(tag("text", name, x=x, y=TOP + PLOT + 14, text_anchor="middle"))
    for value, name in UNIT_TICKS:
        y = TOP + PLOT * (1 - value)
        if 0 < value < 1:
            parts.append(tag("path", d=f"M{LEFT:.1f} {y:.1f}h{PLOT:.1f}", class_="grid"))
        parts.append(tag("text", name, x=LEFT - 6, y=y + 4, text_anchor="end"))
    middle = TOP + PLOT / 2
    parts.append(tag("text", x_title, x=LEFT + PLOT / 2, y=TOP + PLOT + 29, text_anchor="middle", class_="title"))
    turn = f"rotate(-90 10 {middle:.1f})"
    parts.append(tag("text", y_title, x=10, y=middle, text_anchor="middle", transform=turn, class_="title"))
    return Markup("").join(parts)


def _square(parts: Sequence[Markup], label: str) -> Markup:
    box = f"0 0 {LEFT + PLOT + RIGHT:.0f} {TOP + PLOT + BOTTOM:.0f}"
    return tag("svg", *parts, viewBox=box, class_="square", role="img", aria_label=label)
