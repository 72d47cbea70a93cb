"""The account of the forms, for people: a table for the terminal, and lines that say why.

| form | MB | ms | flips in 1,000 | slack | |
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.table import Table

from .pick import Variant

VARIANTS = "variants.json"
COLUMNS = ("form", "MB", "ms", "flips in 1,000", "difference", "slack", "")


def read_variants(path: Path) -> tuple[Variant, ...]:
    """Read `variants.json`; of a bundle that was made without it there is nothing to tell."""
    if not path.exists():
        return ()
    return msgspec.json.decode(path.read_bytes(), type=tuple[Variant, ...])


def variant_table(variants: Sequence[Variant]) -> Table:
    """Make the table for the terminal, within 80 columns; what ships stands in bold. `variant_lines` say why."""
    table = Table(*COLUMNS[:-1], box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for one in variants:
        table.add_row(*row_words(one)[:-1], style="bold" if one.chosen else "")
    return table


def variant_lines(variants: Sequence[Variant]) -> list[str]:
    """Say in one line each what became of the forms."""
    return [f"{one.name}: {_fate(one)}" for one in variants]


def row_words(one: Variant) -> list[str]:
    """Write a form's row, in the order of `COLUMNS`."""
    return [
        one.name,
        f"{one.size_bytes / 1e6:.2f}",
        _timed(one),
        "-" if one.flips is None else f"{one.flips:.2f}",
        "-" if one.difference is None else f"{one.difference:.2g}",
        "-" if one.slack is None else f"{one.slack:.2f}",
        _fate(one),
    ]


def _timed(one: Variant) -> str:
    if one.timing.ms is None:
        return "-"
    about = "" if one.timing.source == "measured" else "about "
    return f"{about}{one.timing.ms:.2f}"


def _fate(one: Variant) -> str:
    return f"ships: {one.why}" if one.chosen else one.why
