"""DICOM in and out: what is acknowledged is on disk, and results reach the peer however long it sleeps."""

from __future__ import annotations

import gc
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE

from foveola.runtime.errors import FoveolaError, UsageError
from foveola.runtime.serve.node import Node
from foveola.runtime.serve.peer import Peer, Sender, check_aet, parse_peer

from .conftest import QUICK, Parts, Running, wait_until

# pynetdicom leaves sockets of calls that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
Make = Callable[..., Parts]


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Have those sockets collected here, where the warning is let pass, and not in the midst of another test."""
    yield
    gc.collect()


def radiograph(side: int = 64) -> Dataset:
    """A synthetic CR image: black, with one white square."""
    one = Dataset()
    one.SOPClassUID, one.SOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
    one.StudyInstanceUID, one.SeriesInstanceUID = generate_uid(), generate_uid()
    one.PatientName, one.PatientID, one.PatientBirthDate, one.PatientSex = "Canary^Case", "4711", "19500101", "O"
    one.StudyDate = one.StudyTime = one.AccessionNumber = one.StudyID = one.ReferringPhysicianName = ""
    one.Modality, one.Manufacturer, one.SeriesNumber, one.InstanceNumber = "CR", "", "1", "1"
    one.BodyPartExamined, one.ViewPosition, one.Laterality, one.PatientOrientation = "CHEST", "PA", "", ["L", "F"]
    one.Rows = one.Columns = side
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 8, 8, 7, 0
    pixels = np.zeros((side, side), np.uint8)
    pixels[16:32, 32:48] = 255
    one.PixelData = pixels.tobytes()
    one["PixelData"].VR = "OB"
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return one


@pytest.fixture
def node(parts: Make) -> Iterator[Callable[..., tuple[Node, Parts]]]:
    opened: list[Node] = []

    def open_node(callers: tuple[str, ...] = (), **named: Any) -> tuple[Node, Parts]:
        made = parts(**named)
        opened.append(Node(made.desk, host="127.0.0.1", port=0, aet="FOV", callers=callers, limits=made.limits))
        return opened[-1], made

    yield open_node
    for one in opened:
        one.stop()


@contextmanager
def calling(port: int, aet: str = "FOV", own: str = "CAMERA", sop_class: str = ComputedRadiographyImageStorage) -> Any:
    ae = AE(ae_title=own)
    ae.add_requested_context("1.2.840.10008.1.1")
    ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", port, ae_title=aet)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def test_it_answers_an_echo_and_takes_an_image(node: Callable[..., tuple[Node, Parts]]) -> None:
    opened, made = node(started=False)
    made.keeper.available = True
    image = radiograph()

    with calling(opened.port) as association:
        echo, store = association.send_c_echo(), association.send_c_store(image)

    assert (echo.Status, store.Status) == (0, 0)
    (job,) = made.queue.images.iterdir()
    assert dcmread(job).SOPInstanceUID == image.SOPInstanceUID
    assert made.queue.get(job.name).state == "queued"  # type: ignore[union-attr]


def test_the_same_image_again_is_acknowledged_and_not_answered_again(node: Callable[..., tuple[Node, Parts]]) -> None:
    opened, made = node(started=False)
    made.keeper.available = True
    image = radiograph()

    for _ in range(2):
        with calling(opened.port) as association:
            assert association.send_c_store(image).Status == 0

    assert made.queue.counts()["queued"] == 1


def test_while_there_is_no_engine_or_no_room_the_sender_keeps_its_image(
    node: Callable[..., tuple[Node, Parts]],
) -> None:
    opened, made = node(started=False)
    with calling(opened.port) as association:
        told = association.send_c_store(radiograph())
        made.keeper.available = True
        statuses = [association.send_c_store(radiograph()).Status for _ in range(4)]

    assert (told.Status, told.ErrorComment) == (0xA700, "the engine has not been started yet")
    assert statuses == [0, 0, 0, 0xA700]


def test_an_image_that_is_not_on_disk_is_not_acknowledged(
    node: Callable[..., tuple[Node, Parts]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise FoveolaError("queue", "cannot be written: No space left on device")

    opened, made = node(started=False)
    made.keeper.available = True
    monkeypatch.setattr("foveola.runtime.serve.jobs.write_file", full)

    with calling(opened.port) as association:
        assert association.send_c_store(radiograph()).Status == 0xA700


def test_an_object_that_is_another_than_announced_is_refused(node: Callable[..., tuple[Node, Parts]]) -> None:
    opened, made = node(started=False)
    made.keeper.available = True
    image = radiograph()

    with calling(opened.port) as association:
        request = C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = image.SOPClassUID, "1.2.3"

        from pynetdicom.dsutils import encode

        encoded = encode(image, False, True)
        assert encoded
        request.DataSet = io.BytesIO(encoded)
        context = next(cx for cx in association.accepted_contexts if cx.abstract_syntax == image.SOPClassUID)
        association._reactor_checkpoint.clear()
        association.dimse.send_msg(request, context.context_id)
        _, response = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()

    assert response is not None
    assert response.Status == 0xA900
    assert list(made.queue.images.iterdir()) == []


def test_who_calls_another_title_or_is_not_known_is_rejected(node: Callable[..., tuple[Node, Parts]]) -> None:
    opened, _ = node(started=False, callers=("CR1",))

    with calling(opened.port, own="CR1") as known:
        assert known.is_established
    for aet, own in (("OTHER", "CR1"), ("FOV", "CR2")):
        with calling(opened.port, aet, own) as unknown:
            assert unknown.is_rejected


def test_a_kind_of_object_without_a_picture_of_ours_is_not_negotiated(node: Callable[..., tuple[Node, Parts]]) -> None:
    opened, _ = node(started=False)

    with calling(opened.port, sop_class=CTImageStorage) as association:
        assert [cx.abstract_syntax for cx in association.accepted_contexts] == ["1.2.840.10008.1.1"]


class Archive:
    """A peer that keeps what it gets; `status` is what it says."""

    def __init__(self, port: int = 0) -> None:
        self.got: list[Dataset] = []
        self.status = 0x0000
        ae = AE(ae_title="PACS")
        for sop_class in ("1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.5.1.4.1.1.88.33"):  # Enhanced, Comprehensive
            ae.add_supported_context(sop_class)
        ae.add_supported_context("1.2.840.10008.5.1.4.1.1.88.34")  # Comprehensive 3D SR
        ae.add_supported_context("1.2.840.10008.5.1.4.1.1.66.4")  # Segmentation
        ae.add_supported_context(ComputedRadiographyImageStorage)
        self.server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])
        assert self.server
        self.port = self.server.server_address[1]

    def _store(self, event: Any) -> int:
        if self.status == 0x0000:
            self.got.append(event.dataset)
        return self.status

    def close(self) -> None:
        assert self.server
        self.server.shutdown()


@pytest.fixture
def archive() -> Iterator[Archive]:
    made = Archive()
    yield made
    made.close()


def waiting(made: Parts, count: int = 1) -> list[Dataset]:
    """Results on disk that nobody has yet."""
    results = [radiograph(8) for _ in range(count)]
    name = made.queue.submit(b"image", "dicom", "").id
    files = tuple(f"{i}.dcm" for i in range(count))
    for file, result in zip(files, results, strict=True):
        result.save_as(made.queue.results / file, enforce_file_format=True)
    made.queue.end(name, "answered", bundle="b", answer=b"{}", results=files)
    return results


def sender_to(made: Parts, port: int, **limits: float) -> Sender:
    own = msgspec.structs.replace(QUICK, **limits)
    return Sender(made.queue, Peer("PACS", "127.0.0.1", port), "FOV", made.metrics, own, first_s=0.2)


def test_results_reach_the_peer_and_are_forgotten(parts: Make, archive: Archive) -> None:
    made = parts(started=False)
    results = waiting(made, 3)

    sender_to(made, archive.port).send_due()

    assert [one.SOPInstanceUID for one in archive.got] == [one.SOPInstanceUID for one in results]
    assert made.queue.counts()["results"] == 0
    assert list(made.queue.results.iterdir()) == []


def test_a_peer_that_is_away_or_refuses_gets_them_later_also_after_a_restart(parts: Make, archive: Archive) -> None:
    made = parts(started=False)
    (result,) = waiting(made)
    archive.status = 0xA700
    sender_to(made, archive.port).send_due()
    assert made.queue.due() == []  # not again at once
    made.close()
    again = parts(started=False)
    time.sleep(0.25)
    sender_to(again, 1).send_due()  # nobody listens there
    assert again.queue.due() == []
    archive.status = 0x0000

    time.sleep(0.45)
    sender_to(again, archive.port).send_due()

    assert [one.SOPInstanceUID for one in archive.got] == [result.SOPInstanceUID]
    assert 'outcome="failed"} 1' in again.metrics.text()


def test_the_pause_doubles_up_to_an_hour(parts: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = parts(started=False)
    waiting(made)
    pauses: list[float] = []
    postpone = made.queue.postpone

    def now(file: str, seconds: float) -> None:
        pauses.append(seconds)
        postpone(file, -1)

    monkeypatch.setattr(made.queue, "postpone", now)
    monkeypatch.setattr(Sender, "_send", lambda self, results: set())
    sender = Sender(made.queue, Peer("PACS", "127.0.0.1", 1), "FOV", made.metrics, made.limits)
    for _ in range(12):
        sender.send_due()

    assert pauses[:4] == [5, 10, 20, 40]
    assert pauses[-1] == 3600


def test_a_result_that_nobody_takes_is_given_up_and_counted(parts: Make, archive: Archive) -> None:
    made = parts(started=False)
    waiting(made)
    for _ in range(2):  # pauses of 0.2 s and 0.4 s
        made.queue.postpone("0.dcm", -1)
    sender_to(made, archive.port, delivery_s=1).send_due()
    assert len(archive.got) == 1
    waiting(made)
    for _ in range(2):
        made.queue.postpone("0.dcm", -1)

    sender_to(made, archive.port, delivery_s=0.5).send_due()

    assert len(archive.got) == 1
    assert made.queue.counts()["results"] == 0
    assert 'outcome="given_up"} 1' in made.metrics.text()


@pytest.mark.parametrize(
    "text", ["PACS", "PACS@host", "@host:104", "PACS@host:0", "PACS@h:70000", "A\\B@h:104", "X" * 17 + "@h:1"]
)
def test_a_peer_is_a_title_a_host_and_a_port(text: str) -> None:
    with pytest.raises(UsageError, match="is no peer; give AET@HOST:PORT"):
        parse_peer(text)


def test_titles_and_peers_are_read() -> None:
    assert parse_peer("PACS 1@10.0.0.5:104") == Peer("PACS 1", "10.0.0.5", 104)
    assert parse_peer("P@[::1]:104") == Peer("P", "::1", 104)
    assert check_aet("CR-1", "--aet") == "CR-1"
    with pytest.raises(UsageError, match="is no AE title"):
        check_aet("X" * 17, "--aet")


def test_an_image_comes_in_by_dicom_and_its_report_goes_out(service: Callable[..., Running], archive: Archive) -> None:
    pytest.importorskip("highdicom")
    running = service("--dicom", "0", "--peer", f"PACS@127.0.0.1:{archive.port}", "--kinds", "sr,seg")
    running.ready()
    port = int(running.words().split("dicom   FOVEOLA@127.0.0.1:")[1].split()[0])
    image = radiograph()
    with pytest.warns(UserWarning, match="VR DA"):  # which the service does not repeat: it would hold the value
        image.PatientBirthDate = "Canary's birthday"

    with calling(port, "FOVEOLA") as association:
        assert association.send_c_store(image).Status == 0
    wait_until(lambda: len(archive.got) == 2, 30)

    assert {one.Modality for one in archive.got} == {"SR", "SEG"}
    assert all(one.PatientID == "4711" and one.StudyInstanceUID == image.StudyInstanceUID for one in archive.got)
    assert "Canary" not in running.words()
    running.until("/v1/jobs", lambda _, counts: counts["answered"] == 1 and counts["results"] == 0)

    # The same picture under another header is a copy; another picture with its UID is refused.
    copy, other = dcmread(to_bytes(image)), dcmread(to_bytes(image))
    copy.StudyDescription, other.PixelData = "sent again", bytes(64 * 64)
    with calling(port, "FOVEOLA") as association:
        assert [association.send_c_store(one).Status for one in (copy, other)] == [0, 0]
    running.until("/v1/jobs", lambda _, counts: (counts["answered"], counts["refused"], counts["results"]) == (2, 1, 0))
    assert len({one.SOPInstanceUID for one in archive.got}) == 2
    assert all(one.StudyInstanceUID == image.StudyInstanceUID for one in archive.got)


def to_bytes(one: Dataset) -> io.BytesIO:
    stream = io.BytesIO()
    one.save_as(stream, enforce_file_format=True)
    stream.seek(0)
    return stream
