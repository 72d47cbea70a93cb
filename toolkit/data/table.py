"""Reads the CSV of a data set: a header, and rows as dictionaries that know their line.

Law: UTF-8 (a byte order mark is fine), a comma between cells, no column twice, as many cells in a row as columns.
Cells are stripped of blanks around them.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import msgspec

from ...runtime.errors import FoveolaError
from .faults import Faults

MAX_CELL = 64 * 2**20  # characters; a cell of boxes is long, and csv's own limit is 128 Ki


class Row(msgspec.Struct, frozen=True):
    """One image's row."""

    line: int
    cells: dict[str, str]


class Table(msgspec.Struct, frozen=True):
    """The manifest as text."""

    place: str  # the manifest as the user knows it
    data: bytes
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def at(self, row: Row, column: str = "") -> str:
        """Name the place of a row or cell, for messages."""
        return f"{self.place} line {row.line}" + (f", column {column}" if column else "")


def read_table(path: Path, faults: Faults) -> Table:
    """Read a manifest; rows of the wrong length are added to the faults and left out.

    Raises:
        FoveolaError: there is no such file, or it is not a table at all.
    """
    place = str(path)
    data = _read_bytes(path)
    before = csv.field_size_limit(MAX_CELL)
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        lines = [(reader.line_num, cells) for cells in reader]
    except UnicodeDecodeError:
        raise FoveolaError(place, "not UTF-8 text", "save the manifest as CSV in UTF-8") from None
    except csv.Error as error:
        raise FoveolaError(place, f"not valid CSV: {error}", "save the manifest as CSV with commas") from None
    finally:
        csv.field_size_limit(before)
    if not lines:
        raise FoveolaError(place, "empty", "the first line names the columns")
    columns = tuple(name.strip() for name in lines[0][1])
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise FoveolaError(place, f"column {', '.join(twice)} twice", "rename one of them")
    rows = []
    for line, cells in lines[1:]:
        if not any(cells):
            continue  # an empty line
        if len(cells) != len(columns):
            faults.error(f"{place} line {line}", f"{len(cells)} cells, but {len(columns)} columns")
            continue
        rows.append(Row(line, dict(zip(columns, (cell.strip() for cell in cells), strict=True))))
    return Table(place, data, columns, tuple(rows))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        missing = path if path.parent.is_dir() else path.parent
        raise FoveolaError(str(missing), "not there", f"give the folder that holds {path.name}") from None
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        fault, mend = (
            f"cannot be read: {error.strerror}",
            f"give the folder that holds {path.name}, and the right to read",
        )
        raise FoveolaError(str(path), fault, mend) from None
