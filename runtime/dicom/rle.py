"""RLE Lossless (PS3.5 annex G): each byte of each sample is a segment of its own, packed by runs.

Plain Python: the package that does it faster stops with a panic, which is no exception, at a run too long.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .codestream import broken

HEADER = 64  # bytes: the number of segments, and up to 15 offsets
MOST_SEGMENTS = 15


def decode_rle(data: bytes, segments: int, size: int, place: str) -> NDArray[np.uint8]:
    """Decode one frame.

    Args:
        data: its bytes.
        segments: how many there have to be: samples a pixel times bytes a sample.
        size: bytes of each when unpacked, one a pixel.
        place: how to name the object in an error.

    Returns:
        (segments, size), the most significant byte of a sample first.

    Raises:
        FoveolaError: another number of segments, offsets that do not rise, or runs that do not give the size.
    """
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, HEADER, 4)]
    starts = [*words[1 : 1 + segments], len(data)]
    if words[0] != segments or segments > MOST_SEGMENTS or starts[0] != HEADER or starts != sorted(starts):
        raise broken(place, f"its header does not tell of {segments} segments")
    out = np.empty((segments, size), np.uint8)
    for k in range(segments):
        plain = _unpacked(data[starts[k] : starts[k + 1]], size)
        if len(plain) != size:
            raise broken(place, "its runs do not give as many pixels as the header says")
        out[k] = np.frombuffer(plain, np.uint8)
    return out


def _unpacked(packed: bytes, size: int) -> bytes:
    """Undo the runs of a segment (G.3.1) until it has its size; behind it there may be padding."""
    parts: list[bytes] = []
    have = at = 0
    end = len(packed)
    while have < size and at < end:
        code = packed[at]
        if code < 128:  # so many bytes and one more, as they are
            part = packed[at + 1 : at + 2 + code]
            at += 2 + code
        elif code > 128:  # the next byte, 2 to 128 times
            part = packed[at + 1 : at + 2] * (257 - code)
            at += 2
        else:  # reserved: nothing
            part = b""
            at += 1
        parts.append(part)
        have += len(part)
    return b"".join(parts)
