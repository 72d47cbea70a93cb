"""The queue on disk: nothing accepted is lost, nothing is answered twice, and full is an answer."""

from __future__ import annotations

import errno
import io
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from foveola.runtime.errors import FoveolaError
from foveola.runtime.serve.disk import content_digest, job_id
from foveola.runtime.serve.frames import Source
from foveola.runtime.serve.jobs import FullError, Queue
from foveola.runtime.serve.limits import Limits

A, B = "a" * 64, "b" * 64  # digests of bundles
LIMITS = Limits(queue_jobs=3, queue_bytes=1000, image_bytes=500, results=2, kept_answers=2, attempts=2, patience_s=60)
Open = Callable[..., Queue]


@pytest.fixture
def queue_at(tmp_path: Path) -> Iterator[Open]:
    opened: list[Queue] = []

    def open_queue(limits: Limits = LIMITS) -> Queue:
        for one in opened:
            one.close()
        opened.append(Queue(tmp_path, limits))
        return opened[-1]

    yield open_queue
    for one in opened:
        one.close()


def test_an_accepted_image_is_there_after_a_restart(queue_at: Open) -> None:
    name = queue_at().submit(b"image", "http", A).id

    again = queue_at()

    assert again.get(name).state == "queued"  # type: ignore[union-attr]
    assert again.image(name).read_bytes() == b"image"


