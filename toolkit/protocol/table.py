"""A protocol and its plan on the terminal: what is claimed by which margin, and how many cases that takes.

Fits 100 columns where names are short; ASCII only, like `table.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..parity.metrics import METRICS
from ..parity.power import Planned, joint_power
from ..parity.protocol import Protocol, Rule
from ..report.wording import IN_UNITS

NONE = "-"


def protocol_table(protocol: Protocol, state: str) -> RenderableType:
    """Show a protocol.

    Args:
        protocol: as read.
        state: whether it is locked, in words.
    """
    table = _table(("task", "endpoint", "counts"), ("margin", "floor"), ("what it is",))
    for name, rules in protocol.tasks.items():
        for n, (metric, rule) in enumerate(rules.endpoints.items()):
            table.add_row(*_rule(_title(name, rules.kind or "") if n == 0 else "", metric, rule))
    for name, marker in protocol.biomarkers.items():
        for n, (metric, rule) in enumerate(marker.endpoints.items()):
            table.add_row(*_rule(_title(name, marker.kind) if n == 0 else "", metric, rule))
    data = protocol.data
    head = [
        ("protocol", f"{protocol.name or 'of any bundle'}, {state}"),
        ("digest", protocol.digest),
        ("teacher", protocol.teacher or "any"),
        ("data", f"{data.digest or 'any'}, split {data.split}"),
        ("subgroups", ", ".join(data.subgroups) or "none"),
        ("critical", _critical(protocol) or "none"),
        ("errors", f"alpha {protocol.alpha:g} (one-sided), power {protocol.power:g}, "
         f"{protocol.resamples} resamples, seed {protocol.seed}"),
    ]  # fmt: skip
    lines = [Text(f"{what:<10} {text}") for what, text in head]
    return Group(*lines, Text(), table)


def power_table(planned: Sequence[Planned]) -> RenderableType:
    """Show what each endpoint needs, what there is, and what that proves."""
    table = _table(
        ("task", "endpoint", "counts"), ("margin", "needs", "has", "positives", "patients", "provable", "power"), ()
    )
    before = ""
    for one in planned:
        enough = one.power is not None and one.needed_cases is not None and one.needed_cases <= one.cases
        table.add_row(
            Text("" if one.task == before else one.task, style="bold"),
            Text(_endpoint(one)),
            Text("yes" if one.primary else "no"),
            Text(_margin(one.metric, one.margin)),
            Text(_count(one.needed_cases), style="" if enough else "yellow"),
            Text(_count(one.cases)),
            Text(_of(one.needed_positives, one.positives)),
            Text(_of(one.needed_patients, one.patients)),
            Text(NONE if one.provable_margin is None else _margin(one.metric, one.provable_margin)),
            Text(NONE if one.power is None else f"{one.power:.2f}"),
        )
        before = one.task
    notes = [Text(f"  {one.task} {_endpoint(one)}: {one.note}") for one in planned if one.note]
    joint = joint_power(planned)
    said = "" if joint is None else f"All that count together, as if independent (a low estimate): power {joint:.2f}."
    return Group(table, *notes, *([Text(said)] if said else []))


def correlation_table(by_correlation: Mapping[float, Sequence[Planned]]) -> RenderableType:
    """Show the needed cases for several correlations of teacher and student."""
    table = _table(("task", "endpoint"), tuple(f"r {correlation:g}" for correlation in by_correlation), ())
    rows = zip(*by_correlation.values(), strict=True)
    before = ""
    for row in rows:
        first = row[0]
        cells = [Text(_count(one.needed_cases)) for one in row]
        table.add_row(Text("" if first.task == before else first.task, style="bold"), Text(_endpoint(first)), *cells)
        before = first.task
    return Group(Text("Needed cases by the correlation of teacher and student:"), table)


def _table(left: tuple[str, ...], right: tuple[str, ...], last: tuple[str, ...]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    for name in last:
        table.add_column(name, overflow="fold")
    return table


def _rule(title: str, metric: str, rule: Rule) -> list[RenderableType]:
    about = METRICS[metric]
    margin = f"{about.share:.0%} of const." if rule.margin is None and about.share is not None else NONE
    given = rule.margin if rule.margin is not None else about.margin
    return [
        Text(title, style="bold"),
        Text(metric),
        Text("yes" if rule.primary else "no"),
        Text(margin if given is None else f"{given:g}"),
        Text(NONE if rule.floor is None else f"{rule.floor:g}"),
        Text(about.says),
    ]


def _title(name: str, kind: str) -> str:
    return f"{name} ({kind})" if kind else name


def _critical(protocol: Protocol) -> str:
    return ", ".join(f"{name}: {' '.join(rules.critical)}" for name, rules in protocol.tasks.items() if rules.critical)


def _endpoint(one: Planned) -> str:
    return f"{one.label} {one.metric}" if one.label else one.metric


def _margin(metric: str, margin: float) -> str:
    return f"{margin:.3g}" if metric in IN_UNITS else f"{margin:.3f}"


def _count(cases: int | None) -> str:
    return NONE if cases is None else f"{cases:,}".replace(",", " ")


def _of(needed: int | None, here: int | None) -> str:
    return NONE if needed is None or here is None else f"{_count(needed)} of {_count(here)}"
