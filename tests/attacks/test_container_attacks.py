"""Attempts on the container: none of them is read, whoever signed it."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from foveola.runtime.bundle import LIMITS, MEMBERS, bundle_bytes, open_bundle, read_bundle
from foveola.runtime.container import Limits, read_members
from foveola.runtime.errors import ExitCode, FoveolaError, NotVouchedError

Archive = Callable[[list[tuple[zipfile.ZipInfo, bytes]]], bytes]
END, CENTRAL, LOCAL = 22, 46, 30  # bytes of the three records


def honest(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.create_system = 3
    info.external_attr = 0o100644 << 16
    return info


def put(file: bytes, offset: int, value: bytes) -> bytes:
    """The file with some bytes replaced; a negative offset counts from its end."""
    at = offset % len(file)
    return file[:at] + value + file[at + len(value) :]


def word(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


def directory_at(file: bytes) -> int:
    start: int = struct.unpack_from("<L", file, len(file) - 6)[0]
    return start


def entries_at(file: bytes) -> list[int]:
    """Where the directory's entries begin."""
    starts, at = [], directory_at(file)
    while at < len(file) - END:
        starts.append(at)
        name_length: int = struct.unpack_from("<H", file, at + 28)[0]
        at += CENTRAL + name_length
    return starts


def shifted(file: bytes, by: int) -> bytes:
    """The file with all its offsets mended for `by` bytes before it."""
    moved = put(file, -6, word(directory_at(file) + by))
    for entry in entries_at(file):
        offset: int = struct.unpack_from("<L", file, entry + 42)[0]
        moved = put(moved, entry + 42, word(offset + by))
    return moved