def test_image_folder_and_entry_are_synced_before_an_image_is_accepted(
    queue_at: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, synced = queue_at(), []
    sync = os.fsync

    def recorded(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").resolve().name)
        sync(handle)

    monkeypatch.setattr(os, "fsync", recorded)

    job = queue.submit(b"image", "http", A)

    assert synced == [f"{job.id}.partial", "images"]
    base = queue._base
    assert base.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL: each commit of the write-ahead log is synced
    assert base.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_the_same_image_is_one_job_and_is_answered_once(queue_at: Open) -> None:
    queue = queue_at()
    name = queue.submit(b"image", "dicom", A).id
    assert queue.submit(b"image", "folder", A).id == name
    assert queue.claim()
    queue.end(name, "answered", bundle=A, answer=b"{}")

    again = queue.submit(b"image", "http", A)

    assert (again.id, again.state, again.answer) == (name, "answered", b"{}")
    assert queue.claim() is None


@pytest.mark.parametrize(
    ("state", "bundle", "queued"),
    [
        ("answered", A, False),
        ("unfit", A, False),
        ("refused", A, False),
        ("answered", B, True),
        ("refused", B, True),
        ("failed", A, True),
    ],
)
def test_an_image_is_answered_anew_by_another_bundle_and_after_a_failure(
    queue_at: Open, state: str, bundle: str, queued: bool
) -> None:
    queue = queue_at()
    name = queue.submit(b"image", "http", A).id
    queue.end(name, state, bundle=A, answer=b"{}", error="why")  # type: ignore[arg-type]

    job = queue.submit(b"image", "http", bundle)

    assert (job.state == "queued") == queued
    assert (job.answer is None) == queued  # no stale score


def test_an_ended_job_leaves_no_image_behind(queue_at: Open) -> None:
    queue = queue_at()
    name = queue.submit(b"image", "http", A).id

    queue.end(name, "answered", bundle=A, answer=b"{}")

    assert list(queue.images.iterdir()) == []


def test_attempts_are_counted_on_disk_before_they_begin_and_come_to_an_end(queue_at: Open) -> None:
    name = queue_at().submit(b"image", "http", A).id
    assert queue_at().claim() is not None  # and the process dies
    assert queue_at().claim() is not None

    assert queue_at().claim() is None

    job = queue_at().get(name)
    assert job
    assert (job.state, job.error) == ("failed", "unavailable: the engine failed 2 times on it")


def test_an_image_that_waited_too_long_gets_no_late_score(queue_at: Open) -> None:
    queue = queue_at(msgspec.structs.replace(LIMITS, patience_s=0.01))
    name = queue.submit(b"image", "http", A).id
    time.sleep(0.02)

    assert queue.claim() is None

    job = queue.get(name)
    assert job
    assert (job.state, job.error) == ("failed", "unavailable: not answered within 0.01 s")


def test_a_night_without_power_and_a_clock_that_leaps_end_no_job(
    queue_at: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = queue_at()
    name = queue.submit(b"image", "dicom", A).id
    later = time.time() + 50 * 365 * 86400
    monkeypatch.setattr(time, "time", lambda: later)

    claimed = [queue.claim(), queue_at().claim()]

    assert [job.id for job in claimed if job] == [name, name]


def test_a_result_that_another_clock_put_off_is_due(queue_at: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = queue_at()
    name = queue.submit(b"image", "dicom", A).id
    queue.end(name, "answered", bundle=A, answer=b"{}", results=("1.dcm",))
    queue.postpone("1.dcm", 3600)
    assert queue.due() == []
    earlier = time.time() - 86400

    monkeypatch.setattr(time, "time", lambda: earlier)

    assert [one.file for one in queue.due()] == ["1.dcm"]


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([b"x" * 501], "at most 500"),
        ([b"1", b"2", b"3", b"4"], "the queue is full: 3 images wait"),
        ([b"1" * 400, b"2" * 400, b"3" * 400], "the queue is full: 800 bytes wait"),
    ],
    ids=["one too large", "too many", "too many bytes"],
)
def test_a_full_queue_refuses_and_writes_nothing(queue_at: Open, images: list[bytes], words: str) -> None:
    queue = queue_at()
    for image in images[:-1]:
        queue.submit(image, "http", A)

    with pytest.raises(FullError, match=words):
        queue.submit(images[-1], "http", A)

    assert len(list(queue.images.iterdir())) == len(images) - 1
    assert queue.get(job_id(images[-1])) is None


def test_results_that_nobody_takes_fill_the_queue_too(queue_at: Open) -> None:
    queue = queue_at()
    name = queue.submit(b"image", "dicom", A).id
    queue.end(name, "answered", bundle=A, answer=b"{}", results=("1.dcm", "2.dcm"))

    with pytest.raises(FullError, match="results wait for the peer"):
        queue.submit(b"next", "dicom", A)


def test_answers_are_remembered_up_to_a_bound(queue_at: Open) -> None:
    queue = queue_at()
    names = []
    for image in (b"1", b"2", b"3"):
        names.append(queue.submit(image, "http", A).id)
        queue.end(names[-1], "answered", bundle=A, answer=b"{}")

    assert [queue.get(name) is None for name in names] == [True, False, False]


def test_which_picture_has_a_uid_is_remembered_over_a_restart_and_up_to_a_bound(queue_at: Open) -> None:
    sources = [Source(uid=uid, picture=f"picture {uid}") for uid in "123"]
    queue = queue_at()
    for source in sources:
        name = queue.submit(source.uid.encode(), "dicom", A).id
        assert not queue.has_twin(source)
        queue.end(name, "answered", bundle=A, answer=b"{}", source=source)

    queue = queue_at()

    assert not any(queue.has_twin(source) for source in sources)
    others = [Source(uid=uid, picture="another") for uid in "123"]
    assert [queue.has_twin(one) for one in others] == [False, True, True]


def test_a_wait_is_measured_by_a_clock_that_does_not_leap(queue_at: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = queue_at()
    job = queue.submit(b"image", "dicom", A)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: job.since + 1e6)
        assert 0 <= queue.waited_s(job) < 60
        after_a_night = queue_at()
    assert after_a_night.waited_s(job) == pytest.approx(1e6, abs=60)

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 0.0)  # 1970: a device without a battery
        again = queue_at()
    assert 0 <= again.waited_s(job) < 60


def test_a_second_service_on_the_same_folder_is_refused(queue_at: Open, tmp_path: Path) -> None:
    queue_at()

    with pytest.raises(FoveolaError, match="cannot be used: database is locked; one service for each --state folder"):
        Queue(tmp_path, LIMITS)


def test_a_damaged_file_is_refused_in_one_line(queue_at: Open, tmp_path: Path) -> None:
    queue_at().close()
    (tmp_path / "jobs.sqlite").write_bytes(b"no database" * 100)

    with pytest.raises(FoveolaError, match="file is not a database"):
        Queue(tmp_path, LIMITS)


def test_what_a_crash_left_half_done_is_removed_and_a_lost_image_is_told(queue_at: Open) -> None:
    queue = queue_at()
    lost, kept = queue.submit(b"lost", "http", A).id, queue.submit(b"kept", "http", A).id
    (queue.images / ("0" * 32)).write_bytes(b"never acknowledged")
    (queue.images / "half.partial").write_bytes(b"half")
    (queue.results / "unknown.dcm").write_bytes(b"no entry")
    (queue.made / "unknown.dcm").write_bytes(b"no answer")
    (queue.images / lost).unlink()

    again = queue_at()

    assert [path.name for path in again.images.iterdir()] == [kept]
    assert [list(folder.iterdir()) for folder in (again.results, again.made)] == [[], []]
    assert again.get(lost).error == "unavailable: the image is lost; send it again"  # type: ignore[union-attr]


def test_a_full_disk_accepts_nothing_and_leaves_nothing(queue_at: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = queue_at()

    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(FoveolaError, match="No space left on device; make room"):
            queue.submit(b"image", "http", A)

    assert list(queue.images.iterdir()) == []
    assert queue.counts()["queued"] == 0


def test_an_entry_that_cannot_be_stored_leaves_no_image(queue_at: Open) -> None:
    queue = queue_at()
    queue._base.execute("PRAGMA query_only = ON")

    with pytest.raises(FoveolaError, match="queue: cannot be written"):
        queue.submit(b"image", "http", A)

    assert list(queue.images.iterdir()) == []


def test_an_answer_that_the_disk_does_not_take_leaves_the_job_as_it_was(queue_at: Open) -> None:
    queue = queue_at()
    name = queue.submit(b"image", "http", A).id
    queue._base.execute("PRAGMA query_only = ON")

    with pytest.raises(FoveolaError, match="queue: cannot be written"):
        queue.end(name, "answered", bundle=A, answer=b"{}", results=("1.dcm",))
    with pytest.raises(FoveolaError, match="queue: cannot be written"):
        queue.claim()

    queue._base.execute("PRAGMA query_only = OFF")
    assert queue.get(name).state == "queued"  # type: ignore[union-attr]
    assert queue.counts()["results"] == 0
    assert queue.image(name).read_bytes() == b"image"


def test_folders_and_files_are_their_owners_alone(queue_at: Open, tmp_path: Path) -> None:
    queue = queue_at()

    modes = [path.stat().st_mode & 0o777 for path in (queue.images, queue.results, tmp_path / "jobs.sqlite")]

    assert modes == [0o700, 0o700, 0o600]


def dicom(uid: str, implementation: str) -> bytes:
    one = Dataset()
    one.SOPClassUID, one.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", uid
    one.PatientName = "Canary^Case"
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.ImplementationVersionName = implementation
    stream = io.BytesIO()
    one.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def test_a_dicom_object_is_known_by_its_data_set_whoever_wrote_its_file_meta() -> None:
    uid = generate_uid()

    assert content_digest(dicom(uid, "ONE")) == content_digest(dicom(uid, "ANOTHER LENGTH"))
    assert content_digest(dicom(uid, "ONE")) != content_digest(dicom(generate_uid(), "ONE"))


@pytest.mark.parametrize("length", [0, 2**31, 2**32 - 1])
def test_a_file_meta_that_lies_about_its_length_names_the_whole_file(length: int) -> None:
    lying = bytes(128) + b"DICM\x02\0\0\0UL\4\0" + length.to_bytes(4, "little") + b"rest"

    digests = {content_digest(lying), content_digest(lying + b"x"), content_digest(lying[:-1] + b"y")}

    assert len(digests) == 3


def test_neither_names_nor_uids_stand_in_the_database(queue_at: Open, tmp_path: Path) -> None:
    queue = queue_at()
    name = queue.submit(dicom("1.2.3.4.5.6.7.8", "X")[:500], "dicom", A).id
    queue.end(name, "answered", bundle=A, answer=b"{}")
    queue.close()

    data = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    assert b"Canary" not in data
    assert b"1.2.3.4.5.6.7.8" not in data
    assert sqlite3.connect(tmp_path / "jobs.sqlite").execute("SELECT COUNT(*) FROM jobs").fetchone() == (1,)
