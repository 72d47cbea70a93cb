"""Faults of a data set, collected so that all are told at once.

A fault is an `error` (the data set is refused) or a `warning` (it is read, but somebody should look).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal

import msgspec

from ...runtime.errors import FoveolaError

SHOWN = 5  # faults quoted in one error line; `foveola data check` prints the rest

Severity = Literal["error", "warning"]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong with a data set: where, what, and the mend where there is one."""

    place: str
    fault: str
    mend: str = ""
    severity: Severity = "error"

    def __str__(self) -> str:
        return f"{self.place}: {self.fault}; {self.mend}" if self.mend else f"{self.place}: {self.fault}"


class Faults:
    """A list that faults are added to; `refuse` raises when there is an error among them."""

    def __init__(self) -> None:
        self.found: list[Fault] = []

    def error(self, place: str, fault: str, mend: str = "") -> None:
        """Add a fault for which the data set is refused."""
        self.found.append(Fault(place=place, fault=fault, mend=mend))

    def warn(self, place: str, fault: str, mend: str = "") -> None:
        """Add a fault that somebody should look at."""
        self.found.append(Fault(place=place, fault=fault, mend=mend, severity="warning"))

    def add(self, error: FoveolaError) -> None:
        """Add a refusal that some reader raised."""
        self.error(error.place, error.fault, error.mend)

    def refuse(self, place: str) -> None:
        """Raise one line with all errors (the first few quoted).

        Raises:
            FoveolaError: there is an error among the faults.
        """
        errors = [fault for fault in self.found if fault.severity == "error"]
        if not errors:
            return
        if len(errors) == 1:
            raise FoveolaError(errors[0].place, errors[0].fault, errors[0].mend)
        quoted = " | ".join(str(fault) for fault in errors[:SHOWN])
        more = f" | and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
        raise FoveolaError(place, f"{len(errors)} faults: {quoted}{more}", "`foveola data check` lists them all")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Find the mend for a word that is not known: the nearest known one, or all of them when they are few."""
    names = list(known)
    folded = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(word.casefold(), list(folded), n=1, cutoff=0.6)
    if near:
        return f"did you mean {folded[near[0]]!r}?"
    return f"known: {', '.join(names)}" if 0 < len(names) <= 12 else ""