def in_directory(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    """Changes the first entry of the directory."""
    return lambda file: put(file, directory_at(file) + offset, value)


def in_both(central: int, local: int, value: bytes) -> Callable[[bytes], bytes]:
    """Changes the first member's two headers alike, as a careful attacker does."""
    return lambda file: put(in_directory(central, value)(file), local, value)


def refuse(file: bytes, words: str) -> None:
    with pytest.raises(FoveolaError, match=words) as caught:
        read_bundle(io.BytesIO(file))
    assert str(caught.value).isprintable()


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda file: b"", "too few"),
    "only its end": (lambda file: file[-END:], "does not fill"),
    "text": (lambda file: b"<html>404 not found</html>" * 9, "does not end"),
    "truncated in the end record": (lambda file: file[:-1], "does not end"),
    "truncated in the directory": (lambda file: file[: -END - 9], "does not end"),
    "truncated in a member": (lambda file: file[: len(file) // 2], "does not end"),
    "first byte lost": (lambda file: file[1:], "does not fill"),
    "member bytes lost": (lambda file: file[:100] + file[110:], "does not fill"),
    "junk after it": (lambda file: file + b"junk", "does not end"),
    "junk before it": (lambda file: b"junk" + file, "does not fill"),
    "program before it, offsets mended": (lambda file: b"MZ" + shifted(file, 2), "does not begin where"),
    "second bundle after it": (lambda file: file + file, "does not fill"),
    "archive comment": (lambda file: put(file, -2, word(4, 2)) + b"text", "does not end"),
    "whole bundle as a comment": (lambda file: put(file, -2, word(len(file), 2)) + file, "does not fill"),
    "several volumes": (lambda file: put(file, -END + 4, word(1, 2)), "several volumes"),
    "other number on this volume": (lambda file: put(file, -END + 8, word(1, 2)), "several volumes"),
    "no members": (lambda file: put(file, -END + 8, word(0)), "0 members"),
    "zip64 numbers": (lambda file: put(file, -END + 8, b"\xff" * 12), "65535 members"),
    "one member less": (lambda file: put(file, -END + 8, word(3, 2) * 2), "does not fill|between its members"),
    "one member more": (lambda file: put(file, -END + 8, word(5, 2) * 2), "ends within an entry"),
    "directory longer than it is": (lambda file: put(file, -END + 12, word(2**32 - 1)), "does not fill"),
    "directory beyond the end": (lambda file: put(file, -6, word(2**32 - 1)), "does not fill"),
    "directory at zero": (lambda file: put(file, -6, word(0)), "does not fill"),
    "no entry where one is due": (in_directory(0, b"PK\0\0"), "not canonical"),
    "no header where one is due": (lambda file: put(file, 0, b"PK\0\0"), "its own header"),
    "encrypted flag": (in_both(8, 6, word(1, 2)), "encrypted"),
    "data descriptor": (in_both(8, 6, word(8, 2)), "data descriptor"),
    "name said to be UTF-8": (in_both(8, 6, word(0x800, 2)), "flags 0x0800"),
    "flag in one header only": (lambda file: put(file, 6, word(1, 2)), "its own header"),
    "compression method changed": (in_both(10, 8, word(8, 2)), "compressed"),
    "two lengths": (in_both(20, 18, word(3)), "two different lengths"),
    "length of 4 GiB": (in_directory(20, word(2**32 - 1) * 2), "at most"),
    "length longer than the file": (in_directory(20, word(500_000) * 2), "does not begin where"),
    "length shorter than it is": (in_directory(20, word(1) * 2), "does not begin where"),
    "length lies in the member's own header": (lambda file: put(file, 18, word(1) * 2), "its own header"),
    "name length lies": (in_directory(28, word(12, 2)), "no member"),
    "name longer than the file": (in_directory(28, word(0xFFFF, 2)), "no member"),
    "name length lies in the member's own header": (lambda file: put(file, 26, word(12, 2)), "its own header"),
    "extra field": (in_directory(30, word(4, 2)), "extra field"),
    "extra field in the member's own header": (lambda file: put(file, 28, word(4, 2)), "its own header"),
    "member comment": (in_directory(32, word(4, 2)), "a comment"),
    "other time": (in_both(12, 10, word(1, 2)), "not canonical"),
    "symbolic link": (in_directory(38, word(0o120777 << 16)), "not canonical"),
    "set-uid file": (in_directory(38, word(0o104755 << 16)), "not canonical"),
    "made on DOS": (in_directory(4, word(20, 2)), "not canonical"),
    "first member not at zero": (in_directory(42, word(7)), "does not begin where"),
    "checksum changed in both headers": (in_both(16, 14, word(7)), "was changed"),
    "name changed in the member's own header": (lambda file: put(file, LOCAL, b"M"), "its own header"),
}


@pytest.mark.parametrize("attempt", BROKEN)
def test_a_container_that_is_not_canonical_is_refused(attempt: str, file: bytes) -> None:
    change, words = BROKEN[attempt]

    refuse(change(file), words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../manifest.json", "no member"),
        ("../../etc/passwd", "no member"),
        ("/etc/passwd", "no member"),
        ("C:\\model.onnx", "no member"),
        ("sub/model.onnx", "no member"),
        ("sub\\model.onnx", "no member"),
        ("model.onnx/", "no member"),
        ("./model.onnx", "no member"),
        ("model.onnx.data", "no member"),
        ("model.onnx ", "no member"),
        ("model\u2024onnx", "no member"),
        ("line\nbreak", "no member"),
        ("x" * 60_000, "does not fill"),
        ("Model.ONNX", "by its case only"),
        ("MANIFEST.JSON", "by its case only"),
    ],
)
def test_a_member_by_another_name_is_refused(
    name: str, words: str, members: dict[str, bytes], archive: Archive
) -> None:
    entries = [(honest("manifest.json"), members["manifest.json"]), (honest(name), b"graph")]

    refuse(archive(entries), words)


def test_a_name_with_a_zero_byte_is_refused(file: bytes) -> None:
    start = directory_at(file)
    changed = put(put(file, LOCAL + 8, b"\0"), start + CENTRAL + 8, b"\0")

    refuse(changed, "no member")


