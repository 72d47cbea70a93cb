"""Look-up tables of a data set: of the modality, of the values of interest, of a palette (PS3.3 C.11.1.1, C.7.9.2)."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import FoveolaError
from .tags import Tags

MEND = "have the sender correct the table"


class Lookup(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One table."""

    first: int  # input value of the first entry
    bits: int  # of an entry
    entries: NDArray[np.uint16]

    def of(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Look values up; those before the first entry and after the last get that one (PS3.3 C.11.1.1)."""
        place = np.clip(np.floor(values) - self.first, 0, len(self.entries) - 1).astype(np.intp)
        found: NDArray[np.uint16] = self.entries[place]
        return found


def read_lookup(tags: Tags, descriptor: str, data: str, *, little: bool, negative: bool) -> Lookup:
    """Read a table.

    Args:
        tags: the item that holds it.
        descriptor: keyword of the number of entries, the first input value and the bits an entry.
        data: keyword of the entries.
        little: byte order of the object, for entries that come as bytes.
        negative: whether input values may be below zero; the first input value is then a signed one.

    Raises:
        FoveolaError: the descriptor is not valid, or the entries are not as many or as large as it says.
    """
    count, first, bits = _descriptor(tags, descriptor)
    if negative and first > 32767:  # written as US where SS is meant (PS3.3 C.11.1.1: the VR follows the values)
        first -= 65536
    entries = _entries(tags.raw(data), count, bits, little)
    if entries is None:
        fault = f"{tags.named(data)} does not hold the {count} entries of {tags.named(descriptor)}"
        raise FoveolaError(tags.place, fault, MEND)
    if int(entries.max()) >= 1 << bits:
        raise FoveolaError(tags.place, f"{tags.named(data)} has entries of more than {bits} bits", MEND)
    return Lookup(first=first, bits=bits, entries=entries)


def _descriptor(tags: Tags, keyword: str) -> tuple[int, int, int]:
    values = tags.numbers(keyword)
    if len(values) != 3 or any(value != int(value) for value in values):
        raise tags.invalid(keyword)
    count, first, bits = (int(value) for value in values)
    if not 8 <= bits <= 16 or not -32768 <= first <= 65535 or not -32768 <= count <= 65535:
        raise tags.invalid(keyword)
    return (count & 0xFFFF) or 65536, first, bits  # 0 means 65,536; as SS, half of all counts are negative


def _entries(value: Any, count: int, bits: int, little: bool) -> NDArray[np.uint16] | None:
    """Entries from the bytes of OW, or from the numbers of US; of 8 bits they may stand two in a word."""
    if isinstance(value, bytes):
        if len(value) == 2 * count:
            return np.frombuffer(value, "<u2" if little else ">u2").astype(np.uint16)
        words = np.frombuffer(value[: len(value) // 2 * 2], "<u2" if little else ">u2")
    else:
        numbers = list(value) if isinstance(value, list | tuple) or hasattr(value, "__iter__") else [value]
        if not numbers or not all(isinstance(number, int) and -32768 <= number <= 65535 for number in numbers):
            return None
        words = (np.array(numbers, np.int64) & 0xFFFF).astype(np.uint16)
        if len(words) == count:
            return words
    if bits == 8 and len(words) == (count + 1) // 2:
        return np.stack((words & 0xFF, words >> 8), axis=1).ravel()[:count].astype(np.uint16)
    return None
