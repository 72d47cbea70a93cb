"""One answered image in numbers: what the process that answers sends to the one that watches."""

from __future__ import annotations

import msgspec


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One image in numbers.

    Args:
        values: by name of the histogram; finite.
        fit: whether it got an answer.
        unfit: why not.
    """

    values: dict[str, float] = {}
    fit: bool = True
    unfit: tuple[str, ...] = ()
