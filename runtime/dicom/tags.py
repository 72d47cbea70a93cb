"""A data set's elements as plain values, each conversion checked; pydicom's own errors and warnings stop here.

Laws:
- An absent element and an empty one are the same: None, or an empty tuple.
- An element that is not what its tag says (PS3.6) is a refusal that names the element and never tells its value, since
  a value may be a patient's name.
"""

from __future__ import annotations

import logging
import math
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from ..errors import FoveolaError

# What pydicom raises on broken objects, by fuzzing and by its source; our own mistakes are not among them.
BROKEN = (OSError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AttributeError, struct.error)
BROKEN_TOO = (NotImplementedError, RecursionError, SyntaxError, BytesLengthException, InvalidDicomError)
SEQUENCE_BYTES = 2**22  # 4 MiB: of a sequence that is read; a look-up table has at most 128 KiB
UNDEFINED = 0xFFFFFFFF  # a length that a delimiter tells (PS3.5 7.1.1)
_one_at_a_time = threading.Lock()
_reading: ContextVar[bool] = ContextVar("reading", default=False)


def _not_reading(record: logging.LogRecord) -> bool:
    """Keep from every log what pydicom writes while we read: its words may hold an element's value."""
    return not _reading.get()


logging.getLogger("pydicom").addFilter(_not_reading)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's warnings from the user: what they warn of is refused here, or does not touch the picture.

    `catch_warnings` is not made for several threads, so they take turns.
    """
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        token = _reading.set(True)
        try:
            yield
        finally:
            _reading.reset(token)


class Tags:
    """The elements of one data set by their keywords (PS3.6).

    Args:
        dataset: as pydicom has read it.
        place: how to name the object in an error.
    """

    def __init__(self, dataset: Dataset, place: str) -> None:
        self.dataset, self.place = dataset, place

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.dataset

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Values as capitals without the padding; no other writing of a code string is valid (PS3.5 6.2)."""
        texts = []
        for value in self._values(keyword):
            if not isinstance(value, str):
                raise self.invalid(keyword)
            texts.append(value.strip(" \0").upper())
        return tuple(text for text in texts if text)

    def text(self, keyword: str) -> str:
        """Give the only value; empty where there is none."""
        texts = self.texts(keyword)
        if len(texts) > 1:
            raise self.invalid(keyword)
        return texts[0] if texts else ""

    def whole(self, keyword: str) -> int | None:
        """Give the only value, an integer."""
        values = self._values(keyword)
        if not values:
            return None
        value = values[0]
        if len(values) > 1 or not isinstance(value, int | float) or not math.isfinite(value) or int(value) != value:
            raise self.invalid(keyword)
        return int(value)

    def needed(self, keyword: str) -> int:
        """Give the only value, an integer that has to be there.

        Raises:
            FoveolaError: the element is absent, empty or not valid.
        """
        value = self.whole(keyword)
        if value is None:
            raise FoveolaError(
                self.place, f"{self.named(keyword)} is absent", "the object is not complete; send it again"
            )
        return value

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """Give the values, finite numbers."""
        values = self._values(keyword)
        numbers = []
        for value in values:
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise self.invalid(keyword)
            numbers.append(float(value))
        return tuple(numbers)

    def items(self, keyword: str) -> tuple[Tags, ...]:
        """Give the items of a sequence."""
        if keyword not in self.dataset:
            return ()
        raw = self.dataset.get_item(keyword)
        if isinstance(raw, RawDataElement) and isinstance(raw.value, bytes) and len(raw.value) > SEQUENCE_BYTES:
            raise FoveolaError(
                self.place, f"{self.named(keyword)} has {len(raw.value)} bytes, {SEQUENCE_BYTES} are read"
            )
        value = self._value(keyword)
        if not isinstance(value, Sequence):
            raise self.invalid(keyword)
        return tuple(Tags(item, self.place) for item in value)

    def raw(self, keyword: str) -> Any:
        """Give the value as pydicom has it: bytes, a number or several; None where there is none."""
        return self._value(keyword) if keyword in self.dataset else None

    def whole_bytes(self, keyword: str) -> bytes:
        """Give an element's bytes, which are as many as its length says.

        Raises:
            FoveolaError: the file ends before they do, or they are no bytes.
        """
        try:
            told = self.dataset.get_item(keyword)
        except BROKEN + BROKEN_TOO:
            raise self.invalid(keyword) from None
        value = self.raw(keyword)
        if not isinstance(value, bytes) or not value:
            raise FoveolaError(self.place, f"{self.named(keyword)} is empty", "copy or send the file again")
        if isinstance(told, RawDataElement) and told.length not in (UNDEFINED, len(value)):
            fault = f"{self.named(keyword)} has {len(value)} bytes, its length says {told.length}"
            raise FoveolaError(self.place, fault, "copy or send the file again")
        return value

    def invalid(self, keyword: str) -> FoveolaError:
        """Make the refusal of an element that is not what its tag says."""
        return FoveolaError(self.place, f"{self.named(keyword)} is not valid", "have the sender correct the header")

    def named(self, keyword: str) -> str:
        """Name an element as an engineer looks it up: `Rows (0028,0010)`."""
        return f"{keyword} {Tag(tag_for_keyword(keyword) or 0)}".replace(", ", ",")

    def _values(self, keyword: str) -> tuple[Any, ...]:
        value = self._value(keyword) if keyword in self.dataset else None
        if value is None or value == "":
            return ()
        if isinstance(value, MultiValue | list | tuple):
            return tuple(one for one in value if one is not None and one != "")
        return (value,)

    def _value(self, keyword: str) -> Any:
        try:
            return self.dataset[keyword].value
        except BROKEN + BROKEN_TOO:
            raise self.invalid(keyword) from None