@pytest.mark.parametrize("second", [b"graph" * 9, b"other"])
def test_a_duplicate_name_is_refused(second: bytes, members: dict[str, bytes], archive: Archive) -> None:
    pairs = [("manifest.json", members["manifest.json"]), ("model.onnx", b"graph" * 9), ("model.onnx", second)]

    refuse(archive([(honest(name), data) for name, data in pairs]), "stands twice")


def test_members_in_another_order_are_refused(members: dict[str, bytes], archive: Archive) -> None:
    refuse(archive([(honest(name), members[name]) for name in reversed(members)]), "out of order")


def test_a_case_folded_twin_beside_the_true_member_is_refused(members: dict[str, bytes], archive: Archive) -> None:
    entries = [(honest(name), members[name]) for name in ("manifest.json", "model.onnx")]

    refuse(archive([*entries, (honest("MODEL.onnx"), b"evil")]), "by its case only")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_member_is_refused(method: int, members: dict[str, bytes], archive: Archive) -> None:
    bomb = honest("model.onnx")
    bomb.compress_type = method

    file = archive([(honest("manifest.json"), members["manifest.json"]), (bomb, bytes(10**6))])

    refuse(file, "compressed|flags 0x0002")  # LZMA sets a flag besides


def test_a_true_data_descriptor_is_refused(members: dict[str, bytes]) -> None:
    class Pipe(io.BytesIO):  # zipfile writes descriptors where it cannot seek
        def seekable(self) -> bool:
            return False

        def seek(self, offset: int, whence: int = 0, /) -> int:
            raise io.UnsupportedOperation

        def tell(self) -> int:
            raise io.UnsupportedOperation

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as writer:
        writer.writestr(honest("manifest.json"), members["manifest.json"])

    refuse(pipe.getvalue(), "data descriptor")


def test_a_zip64_member_is_refused(members: dict[str, bytes]) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as writer, writer.open(honest("manifest.json"), "w", force_zip64=True) as member:
        member.write(members["manifest.json"])

    refuse(stream.getvalue(), "not canonical")


@pytest.mark.parametrize("offset", [0, 10, 2**31])
def test_overlapping_members_are_refused(offset: int, file: bytes) -> None:
    refuse(put(file, entries_at(file)[1] + 42, word(offset)), "does not begin where")


def test_a_gap_between_members_is_refused(file: bytes) -> None:
    entry = entries_at(file)[1]
    second: int = struct.unpack_from("<L", file, entry + 42)[0]
    moved = put(put(file, -6, word(directory_at(file) + 5)), entry + 42, word(second + 5))

    refuse(moved[:second] + b"gap.." + moved[second:], "does not begin where")


def test_a_gap_before_the_directory_is_refused(file: bytes) -> None:
    start = directory_at(file)
    moved = put(file, -6, word(start + 5))

    refuse(moved[:start] + b"gap.." + moved[start:], "between its members and the end")


def test_a_gap_after_the_directory_is_refused(file: bytes) -> None:
    refuse(file[:-END] + b"gap.." + file[-END:], "does not fill")
    longer = put(file, -END + 12, word(len(file) - END - directory_at(file) + 5))
    refuse(longer[:-END] + b"gap.." + longer[-END:], "between its members|does not fill")


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_of_the_file_is_refused(bit: int, file: bytes, signed: dict[str, bytes]) -> None:
    """Headers, contents, directory and end: no bit of the file is free."""
    for position in range(len(file)):
        flipped = put(file, position, bytes([file[position] ^ 1 << bit]))
        with pytest.raises(FoveolaError):
            read_members(io.BytesIO(flipped))


