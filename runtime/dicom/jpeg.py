"""The two processes of JPEG that no freely licensed package decodes within bounds: lossless, and 12 bits (ITU-T T.81).

Laws:
- numpy and plain Python: a broken codestream is a refusal and can never write where it must not.
- Time and memory are bounded by the picture's size, which was checked before: a scan has one code a sample (lossless),
  or at most 64 a block (12 bits), whatever its bytes say.
- One interleaved scan; components are not subsampled. Restart intervals are read.

The length of a code is known only when the one before it has been read. So for each bit of the scan the table says how
far a code that began there would reach (numpy, all at once), one short loop then jumps from code to code, and all the
rest is arrays again: 10 million samples take about two seconds.

Shapes: (rows, columns, components), uint16.
"""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from .codestream import broken, segments

DHT, DQT, DRI = 0xC4, 0xDB, 0xDD
CHUNK = 2**17  # bytes of a scan whose bits are looked at together: 16 bytes of memory for each bit
MOST_PARTS = 2**20 + 1  # between restart markers: one a block of the largest picture
PADDING = bytes(16)  # behind a scan, so that a window never ends beyond it
ZIGZAG = np.array(
    [y * 8 + x for y, x in sorted(np.ndindex(8, 8), key=lambda at: (sum(at), at[1 - sum(at) % 2]))]
)  # T.81 A.6
_k = np.arange(8)
COSINES = np.cos((2 * _k[None] + 1) * _k[:, None] * np.pi / 16) * np.where(_k == 0, 0.125**0.5, 0.5)[:, None]  # A.3.3
MODULUS = 0xFFFF  # lossless sums are modulo 2^16 (H.1.2.1)


class Codes(msgspec.Struct, frozen=True, eq=False):
    """A Huffman table, by the next 16 bits of the scan: length of the code, 0 where there is none, and its symbol."""

    lengths: NDArray[np.uint8]
    symbols: NDArray[np.uint8]


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """What the headers say, and the scan's bytes between restart markers without stuffing (F.1.2.3)."""

    precision: int
    rows: int
    columns: int
    dc: tuple[Codes, ...]  # a component
    ac: tuple[Codes | None, ...]
    quantisers: tuple[NDArray[np.float64] | None, ...]  # in zigzag order
    predictor: int
    shift: int  # point transform
    interval: int  # units between restart markers; 0: none
    parts: tuple[bytes, ...]


def decode_lossless(data: bytes, place: str) -> NDArray[np.uint16]:
    """Decode process 14: Huffman codes of what seven predictors left over (T.81 annex H).

    Raises:
        FoveolaError: not such a codestream, or broken.
    """
    scan = _read(data, place)
    count = len(scan.dc)
    if not 1 <= scan.predictor <= 7 or not 2 <= scan.precision <= 16 or scan.shift >= scan.precision:
        raise broken(place, "no such predictor or precision")
    if scan.interval % scan.columns:
        raise broken(place, "a restart within a row")
    rows_each = scan.interval // scan.columns or scan.rows
    out = np.empty((scan.rows, scan.columns, count), np.uint16)
    starts = range(0, scan.rows, rows_each)
    _check_parts(scan, len(starts), place)
    for start, part in zip(starts, scan.parts, strict=True):
        band = out[start : start + rows_each]
        left_over = _differences(part, scan.dc, band.size, place).reshape(band.shape)
        for k in range(count):
            band[..., k] = _predicted(left_over[..., k], scan) << scan.shift
    return out


