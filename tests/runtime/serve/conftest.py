"""A service for tests: the real one as a process of its own, and its parts with an engine that obeys the test."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from foveola.runtime.serve.desk import Desk
from foveola.runtime.serve.frames import Command
from foveola.runtime.serve.jobs import Queue
from foveola.runtime.serve.keeper import Keeper
from foveola.runtime.serve.limits import Limits
from foveola.runtime.serve.metrics import Metrics
from foveola.runtime.serve.work import Worker

FAKE = Path(__file__).with_name("obedient.py")
QUICK = Limits(
    deadline_s=0.5, start_s=20, attempts=2, restarts=2, restarts_s=60, pause_s=0.3, rest_s=0.1, waiting=4, queue_jobs=3
)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self._path)


class Running:
    """`foveola serve` as a process, asked over its unix socket."""

    def __init__(self, arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.socket, self.folder = folder / "s", folder
        words = [sys.executable, "-m", "foveola.runtime", "serve", *arguments]
        self.log = (folder / "log").open("ab")
        self.process = subprocess.Popen(
            [*words, "--http", f"unix:{self.socket}", "--state", str(folder / "state")],
            stdout=self.log,
            stderr=self.log,
            env={**os.environ, **environment},
        )

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "image/png") -> tuple[int, Any]:
        connection = UnixConnection(self.socket)
        try:
            connection.request(method, path, body, {"Content-Type": kind} if body is not None else {})
            reply = connection.getresponse()
            data = reply.read()
        finally:
            connection.close()
        return reply.status, json.loads(data) if reply.headers["Content-Type"] == "application/json" else data.decode()

    def until(self, path: str, holds: Callable[[int, Any], bool], seconds: float = 30.0) -> Any:
        """Ask until it holds, and give the answer."""
        end = time.monotonic() + seconds
        said: object = "nothing"
        while time.monotonic() < end and self.process.poll() is None:
            try:
                status, said = self.ask("GET", path)
                if holds(status, said):
                    return said
            except OSError as error:
                said = error
            time.sleep(0.05)
        raise AssertionError(f"{path}: {said}; {self.words()}")

    def ready(self) -> Any:
        return self.until("/ready", lambda status, _: status == 200)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def words(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def service(tiny_path: Path, short: Path) -> Iterator[Callable[..., Running]]:
    """Start the service with the tiny bundle; whatever still runs at the end is killed."""
    started: list[Running] = []

    def start(*arguments: str, bundle: Path | None = tiny_path, **environment: str) -> Running:
        words = [str(bundle)] if bundle else []
        started.append(Running([*words, *arguments], short, environment))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.log.close()


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: a unix socket's path has 107 letters at most."""
    return tmp_path_factory.mktemp("s")


class Parts:
    """Queue, keeper, worker and desk with an engine that does what the image's bytes say; see `obedient.py`."""

    def __init__(
        self, folder: Path, limits: Limits = QUICK, *, started: bool = True, kinds: tuple[str, ...] = ()
    ) -> None:
        self.limits, self.metrics = limits, Metrics()
        self.queue = Queue(folder / "state", limits)
        self.asked = folder / "asked"
        self.keeper = Keeper(Command(bundle=Path()), limits, [sys.executable, "-P", str(FAKE), str(self.asked)])
        self.worker = Worker(self.queue, self.keeper, self.metrics, limits, kinds)
        self.desk = Desk(self.queue, self.keeper, self.worker, self.metrics)
        if started:
            self.worker.start()
            wait_until(lambda: self.keeper.started is not None)

    def ended(self, name: str) -> Any:
        """Wait for a job's end."""
        wait_until(lambda: (job := self.queue.get(name)) is not None and job.state != "queued")
        return self.queue.get(name)

    def asks(self) -> list[str]:
        """What the engine was asked, over all its lives."""
        return self.asked.read_text().splitlines() if self.asked.exists() else []

    def close(self) -> None:
        self.worker.stop()
        if self.worker.is_alive():
            self.worker.join(10)
        self.keeper.stop()
        self.queue.close()


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Callable[..., Parts]]:
    made: list[Parts] = []

    def make(*arguments: Any, **named: Any) -> Parts:
        made.append(Parts(tmp_path, *arguments, **named))
        return made[-1]

    yield make
    for one in made:
        one.close()


def wait_until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)
