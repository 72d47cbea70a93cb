"""The watch folder: whole files are taken, once, and lie beside their answer or the reason afterwards."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from foveola.runtime.errors import FoveolaError
from foveola.runtime.serve import folder
from foveola.runtime.serve.disk import job_id
from foveola.runtime.serve.folder import LOOKS, WatchFolder

from .conftest import QUICK, Parts

Make = Callable[..., Parts]
LIMITS = msgspec.structs.replace(QUICK, queue_jobs=10, image_bytes=1000)


class Inbox:
    """A watched folder, looked at by hand."""

    def __init__(self, made: Parts, folder: Path) -> None:
        self.made, self.path = made, folder
        folder.mkdir(exist_ok=True)
        self.watch = WatchFolder(folder, made.desk, made.limits)

    def rest(self) -> None:
        """Look so often that what rests is taken, and again when it is answered."""
        for _ in range(LOOKS + 2):
            self.watch.look()
        deadline = time.monotonic() + 20
        while self.made.queue.counts()["queued"] and self.made.worker.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.watch.look()

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.path)) for path in self.path.rglob("*") if not path.is_dir())


@pytest.fixture
def inbox(parts: Make, tmp_path: Path) -> Callable[..., Inbox]:
    def make(started: bool = True) -> Inbox:
        return Inbox(parts(LIMITS, started=started), tmp_path / "inbox")

    return make


def test_a_file_lies_in_done_beside_its_answer_or_in_failed_beside_the_reason(inbox: Callable[..., Inbox]) -> None:
    box = inbox()
    for name, words in (("a.png", b"good"), ("b.png", b"refuse"), ("c.png", b"unfit"), ("d.png", b"")):
        (box.path / name).write_bytes(words)

    box.rest()

    assert box.names() == [
        *("done/a.png", "done/a.png.json", "done/c.png", "done/c.png.json"),
        *("failed/b.png", "failed/b.png.txt", "failed/d.png", "failed/d.png.txt"),
    ]
    answer = json.loads((box.path / "done/a.png.json").read_text())
    assert (answer["file"], answer["state"], answer["answer"]["prediction"]) == ("a.png", "answered", {"of": "good"})
    assert json.loads((box.path / "done/c.png.json").read_text())["state"] == "unfit"
    assert (box.path / "failed/b.png.txt").read_text() == "image: cannot be read\n"
    assert (box.path / "failed/d.png.txt").read_text() == "d.png: is empty\n"
    assert (box.path / "done/a.png").read_bytes() == b"good"


def test_a_file_that_grows_is_not_taken_before_it_rests(inbox: Callable[..., Inbox]) -> None:
    box = inbox()
    path = box.path / "a.png"
    for i in range(2 * LOOKS):
        with path.open("ab") as file:
            file.write(b"%d" % i)
        box.watch.look()

    assert box.made.asks() == []
    box.rest()
    assert box.made.asks() == ["".join(str(i) for i in range(2 * LOOKS))]


@pytest.mark.parametrize("name", [".hidden", "a.png.partial", "a.tmp", "a.part"])
def test_a_file_that_is_being_written_under_another_name_is_left_alone(inbox: Callable[..., Inbox], name: str) -> None:
    box = inbox(started=False)
    (box.path / name).write_bytes(b"good")

    box.rest()

    assert box.names() == [name]


def test_links_pipes_and_folders_are_left_alone(inbox: Callable[..., Inbox], tmp_path: Path) -> None:
    box = inbox(started=False)
    (tmp_path / "secret").write_bytes(b"secret")
    (box.path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(box.path / "pipe")
    (box.path / "folder").mkdir()

    box.rest()

    assert box.names() == ["link", "pipe"]
    assert box.made.queue.counts()["queued"] == 0


def test_a_link_that_takes_a_files_place_is_not_followed(
    inbox: Callable[..., Inbox], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = inbox(started=False)
    box.made.keeper.available = True
    (tmp_path / "secret").write_bytes(b"secret")
    path = box.path / "a.png"
    path.write_bytes(b"secret")
    for _ in range(LOOKS):
        box.watch.look()
    path.unlink()
    path.symlink_to(tmp_path / "secret")

    with pytest.raises(OSError, match="symbolic links"):
        box.watch._advance(path, 6)

    assert box.made.queue.counts()["queued"] == 0


def test_a_file_that_is_too_large_is_refused_unread(inbox: Callable[..., Inbox]) -> None:
    box = inbox(started=False)
    (box.path / "a.png").write_bytes(bytes(1001))

    box.rest()

    assert (box.path / "failed/a.png.txt").read_text() == "a.png: a file of 1001 bytes; at most 1000 are taken\n"


def test_while_there_is_no_engine_files_wait_where_they_are(inbox: Callable[..., Inbox]) -> None:
    box = inbox(started=False)
    (box.path / "a.png").write_bytes(b"good")
    box.rest()
    assert box.names() == ["a.png"]

    box.made.worker.start()
    while not box.made.keeper.started:
        time.sleep(0.01)
    box.rest()

    assert box.names() == ["done/a.png", "done/a.png.json"]


def test_files_that_find_no_room_are_not_read_again_and_again(
    inbox: Callable[..., Inbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    box = inbox(started=False)
    for i in range(20):
        (box.path / f"{i}.png").write_bytes(b"good %d" % i)
    for _ in range(LOOKS):
        box.watch.look()
    reads: list[str] = []
    read = folder._read

    def counted(path: Path, size: int) -> bytes:
        reads.append(path.name)
        return read(path, size)

    monkeypatch.setattr(folder, "_read", counted)

    box.watch.look()

    assert reads == ["0.png"]
    assert 'way="folder"' not in box.made.metrics.text()  # who waits was not refused
    box.made.worker.start()
    while len(box.names()) < 40:
        box.rest()


def test_after_a_crash_a_file_is_put_away_without_a_second_answer(inbox: Callable[..., Inbox]) -> None:
    box = inbox()
    (box.path / "a.png").write_bytes(b"good")
    for _ in range(LOOKS + 1):
        box.watch.look()
    box.made.ended(next(iter(box.watch._jobs.values())))

    again = Inbox(box.made, box.path)  # the service was killed before the file was put away
    again.rest()

    assert again.names() == ["done/a.png", "done/a.png.json"]
    assert box.made.asks() == ["good"]


def test_another_file_of_the_same_name_overwrites_nothing(inbox: Callable[..., Inbox]) -> None:
    box = inbox()
    for words in (b"good 1", b"good 2", b"refuse 1", b"refuse 2"):
        (box.path / "a.png").write_bytes(words)
        box.rest()

    names = box.names()
    assert len(names) == 8
    contents = {(box.path / name).read_bytes() for name in names if name.endswith(".png")}
    assert contents == {b"good 1", b"good 2", b"refuse 1", b"refuse 2"}


def test_a_name_of_another_system_is_answered_and_kept_as_it_is(inbox: Callable[..., Inbox]) -> None:
    box = inbox()
    names = [b"M\xfcller.png", b"leer\xfc.png", b"refuse\xff.png"]
    for name, words in zip(names, (b"good", b"", b"refuse"), strict=True):
        (box.path / os.fsdecode(name)).write_bytes(words)

    box.rest()

    assert json.loads((box.path / "done" / os.fsdecode(names[0] + b".json")).read_bytes())["file"] == "M?ller.png"
    assert (box.path / "failed" / os.fsdecode(names[1] + b".txt")).read_text() == "leer?.png: is empty\n"
    assert (box.path / "failed" / os.fsdecode(names[2])).read_bytes() == b"refuse"
    assert sorted(path.name for path in box.path.iterdir()) == ["done", "failed"]


def test_a_name_without_room_for_an_ending_gives_way_to_the_jobs_name(inbox: Callable[..., Inbox]) -> None:
    box = inbox()
    (box.path / ("x" * 251 + ".png")).write_bytes(b"good")
    (box.path / ("y" * 251 + ".png")).write_bytes(b"")

    box.rest()

    name = job_id(b"good")[:8]
    assert box.names() == [f"done/{name}.png", f"done/{name}.png.json", "failed/long.png", "failed/long.png.txt"]
    assert json.loads((box.path / f"done/{name}.png.json").read_bytes())["file"] == "x" * 251 + ".png"


def test_files_that_are_too_large_overwrite_none_of_their_name(inbox: Callable[..., Inbox]) -> None:
    box = inbox(started=False)
    for letter in b"123":
        (box.path / "a.png").write_bytes(bytes([letter]) * 1001)
        box.rest()

    contents = {(box.path / name).read_bytes()[:1] for name in box.names() if name.endswith(".png")}
    assert contents == {b"1", b"2", b"3"}


def test_a_folder_that_is_not_there_is_refused(parts: Make, tmp_path: Path) -> None:
    made = parts(started=False)

    with pytest.raises(FoveolaError, match="cannot be watched: No such file or directory"):
        WatchFolder(tmp_path / "nowhere", made.desk, made.limits)
