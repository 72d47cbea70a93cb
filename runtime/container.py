"""The canonical ZIP around a bundle's members: every set of members has exactly one file.

The law: `read_members(bundle_bytes(members)) == members`, and what the one writes is all that the other reads. Headers,
order, times and attributes follow from the members' names and contents; the reader builds each header anew and refuses
a file that differs from it in one bit. Any ordinary ZIP tool can list and unpack the file.

`scan_members` reads the same file without keeping it: it gives the digest of every member, and `Scan.read` those that
are wanted, each of which has to have the digest that was found before.

Nothing here decodes a member, and nobody vouches for what is read: see `bundle.py`. `docs/bundle-format.md` gives the
attack behind each rule. Field names and layouts: APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import msgspec

from .digest import Sha256, sha256_hex
from .errors import FoveolaError, NotVouchedError
from .seen import SEEN
from .signature import MAX_SIGNATURE_BYTES, SIGNATURE

MIB = 1024 * 1024  # bytes
PIECE_BYTES = 256 * 1024  # of a member that is read piece by piece

# Every member a bundle may hold, in the order in which they stand in the file, with the most bytes each may have.
MEMBERS: dict[str, int] = {
    "manifest.json": 1 * MIB,
    "model.onnx": 256 * MIB,
    "openvino.xml": 16 * MIB,
    "openvino.bin": 256 * MIB,
    "tensorrt.onnx": 256 * MIB,
    "tensorrt.json": 1 * MIB,
    "golden.npz": 64 * MIB,
    "sbom.cdx.json": 4 * MIB,
    SEEN: 16 * MIB,
    "parity.json": 32 * MIB,
    "report.html": 64 * MIB,
    SIGNATURE: MAX_SIGNATURE_BYTES,
}
_ORDER = {name: position for position, name in enumerate(MEMBERS)}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader takes at most; a small device may lower it. `MEMBERS` limits each member besides."""

    max_bundle_bytes: int = 512 * MIB
    max_member_bytes: int = 256 * MIB
    max_members: int = 2 * len(MEMBERS)  # above their number, so that one too many is refused by its name


LIMITS = Limits()

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LONGEST_NAME = 255  # bytes; longer than any member's, so that a wrong name is refused by its name
_VERSION = 20  # as Python's zipfile writes
_MADE_BY = 3 << 8 | _VERSION  # 3: Unix, so that unpacked files get the mode below
_DATE = 1 << 5 | 1  # 1 January 1980, the format's zero
_MODE = 0o100644 << 16  # a plain file
_MEND = "get the bundle anew from its maker"


class _Entry(msgspec.Struct, frozen=True):
    """One member: all that is free in its two headers."""

    name: str
    size: int  # bytes of the content
    crc: int
    offset: int  # of the local header, bytes from the file's start

    def local(self) -> bytes:
        free = (self.crc, self.size, self.size, len(self.name))
        return _LOCAL.pack(b"PK\3\4", _VERSION, 0, 0, 0, _DATE, *free, 0) + self.name.encode("ascii")

    def central(self) -> bytes:
        free = (self.crc, self.size, self.size, len(self.name))
        fixed = (b"PK\1\2", _MADE_BY, _VERSION, 0, 0, 0, _DATE)
        return _CENTRAL.pack(*fixed, *free, 0, 0, 0, 0, _MODE, self.offset) + self.name.encode("ascii")

    @property
    def end(self) -> int:
        return self.offset + _LOCAL.size + len(self.name) + self.size


def bundle_bytes(members: Mapping[str, bytes]) -> bytes:
    """Pack members into the file that holds them; their order in the mapping does not matter.

    Raises:
        FoveolaError: no manifest, unknown members, or members above their limits; all of these at once.
    """
    _check_members(members)
    contents: list[bytes] = []
    directory: list[bytes] = []
    offset = 0
    for name in MEMBERS:
        if name in members:
            data = members[name]
            entry = _Entry(name, len(data), zlib.crc32(data), offset)
            contents += [entry.local(), data]
            directory.append(entry.central())
            offset = entry.end
    count, length = len(directory), sum(map(len, directory))
    end = _END.pack(b"PK\5\6", 0, 0, count, count, length, offset, 0)
    return b"".join([*contents, *directory, end])


