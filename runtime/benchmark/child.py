"""A fresh process that answers one image and tells how long each part took; `start.py` calls it.

    python -m foveola.runtime.benchmark.child BUNDLE ENGINE ANSWERS [KEY] < IMAGE

It prints `answered` when the first answer is there, which the parent times on its own clock, and then one line of JSON,
a `Child`. Nothing is imported at the head of this file, so that the imports can be timed and the bare process weighed.
"""

# Every import but these three stands in `main`, in the order in which a device pays for it.
from __future__ import annotations

import sys
import time

STARTED = time.perf_counter()


def main(bundle: str, engine: str, answers: str, key: str = "") -> None:
    """Answer the image on stdin as often as told and print the times of the first answers and the memory."""
    bare_mib = status_mib("VmRSS:")
    marks = [STARTED]

    def mark() -> None:
        marks.append(time.perf_counter())

    from importlib import import_module
    from pathlib import Path

    from ..bundle import open_bundle
    from ..measure import peak_rss_mib, rss_mib
    from ..offline import forbid_telemetry
    from ..predict import Predictor, engine_files

    mark()
    forbid_telemetry()
    import_module(engine)
    mark()
    imported_mib = rss_mib()
    image = sys.stdin.buffer.read()
    opened = open_bundle(Path(bundle), key=Path(key) if key else None, only=engine_files(engine))
    mark()
    loaded_mib = rss_mib()
    predictor = Predictor(opened, engine)
    del opened
    mark()
    opened_mib = rss_mib()
    predictor.predict(image)
    mark()
    sys.stdout.write("answered\n")
    sys.stdout.flush()
    again = time.perf_counter()
    predictor.predict(image)
    second = time.perf_counter() - again
    for _ in range(int(answers) - 2):
        predictor.predict(image)

    import json
    from itertools import pairwise

    steps = [1e3 * (later - earlier) for earlier, later in pairwise(marks)]
    names = ("import_ms", "engine_import_ms", "load_ms", "open_ms", "first_ms")
    times = {**dict(zip(names, steps, strict=True)), "second_ms": 1e3 * second}
    memory = {
        "bare_mib": bare_mib,
        "imported_mib": imported_mib,
        "loaded_mib": loaded_mib,
        "opened_mib": opened_mib,
        "peak_mib": peak_rss_mib(),
    }
    sys.stdout.write(json.dumps(times | memory) + "\n")


def status_mib(field: str) -> float | None:
    """Read a figure of this process; `measure.py` does the same, but brings numpy along."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as lines:  # noqa: PTH123 - pathlib weighs
            return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith(field)), None)
    except OSError:
        return None


if __name__ == "__main__":
    from ..errors import FoveolaError

    try:
        main(*sys.argv[1:])
    except FoveolaError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
