"""Records of several machines as one table: a row for each device, artefact and engine.

table = merge([Path("n100.json"), Path("orin.json")])
print(table.markdown())
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..errors import FoveolaError
from .record import DISTURBED, Bench, read_record
from .words import machine_words, settings_words

_HEAD = (
    "device",
    "machine",
    "artefact",
    "engine",
    "settings",
    "median ms",
    "p95",
    "p99",
    "engine ms",
    "after idle ms",
    "sustained ms",
    "cold start ms",
    "peak MiB",
    "bundle MB",
    "graph MB",
    "J an image",
    "budget",
)
_WORDS = 5  # columns of words; figures come after them, but for the last


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One record's figures; null where they were not measured."""

    device: str  # the profile that the bundle was made for
    machine: str
    bundle: str
    version: str
    digest: str
    arithmetic: str
    engine: str
    engine_version: str
    settings: str
    date: str
    median_ms: float
    p95_ms: float
    p99_ms: float
    engine_ms: float  # alone, median
    after_idle_ms: float | None
    sustained_ms: float | None  # last tenth
    hottest_c: float | None
    cold_start_ms: float | None
    peak_mib: float | None
    bundle_mb: float
    graph_mb: float
    joules_per_image: float | None
    joules_per_image_above_idle: float | None
    disturbed: float | None  # share of the cores' time that other work took
    within_budget: bool | None  # null: the bundle names no budget, or a line was not measured
    over: tuple[str, ...]  # lines of the budget that do not hold


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Rows in the order of device, machine, artefact, engine and date."""

    rows: tuple[Row, ...]

    def markdown(self) -> str:
        """Write the table in Markdown, with a line for each bundle below it."""
        rule = ["---"] * _WORDS + ["---:"] * (len(_HEAD) - _WORDS - 1) + ["---"]
        lines = [_line(_HEAD), _line(rule), *(_line(_cells(row)) for row in self.rows), ""]
        bundles = {(row.bundle, row.version, row.digest) for row in self.rows}
        lines += [f"Bundle {_escape(name)} {_escape(version)}: {digest}" for name, version, digest in sorted(bundles)]
        lines += [
            f"Other work took {row.disturbed:.0%} of the cores' time on {_escape(row.machine)}, {row.engine}."
            for row in self.rows
            if row.disturbed is not None and row.disturbed > DISTURBED
        ]
        dates = sorted(row.date for row in self.rows)
        return "\n".join([*lines, f"Measured from {_escape(dates[0])} to {_escape(dates[-1])}."]) + "\n"


def merge(paths: Sequence[Path], *, any_bundle: bool = False) -> Table:
    """Read records and put them side by side.

    Args:
        paths: files that `bench --out` wrote, one at least.
        any_bundle: take records of bundles of different names too.

    Raises:
        FoveolaError: what is wrong with the files, all of it at once.
    """
    records: dict[Path, Bench] = {}
    faults: list[str] = []
    for path in paths:
        try:
            record = read_record(path)
        except FoveolaError as error:
            faults.append(f"{error.place}: {error.fault}")
            continue
        twin = next((other for other, seen in records.items() if seen == record), None)
        if twin is not None:
            faults.append(f"{path}: the same record as {twin}")
        records[path] = record
    first = next(iter(records.items()), None)
    for path, record in records.items():
        if first and not any_bundle and record.bundle.name != first[1].bundle.name:
            faults.append(f"{path}: of bundle {record.bundle.name!r}, {first[0]} is of {first[1].bundle.name!r}")
    if faults:
        mend = "give --any-bundle to compare several" if any(": of bundle" in fault for fault in faults) else ""
        raise FoveolaError("--merge", "; ".join(faults), mend)
    rows = sorted((_row(one) for one in records.values()), key=lambda r: (r.device, r.machine, r.arithmetic, r.engine))
    return Table(rows=tuple(rows))


def _row(record: Bench) -> Row:
    bundle, engine, energy = record.bundle, record.engine, record.energy
    judged = bool(record.budget) and all(line.holds is not None for line in record.budget)
    over = tuple(line.what for line in record.budget if line.holds is False)
    return Row(
        device=bundle.device,
        machine=machine_words(record),
        bundle=bundle.name,
        version=bundle.version,
        digest=bundle.digest,
        arithmetic=engine.arithmetic,
        engine=engine.engine,
        engine_version=engine.version,
        settings=settings_words(engine.settings),
        date=record.date,
        median_ms=record.end_to_end.median_ms,
        p95_ms=record.end_to_end.p95_ms,
        p99_ms=record.end_to_end.p99_ms,
        engine_ms=record.engine_alone.median_ms,
        after_idle_ms=record.after_idle.latency.median_ms if record.after_idle else None,
        sustained_ms=record.sustained.last_ms if record.sustained else None,
        hottest_c=record.sustained.hottest_c if record.sustained else None,
        cold_start_ms=record.cold_start.total.median_ms if record.cold_start else None,
        peak_mib=record.memory.peak_mib,
        bundle_mb=bundle.bundle_bytes / 1e6,
        graph_mb=bundle.graph_bytes / 1e6,
        joules_per_image=energy.joules_per_image if energy else None,
        joules_per_image_above_idle=energy.joules_per_image_above_idle if energy else None,
        disturbed=record.disturbed,
        within_budget=False if over else True if judged else None,
        over=over,
    )


def _cells(row: Row) -> list[str]:
    heat = "" if row.hottest_c is None else f" ({row.hottest_c:.0f} °C)"
    figures = [
        f"{row.median_ms:.2f}",
        f"{row.p95_ms:.2f}",
        f"{row.p99_ms:.2f}",
        f"{row.engine_ms:.2f}",
        _figure(row.after_idle_ms, ".2f"),
        _figure(row.sustained_ms, ".2f") + heat,
        _figure(row.cold_start_ms, ".0f"),
        _figure(row.peak_mib, ".0f"),
        f"{row.bundle_mb:.2f}",
        f"{row.graph_mb:.2f}",
        _figure(row.joules_per_image, ".3g"),
    ]
    verdict = "over: " + ", ".join(row.over) if row.over else "holds" if row.within_budget else "-"
    artefact = f"{row.bundle} {row.version} {row.arithmetic}"
    engine = f"{row.engine} {row.engine_version.partition('-')[0]}".strip()  # OpenVINO's goes on with its build
    return [row.device, row.machine, artefact, engine, row.settings, *figures, verdict]


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escape(cell) for cell in cells) + " |"


def _escape(text: str) -> str:
    """Keep a cell a cell: words of a record are another machine's."""
    text = "".join(c if c.isprintable() else " " for c in text)
    for mark in "\\|<>`[]*_":
        text = text.replace(mark, "\\" + mark)
    return text
