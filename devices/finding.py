"""What a rule or the doctor says: what is wrong, how bad it is, and the mend."""

from __future__ import annotations

from typing import Literal

import msgspec

Severity = Literal["error", "warning"]


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing found; an `error` is refused, a `warning` changes numbers or speed and is told."""

    rule: str  # short name of the rule ("static-shape"), the same in every release
    severity: Severity
    place: str
    fault: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.fault}; {self.mend}" if self.mend else f"{self.place}: {self.fault}"
