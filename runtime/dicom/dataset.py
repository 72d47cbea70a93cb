"""The bytes of a DICOM object as a pydicom data set, within limits of memory and time.

Laws:
- Nothing larger than the file itself is allocated, but for a deflated object, which is inflated up to the same limit.
- A file of a million tiny elements, or of sequences in sequences, is refused after a bounded number of reads.
- Values stay unread until they are asked for (`tags.py`).
"""

from __future__ import annotations

import zlib
from io import BytesIO

import pydicom
from pydicom.dataset import Dataset as Dataset  # the type that leaves this room
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from ..errors import FoveolaError
from ..picture import LIMITS
from .tags import BROKEN, BROKEN_TOO

MOST_READS = 400_000  # of the parser, at about two an element; 2 s of a slow processor
PREAMBLE = 132  # bytes, the magic included (PS3.10 7.1)


class _Bounded(BytesIO):
    """A stream that ends the parsing of an absurd file."""

    def __init__(self, data: bytes, place: str) -> None:
        super().__init__(data)
        self._left, self._place = MOST_READS, place

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise FoveolaError(self._place, "has too many elements, items or levels", "no such object is read")
        return super().read(size)


def parse(data: bytes, place: str) -> Dataset:
    """Read a data set, with or without preamble.

    Args:
        data: the whole file.
        place: how to name it in an error.

    Raises:
        FoveolaError: not DICOM, too many elements or levels, or a deflated object beyond the limit.
    """
    if len(data) > LIMITS.max_file_bytes:
        raise FoveolaError(place, f"{len(data)} bytes, more than the {LIMITS.max_file_bytes} allowed")
    try:
        meta, end = _meta(data, place)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            return _deflated(data, meta, end, place)
        return pydicom.dcmread(_Bounded(data, place), force=True)
    except BROKEN + BROKEN_TOO:
        raise FoveolaError(place, "no DICOM object can be read from it", "copy or send the file again") from None


def _meta(data: bytes, place: str) -> tuple[FileMetaDataset, int]:
    """Read the file meta information (PS3.10 7.1), and tell where it ends."""
    stream = _Bounded(data, place)
    stream.seek(PREAMBLE if data[PREAMBLE - 4 : PREAMBLE] == b"DICM" else 0)
    if data[stream.tell() : stream.tell() + 2] != b"\x02\0":
        return FileMetaDataset(), stream.tell()

    def beyond(tag: BaseTag, vr: str | None, length: int) -> bool:
        return tag.group != 2

    return FileMetaDataset(read_dataset(stream, False, True, stop_when=beyond)), stream.tell()


def _deflated(data: bytes, meta: FileMetaDataset, end: int, place: str) -> Dataset:
    """Inflate what follows the meta information (PS3.5 A.5) without trusting its size."""
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = machine.decompress(data[end:], LIMITS.max_file_bytes)
    except zlib.error:
        raise FoveolaError(place, "the deflated data set is broken", "copy or send the file again") from None
    if not machine.eof:
        fault = "is cut off" if len(plain) < LIMITS.max_file_bytes else f"has more than {LIMITS.max_file_bytes} bytes"
        raise FoveolaError(place, f"the deflated data set {fault}", "send it as Explicit VR Little Endian")
    stream = _Bounded(plain, place)
    whole = FileDataset(stream, read_dataset(stream, False, True), data[:128], meta, False, True)
    whole.set_original_encoding(False, True)
    return whole
