"""A summary of the watch as one HTML file that opens offline: days as bars, weeks as strips, drift as a table.

It is drawn from the summary alone, so that it tells nothing more than that does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from html import escape

from .drift import LARGE, MODERATE, Shift
from .summary import Export, ShownDay, ShownHistogram, ShownWindow, Summary, Told
from .telling import count_words, figure_words

WIDTH, LEFT = 900, 60  # of a picture, in px; of its left margin
BARS, STRIP, INDEX = 140, 100, 44  # heights, in px
MOST_PANELS = 48
DARKEST = 40  # percent; a strip that has no larger share is not made darker, or chance would look like drift
# Paul Tol's high-contrast scheme, which the colour-blind can tell apart, also in grey.
ANSWERED, UNFIT, REFUSED = "#004488", "#ddaa33", "#bb5566"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222;
  background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem } h3 { font-size: .95rem; margin: 1.2rem 0 .2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { padding: .2rem .7rem;
  text-align: right; border-bottom: 1px solid #ddd } td:first-child, th:first-child { text-align: left }
.wide { overflow-x: auto } .large { background: #f4d5da } .moderate { background: #f9eccb } .quiet { color: #666 }
svg { width: 100%; height: auto } svg text { font: 11px system-ui, sans-serif; fill: #444 }
i { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em }
"""


def draw(export: Export) -> str:
    """Draw all bundles of a folder, the newest first."""
    parts = [part for one in reversed(export.bundles) for part in _bundle(one)]
    faults = "".join(f"<li>{escape(fault)}</li>" for fault in export.faults)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width"><title>What this device saw</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>What this device saw</h1>\n"
        + "\n".join(parts)
        + (f"\n<h2>Left out</h2><ul>{faults}</ul>" if faults else "")
        + '\n<p class="quiet">Counts are rounded to fives and those of one to four are told as &lt;5. '
        f"Strips tell weeks of fifty images or more. Dashed: PSI {MODERATE} and {LARGE}.</p>\n</body></html>\n"
    )


def _bundle(one: Summary) -> Iterator[str]:
    yield f"<h2>{escape(one.name)} {escape(one.version)}, {one.first} to {one.last}</h2>"
    yield (
        f"<p>{count_words(one.images)} images, {count_words(one.unfit_images)} of them unfit. "
        f"{_listed('Refused', one.refused)} {_listed('Unfit', one.unfit)}</p>"
    )
    yield _days(one)
    yield _table(one)
    ranks = {shift.what: (-(shift.psi or 0.0), shift.what) for shift in one.shifts}
    names = sorted(one.histograms, key=lambda name: ranks.get(name, (1.0, name)))
    drawn = [name for name in names if any(name in week.shares for week in one.by_window)]
    for name in drawn[:MOST_PANELS]:
        yield f"<h3>{escape(name)}</h3>" + _panel(name, one.histograms[name], one.by_window)
    if len(drawn) > MOST_PANELS:
        yield f'<p class="quiet">{len(drawn) - MOST_PANELS} more are in the JSON form.</p>'


def _listed(what: str, counts: dict[str, Told]) -> str:
    told = ", ".join(f"{escape(word)} {escape(count_words(count))}" for word, count in counts.items())
    return f"{what}: {told}." if told else ""


def _table(one: Summary) -> str:
    if not one.shifts:
        return '<p class="quiet">There is nothing yet to hold these days against.</p>'
    rows = "".join(map(_row, sorted(one.shifts, key=lambda shift: (-(shift.psi or 0.0), shift.what))))
    return (
        f"<h3>The last {one.days} days</h3>"
        '<div class="wide"><table><tr><th>what</th><th>images</th><th>PSI</th><th>KS</th><th>p</th>'
        f"<th>against</th><th>verdict</th></tr>{rows}</table></div>"
    )


def _row(shift: Shift) -> str:
    kind = shift.verdict if shift.verdict in ("moderate", "large") else "quiet"
    figures = "".join(f"<td>{escape(word)}</td>" for word in figure_words(shift))
    return (
        f'<tr class="{kind}"><td>{escape(shift.what)}</td>{figures}<td>{shift.basis}</td><td>{shift.verdict}</td></tr>'
    )


