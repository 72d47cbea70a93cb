"""Versions of engines, and which of them a profile allows: the release numbers of PEP 440 and nothing more.

    allows(">=10.3,!=11.0.*,<12", "10.3.0")  # True

Pre-releases, epochs and local labels are cut off before comparing: an engine's "11.4.1.24.post1" is release 11.4.1.24,
and "2026.4.1-22982-e213a147257" is release 2026.4.1. Specifiers are PEP 440's own, section "Version specifiers", with
the operators `== != >= <= > <` and a trailing `.*` after `==` and `!=`.
"""

from __future__ import annotations

import re
from itertools import zip_longest

_CLAUSE = re.compile(r"(==|!=|>=|<=|>|<)\s*([0-9]+(?:\.[0-9]+)*)(\.\*)?")
_RELEASE = re.compile(r"[0-9]+(?:\.[0-9]+)*")


def release(version: str) -> tuple[int, ...]:
    """Give the numbers of a version; empty when it has none.

    Example:
        >>> release("2026.4.1-22982-e213a147257")
        (2026, 4, 1)
    """
    found = _RELEASE.match(version.strip().removeprefix("v"))
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def specifier_fault(specifier: str) -> str:
    """Tell what is wrong with a specifier; empty when nothing is."""
    for clause in filter(None, (part.strip() for part in specifier.split(","))):
        found = _CLAUSE.fullmatch(clause)
        if not found or (found[3] and found[1] not in ("==", "!=")):
            return f"{clause!r} is no version specifier, such as '>=10.3,<11'"
    return ""


def allows(specifier: str, version: str) -> bool:
    """Tell whether a version is among those of a specifier that `specifier_fault` accepts; an empty one allows all."""
    numbers = release(version)
    return all(_holds(clause.strip(), numbers) for clause in specifier.split(",") if clause.strip())


def _holds(clause: str, version: tuple[int, ...]) -> bool:
    found = _CLAUSE.fullmatch(clause)
    assert found, clause
    operator, wanted = found[1], release(found[2])
    if found[3]:
        padded = (*version, *(0 for _ in wanted))[: len(wanted)]
        return (padded == wanted) == (operator == "==")
    order = _compare(version, wanted)
    held = {"==": order == 0, "!=": order != 0, ">=": order >= 0, "<=": order <= 0, ">": order > 0, "<": order < 0}
    return held[operator]


def _compare(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    for a, b in zip_longest(left, right, fillvalue=0):
        if a != b:
            return 1 if a > b else -1
    return 0
