from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from foveola.runtime import durable
from foveola.runtime.durable import CHUNK, make_folder, sync_folder, write_file
from foveola.runtime.errors import FoveolaError


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    data = os.urandom(2 * CHUNK + 17)

    write_file(tmp_path / "x", b"old")
    write_file(tmp_path / "x", data)

    assert (tmp_path / "x").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_a_killed_writer_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "x.partial").write_bytes(b"half")

    write_file(tmp_path / "x", b"new")

    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_link_in_the_place_of_the_partial_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "x.partial").symlink_to(victim)

    write_file(tmp_path / "x", b"new")

    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "x").is_symlink()


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_failure_leaves_the_old_content_and_no_other_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / "x", b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(FoveolaError, match="cannot be written: No space left on device; make room"):
            write_file(tmp_path / "x", b"new")

    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_folders_are_made_down_to_the_last(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b" / "c")

    assert (tmp_path / "a" / "b" / "c").is_dir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FoveolaError, match="cannot be written: Not a directory"):
        make_folder(tmp_path / "file" / "under")
    with pytest.raises(FoveolaError, match="file: cannot be written: Not a directory"):
        make_folder(tmp_path / "file")


def test_windows_opens_no_folder_and_waits_for_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, refusals = os.replace, iter([True, True, False])

    def busy(source: Path, target: Path) -> None:
        if next(refusals):
            raise PermissionError(errno.EACCES, "Access is denied")
        replace(source, target)

    def no_folder(path: Path, flags: int) -> int:
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(durable, "WINDOWS", True)
    monkeypatch.setattr(durable, "_BUSY_WAIT_S", 0.0)
    monkeypatch.setattr(os, "replace", busy)
    write_file(tmp_path / "x", b"new")
    monkeypatch.setattr(os, "open", no_folder)
    sync_folder(tmp_path)

    assert (tmp_path / "x").read_bytes() == b"new"