def _days(one: Summary) -> str:
    """Bars of each day: answered, unfit, refused."""
    first = date.fromisoformat(one.by_day[0].day)
    span = (date.fromisoformat(one.by_day[-1].day) - first).days + 1
    step = (WIDTH - LEFT) / span
    most = max((_answered(day) + (day.unfit or 0) + (day.refused or 0) for day in one.by_day), default=0) or 1
    parts = [_axis(BARS, most, "images")]
    for day in one.by_day:
        x, y = LEFT + step * (date.fromisoformat(day.day) - first).days, float(BARS)
        for count, colour in ((_answered(day), ANSWERED), (day.unfit or 0, UNFIT), (day.refused or 0, REFUSED)):
            height = (BARS - 10) * count / most
            y -= height
            parts.append(_box(x, y, max(step - 0.5, 0.5), height, colour))
    dates = _dates(first, span, BARS)
    key = "".join(
        f'<i style="background:{colour}"></i>{word}'
        for word, colour in (("answered", ANSWERED), ("unfit", UNFIT), ("refused", REFUSED))
    )
    return f"<h3>Images by day {key}</h3>" + _svg(BARS + 18, [*parts, *dates])


def _answered(day: ShownDay) -> int:
    return max(0, (day.images or 0) - (day.unfit or 0))


def _panel(name: str, histogram: ShownHistogram, weeks: Sequence[ShownWindow]) -> str:
    """Strip of one histogram: a column a week, a row a bin from the lowest at the bottom, and PSI below it."""
    first, last = date.fromisoformat(weeks[0].first), date.fromisoformat(weeks[-1].last)
    span = (last - first).days + 1
    rows, step = len(histogram.counts), 7 * (WIDTH - LEFT) / span
    low, high = _inhabited(name, rows, weeks)
    most = max(DARKEST, *(share for week in weeks for share in week.shares.get(name, (0,))))
    parts = []
    for week in weeks:
        x = LEFT + (WIDTH - LEFT) * (date.fromisoformat(week.first) - first).days / span
        height = STRIP / (high - low)
        for row, share in enumerate(week.shares.get(name, ())[low:high]):
            if share:
                shade = f"rgba(0,68,136,{0.08 + 0.92 * share / most:.2f})"
                parts.append(_box(x, STRIP - (row + 1) * height, step - 1, height, shade))
        if name in week.psi:
            top = INDEX * min(week.psi[name], 2 * LARGE) / (2 * LARGE)
            parts.append(_box(x, STRIP + 4 + INDEX - top, step - 1, top, "#777"))
    edges = histogram.edges[max(0, low - 1) : high]
    parts += _edge_words(edges, low == 0, STRIP / (high - low))
    if any(name in week.psi for week in weeks):
        parts += [_line(STRIP + 4 + INDEX * (1 - limit / (2 * LARGE))) for limit in (MODERATE, LARGE)]
        parts.append(f'<text x="{LEFT - 6}" y="{STRIP + INDEX}" text-anchor="end">PSI</text>')
    return _svg(STRIP + INDEX + 22, [*parts, *_dates(first, span, STRIP + INDEX + 4)])


def _inhabited(name: str, rows: int, weeks: Sequence[ShownWindow]) -> tuple[int, int]:
    """Give the range of bins that any week has values in; the others are not drawn."""
    used = [row for week in weeks for row, share in enumerate(week.shares.get(name, ())) if share]
    return (min(used), max(used) + 1) if used else (0, rows)


def _edge_words(edges: Sequence[float], open_below: bool, height: float) -> Iterator[str]:
    every = max(1, math.ceil(13 / height))
    for index, edge in enumerate(edges):
        y = STRIP - (index + open_below) * height
        if index % every == 0 and 6 < y <= STRIP:
            yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{edge:.3g}</text>'


def _axis(height: int, most: int, what: str) -> str:
    return (
        f'<text x="{LEFT - 6}" y="16" text-anchor="end">{most}</text>'
        f'<text x="{LEFT - 6}" y="{height}" text-anchor="end">0</text>'
        f'<text x="{LEFT - 6}" y="32" text-anchor="end">{what}</text>'
    )


def _dates(first: date, span: int, y: int) -> Iterator[str]:
    """Write about eight dates below a picture."""
    for day in range(0, span, max(1, -(-span // 8))):
        x = LEFT + (WIDTH - LEFT) * day / span
        if x > WIDTH - 64:
            return
        yield f'<text x="{x:.1f}" y="{y + 14}">{first + timedelta(days=day)}</text>'


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def _line(y: float) -> str:
    return f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#bb5566" stroke-dasharray="4 3"/>'


def _svg(height: int, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(parts)}</svg>'
