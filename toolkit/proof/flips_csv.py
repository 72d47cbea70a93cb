"""`flips.csv`: every case that the student decided otherwise, one a row, for a spreadsheet.

- RFC 4180: CRLF ends a row, quotes are doubled. UTF-8 without a byte order mark.
- A text that a spreadsheet would take for a formula (it begins with = + - @, a tab or a line break) gets an apostrophe
  in front (CWE-1236). Numbers stand as they are, also negative ones.
- All flips are there, the worst first; the evidence lists some and counts all.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable

from ..parity.evidence import Flip

HEADER = (
    "engine",
    "task",
    "label",
    "case",
    "patient",
    "kind",
    "critical",
    "reference",
    "teacher",
    "student",
    "certainty",
    "severity",
)
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # also their wide forms


def flips_csv(flips: Iterable[Flip]) -> bytes:
    """Write flips as a table, by falling severity."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # the dialect `excel` is RFC 4180
    writer.writerow(HEADER)
    for flip in sorted(flips, key=lambda f: (-f.severity, f.engine, f.task, f.label, f.case, f.kind)):
        words = (flip.engine, flip.task, flip.label, flip.case, flip.patient, flip.kind)
        numbers = (flip.teacher, flip.student, flip.certainty, flip.severity)
        writer.writerow(
            (
                *(plain_text(word) for word in words),
                "yes" if flip.critical else "no",
                plain_text(flip.reference),
                *(plain_number(number) for number in numbers),
            )
        )
    return text.getvalue().encode()


def plain_text(word: str) -> str:
    """Give a text that no spreadsheet computes."""
    return f"'{word}" if word.startswith(FORMULA) else word


def plain_number(value: float | None) -> str:
    """Give a number in the fewest digits that read back as the same; nothing where there is none."""
    return "" if value is None or not math.isfinite(value) else repr(float(value))