def read_members(stream: BinaryIO, limits: Limits = LIMITS, place: str = "bundle") -> dict[str, bytes]:
    """Read all members from a seekable stream, in their order in the file.

    Raises:
        NotVouchedError: a content that does not fit its checksum.
        FoveolaError: any other departure from the canonical file.
    """
    found = _contents(stream, limits, place, limits.max_member_bytes)  # in one piece each: joining would copy
    return {entry.name: b"".join(parts) for entry, parts in found}


class Scan(msgspec.Struct, frozen=True):
    """A file that was read once, from its first byte to its last, and of which nothing was kept.

    Args:
        digests: sha256 of every member in hexadecimal, in the file's order.
        places: where each member's content begins, and its length, in bytes.
        place: the file, as the user knows it.
    """

    digests: dict[str, str]
    places: dict[str, tuple[int, int]]
    place: str

    def read(self, stream: BinaryIO, name: str) -> bytes:
        """Read one member of the same file, which has to be what it was.

        Raises:
            NotVouchedError: it is another one by now.
        """
        where, (offset, size) = f"{self.place}: {name}", self.places[name]
        data = _read_at(stream, offset, size, where)
        if sha256_hex(data) != self.digests[name]:
            raise NotVouchedError(where, "its content was changed while the bundle was read", _MEND)
        return data


def scan_members(stream: BinaryIO, limits: Limits = LIMITS, place: str = "bundle") -> Scan:
    """Check a whole file as `read_members` does, with one piece of it in memory at a time.

    Raises:
        NotVouchedError: as there.
        FoveolaError: as there.
    """
    digests: dict[str, str] = {}
    places: dict[str, tuple[int, int]] = {}
    for entry, parts in _contents(stream, limits, place, PIECE_BYTES):
        whole = Sha256()
        for part in parts:
            whole.update(part)
        digests[entry.name] = whole.hexdigest()
        places[entry.name] = (entry.end - entry.size, entry.size)
    return Scan(digests, places, place)


def _contents(stream: BinaryIO, limits: Limits, place: str, piece: int) -> Iterator[tuple[_Entry, Iterator[bytes]]]:
    """Give every member with its content in pieces; whoever takes them all has had the member's checksum checked."""
    size = stream.seek(0, os.SEEK_END)
    if size > limits.max_bundle_bytes:
        raise refusal(place, f"{size} bytes; at most {limits.max_bundle_bytes} are read")
    for entry in _read_directory(stream, size, limits, place):
        where = f"{place}: {entry.name}"
        if _read_at(stream, entry.offset, _LOCAL.size + len(entry.name), where) != entry.local():
            raise refusal(where, "its own header is not the one that the directory promises")
        yield entry, _pieces(stream, entry, piece, where)


def _pieces(stream: BinaryIO, entry: _Entry, piece: int, where: str) -> Iterator[bytes]:
    crc, left = 0, entry.size
    while left:
        part = _read(stream, min(left, piece), where)
        crc, left = zlib.crc32(part, crc), left - len(part)
        yield part
    if crc != entry.crc:
        raise NotVouchedError(where, "its content was changed after the bundle was made", _MEND)


def refusal(place: str, fault: str) -> FoveolaError:
    """Say no to a file; the user can only get another one."""
    return FoveolaError(place, fault, _MEND)


def _check_members(members: Mapping[str, bytes]) -> None:
    faults = [f"unknown member {name!r}" for name in sorted(members.keys() - MEMBERS.keys())]
    faults += [f"{n} has more than {MEMBERS[n]} bytes" for n in MEMBERS if len(members.get(n, b"")) > MEMBERS[n]]
    if "manifest.json" not in members:
        faults.append("no manifest.json")
    if sum(map(len, members.values())) > LIMITS.max_bundle_bytes - MIB:  # the headers have far less than 1 MiB
        faults.append(f"its members have more than {LIMITS.max_bundle_bytes - MIB} bytes together")
    if faults:
        raise FoveolaError("bundle", ", ".join(faults), f"a bundle may hold {', '.join(MEMBERS)}")