@pytest.mark.parametrize(
    ("name", "words"),
    [("manifest.json", "manifest.json: stands twice"), ("../evil.txt", "'../evil.txt' is no member of a bundle")],
)
def test_one_member_too_many_in_a_full_bundle_is_refused_by_its_name(name: str, words: str, archive: Archive) -> None:
    entries = [(honest(known), b"content") for known in MEMBERS]

    refuse(archive([*entries, (honest(name), b"content")]), words)


def test_a_flipped_bit_in_a_member_means_not_vouched(
    file: bytes, public: bytes, bundle_file: Callable[[bytes], Path]
) -> None:
    path = bundle_file(put(file, file.index(b"graphgraph"), b"G"))

    with pytest.raises(NotVouchedError, match=r"tiny\.foveola: model\.onnx: its content was changed") as caught:
        open_bundle(path, key=public)
    assert caught.value.exit_code == ExitCode.NOT_VOUCHED


def test_a_lower_limit_refuses_what_is_above_it(file: bytes) -> None:
    for limits in (
        Limits(max_bundle_bytes=len(file) - 1),
        Limits(max_member_bytes=50),
        Limits(max_members=3),
    ):
        with pytest.raises(FoveolaError, match="are read"):
            read_members(io.BytesIO(file), limits)


class Endless(io.RawIOBase):
    """A file of 300 GB that would kill whoever read it whole."""

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return 300 * 10**9

    def read(self, size: int = -1, /) -> bytes:
        raise AssertionError("a byte was read before the length was looked at")


def test_a_file_above_the_limit_is_refused_before_a_byte_is_read() -> None:
    with pytest.raises(FoveolaError, match=f"at most {LIMITS.max_bundle_bytes}"):
        read_members(Endless())  # type: ignore[arg-type]


def many_entries(count: int, said: int) -> bytes:
    """A directory of `count` entries that says it has `said`."""
    name = b"manifest.json"
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 788, 20, 0, 0, 0, 33, 0, 0, 0, 13, 0, 0, 0, 0, 0o100644 << 16, 0)
    directory = (entry + name) * count
    return directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, said, said, len(directory), 0, 0)


@pytest.mark.parametrize(("count", "said"), [(60_000, 60_000), (60_000, 2), (LIMITS.max_members + 1,) * 2])
def test_huge_counts_are_refused(count: int, said: int) -> None:
    refuse(many_entries(count, said), "are read|does not fill")


def lying_files(file: bytes, members: dict[str, bytes]) -> Sequence[bytes]:
    sizes = (2**32 - 1, 256 * 2**20, 255 * 2**20, 2**31)
    first = [in_directory(20, word(size) * 2)(file) for size in sizes]
    last = [put(file, entries_at(file)[-1] + 20, word(size) * 2) for size in sizes]
    return [*first, *last, many_entries(60_000, 60_000), bundle_bytes(members)[:-1]]


def test_lying_lengths_cost_no_memory(file: bytes, members: dict[str, bytes]) -> None:
    for lying in lying_files(file, members):
        tracemalloc.start()
        with pytest.raises(FoveolaError):
            read_bundle(io.BytesIO(lying))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert peak < 300_000  # bytes


def test_a_file_that_shrinks_while_it_is_read_is_refused(file: bytes) -> None:
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(size)[:40]

    with pytest.raises(FoveolaError, match="bytes early"):
        read_members(Shrinking(file))


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_a_bundle_without_a_needed_member_is_refused(name: str, members: dict[str, bytes], archive: Archive) -> None:
    del members[name]

    refuse(archive([(honest(other), data) for other, data in members.items()]), f"{name}")


def test_a_checksum_that_was_mended_does_not_help(
    members: dict[str, bytes], public: bytes, bundle_file: Callable[[bytes], Path]
) -> None:
    members["model.onnx"] = b"evils" * 9
    mended = bundle_bytes(members)
    assert word(zlib.crc32(b"evils" * 9)) in mended

    with pytest.raises(NotVouchedError, match=r"model\.onnx was changed"):
        open_bundle(bundle_file(mended), key=public)