def decode_extended(data: bytes, place: str) -> NDArray[np.uint16]:
    """Decode process 4, 12 bits, sequential, of one component (T.81 annex F): codes, dequantisation, inverse DCT.

    The transform is worked out in float64 and rounded once; other decoders may differ by one (T.83).

    Raises:
        FoveolaError: not such a codestream, several components, or broken.
    """
    scan = _read(data, place)
    steps, codes = scan.quantisers[0], scan.ac[0]
    if len(scan.dc) != 1 or steps is None or codes is None:
        raise broken(place, "several components, or a table is absent")
    wide, high = -(-scan.columns // 8), -(-scan.rows // 8)
    each = scan.interval or wide * high
    _check_parts(scan, -(-wide * high // each), place)
    out = np.empty((high * 8, wide * 8), np.uint16)
    blocks = _Blocks(scan.dc[0], codes, place)
    row = np.zeros((wide, 64))
    for index in range(wide * high):
        if index % each == 0:
            blocks.begin(scan.parts[index // each])
        column = index % wide
        blocks.read(row[column])
        if column == wide - 1:
            y = index // wide * 8
            out[y : y + 8] = _inverse(row * steps, scan.precision)
            row[:] = 0
    return out[: scan.rows, : scan.columns, None]


def _read(data: bytes, place: str) -> Scan:
    """Read the tables and headers before the scan (T.81 annex B.2)."""
    found, start = segments(data, place)
    tables: dict[int, Codes] = {}
    quantisers: dict[int, NDArray[np.float64]] = {}
    frame, interval = b"", 0
    for marker, segment in found[:-1]:
        if marker == DHT:
            tables |= _huffman_tables(segment, place)
        elif marker == DQT:
            quantisers |= _quantisers(segment, place)
        elif marker == DRI:
            interval = int.from_bytes(segment[:2], "big")
        elif 0xC0 <= marker <= 0xCF:
            frame = segment
    scan = found[-1][1]
    components = {frame[at]: frame[at + 1 : at + 3] for at in range(6, len(frame), 3)}
    chosen = [(scan[at], scan[at + 1]) for at in range(1, 1 + 2 * scan[0], 2)]
    if [name for name, _ in chosen] != list(components):
        raise broken(place, "several scans")
    if len(components) > 1 and any(factors[0] != 0x11 for factors in components.values()):
        raise broken(place, "subsampled components")
    dc = [tables.get(table >> 4) for _, table in chosen]
    if None in dc:
        raise broken(place, "a table is absent")
    return Scan(
        precision=frame[0],
        rows=int.from_bytes(frame[1:3], "big"),
        columns=int.from_bytes(frame[3:5], "big"),
        dc=tuple(codes for codes in dc if codes is not None),
        ac=tuple(tables.get(0x10 | table & 0x0F) for _, table in chosen),
        quantisers=tuple(quantisers.get(factors[1]) for factors in components.values()),
        predictor=scan[-3],
        shift=scan[-1] & 0x0F,
        interval=interval,
        parts=_parts(data[start:], place),
    )


def _huffman_tables(segment: bytes, place: str) -> dict[int, Codes]:
    """Read one or more tables (B.2.4.2), and spread each over all 16-bit windows (annex C)."""
    tables: dict[int, Codes] = {}
    while segment:
        counts, total = segment[1:17], sum(segment[1:17])
        if len(counts) != 16 or len(segment) < 17 + total:
            raise broken(place, "a Huffman table is not whole")
        lengths, symbols = np.zeros(65536, np.uint8), np.zeros(65536, np.uint8)
        window, at = 0, 17
        for length, count in enumerate(counts, start=1):
            for symbol in segment[at : at + count]:
                end = window + (1 << 16 - length)
                lengths[window:end], symbols[window:end] = length, symbol
                window = end
            at += count
        if window > 65536:
            raise broken(place, "a Huffman table has too many codes")
        tables[segment[0]] = Codes(lengths, symbols)
        segment = segment[17 + total :]
    return tables


def _quantisers(segment: bytes, place: str) -> dict[int, NDArray[np.float64]]:
    """Read one or more quantisation tables of 8 or 16 bits (B.2.4.1)."""
    tables: dict[int, NDArray[np.float64]] = {}
    while segment:
        size = 128 if segment[0] >> 4 else 64
        if len(segment) < 1 + size:
            raise broken(place, "a quantisation table is not whole")
        steps = np.frombuffer(segment[1 : 1 + size], ">u2" if size == 128 else np.uint8)
        tables[segment[0] & 0x0F] = steps.astype(np.float64)
        segment = segment[1 + size :]
    return tables


def _parts(data: bytes, place: str) -> tuple[bytes, ...]:
    """Cut a scan at its restart markers, which count from 0 to 7 and again, and end it at the end of image."""
    octets = np.frombuffer(data, np.uint8)
    marks = np.flatnonzero((octets[:-1] == 0xFF) & (octets[1:] != 0) & (octets[1:] != 0xFF))[:MOST_PARTS].tolist()
    ends: list[int] = []
    for mark in marks:
        ends.append(mark)
        code = data[mark + 1]
        if code == 0xD9:
            break
        if code != 0xD0 + (len(ends) - 1) % 8:
            raise broken(place, "several scans or a restart out of order")
    starts = [-2, *ends]
    return tuple(data[a + 2 : b].rstrip(b"\xff").replace(b"\xff\0", b"\xff") for a, b in pairwise(starts))


def _check_parts(scan: Scan, needed: int, place: str) -> None:
    if len(scan.parts) != needed:
        raise broken(place, f"{len(scan.parts)} restart intervals, {needed} are needed")


def _differences(part: bytes, tables: tuple[Codes, ...], count: int, place: str) -> NDArray[np.int32]:
    """Read `count` differences, the components in turn (H.1.2.2): a code says how many bits follow, they the value."""
    octets = np.frombuffer(part + PADDING, np.uint8)
    out = np.empty(count, np.int32)
    done = at = 0  # differences read, and the bit of the next code
    while done < count:
        first = at // 8
        window = _windows(octets[first : first + CHUNK + 4])
        reach = [(codes.lengths[window] + _extra(codes.symbols[window])).astype(np.uint8).tobytes() for codes in tables]
        places = _places(reach, at - 8 * first, done, count - done)
        found = np.array(places[:-1], np.int64) + 8 * first
        if not len(found) or 8 * first + places[-1] > 8 * len(part):
            raise broken(place, "a scan ends too early")
        turns = (np.arange(done, done + len(found))) % len(tables)
        for turn, codes in enumerate(tables):
            mine = turns == turn
            out[done : done + len(found)][mine] = _values(octets, found[mine], codes, place)
        done += len(found)
        at = 8 * first + places[-1]
    return out


def _windows(octets: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Give the 16 bits that begin at each bit, but for the last three bytes."""
    wide = octets.astype(np.uint32)
    three = (wide[:-3] << 16) | (wide[1:-2] << 8) | wide[2:-1]
    return (three[:, None] >> np.arange(8, 0, -1, dtype=np.uint32)).astype(np.uint16).ravel()


def _extra(symbols: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Count the bits behind a code; 16 stands for 32768 and has none (H.1.2.2)."""
    return np.where(symbols < 16, symbols, 0).astype(np.uint8)


def _places(reach: list[bytes], at: int, done: int, most: int) -> list[int]:
    """Jump from code to code: where each begins, at most `most`, and behind the last; an unknown code does not move."""
    places = [at]
    note = places.append
    end = len(reach[0])
    if len(reach) == 1:
        only = reach[0]
        for _ in range(most):
            if at >= end:
                break
            at += only[at]
            note(at)
        return places
    for turn in range(done, done + most):
        if at >= end:
            break
        at += reach[turn % len(reach)][at]
        note(at)
    return places


def _values(octets: NDArray[np.uint8], at: NDArray[np.int64], codes: Codes, place: str) -> NDArray[np.int64]:
    """Decode the codes that begin at these bits, and the bits behind them (F.2.2.1, figure F.12)."""
    base, bit = at >> 3, at & 7
    bits = np.zeros(len(at), np.int64)
    for k in range(5):  # 7 bits before, 16 of the code, 16 behind it: within 40
        bits = (bits << 8) | octets[base + k]
    window = (bits >> (24 - bit)) & 0xFFFF
    length, symbol = codes.lengths[window].astype(np.int64), codes.symbols[window].astype(np.int64)
    if bool((length == 0).any()) or bool((symbol > 16).any()):
        raise broken(place, "a code that no table has")
    size = np.where(symbol < 16, symbol, 0)
    value = (bits >> (40 - bit - length - size)) & ((1 << size) - 1)
    negative = (size > 0) & (value < (1 << size) >> 1)
    return np.where(symbol == 16, 32768, value - np.where(negative, (1 << size) - 1, 0))


def _predicted(diff: NDArray[np.int32], scan: Scan) -> NDArray[np.uint16]:
    """Add each difference to its prediction from left, above and left above (H.1.2.1, table H.1).

    Sums of 32 bits may run over: only their lower 16 bits count.
    """
    out = np.empty(diff.shape, np.int32)
    diff[0, 0] += 1 << scan.precision - scan.shift - 1
    out[0] = _sums(diff[0])  # a first row is predicted from the left
    out[1:, 0] = _sums(diff[1:, 0], int(out[0, 0]))  # a first column from above
    if scan.predictor == 1:
        diff[1:, 0] = out[1:, 0]
        np.cumsum(diff[1:], axis=1, dtype=np.int32, out=out[1:])
        return (out & MODULUS).astype(np.uint16)
    for y in range(1, len(out)):
        out[y, 1:] = _row(diff[y, 1:], out[y - 1], int(out[y, 0]), scan.predictor)
    return out.astype(np.uint16)


def _sums(steps: NDArray[np.int32], first: int = 0) -> NDArray[np.int32]:
    return (np.cumsum(steps, dtype=np.int32) + np.int32(first)) & np.int32(MODULUS)


def _row(diff: NDArray[np.int32], above: NDArray[np.int32], first: int, predictor: int) -> NDArray[np.int32]:
    """Work out a row but for its first sample, given the row above."""
    up, corner = above[1:], above[:-1]
    if predictor == 2:
        return (up + diff) & MODULUS
    if predictor == 3:
        return (corner + diff) & MODULUS
    if predictor in (4, 5):  # left + what the row above did, all of it or half
        return _sums(diff + (up - corner if predictor == 4 else (up - corner) >> 1), first)
    row, left = [], first
    for d, b, c in zip(diff.tolist(), up.tolist(), corner.tolist(), strict=True):
        left = (d + (b + (left - c >> 1) if predictor == 6 else left + b >> 1)) & MODULUS
        row.append(left)
    return np.array(row, np.int32)


class _Blocks:
    """Reads blocks of 64 coefficients, one code after the other (F.2.2)."""

    def __init__(self, dc: Codes, ac: Codes, place: str) -> None:
        self._dc, self._ac = ((table.lengths.tobytes(), table.symbols.tobytes()) for table in (dc, ac))
        self._place = place
        self._bytes, self._at, self._level = b"", 0, 0

    def begin(self, part: bytes) -> None:
        """Go on with another restart interval."""
        self._bytes, self._at, self._level = part + PADDING, 0, 0

    def read(self, block: NDArray[np.float64]) -> None:
        """Fill a block of zeros, in zigzag order."""
        size = self._code(self._dc)
        if size > 15:
            raise broken(self._place, "a code that no table has")
        self._level += self._value(size)
        block[0] = self._level
        k = 1
        while k < 64:
            symbol = self._code(self._ac)
            size = symbol & 15
            k += symbol >> 4
            if size:
                if k > 63:
                    raise broken(self._place, "a block of more than 64 coefficients")
                block[k] = self._value(size)
            elif symbol != 0xF0:  # end of block; 0xF0 is sixteen zeros
                break
            k += 1

    def _code(self, table: tuple[bytes, bytes]) -> int:
        octets, base = self._bytes, self._at >> 3
        if base > len(octets) - len(PADDING):
            raise broken(self._place, "a scan ends too early")
        window = (octets[base] << 16 | octets[base + 1] << 8 | octets[base + 2]) >> 8 - (self._at & 7) & 0xFFFF
        length = table[0][window]
        if not length:
            raise broken(self._place, "a code that no table has")
        self._at += length
        return table[1][window]

    def _value(self, size: int) -> int:
        if not size:
            return 0
        base = self._at >> 3
        bits = int.from_bytes(self._bytes[base : base + 4], "big") >> 32 - (self._at & 7) - size & (1 << size) - 1
        self._at += size
        return bits if bits >> size - 1 else bits - (1 << size) + 1


def _inverse(row: NDArray[np.float64], precision: int) -> NDArray[np.uint16]:
    """Turn a row of blocks (wide, 64 in zigzag order) into samples (8, wide * 8) (A.3.3)."""
    blocks = np.empty_like(row)
    blocks[:, ZIGZAG] = row
    pixels = COSINES.T @ blocks.reshape(-1, 8, 8) @ COSINES
    level = 1 << precision - 1
    shown = np.clip(np.floor(pixels + level + 0.5), 0, 2 * level - 1)
    return np.ascontiguousarray(shown.transpose(1, 0, 2).reshape(8, -1)).astype(np.uint16)
