"""Attacks on the service's DICOM door: lengths that lie, messages without end, bytes that are no DICOM at all."""

from __future__ import annotations

import gc
import io
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE

from foveola.runtime.measure import rss_mib
from foveola.runtime.serve.desk import Desk
from foveola.runtime.serve.frames import Command
from foveola.runtime.serve.jobs import Queue
from foveola.runtime.serve.keeper import Keeper
from foveola.runtime.serve.limits import LIMITS, MIB
from foveola.runtime.serve.metrics import Metrics
from foveola.runtime.serve.node import Node
from foveola.runtime.serve.work import Worker

# pynetdicom leaves sockets of calls that were cut off to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
SMALL = msgspec.structs.replace(LIMITS, image_bytes=2 * MIB, queue_jobs=100, request_s=2, associations=4)


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Have those sockets collected here, where the warning is let pass, and not in the midst of another test."""
    yield
    gc.collect()


class Target:
    def __init__(self, folder: Path) -> None:
        self.queue, metrics = Queue(folder, SMALL), Metrics()
        keeper = Keeper(Command(bundle=Path()), SMALL, ["false"])
        keeper.available = True  # nothing is answered here: what is taken stays in the queue
        worker = Worker(self.queue, keeper, metrics, SMALL)
        desk = Desk(self.queue, keeper, worker, metrics)
        self.node = Node(desk, host="127.0.0.1", port=0, aet="FOV", callers=(), limits=SMALL)

    def lives(self) -> bool:
        ae = AE(ae_title="CAMERA")
        ae.add_requested_context("1.2.840.10008.1.1")
        association = ae.associate("127.0.0.1", self.node.port, ae_title="FOV")
        if not association.is_established:
            return False
        answer = association.send_c_echo()
        association.release()
        return bool(answer and answer.Status == 0)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path)
    yield made
    made.node.stop()
    made.queue.close()


def image(pixels: bytes) -> Dataset:
    one = Dataset()
    one.SOPClassUID, one.SOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
    one.PixelData = pixels
    one["PixelData"].VR = "OB"
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return one


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(struct.pack(">BBL", 1, 0, 2**32 - 1) + bytes(2**20), id="association request of 4 GiB"),
        pytest.param(struct.pack(">BBL", 4, 0, 2**31) + bytes(2**20), id="data before an association"),
        pytest.param(struct.pack(">BBL", 1, 0, 68) + b"\xff" * 68, id="association request of nonsense"),
        pytest.param(struct.pack(">BBL", 1, 0, 0), id="empty association request"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00" + bytes(512), id="TLS hello"),
        pytest.param(b"\xff" * 4096, id="unknown PDU"),
        pytest.param(b"\x01", id="one byte"),
    ],
)
def test_bytes_that_are_no_association_cost_nothing(target: Target, data: bytes) -> None:
    before = rss_mib() or 0

    with socket.create_connection(("127.0.0.1", target.node.port), timeout=5) as peer:
        try:
            peer.sendall(data)
            peer.settimeout(0.5)
            peer.recv(1024)
        except OSError:
            pass

    assert (rss_mib() or 0) - before < 32
    assert target.lives()


def test_an_image_beyond_the_limit_is_cut_off_and_not_kept(target: Target) -> None:
    ae = AE(ae_title="CAMERA")
    ae.dimse_timeout = 5
    ae.add_requested_context(ComputedRadiographyImageStorage, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", target.node.port, ae_title="FOV")
    before = rss_mib() or 0

    answer = association.send_c_store(image(bytes(4 * MIB)))

    assert "Status" not in answer or answer.Status != 0
    association.abort()
    assert list(target.queue.images.iterdir()) == []
    assert (rss_mib() or 0) - before < 64
    assert target.lives()


def test_a_message_that_drips_ends_within_its_time(target: Target) -> None:
    with socket.create_connection(("127.0.0.1", target.node.port), timeout=10) as peer:
        begun = time.monotonic()
        peer.sendall(struct.pack(">BBL", 1, 0, 1000))
        cut = False
        while not cut and time.monotonic() - begun < 20:
            try:
                peer.sendall(b"\0")
                time.sleep(0.1)
                peer.settimeout(0.01)
                cut = peer.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                cut = True

    assert cut
    assert time.monotonic() - begun < 10
    assert target.lives()


def test_connections_that_say_nothing_do_not_keep_others_out(target: Target) -> None:
    silent = [socket.create_connection(("127.0.0.1", target.node.port), timeout=5) for _ in range(3)]
    try:
        assert target.lives()
    finally:
        for peer in silent:
            peer.close()


def test_a_data_set_whose_first_elements_nest_without_end_is_not_understood(target: Target) -> None:
    ae = AE(ae_title="CAMERA")
    ae.add_requested_context(ComputedRadiographyImageStorage, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", target.node.port, ae_title="FOV")
    nested = (b"\x08\x00\x06\x00SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 20000

    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
    request.DataSet = io.BytesIO(nested)
    association._reactor_checkpoint.clear()
    context = association.accepted_contexts[0].context_id
    assert context
    association.dimse.send_msg(request, context)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    association.release()

    assert answer is not None
    assert answer.Status in (0xC000, 0xA900)
    assert list(target.queue.images.iterdir()) == []
    assert target.lives()
