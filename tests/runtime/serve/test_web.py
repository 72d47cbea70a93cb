"""The HTTP door: its paths and statuses, its OpenAPI document and its figures, and who may ask at all."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from foveola.runtime.bundle import Bundle
from foveola.runtime.errors import FoveolaError, MissingPartError, UsageError
from foveola.runtime.predict import Predictor
from foveola.runtime.prediction import prediction_json
from foveola.runtime.serve.listen import Address, HttpServer, parse_address
from foveola.runtime.serve.node import Node
from foveola.runtime.serve.openapi import document
from foveola.runtime.serve.web import Web

from .conftest import QUICK, Parts, UnixConnection, wait_until

jsonschema: Any = pytest.importorskip("jsonschema")
Reply = tuple[int, dict[str, str], bytes]
Make = Callable[..., Parts]
LOOPBACK = Address(host="127.0.0.1")
LIMITS = msgspec.structs.replace(QUICK, image_bytes=2**20, request_s=2, deadline_s=2)


class Door:
    """A door that is open, and who knocks."""

    def __init__(self, made: Parts, address: Address) -> None:
        self.made = made
        web = Web(made.desk, made.metrics, image_bytes=made.limits.image_bytes, local=address.path is None)
        self.server = HttpServer(web, address, made.limits)
        self.server.start()

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        own = self.server.address
        connection: http.client.HTTPConnection
        if own.path:
            connection = UnixConnection(own.path)
        else:
            connection = http.client.HTTPConnection(own.host, own.port, timeout=30)
        if body is not None:
            headers.setdefault("Content-Type", "image/png")
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            reply = connection.getresponse()
            return reply.status, dict(reply.headers), reply.read()
        finally:
            connection.close()


Open = Callable[..., Door]


@pytest.fixture
def door(parts: Make) -> Iterator[Open]:
    opened: list[Door] = []

    def open_door(address: Address = LOOPBACK, **named: Any) -> Door:
        opened.append(Door(parts(LIMITS, **named), address))
        return opened[-1]

    yield open_door
    for one in opened:
        one.server.stop()


def test_each_path_answers_as_the_document_says(door: Open) -> None:
    ask = door().ask

    assert ask("GET", "/health")[::2] == (200, b'{"status":"alive"}')
    assert ask("GET", "/ready")[0] == 200
    status, headers, body = ask("POST", "/v1/predict", b"good")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body)["prediction"] == {"of": "good"}
    assert ask("POST", "/v1/predict", b"refuse")[::2] == (422, b'{"error":"image: cannot be read"}')


def test_a_job_is_taken_then_told_and_taken_once(door: Open) -> None:
    opened = door()

    status, headers, body = opened.ask("POST", "/v1/jobs", b"good")
    job = json.loads(body)
    opened.made.ended(job["id"])

    assert (status, job["state"], headers["Location"]) == (202, "queued", f"/v1/jobs/{job['id']}")
    told = json.loads(opened.ask("GET", headers["Location"])[2])
    assert told["state"] == "answered"
    assert told["answer"]["prediction"] == {"of": "good"}
    assert opened.ask("POST", "/v1/jobs", b"good")[0] == 200
    assert json.loads(opened.ask("GET", "/v1/jobs")[2])["answered"] == 1
    assert opened.made.asks() == ["good"]


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "words"),
    [
        ("GET", "/v1/predict", None, {}, 405, "only POST here"),
        ("DELETE", "/health", None, {}, 405, "only GET here"),
        ("PATCH", "/v1/jobs/" + "0" * 32, None, {}, 405, "only GET here"),
        ("GET", "/", None, {}, 404, "see /openapi.json"),
        ("GET", "/v1/jobs/" + "0" * 32, None, {}, 404, "job: unknown"),
        ("POST", "/v1/predict", b"", {}, 400, "body: is empty"),
        ("POST", "/v1/jobs", b"good", {"Content-Type": "text/html"}, 415, "content type: must be image/*"),
        ("POST", "/v1/jobs", b"good", {"Content-Type": "multipart/form-data; boundary=x"}, 415, "must be image/*"),
        ("POST", "/v1/predict", b"good", {"Content-Type": ""}, 415, "must be image/*"),
        ("POST", "/v1/predict", b"good", {"Origin": "https://example.org"}, 403, "comes from a web page"),
        ("GET", "/ready", None, {"Host": "example.org"}, 403, "for another host"),
        ("GET", "/ready", None, {"Host": "127.0.0.1.example.org:80"}, 403, "for another host"),
        ("POST", "/v1/predict", b"crash", {}, 503, "unavailable: the engine's process ended with code 3"),
        ("POST", "/v1/predict", b"hang", {}, 504, "unavailable: no answer within 2 s"),
    ],
)
def test_a_wrong_request_gets_a_status_and_one_line(
    door: Open,
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    status: int,
    words: str,
) -> None:
    got, _, said = door().ask(method, path, body, **headers)

    assert got == status
    assert words in json.loads(said)["error"]
    assert set(json.loads(said)) == {"error"}


def test_before_the_self_test_it_lives_and_is_not_ready(door: Open) -> None:
    ask = door(started=False).ask

    assert ask("GET", "/health")[0] == 200
    status, _, body = ask("GET", "/ready")
    assert (status, json.loads(body)["ready"]) == (503, False)
    status, headers, body = ask("POST", "/v1/predict", b"good")
    assert (status, headers["Retry-After"]) == (503, "5")
    assert "unavailable" in json.loads(body)["error"]


def test_a_full_queue_and_a_full_disk_are_told_apart(door: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = door(started=False)
    opened.made.keeper.available = True
    for i in range(3):
        assert opened.ask("POST", "/v1/jobs", b"%d" % i)[0] == 202

    assert opened.ask("POST", "/v1/jobs", b"3")[::2] == (503, b'{"error":"full: the queue is full: 3 images wait"}')
    monkeypatch.setattr("foveola.runtime.serve.jobs.write_file", _no_room)
    opened.made.queue._base.execute("DELETE FROM jobs")
    opened.made.queue._base.commit()
    assert opened.ask("POST", "/v1/jobs", b"4")[0] == 507


def _no_room(path: Path, data: bytes) -> None:
    raise FoveolaError("queue", "cannot be written: No space left on device", "make room")


def test_head_has_the_length_and_no_body(door: Open) -> None:
    status, headers, body = door().ask("HEAD", "/openapi.json")

    assert (status, int(headers["Content-Length"]), body) == (200, len(document()), b"")


def test_the_figures_are_what_prometheus_reads(door: Open) -> None:
    opened = door()
    opened.ask("POST", "/v1/predict", b"good")
    opened.ask("POST", "/v1/predict", b"refuse")
    opened.ask("POST", "/v1/jobs", b"unfit")
    wait_until(lambda: opened.made.queue.counts()["unfit"] == 1)

    status, headers, body = opened.ask("GET", "/metrics")

    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    outcomes = {s.labels["outcome"]: s.value for s in families["foveola_answers"].samples}
    assert outcomes == {"answered": 1, "refused": 1, "unfit": 1}
    assert families["foveola_ready"].samples[0].value == 1
    buckets = [s for s in families["foveola_engine_seconds"].samples if s.name.endswith("_bucket")]
    assert [s.value for s in buckets] == sorted(s.value for s in buckets)
    assert (buckets[0].labels["le"], buckets[0].value, buckets[-1].labels["le"]) == ("0.01", 2, "+Inf")  # `le` holds
    assert families["foveola_build_info"].samples[0].labels["digest"] == "d" * 64
    opened.made.metrics.put_only("foveola_build_info", 1, digest="e")
    assert opened.made.metrics.text().count("\nfoveola_build_info{") == 1
    assert families["foveola_engine_memory_bytes"].samples[0].value == 50 * 2**20


def test_the_document_is_valid_openapi_3_1() -> None:
    validator = pytest.importorskip("openapi_spec_validator")

    validator.validate(json.loads(document()), cls=validator.OpenAPIV31SpecValidator)


def test_every_path_of_the_document_is_there_and_no_other(door: Open) -> None:
    opened = door()
    paths = json.loads(opened.ask("GET", "/openapi.json")[2])["paths"]

    for path, operations in paths.items():
        for method in ("get", "post"):
            real = path.replace("{id}", "0" * 32)
            status = opened.ask(method.upper(), real, b"good" if method == "post" else None)[0]
            assert (status == 405) == (method not in operations), (method, path)
            assert str(status) in operations.get(method, {}).get("responses", {"405": None})


def test_a_real_answer_is_what_the_document_promises(tiny_bundle: Bundle, tiny_image: bytes) -> None:
    whole = json.loads(document())
    schema = {"$ref": "#/components/schemas/Prediction", "components": whole["components"]}
    plain = json.loads(json.dumps(prediction_json(Predictor(tiny_bundle).predict(tiny_image))))

    jsonschema.Draft202012Validator(schema).validate(plain)
    assert plain["masks"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate({**plain, "more": 1})


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::1]:8000", "localhost:1", "127.9.9.9:65535"])
def test_loopback_is_an_address(text: str) -> None:
    assert parse_address(text).host in ("127.0.0.1", "::1", "127.9.9.9")


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0:80",
        "192.0.2.1:80",
        "[::]:80",
        "example.org:80",
        "127.0.0.1",
        "127.0.0.1:65536",
        ":80",
        "8080",
        "::1:80",
    ],
)
def test_any_other_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is neither a unix socket nor loopback"):
        parse_address(text)


def test_windows_has_no_unix_socket_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")

    with pytest.raises(UsageError, match=r"no unix sockets; give 127.0.0.1:PORT"):
        parse_address("unix:/tmp/s")


def test_images_in_memory_are_bounded_over_all_requests(door: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveola.runtime.serve.web.HELD_BYTES", 10)
    opened = door(LOOPBACK)
    said: list[Reply] = []
    slow = threading.Thread(target=lambda: said.append(opened.ask("POST", "/v1/predict", b"slow and long")))
    slow.start()
    wait_until(lambda: bool(opened.made.asks()))

    status, headers, body = opened.ask("POST", "/v1/predict", b"good")

    slow.join()
    assert (status, headers["Retry-After"]) == (503, "5")
    assert json.loads(body)["error"] == "full: 13 bytes of other requests are in memory"
    assert said[0][0] == 200
    assert opened.ask("POST", "/v1/predict", b"good")[0] == 200


def test_a_unix_socket_is_its_owners_alone_and_is_taken_over_from_the_dead(door: Open, short: Path) -> None:
    path = short / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    opened = door(Address(path=path))

    assert path.stat().st_mode & 0o777 == 0o600
    assert opened.ask("GET", "/health")[0] == 200
    assert opened.ask("GET", "/health", Host="anything")[0] == 200
    opened.server.stop()
    assert not path.exists()


def test_a_living_services_socket_is_not_taken_over(door: Open, parts: Make, short: Path) -> None:
    path = short / "s"
    opened = door(Address(path=path))
    web = Web(opened.made.desk, opened.made.metrics, image_bytes=1, local=False)

    with pytest.raises(FoveolaError, match=r"cannot listen: Address already in use; choose another path"):
        HttpServer(web, Address(path=path), LIMITS)

    assert opened.ask("GET", "/health")[0] == 200


def test_a_file_in_the_sockets_place_is_left_alone(parts: Make, short: Path) -> None:
    made = parts(started=False)
    path = short / "s"
    path.write_text("mine")
    web = Web(made.desk, made.metrics, image_bytes=1, local=False)

    with pytest.raises(FoveolaError, match="is there already, and no socket"):
        HttpServer(web, Address(path=path), LIMITS)

    assert path.read_text() == "mine"


def test_curl_gets_an_answer(door: Open, short: Path) -> None:
    path = door(Address(path=short / "s")).server.address.path
    words = ["curl", "-sS", "--unix-socket", str(path), "-H", "Content-Type: image/png", "--data-binary", "@-"]
    try:
        told = subprocess.run([*words, "http://localhost/v1/predict"], input=b"good", capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip("curl is not installed")

    assert json.loads(told.stdout)["prediction"] == {"of": "good"}


def test_a_request_that_drips_is_cut_off_and_others_are_not(door: Open) -> None:
    opened = door()
    own = opened.server.address
    with socket.create_connection((own.host, own.port)) as slow:
        slow.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        begun, cut = time.monotonic(), False
        while not cut and time.monotonic() - begun < 10:
            try:
                slow.sendall(b"x")
                slow.settimeout(0.1)
                cut = slow.recv(1) == b""
            except TimeoutError:
                assert opened.ask("GET", "/health")[0] == 200
            except OSError:
                cut = True
        assert cut
        assert time.monotonic() - begun >= LIMITS.request_s - 0.1


def test_an_answer_that_is_on_its_way_when_the_service_stops_arrives_whole(door: Open) -> None:
    opened = door()
    said: list[Reply] = []
    words = b"slow " + b"x" * 500_000
    thread = threading.Thread(target=lambda: said.append(opened.ask("POST", "/v1/predict", words)))
    thread.start()
    wait_until(lambda: bool(opened.made.asks()))

    opened.made.worker.stop()
    opened.made.worker.join()
    opened.server.stop()
    thread.join()

    status, headers, body = said[0]
    assert (status, len(body)) == (200, int(headers["Content-Length"]))
    assert len(body) > 500_000


def test_an_answer_that_ends_as_the_service_stops_does_not_close_what_wakes_the_door(door: Open) -> None:
    server = door().server
    trigger = server._server.trigger
    wake = trigger._physical_pull

    def wake_after_another() -> None:
        wake()  # by the thread of an answer that has just ended: the loop runs whatever was handed over so far
        wait_until(lambda: not trigger.thunks and not server.thread.is_alive())
        wake()

    trigger._physical_pull = wake_after_another

    server.stop()

    assert not server.thread.is_alive()
    assert trigger._closed
    server.stop()


@pytest.mark.parametrize("part", ["waitress", "pynetdicom"])
def test_a_part_that_is_not_installed_names_its_cure(
    part: str, parts: Make, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = parts(started=False)
    for name in [name for name in sys.modules if name.split(".")[0] == part]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, part, None)

    def open_door() -> None:
        if part == "pynetdicom":
            Node(made.desk, host="127.0.0.1", port=0, aet="F", callers=(), limits=LIMITS)
        web = Web(made.desk, made.metrics, image_bytes=1, local=False)
        HttpServer(web, Address(path=short / "s"), LIMITS)

    with pytest.raises(MissingPartError, match=rf"{part}: is not installed; pip install 'foveola\[serve\]'"):
        open_door()
