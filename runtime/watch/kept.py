"""How a watch reads its files back: days, bundles and what leaves the device, JSON of a known type and format."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import TypeVar

import msgspec

from ..errors import FoveolaError

FORMAT = 1  # of all of them
T = TypeVar("T", bound=msgspec.Struct)


def decode_kept(
    data: bytes,
    kind: type[T],
    place: str,
    *,
    what: str,
    mend: str,
    most_bytes: int,
) -> T:
    """Bytes to a checked file.

    Args:
        data: its content.
        kind: its type.
        place: the file, as the user knows it.
        what: it should be, for the error.
        mend: what to do where it is none.
        most_bytes: that are decoded.

    Raises:
        FoveolaError: too long, not JSON, a field unknown, missing or out of range.
    """
    if len(data) > most_bytes:
        raise FoveolaError(place, f"{len(data)} bytes, at most {most_bytes} for {what}", mend)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FoveolaError(place, f"not {what}: {error}", mend) from None


def require_known(place: str, *, formats: Iterable[int], days: Iterable[str] = (), mend: str) -> None:
    """Refuse a format of another time, and a day that no calendar has.

    Raises:
        FoveolaError: there is one.
    """
    for number in formats:
        if number != FORMAT:
            raise FoveolaError(place, f"format {number} is unknown", f"this runtime reads format {FORMAT}")
    for day in days:
        try:
            date.fromisoformat(day)
        except ValueError as error:
            raise FoveolaError(place, f"{day!a} is no day: {error}", mend) from None
