"""The bytes of one frame out of Pixel Data (PS3.5 section 8 and annex A.4), its lengths held against the header.

Law: the length of uncompressed pixels is that of the header, or one byte of padding more; anything else is refused,
since a header that lies about its length may lie about its rows.
"""

from __future__ import annotations

from ..errors import FoveolaError
from .header import Header, frame_bytes
from .tags import Tags

ITEM, END = b"\xfe\xff\0\xe0", b"\xfe\xff\xdd\xe0"
MOST_FRAGMENTS = 100_000


def first_frame(tags: Tags, header: Header) -> bytes:
    """Give the encoded bytes of the first frame.

    Raises:
        FoveolaError: absent, cut off, longer or shorter than the header says, or nothing tells where the frame ends.
    """
    data = tags.whole_bytes("PixelData")
    if header.encoding == "native":
        return _native(data, header, tags.place)
    if not data.startswith(ITEM):
        fault = f"transfer syntax {header.syntax} is compressed, its pixel data is not"
        raise FoveolaError(tags.place, fault, "have the sender correct the header")
    return _encapsulated(data, tags, header)


def _native(data: bytes, header: Header, place: str) -> bytes:
    size = frame_bytes(header)
    total = size * header.frames
    if len(data) not in (total, total + total % 2):
        fault = f"its pixel data has {len(data)} bytes, its header speaks of {total}"
        mend = "copy or send the file again" if len(data) < total else "have the sender correct the header"
        raise FoveolaError(place, fault, mend)
    return data[:size]


def _encapsulated(data: bytes, tags: Tags, header: Header) -> bytes:
    """Join the fragments of the first frame (PS3.5 A.4)."""
    offsets, fragments = _fragments(data, tags.place)
    if header.frames == 1:
        return b"".join(fragment for _, fragment in fragments)
    extended = tags.raw("ExtendedOffsetTable")
    if isinstance(extended, bytes) and extended:
        offsets = [int.from_bytes(extended[at : at + 8], "little") for at in range(0, min(len(extended), 16), 8)]
    if len(offsets) > 1:
        return b"".join(fragment for at, fragment in fragments if at < offsets[1])
    if len(fragments) == header.frames:
        return fragments[0][1]
    raise FoveolaError(tags.place, "nothing tells where its first frame ends", "send the frame as an image of its own")


def _fragments(data: bytes, place: str) -> tuple[list[int], list[tuple[int, bytes]]]:
    """Give the basic offset table, and each fragment with its offset from the first one's item."""
    found: list[tuple[int, bytes]] = []
    offsets: list[int] | None = None
    at = start = 0
    while at < len(data) and data[at : at + 4] != END:
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] != ITEM or at + 8 + length > len(data) or len(found) > MOST_FRAGMENTS:
            raise FoveolaError(place, "the fragments of its pixel data are not whole", "copy or send the file again")
        item = data[at + 8 : at + 8 + length]
        if offsets is None:
            offsets = [int.from_bytes(item[k : k + 4], "little") for k in range(0, min(len(item), 8), 4)]
            start = at + 8 + length
        else:
            found.append((at - start, item))
        at += 8 + length
    if not found:
        raise FoveolaError(place, "its pixel data has no fragment", "copy or send the file again")
    return offsets or [], found
