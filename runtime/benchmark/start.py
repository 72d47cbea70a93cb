"""Cold start and memory: fresh processes, each from its start to the first answer.

The parent's clock runs from before the process is made until its first answer is told, so that what Python itself costs
is counted too. The system's file cache is warm from the second start on; the first start after a boot is slower.

    start, memory = cold_starts(Path("chest.foveola"), "onnxruntime", image, starts=5)
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from ..errors import FoveolaError
from ..manifest import EngineName
from ..measure import peak_rss_mib
from ..tensorrt.plan import ENGINES_VARIABLE
from .record import ColdStart, Memory, Spread

TIME_LIMIT_S = 600.0  # for one start
ANSWERS = 20  # that a process gives before its peak is read; memory has stopped growing by then


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """What one fresh process tells of itself: milliseconds, and resident memory in MiB."""

    import_ms: float
    engine_import_ms: float
    load_ms: float
    open_ms: float
    first_ms: float
    second_ms: float
    bare_mib: float | None
    imported_mib: float | None
    loaded_mib: float | None
    opened_mib: float | None
    peak_mib: float | None


def cold_starts(
    bundle: Path,
    engine: EngineName,
    image: bytes,
    *,
    starts: int,
    key: Path | None = None,
    engines: Path | None = None,
) -> tuple[ColdStart, Memory]:
    """Start so many processes, one after the other.

    Args:
        bundle: a signed bundle.
        engine: on which engine.
        image: bytes of an image file.
        starts: processes, one at least.
        key: public key, as for `open_bundle`.
        engines: folder of the engines that TensorRT has built, as for `Predictor`.

    Raises:
        FoveolaError: a process ends without an answer.
    """
    seen = [_start(bundle, engine, image, key, engines) for _ in range(starts)]
    totals, children = [total for total, _ in seen], [child for _, child in seen]
    inside = ("import_ms", "engine_import_ms", "load_ms", "open_ms", "first_ms")
    own = [total - sum(getattr(child, name) for name in inside) for total, child in seen]
    start = ColdStart(
        starts=starts,
        total=_spread(totals),
        interpreter=_spread(own),
        imports=_spread([child.import_ms for child in children]),
        engine_import=_spread([child.engine_import_ms for child in children]),
        load=_spread([child.load_ms for child in children]),
        open=_spread([child.open_ms for child in children]),
        first_answer=_spread([child.first_ms for child in children]),
        second_answer=_spread([child.second_ms for child in children]),
    )
    return start, _memory(children)


def own_memory() -> Memory:
    """Weigh this process alone, where no fresh one was started."""
    return Memory(
        peak_mib=peak_rss_mib(),
        bare_mib=None,
        imported_mib=None,
        loaded_mib=None,
        opened_mib=None,
        beyond_bare_mib=None,
        answers=0,
    )


def _start(
    bundle: Path, engine: EngineName, image: bytes, key: Path | None, engines: Path | None
) -> tuple[float, Child]:
    """Give milliseconds until the first answer, and what the process told."""
    words = [sys.executable, *_flags(), "-m", "foveola.runtime.benchmark.child", str(bundle), engine, str(ANSWERS)]
    words += [str(key)] if key else []
    environment = {**os.environ, ENGINES_VARIABLE: str(engines)} if engines else None
    # Files and not pipes: nobody has to read and write at the same time.
    with tempfile.TemporaryFile() as feed, tempfile.TemporaryFile() as faults:
        feed.write(image)
        feed.seek(0)
        begun = time.perf_counter()
        process = subprocess.Popen(words, stdin=feed, stdout=subprocess.PIPE, stderr=faults, env=environment)
        timer = threading.Timer(TIME_LIMIT_S, process.kill)
        timer.daemon = True
        timer.start()
        try:
            assert process.stdout is not None
            answered = process.stdout.readline()
            total_ms = 1e3 * (time.perf_counter() - begun)
            told = process.stdout.read()
            process.wait()
        finally:
            timer.cancel()
            process.kill()  # on Ctrl-C; does nothing to one that has ended
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        if process.returncode or answered.strip() != b"answered":
            raise FoveolaError(bundle.name, f"a fresh process did not answer: {_last_line(faults)}", "")
    return total_ms, msgspec.json.decode(told, type=Child)


def _flags() -> list[str]:
    """Let the fresh process find the same modules as this one, and nothing in a working folder that this one skips."""
    if sys.flags.isolated:
        return ["-I"]
    return [] if {"", str(Path.cwd())} & set(sys.path) else ["-P"]


def _last_line(faults: BinaryIO) -> str:
    faults.seek(0)
    lines = faults.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else f"it said nothing, or took longer than {TIME_LIMIT_S:.0f} s"


def _spread(times: Sequence[float]) -> Spread:
    return Spread(median_ms=statistics.median(times), least_ms=min(times), most_ms=max(times))


def _memory(children: Sequence[Child]) -> Memory:
    def middle(name: str) -> float | None:
        told = [value for child in children if (value := getattr(child, name)) is not None]
        return statistics.median(told) if told else None

    peaks = [child.peak_mib for child in children if child.peak_mib is not None]
    peak, bare = max(peaks, default=None), middle("bare_mib")
    return Memory(
        peak_mib=peak,
        bare_mib=bare,
        imported_mib=middle("imported_mib"),
        loaded_mib=middle("loaded_mib"),
        opened_mib=middle("opened_mib"),
        beyond_bare_mib=peak - bare if peak is not None and bare is not None else None,
        answers=ANSWERS,
    )
