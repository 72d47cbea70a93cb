"""Attacks on the service's HTTP door: after each it still answers, nothing is kept, and memory stays bounded."""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from foveola.runtime.measure import rss_mib
from foveola.runtime.serve.desk import Desk
from foveola.runtime.serve.frames import Command
from foveola.runtime.serve.jobs import Queue
from foveola.runtime.serve.keeper import Keeper
from foveola.runtime.serve.limits import LIMITS, MIB
from foveola.runtime.serve.listen import Address, HttpServer
from foveola.runtime.serve.metrics import Metrics
from foveola.runtime.serve.web import Web
from foveola.runtime.serve.work import Worker

SMALL = msgspec.structs.replace(
    LIMITS, image_bytes=MIB, request_s=1, deadline_s=5, queue_jobs=5, waiting=4, queue_bytes=8 * MIB
)
ENGINE = Path(__file__).parents[1] / "runtime" / "serve" / "obedient.py"
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


class Target:
    """A door on loopback, with an engine that answers everything."""

    def __init__(self, folder: Path) -> None:
        self.queue, metrics = Queue(folder / "state", SMALL), Metrics()
        self.keeper = Keeper(Command(bundle=Path()), SMALL, [sys.executable, "-P", str(ENGINE), str(folder / "asked")])
        self.worker = Worker(self.queue, self.keeper, metrics, SMALL)
        desk = Desk(self.queue, self.keeper, self.worker, metrics)
        web = Web(desk, metrics, image_bytes=SMALL.image_bytes, local=True)
        self.server = HttpServer(web, Address(host="127.0.0.1"), SMALL)
        self.server.start()
        self.worker.start()
        self.port, self.folder = self.server.address.port, folder
        while self.keeper.started is None:
            time.sleep(0.01)

    def send(self, data: bytes, seconds: float = 5.0) -> bytes:
        """Send raw bytes and give all that comes back until the door closes or falls silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as peer:
            got = b""
            try:
                peer.sendall(data)
                peer.settimeout(0.5)
                while part := peer.recv(65536):
                    got += part
            except OSError:
                pass
            return got

    def lives(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", "/v1/predict", b"good", {"Content-Type": "image/png"})
            reply = connection.getresponse()
            return reply.status == 200 and b'"of":"good"' in reply.read()
        finally:
            connection.close()

    def close(self) -> None:
        self.worker.stop()
        self.worker.join(10)
        self.server.stop()
        self.queue.close()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    made = Target(tmp_path_factory.mktemp("http"))
    yield made
    made.close()


def status(reply: bytes) -> int:
    return int(reply.split()[1]) if reply.startswith(b"HTTP/1.") else 0


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        pytest.param(HEAD + b"Content-Length: 1048578\r\n\r\n", {413}, id="announced too large"),
        pytest.param(HEAD + b"Content-Length: 99999999999999999999\r\n\r\n", {413}, id="announced absurdly large"),
        pytest.param(HEAD + b"Content-Length: -1\r\n\r\n", {400}, id="negative length"),
        pytest.param(HEAD + b"Content-Length: 4_0\r\n\r\n", {400}, id="length with underscore"),
        pytest.param(HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\ngoodx", {400}, id="two lengths"),
        pytest.param(
            HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400, 0}, id="length and chunks"
        ),
        pytest.param(HEAD + b"Transfer-Encoding: gzip\r\n\r\n", {501}, id="other coding"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n", {400}, id="chunk of no length"),
        pytest.param(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20000 + b"\r\n\r\n", {431}, id="header"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n", {431}, id="many headers"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01" + bytes(100), {400, 0}, id="TLS hello"),
        pytest.param(b"\x00" * 1000 + b"\r\n\r\n", {400, 0}, id="zeros"),
        pytest.param(b"GET /ready HTTP/1.1\r\nHost: evil.example\r\n\r\n", {403}, id="DNS rebinding"),
        pytest.param(b"GET /ready HTTP/1.1\r\n\r\n", {403}, id="no host"),
        pytest.param(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n", {403}, id="web page"),
        pytest.param(b"OPTIONS /v1/predict HTTP/1.1\r\nHost: localhost\r\n\r\n", {405}, id="preflight"),
        pytest.param(b"TRACE /health HTTP/1.1\r\nHost: localhost\r\n\r\n", {405}, id="trace"),
        pytest.param(b"CONNECT example.org:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", {404, 405}, id="connect"),
    ],
)
def test_a_request_that_is_none_gets_a_status_and_costs_nothing(
    target: Target, request_bytes: bytes, statuses: set[int]
) -> None:
    got = target.send(request_bytes)

    assert status(got) in statuses, got[:300]
    assert b"Traceback" not in got
    assert target.lives()


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/v1/jobs/../../../etc/passwd",
        "/v1/jobs/..%2f..%2f..%2fetc%2fpasswd",
        "/v1/jobs/%2e%2e/%2e%2e/jobs.sqlite",
        "//etc/passwd",
        "/v1/jobs/" + "0" * 31,
        "/v1/jobs/" + "0" * 33,
        "/v1/jobs/" + "G" * 32,
        "/v1/jobs/" + "0" * 32 + "%0a",
        "/v1/jobs/" + "0" * 32 + "/",
        "/v1/jobs/" + "0" * 32 + "%00.json",
        "/v1/jobs/'%20OR%201=1--",
        "/openapi.json/..",
        "/health%00",
        "/HEALTH",
        "/" + "a" * 8000,
    ],
)
def test_no_path_reaches_a_file_or_another_job(target: Target, path: str) -> None:
    got = target.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    assert status(got) in (400, 404), got[:300]
    assert b"root:" not in got


def test_a_request_line_cannot_name_another_host_to_get_past_the_host_check(target: Target) -> None:
    got = target.send(b"GET http://evil.example/ready HTTP/1.1\r\nHost: evil.example\r\n\r\n")

    assert status(got) == 403


def test_a_stream_of_chunks_without_end_is_cut_off_at_the_limit(target: Target) -> None:
    before = rss_mib() or 0
    with socket.create_connection(("127.0.0.1", target.port), timeout=10) as peer:
        peer.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        sent, got = 0, b""
        try:
            while sent < 64 * MIB:
                peer.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                sent += 65536
        except OSError:
            pass
        with contextlib.suppress(OSError):
            got = peer.recv(65536)

    assert sent < 32 * MIB
    assert status(got) in (413, 0)  # the door may close before the words are read
    assert (rss_mib() or 0) - before < 32
    assert target.lives()


def test_connections_that_say_nothing_or_little_do_not_keep_others_out(target: Target) -> None:
    silent = []
    try:
        for i in range(SMALL.waiting + 10):
            peer = socket.create_connection(("127.0.0.1", target.port), timeout=10)
            if i % 2:
                peer.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: loc")
            silent.append(peer)

        assert target.lives()
        time.sleep(SMALL.request_s + 6)  # waitress looks every five seconds
        closed = 0
        for peer in silent:
            peer.settimeout(0.1)
            try:
                closed += peer.recv(1) == b""
            except TimeoutError:
                pass
            except OSError:
                closed += 1
        assert closed == len(silent)
    finally:
        for peer in silent:
            peer.close()


def test_headers_that_drip_are_cut_off(target: Target) -> None:
    with socket.create_connection(("127.0.0.1", target.port), timeout=10) as peer:
        begun = time.monotonic()
        peer.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        try:
            while time.monotonic() - begun < 10:
                peer.sendall(b"X: y\r\n")
                time.sleep(0.1)
                peer.settimeout(0.01)
                try:
                    if peer.recv(1) == b"":
                        break
                except TimeoutError:
                    pass
        except OSError:
            pass

    assert SMALL.request_s - 0.2 < time.monotonic() - begun < 8


def test_many_requests_on_one_connection_each_get_their_own_answer(target: Target) -> None:
    one = HEAD + b"Content-Length: %d\r\n\r\n%b"
    got = target.send(b"".join(one % (len(words), words) for words in (b"good %d" % i for i in range(30))))

    answers = [words.split(b'"')[0] for words in got.split(b'"of":"')[1:]]
    assert answers == [b"good %d" % i for i in range(30)]


def test_jobs_beyond_the_queue_are_refused_and_not_written(target: Target) -> None:
    statuses = []
    for i in range(12):
        words = b"slow %d" % i
        job = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nConnection: close\r\n"
        statuses.append(status(target.send(job + b"Content-Length: %d\r\n\r\n%b" % (len(words), words))))

    assert set(statuses) <= {202, 503}
    assert statuses.count(202) >= SMALL.queue_jobs
    assert len(list(target.queue.images.iterdir())) <= SMALL.queue_jobs


def png(width: int, height: int, rows: bytes) -> bytes:
    """A PNG of any announced size with any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(png(65535, 65535, b"\0" * 1000), id="4 gigapixels"),
        pytest.param(png(8000, 8000, b"\0"), id="short of pixels"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + b"\xff" * 1000, id="garbage"),
        pytest.param(bytes(128) + b"DICM" + b"\xff" * 1000, id="garbage DICOM"),
        pytest.param(b"GIF89a" + b"\0" * 100, id="another kind"),
    ],
)
def test_a_hostile_image_is_refused_by_the_real_engine_and_the_next_is_answered(
    image: bytes, real_engine: Callable[[bytes], tuple[bool, str]]
) -> None:
    answered, words = real_engine(image)

    assert not answered
    assert words.startswith("image: ")
    assert len(words.splitlines()) == 1


