"""Reads the first sheet of an Excel workbook as a table of text, for publishers who give no CSV.

A CSV of the same name beside it is taken instead (`csv_or_sheet`), so that nobody needs a reader of workbooks.
"""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ....runtime.errors import FoveolaError

MOST_BYTES = 256 * 2**20  # of an unpacked workbook; ODIR-5K's has 1 MiB


def csv_or_sheet(path: Path) -> Path:
    """The CSV of the same name where there is one, else the workbook itself."""
    copy = path.with_suffix(".csv")
    return copy if copy.is_file() else path


def read_sheet(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Read the first sheet row by row, empty ones left out: number of the row and cells.

    Raises:
        FoveolaError: not there, no workbook, too large, or openpyxl is not installed.
    """
    try:
        import openpyxl
    except ImportError:
        mend = f"pip install openpyxl, or save the sheet as {path.with_suffix('.csv').name} beside it"
        raise FoveolaError(str(path), "openpyxl is not installed", mend) from None
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
        if unpacked > MOST_BYTES:
            raise FoveolaError(str(path), f"unpacks to {unpacked} bytes, at most {MOST_BYTES} are read")
        # openpyxl warns of styles and extensions, which are nothing to us.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
            try:
                sheet = book.worksheets[0]
                sheet.reset_dimensions()  # some writers state a size of one cell
                rows = [[_text(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
            finally:
                book.close()
    except OSError as error:
        raise FoveolaError(str(path), f"cannot be read: {error.strerror}", "unpack the data set again") from None
    except (zipfile.BadZipFile, ET.ParseError, KeyError, IndexError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise FoveolaError(str(path), f"not an Excel workbook: {reason}", "copy the file again") from None
    width = max(map(len, rows), default=0)  # openpyxl leaves empty cells at the end of a row out
    yield from ((number, row + [""] * (width - len(row))) for number, row in enumerate(rows, 1) if any(row))


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)
