from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

import pytest

from foveola.toolkit.data import sealed
from foveola.toolkit.data.sealed import is_whole, write_sealed


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.npy"
    write_sealed(path, [b"abc", b"", memoryview(b"defg")])
    return path


def forget() -> None:
    """As another process would begin."""
    sealed._whole.clear()


def test_a_file_is_its_parts_and_whole_also_for_another_process(file: Path) -> None:
    forget()

    assert file.read_bytes() == b"abcdefg"
    assert is_whole(file)
    assert sorted(path.name for path in file.parent.iterdir()) == ["file.npy", "file.npy.seal"]


def test_the_seal_holds_the_sha256_and_the_size(file: Path) -> None:
    digest = hashlib.sha256(b"abcdefg").hexdigest()

    assert (file.parent / "file.npy.seal").read_text() == f'{{"sha256":"{digest}","size":7}}'


@pytest.mark.parametrize("byte", range(7))
def test_one_flipped_bit_anywhere_is_seen(file: Path, byte: int) -> None:
    data = bytearray(file.read_bytes())
    data[byte] ^= 1 << byte
    file.write_bytes(data)
    forget()

    assert not is_whole(file)


def test_a_change_within_the_process_is_seen_by_its_time(file: Path) -> None:
    assert is_whole(file)
    file.write_bytes(b"abcdefG")
    os.utime(file, ns=(0, 0))

    assert not is_whole(file)


@pytest.mark.parametrize("data", [None, b"", b"{}", b"\xff", b'{"sha256": "00", "size": 7}'])
def test_a_file_without_a_seal_that_fits_is_not_whole(file: Path, data: bytes | None) -> None:
    seal = file.parent / "file.npy.seal"
    seal.unlink()
    if data is not None:
        seal.write_bytes(data)
    forget()

    assert not is_whole(file)


@pytest.mark.parametrize("data", [b"", b"abcdef", b"abcdefgh"])
def test_a_file_of_another_length_is_not_whole(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    forget()

    assert not is_whole(file)


def test_bytes_are_hashed_once_a_process(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real = hashlib.file_digest

    def counted(stream: BufferedReader, name: str) -> object:
        calls.append("hashed")
        return real(stream, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)

    assert is_whole(file)
    assert calls == []  # this process has written it
    forget()
    assert is_whole(file)
    assert is_whole(file)
    assert calls == ["hashed"]


def test_a_write_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def parts() -> Iterator[bytes]:
        yield b"abc"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_sealed(tmp_path / "file", parts())

    assert list(tmp_path.iterdir()) == []