def _read_directory(stream: BinaryIO, size: int, limits: Limits, place: str) -> list[_Entry]:
    """Read the entries: known, in order, without gap or overlap, filling the file from its first byte to its last."""
    if size < _END.size:
        raise refusal(place, f"{size} bytes are too few for a bundle; it is truncated")
    magic, disk, first_disk, here, count, length, start, comment = _END.unpack(
        _read_at(stream, size - _END.size, _END.size, place)
    )
    if magic != b"PK\5\6" or comment:
        raise refusal(place, "does not end as a bundle ends: truncated, or with a comment or junk after it")
    if disk or first_disk or here != count:
        raise refusal(place, "says that it has several volumes")
    if not 0 < count <= limits.max_members:
        raise refusal(place, f"{count} members; 1 to {limits.max_members} are read")
    if length > count * (_CENTRAL.size + _LONGEST_NAME) or start + length + _END.size != size:
        raise refusal(place, "its directory does not fill the space between the members and the end")
    directory = _read_at(stream, start, length, place)
    entries: list[_Entry] = []
    for _ in range(count):
        entry = _next_entry(directory, entries[-1] if entries else None, limits, place)
        directory = directory[len(entry.central()) :]
        entries.append(entry)
    if directory or entries[-1].end != start:
        raise refusal(place, "something stands between its members and the end")
    return entries


def _next_entry(directory: bytes, before: _Entry | None, limits: Limits, place: str) -> _Entry:
    """Read the entry at the directory's begin; `before` is the one that stood before it."""
    if len(directory) < _CENTRAL.size:
        raise refusal(place, "its directory ends within an entry")
    fields = _CENTRAL.unpack_from(directory)
    crc, size, name_length, offset = fields[7], fields[9], fields[10], fields[16]
    name = _known_name(directory[_CENTRAL.size : _CENTRAL.size + name_length], before, place)
    where = f"{place}: {name}"
    entry = _Entry(name, size, crc, offset)
    if not directory.startswith(entry.central()):
        raise refusal(where, _departure(fields))
    most = min(MEMBERS[name], limits.max_member_bytes)
    if size > most:
        raise refusal(where, f"{size} bytes; at most {most} are read")
    if offset != (before.end if before else 0):
        raise refusal(where, "does not begin where the member before it ends")
    return entry


def _known_name(raw: bytes, before: _Entry | None, place: str) -> str:
    """Take a name of the table that comes after the last one: no duplicate, twin by case or path gets past this."""
    name = raw.decode("latin-1")
    if name not in MEMBERS:
        twin = name.lower()
        fault = f"differs from {twin} by its case only" if twin in MEMBERS else "is no member of a bundle"
        raise refusal(place, f"{name!a} {fault}")
    if before and _ORDER[name] <= _ORDER[before.name]:
        raise refusal(f"{place}: {name}", "stands twice" if name == before.name else "stands twice or out of order")
    return name


def _departure(fields: tuple[int, ...]) -> str:
    """Say in words why a directory entry is not canonical; the refusal itself does not rest on this list."""
    flags, method, stored, size = fields[3], fields[4], fields[8], fields[9]
    departures = {
        "it is encrypted": flags & 1,
        "its length comes after it (data descriptor)": flags & 8,
        f"flags {flags:#06x} are set": flags,
        "it is compressed; members of a bundle are stored": method,
        "it says two different lengths": stored != size,
        "it has an extra field": fields[11],
        "it has a comment": fields[12],
    }
    return next((fault for fault, found in departures.items() if found), "its directory entry is not canonical")


def _read_at(stream: BinaryIO, offset: int, size: int, place: str) -> bytes:
    stream.seek(offset)
    return _read(stream, size, place)


def _read(stream: BinaryIO, size: int, place: str) -> bytes:
    """Read exactly `size` bytes; the caller knows that the file was long enough when it was opened."""
    data = stream.read(size)
    if len(data) != size:
        raise refusal(place, f"ends {size - len(data)} bytes early")
    return data
