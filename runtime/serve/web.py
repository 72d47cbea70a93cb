"""The HTTP door: what is asked and what is answered, apart from sockets (`listen.py`).

Laws:
- Paths are matched whole, and nothing of a path, header or body ever becomes a path of a file.
- Only bytes of an image are taken, up to the limit; the words of a refusal are those of the command line.
- A browser is no client: a request with an `Origin`, or (on loopback) for another host's name, is refused, so that no
  web page can reach the service through the user's own browser (cross-site requests, DNS rebinding).
- Nothing that fails gives a score: 422 refused, 503 unavailable or full, 504 no time.

| request | answer |
|---|---|
| `POST /v1/predict` | 200 with the prediction, within the deadline; nothing is kept |
| `POST /v1/jobs` | 202 when the image is on disk; 200 for one that is known |
| `GET /v1/jobs`, `GET /v1/jobs/ID` | counts; a job's state, and its answer when there is one |
| `GET /health` | 200 while the service lives |
| `GET /ready` | 200 after the self-test, 503 while there is no engine |
| `GET /metrics` | figures for Prometheus |
| `GET /openapi.json` | all this as OpenAPI 3.1 |
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import msgspec

from ..errors import ExitCode, FoveolaError
from .desk import Desk
from .frames import Refused
from .jobs import FullError, Job
from .keeper import DeadlineError, EngineFailedError, UnavailableError
from .limits import MIB
from .metrics import Metrics
from .openapi import document

Environ = Mapping[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
TYPES = re.compile(r"image/[a-z0-9.+-]+|application/(dicom|octet-stream)")
LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?")
JOB = re.compile(r"/v1/jobs/([0-9a-f]{32})")
HELD_BYTES = 512 * MIB  # of images that requests hold in memory together; one alone is always taken
JSON, TEXT = "application/json", "text/plain; version=0.0.4; charset=utf-8"


class Reply(msgspec.Struct, frozen=True):
    """What goes back."""

    status: int
    body: bytes
    type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class _RequestError(Exception):
    """The request itself is wrong."""

    def __init__(self, status: HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.status = status


class Web:
    """A WSGI application (PEP 3333) over the desk.

    Args:
        desk: who takes images and knows the state of things.
        metrics: what `/metrics` shows.
        image_bytes: largest image.
        local: the door is a port on loopback: the request's `Host` has to be a name of this machine.
    """

    def __init__(self, desk: Desk, metrics: Metrics, *, image_bytes: int, local: bool) -> None:
        self._desk, self._metrics, self._image_bytes, self._local = desk, metrics, image_bytes, local
        self._lock, self._held = threading.Lock(), 0  # bytes of images in memory
        self._routes: dict[str, dict[str, Callable[[Environ], Reply]]] = {
            "/v1/predict": {"POST": self._predict},
            "/v1/jobs": {"GET": self._jobs, "POST": self._submit},
            "/health": {"GET": lambda _: _json(HTTPStatus.OK, {"status": "alive"})},
            "/ready": {"GET": self._ready},
            "/metrics": {"GET": self._figures},
            "/openapi.json": {"GET": lambda _: Reply(HTTPStatus.OK, document())},
        }

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        reply = self._reply(environ)
        self._metrics.count("foveola_http_requests_total", status=str(int(reply.status)))
        headers = [
            ("Content-Type", reply.type),
            ("Content-Length", str(len(reply.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *reply.headers,
        ]
        start_response(f"{int(reply.status)} {HTTPStatus(reply.status).phrase}", headers)
        return [reply.body] if environ["REQUEST_METHOD"] != "HEAD" else []

    def _reply(self, environ: Environ) -> Reply:
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        if "HTTP_ORIGIN" in environ or (self._local and not LOCAL.fullmatch(environ.get("HTTP_HOST", ""))):
            return _error(HTTPStatus.FORBIDDEN, "request: comes from a web page or for another host; ask 127.0.0.1")
        ways = {"GET": self._job} if JOB.fullmatch(path) else self._routes.get(path)
        if ways is None:
            return _error(HTTPStatus.NOT_FOUND, "path: there is no such thing here; see /openapi.json")
        way = ways.get("GET" if method == "HEAD" else method)
        if way is None:
            allowed = ("Allow", ", ".join(ways))
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, f"method: only {' and '.join(ways)} here", allowed)
        return self._told(way, environ)

    def _told(self, way: Callable[[Environ], Reply], environ: Environ) -> Reply:
        """Answer, or say why not."""
        again = ("Retry-After", "5")
        try:
            return way(environ)
        except FullError as error:
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, f"full: {error}", again)
        except UnavailableError as error:
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, f"unavailable: {error}", again)
        except DeadlineError as error:
            return _error(HTTPStatus.GATEWAY_TIMEOUT, f"unavailable: {error}", again)
        except EngineFailedError as error:
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, f"unavailable: {error}", again)
        except _RequestError as error:
            return _error(error.status, str(error))
        except FoveolaError as error:
            return _error(HTTPStatus.INSUFFICIENT_STORAGE, str(error))

    def _predict(self, environ: Environ) -> Reply:
        with self._image(environ) as data:
            said = self._desk.answer(data)
        if isinstance(said, Refused):
            missing = said.exit_code == ExitCode.PART_MISSING
            return _error(HTTPStatus.NOT_IMPLEMENTED if missing else HTTPStatus.UNPROCESSABLE_ENTITY, said.error)
        return Reply(HTTPStatus.OK, said)

    def _submit(self, environ: Environ) -> Reply:
        with self._image(environ) as data:
            job = self._desk.submit(data, "http")
        status = HTTPStatus.ACCEPTED if job.state == "queued" else HTTPStatus.OK
        return Reply(status, _job_json(job), headers=(("Location", f"/v1/jobs/{job.id}"),))

    def _job(self, environ: Environ) -> Reply:
        found = JOB.fullmatch(environ["PATH_INFO"])
        assert found
        job = self._desk.job(found[1])
        if job is None:
            return _error(HTTPStatus.NOT_FOUND, "job: unknown, or forgotten since")
        return Reply(HTTPStatus.OK, _job_json(job))

    def _jobs(self, environ: Environ) -> Reply:
        return _json(HTTPStatus.OK, self._desk.counts())

    def _ready(self, environ: Environ) -> Reply:
        state = self._desk.readiness()
        return _json(HTTPStatus.OK if state["ready"] else HTTPStatus.SERVICE_UNAVAILABLE, state)

    def _figures(self, environ: Environ) -> Reply:
        self._desk.measure()
        return Reply(HTTPStatus.OK, self._metrics.text().encode(), TEXT)

    @contextmanager
    def _image(self, environ: Environ) -> Iterator[bytes]:
        """Hold the request's body, which has to be an image by its type and size, as long as memory allows it."""
        length = self._length(environ)
        with self._lock:
            if self._held and self._held + length > HELD_BYTES:
                raise FullError(f"{self._held} bytes of other requests are in memory")
            self._held += length
        try:
            data: bytes = environ["wsgi.input"].read(length)
            yield data
        finally:
            with self._lock:
                self._held -= length

    def _length(self, environ: Environ) -> int:
        kind = environ.get("CONTENT_TYPE", "").split(";")[0].strip().lower()
        if not TYPES.fullmatch(kind):
            fault = "must be image/*, application/dicom or application/octet-stream"
            raise _RequestError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"content type: {fault}")
        length = int(environ.get("CONTENT_LENGTH") or 0)  # waitress has counted it
        if length == 0:
            raise _RequestError(HTTPStatus.BAD_REQUEST, "body: is empty; send the bytes of an image")
        if length > self._image_bytes:
            fault = f"{length} bytes; at most {self._image_bytes} are taken"
            raise _RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"body: {fault}")
        return length


class _JobReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    state: str
    answer: msgspec.Raw | None = None
    error: str | None = None


def _job_json(job: Job) -> bytes:
    answer = None if job.answer is None else msgspec.Raw(job.answer)
    return msgspec.json.encode(_JobReply(id=job.id, state=job.state, answer=answer, error=job.error or None))


def _json(status: HTTPStatus, value: object) -> Reply:
    return Reply(status, msgspec.json.encode(value))


def _error(status: HTTPStatus, words: str, *headers: tuple[str, str]) -> Reply:
    return Reply(status, msgspec.json.encode({"error": words}), headers=headers)
