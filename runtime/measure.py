"""How long a call takes and how much memory the process took: medians, tails, and what idling and heat do to them.

A camera idles between patients and its clock falls, so the first call after a pause is a figure of its own; a long run
shows what heat does (30 minutes reorder devices that one minute ranks).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import msgspec
import numpy as np

from .image import decode_image, prepare
from .manifest import EngineName
from .predict import Predictor


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Times of repeated calls, in milliseconds."""

    runs: int
    median_ms: float
    p95_ms: float
    p99_ms: float
    least_ms: float


class Sustained(msgspec.Struct, frozen=True, kw_only=True):
    """One call after the other for a while: medians of the first and of the last tenth of the calls."""

    seconds: float
    runs: int
    first_ms: float
    last_ms: float


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle costs on this machine, batch 1."""

    engine: EngineName
    end_to_end: Latency  # from the file's bytes to the prediction
    inference: Latency  # the engine alone, on the prepared input
    peak_rss_mib: float | None  # of the whole process; None where the system does not tell
    after_idle: Latency | None = None  # end to end, each call after a pause
    sustained: Sustained | None = None  # end to end


def latency(call: Callable[[], object], *, runs: int = 100, warmup: int = 10, pause_s: float = 0.0) -> Latency:
    """Time a call.

    Args:
        call: what to time.
        runs: timed calls, at least one.
        warmup: calls before, not timed.
        pause_s: seconds of sleep before each timed call.
    """
    for _ in range(warmup):
        call()
    times = []
    for _ in range(runs):
        if pause_s:
            time.sleep(pause_s)
        times.append(_time_ms(call))
    middle, p95, p99 = np.percentile(times, (50, 95, 99)).tolist()
    return Latency(runs=runs, median_ms=middle, p95_ms=p95, p99_ms=p99, least_ms=min(times))


def sustained(call: Callable[[], object], seconds: float) -> Sustained:
    """Call without a pause for so many seconds."""
    times: list[float] = []
    start = time.perf_counter()
    while not times or time.perf_counter() - start < seconds:
        times.append(_time_ms(call))
    tenth = max(1, len(times) // 10)
    first, last = float(np.median(times[:tenth])), float(np.median(times[-tenth:]))
    return Sustained(seconds=seconds, runs=len(times), first_ms=first, last_ms=last)


def peak_rss_mib() -> float | None:
    """Give the largest resident memory of this process so far, in MiB; None where the system does not tell."""
    if find_spec("resource") is None:
        return None
    import resource

    per_mib = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_mib


def bench(predictor: Predictor, image: bytes, *, runs: int = 100, idle_s: float = 0.0, sustain_s: float = 0.0) -> Bench:
    """Measure a bundle on one image file's bytes.

    Args:
        predictor: the bundle on its engine.
        image: bytes of an image file.
        runs: timed calls.
        idle_s: also time 10 calls that each follow so many seconds of idling; 0 leaves it out.
        sustain_s: also run for so many seconds; 0 leaves it out.
    """
    x_CHW, _ = prepare(decode_image(image), predictor.manifest.input)
    tensor = x_CHW[None]

    def whole() -> object:
        return predictor.predict(image)

    return Bench(
        engine=predictor.engine,
        end_to_end=latency(whole, runs=runs),
        inference=latency(lambda: predictor.run(tensor), runs=runs),
        after_idle=latency(whole, runs=10, warmup=1, pause_s=idle_s) if idle_s else None,
        sustained=sustained(whole, sustain_s) if sustain_s else None,
        peak_rss_mib=peak_rss_mib(),
    )


def _time_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6
