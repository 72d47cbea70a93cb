"""Which images a student was made with: so that nobody proves it on them, wherever the proof is made.

`seen.bin` holds the first 8 bytes of the SHA-256 of each image file that training, distillation, calibration or
validation used, rising, without repeats. A digest tells nothing of a picture to who has not the file. Of n images that
were not used, one is taken for one of m that were with odds of n m / 2^64: for a million each one in 18 million.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from .errors import FoveolaError

SEEN = "seen.bin"  # the bundle's member
PREFIX = 8  # bytes of a digest


def encode_seen(digests: Iterable[str]) -> bytes:
    """Write the member from the images' SHA-256, hexadecimal; equal sets give equal bytes."""
    return b"".join(sorted({bytes.fromhex(digest)[:PREFIX] for digest in digests}))


def find_seen(data: bytes, digests: Sequence[str], place: str = SEEN) -> list[str]:
    """Give those of the digests that the member holds, in their order.

    Raises:
        FoveolaError: the member is not whole prefixes, rising.
    """
    known = decode_seen(data, place)
    asked = np.array([int(digest[: 2 * PREFIX], 16) for digest in digests], np.uint64)
    where = np.searchsorted(known, asked)
    inside = where < len(known)
    hit = np.zeros(len(asked), np.bool_)
    hit[inside] = known[where[inside]] == asked[inside]
    return [digest for digest, one in zip(digests, hit.tolist(), strict=True) if one]


def decode_seen(data: bytes, place: str = SEEN) -> NDArray[np.uint64]:
    """Read the prefixes as numbers, rising.

    Raises:
        FoveolaError: see `find_seen`.
    """
    if len(data) % PREFIX:
        raise FoveolaError(place, f"{len(data)} bytes are no whole number of prefixes", "make the bundle anew")
    numbers = np.frombuffer(data, ">u8").astype(np.uint64)
    if (numbers[1:] <= numbers[:-1]).any():
        raise FoveolaError(place, "the prefixes do not rise", "make the bundle anew")
    return numbers
