"""What the service adds to the bare engine: throughput and tail with 1, 4 and 16 clients, over its unix socket.

    python bench/served.py runs/chest-xray/ship-*/chest-xray.foveola --seconds 30 --json served.json

The bare engine is a loop of `Predictor.predict` in one process over the same bytes. The service answers one image at
a time, as the bundle was validated; so its throughput is to be held against that loop, and with several clients the
latency is the time in line as well.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from foveola.runtime.bundle import open_bundle
from foveola.runtime.measure import latency_of
from foveola.runtime.predict import Predictor
from foveola.runtime.selftest import first_golden_image

CLIENTS = (1, 4, 16)


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=120)
        self._path = str(path)

    def connect(self) -> None:
        """Connect to the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def main() -> None:
    """Measure both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--image", type=Path, help="by default the bundle's first golden image")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each row")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    bundle = open_bundle(given.bundle, key=given.key)
    image = given.image.read_bytes() if given.image else first_golden_image(bundle)
    rows = [row("bare", bare(Predictor(bundle), image, given.seconds), given.seconds)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        process = start(given.bundle, given.key, Path(folder))
        try:
            wait_ready(path, process)
            whats = {count: f"{count} client(s)" for count in CLIENTS}
            rows += [
                row(what, served(path, image, count, given.seconds), given.seconds) for count, what in whats.items()
            ]
        finally:
            process.terminate()
            process.wait(60)
    print(f"{'':<14}{'answers/s':>10}{'median ms':>11}{'p95 ms':>9}{'p99 ms':>9}")
    for one in rows:
        print(
            f"{one['what']:<14}{one['per_s']:>10.1f}{one['median_ms']:>11.2f}{one['p95_ms']:>9.2f}{one['p99_ms']:>9.2f}"
        )
    if given.json:
        given.json.write_text(json.dumps({"image_bytes": len(image), "rows": rows}, indent=2) + "\n")


def start(bundle: Path, key: Path | None, folder: Path) -> subprocess.Popen[bytes]:
    """Start the service on a unix socket in a folder."""
    words = [sys.executable, "-m", "foveola.runtime", "serve", str(bundle), "--state", str(folder / "state")]
    words += ["--http", f"unix:{folder / 's'}", *(["--key", str(key)] if key else [])]
    return subprocess.Popen(words)


def wait_ready(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait for the self-test."""
    while process.poll() is None:
        try:
            if ask(Connection(path), "GET", "/ready", None) == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit("the service did not start")


def ask(connection: Connection, method: str, path: str, body: bytes | None) -> int:
    """Ask once and read the whole answer."""
    connection.request(method, path, body, {"Content-Type": "application/octet-stream"})
    reply = connection.getresponse()
    reply.read()
    return reply.status


def bare(predictor: Predictor, image: bytes, seconds: float) -> list[float]:
    """Predict in a loop; milliseconds of each."""
    times, end = [], time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        predictor.predict(image)
        times.append(1e3 * (time.perf_counter() - begun))
    return times


def served(path: Path, image: bytes, clients: int, seconds: float) -> list[float]:
    """Ask by so many clients at a time, each on one connection; milliseconds of each answer."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    def client() -> None:
        connection = Connection(path)
        while (begun := time.perf_counter()) < end:
            status = ask(connection, "POST", "/v1/predict", image)
            assert status == 200, status
            times.append(1e3 * (time.perf_counter() - begun))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def row(what: str, times: list[float], seconds: float) -> dict[str, Any]:
    """Sum up one row."""
    spread = latency_of(times)
    return {
        "what": what,
        "answers": len(times),
        "per_s": len(times) / seconds,
        "median_ms": spread.median_ms,
        "p95_ms": spread.p95_ms,
        "p99_ms": spread.p99_ms,
    }


if __name__ == "__main__":
    main()
