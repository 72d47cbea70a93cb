"""Reads the tables that come with a published data set: by the names of their columns, whatever their order.

A table without the columns that a reader needs is of another version and is refused with both headers shown. Rows may
be longer than the header (trailing commas, commas inside of unquoted names). CSV, or the first sheet of an Excel
workbook.
"""

from __future__ import annotations

import csv
import functools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from ....runtime.errors import FoveolaError
from ..table import MAX_CELL
from .sheets import read_sheet

LINE = "line"  # the cell in which `read_rows` writes where a row stands
UNKNOWN = ("", "na", "n/a", "nan", "none", "null")  # spellings of a gap, in lower case
MOST_SHOWN = 300  # characters of a header in an error
OLDEST = 110  # years; beyond that the cell is a slip of the pen

T = TypeVar("T")


def read_rows(
    path: Path, columns: Mapping[str, str], *, optional: Mapping[str, str] | None = None
) -> list[dict[str, str]]:
    """Read some columns of a table, each under a name of ours.

    Args:
        path: the CSV.
        columns: name in the file by name of ours; `Sex|Gender` takes either.
        optional: likewise; the cell is empty where there is no such column.

    Returns:
        the cells by name of ours; under `line` where the row stands, for errors.

    Raises:
        FoveolaError: not there, no table, without one of the columns, or with a row that is too short.
    """
    lines = read_plain(path)
    first = next(lines, None)
    if first is None:
        raise FoveolaError(str(path), "empty", "copy the file again")
    header = [name.strip() for name in first[1]]
    where = {ours: _position(header, theirs) for ours, theirs in (dict(columns) | dict(optional or {})).items()}
    absent = [columns[ours].replace("|", " or ") for ours in columns if where[ours] is None]
    if absent:
        fault = f"another version of the file: no column {', '.join(absent)}"
        expected = ",".join(theirs.split("|")[0] for theirs in columns.values())
        mend = f"its header is {','.join(header)[:MOST_SHOWN]!r}, expected are {expected!r}"
        raise FoveolaError(str(path), fault, mend)
    places = {ours: place for ours, place in where.items() if place is not None}
    needed = max(places[ours] for ours in columns) + 1
    rows = []
    for number, cells in lines:
        if len(cells) < needed:
            raise FoveolaError(
                f"{path} line {number}", f"{len(cells)} cells, {needed} are needed", "copy the file again"
            )
        row = {ours: cells[p].strip() if p < len(cells) else "" for ours, p in places.items()}
        rows.append(row | {LINE: f"{path} line {number}"})
    absent_optional = [ours for ours in where if ours not in places]
    return [row | dict.fromkeys(absent_optional, "") for row in rows] if absent_optional else rows


def _position(header: list[str], names: str) -> int | None:
    return next((header.index(name) for name in names.split("|") if name in header), None)


def read_plain(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Read a table line by line, empty ones left out: number of the line and cells.

    Raises:
        FoveolaError: not there, or no table.
    """
    if path.suffix.lower() == ".xlsx":
        yield from read_sheet(path)
        return
    before = csv.field_size_limit(MAX_CELL)
    try:
        # Reports hold letters of several encodings; a letter that cannot be read is no reason to refuse the table.
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
            reader = csv.reader(stream)
            for cells in reader:
                if any(cells):
                    yield reader.line_num, cells
    except OSError as error:
        raise FoveolaError(str(path), f"cannot be read: {error.strerror}", "unpack the data set again") from None
    except csv.Error as error:
        raise FoveolaError(str(path), f"not valid CSV: {error}", "copy the file again") from None
    finally:
        csv.field_size_limit(before)


def read_names(path: Path) -> list[str]:
    """Read a list of names, one a line."""
    return [cells[0].strip() for _, cells in read_plain(path)]


def read_json(path: Path, kind: type[T]) -> T:
    """Read a JSON file of the given form.

    Raises:
        FoveolaError: not there, or of another form.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise FoveolaError(str(path), f"cannot be read: {error.strerror}", "unpack the data set again") from None
    except msgspec.DecodeError as error:
        raise FoveolaError(str(path), f"another version of the file: {error}", "take the official one") from None


def sex(text: str) -> str:
    """`M` or `F`; empty where it is neither."""
    letter = text.strip()[:1].upper()
    return letter if letter in ("M", "F") else ""


def years(text: str) -> str:
    """An age in years (`58`, `058Y`); empty where it says nothing that can be true."""
    match = re.fullmatch(r"0*(\d+)(?:\.0)?[Yy]?", text.strip())
    return match[1] if match and int(match[1]) <= OLDEST else ""


def flag(text: str) -> str:
    """`1` or `0` of 1, 0, 1.0, 0.0; empty otherwise."""
    return {"1": "1", "1.0": "1", "0": "0", "0.0": "0"}.get(text.strip(), "")


@functools.cache
def column(finding: str) -> str:
    """The column of a finding: `Pleural Effusion` becomes `finding_Pleural_Effusion`."""
    return "finding_" + re.sub(r"\W+", "_", finding).strip("_")


def grade(text: str, most: int, place: str, what: str) -> str:
    """A whole number from 0 to `most`, also written `2.0` as pandas does; empty where it is not known.

    Raises:
        FoveolaError: text, or a number that is no such grade.
    """
    if text.strip().lower() in UNKNOWN:
        return ""
    value = _number(text)
    if value is None or not value.is_integer() or not 0 <= value <= most:
        mend = "leave the cell empty where it is not known"
        raise FoveolaError(place, f"{what} {text!r} is no whole number from 0 to {most}", mend)
    return str(int(value))


def measure(text: str, place: str, what: str) -> str:
    """A finite number as it is written; empty where it is not known.

    Raises:
        FoveolaError: text.
    """
    if text.strip().lower() in UNKNOWN:
        return ""
    if _number(text) is None:
        raise FoveolaError(place, f"{what} {text!r} is no number", "leave the cell empty where it is not known")
    return text.strip()


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