@pytest.fixture(scope="module")
def real_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bytes], tuple[bool, str]]]:
    """Ask the engine's process of a bundle that answers by the mean of the image."""
    from foveola.runtime.serve.frames import Ask, Refused

    path, public = tiny_bundle(tmp_path_factory.mktemp("bundle"))
    keeper = Keeper(Command(bundle=path, key=public), LIMITS)

    def ask(image: bytes) -> tuple[bool, str]:
        said = keeper.ask(Ask(), image)
        return not isinstance(said, Refused), said.error if isinstance(said, Refused) else ""

    yield ask
    assert keeper.restarts == 0
    keeper.stop()


def tiny_bundle(folder: Path) -> tuple[Path, Path]:
    import numpy as np
    import onnx
    from PIL import Image

    from foveola.export.signing import make_keys, sign_members
    from foveola.runtime.bundle import write_bundle
    from foveola.runtime.manifest import (
        FORMAT,
        Calibration,
        InputSpec,
        Manifest,
        OnnxRuntimeOptions,
        Provenance,
        TaskOutput,
        encode_manifest,
    )
    from foveola.runtime.predict import Predictor
    from foveola.runtime.selftest import make_golden
    from foveola.runtime.task import Task

    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 1, 8, 8])
    found = onnx.helper.make_tensor_value_info("bright", onnx.TensorProto.FLOAT, [1, 1])
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        onnx.helper.make_node("Flatten", ["mean"], ["bright"]),
    ]
    graph = onnx.helper.make_graph(nodes, "tiny", [image], [found])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    manifest = Manifest(
        format=FORMAT,
        name="tiny",
        version="1",
        device="generic-x86",
        input=InputSpec(height=8, width=8, channels=1),
        outputs=(
            TaskOutput(
                task=Task(name="bright", kind="binary", classes=("no", "yes")), tensors=("bright",), thresholds=(0.5,)
            ),
        ),
        engines=(OnnxRuntimeOptions(arithmetic="float32", threads=1, spinning=False),),
        calibration=Calibration(method="none", images=0, min_images=0, images_digest=""),
        provenance=Provenance(
            recipe="", recipe_digest="", data_digest="", teacher_digest="", student_digest="", seed=0, versions={}
        ),
    )
    members = {"manifest.json": encode_manifest(manifest), "model.onnx": bytes(model.SerializeToString())}
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(stream, "PNG")
    early = write_bundle(folder / "early.foveola", members)
    members["golden.npz"] = make_golden([Predictor(early)], [stream.getvalue()])
    private, public = make_keys(folder / "maker")
    path = folder / "tiny.foveola"
    write_bundle(path, {**members, "model.sig": sign_members(members, private.read_bytes())})
    return path, public
