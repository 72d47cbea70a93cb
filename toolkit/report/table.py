"""The proof on the terminal: who was compared, what was lost, and what was gained for it.

Fits 100 columns. Colour only repeats what the words say, so that a log file or a monochrome terminal loses nothing; and
every character of ours is ASCII, since a console that cannot write a minus sign must not end a long run with a crash.

    Console().print(summary_table(evidence, speeds))
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..parity.evidence import Endpoint, Evidence, Verdict
from .wording import (
    MINUS,
    NOTHING,
    bound_digits,
    digits,
    headline,
    in_reading_order,
    milliseconds,
    number,
    signed,
    size,
    speed_up,
    thousands,
)

STYLES: dict[Verdict, str] = {"pass": "green", "fail": "bold red", "underpowered": "yellow"}
WORDS: dict[Verdict, str] = {"pass": "pass", "fail": "FAIL", "underpowered": "underpowered"}


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """One artefact's size and latency, measured on one machine."""

    artefact: str
    engine: str
    size_bytes: int
    latency_ms: float  # median, batch 1
    p95_ms: float
    ratio: float  # teacher's median / this median
    note: str = ""


ASCII = str.maketrans({MINUS: "-", NOTHING: "-", "×": "x", "\N{NARROW NO-BREAK SPACE}": " "})


def summary_table(evidence: Evidence, speeds: Sequence[Speed] = ()) -> RenderableType:
    """Primary endpoints, the artefacts' size and speed, and the verdict in one sentence.

    Args:
        evidence: the proof.
        speeds: latency and size of each artefact; none leaves that table out.

    Returns:
        Something that `rich` prints within 100 columns.
    """
    parts: list[RenderableType] = [_endpoints(evidence)]
    if speeds:
        parts.append(Padding(_artefacts(speeds), (1, 0, 0, 0)))
    said = headline(evidence)
    parts.append(Padding(_text(said.sentence, style=STYLES[evidence.verdict]), (1, 0, 0, 0)))
    parts.extend(_text(line) for line in _needs(evidence))
    return Group(*parts)


def _endpoints(evidence: Evidence) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name in ("task", "endpoint", "engine"):
        table.add_column(name, overflow="fold")
    for name in ("teacher", "student", "diff.", "bound", "margin"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    before = ""
    for endpoint in in_reading_order(evidence.endpoints):
        if endpoint.primary:
            table.add_row(*_cells(endpoint, repeated=endpoint.task == before))
            before = endpoint.task
    return table


def _cells(endpoint: Endpoint, *, repeated: bool) -> list[RenderableType]:
    count, fine = digits(endpoint), bound_digits(endpoint)
    metric = f"{endpoint.label} {endpoint.metric}" if endpoint.label else endpoint.metric
    relation = "" if endpoint.low is None else ("> " if endpoint.low > -endpoint.margin else "<= ")
    return [
        _text("" if repeated else endpoint.task, style="bold"),
        _text(metric),
        _text(endpoint.engine),
        _text(number(endpoint.teacher, count)),
        _text(number(endpoint.student, count)),
        _text(signed(endpoint.difference, count)),
        _text(signed(endpoint.low, fine)),
        _text(f"{relation}{number(-endpoint.margin, fine)}"),
        _text(WORDS[endpoint.verdict], style=STYLES[endpoint.verdict]),
    ]


def _text(text: str, style: str = "") -> Text:
    """Text as it stands: a name with square brackets is not markup."""
    return Text(text.translate(ASCII), style=style)


def _artefacts(speeds: Sequence[Speed]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("artefact", overflow="fold")
    table.add_column("engine", overflow="fold")
    for name in ("size", "median", "p95", "speed-up"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    for speed in speeds:
        table.add_row(
            _text(speed.artefact),
            _text(speed.engine),
            _text(size(speed.size_bytes)),
            _text(milliseconds(speed.latency_ms)),
            _text(milliseconds(speed.p95_ms)),
            _text(speed_up(speed.ratio)),
            _text(speed.note),
        )
    return table


def _needs(evidence: Evidence) -> list[str]:
    """One line a task: the cases that its hungriest endpoint would need."""
    most: dict[str, Endpoint] = {}
    for endpoint in evidence.endpoints:
        if endpoint.primary and endpoint.verdict == "underpowered" and endpoint.needed_cases is not None:
            known = most.get(endpoint.task)
            if known is None or endpoint.needed_cases > (known.needed_cases or 0):
                most[endpoint.task] = endpoint
    lines: list[str] = []
    for task, endpoint in most.items():
        what = " ".join(filter(None, (endpoint.label, endpoint.metric)))
        needed, here = endpoint.needed_cases or 0, endpoint.cases
        if needed > here:
            lines.append(f"  {task}: {what} needs about {thousands(needed)} cases (here {thousands(here)})")
        else:  # the number is that of a student without any loss
            lines.append(f"  {task}: {what} is undecided on {thousands(here)} cases; the loss seen is near the margin")
    return lines
