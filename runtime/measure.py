"""How long a call takes and how much memory the process took: medians and tails of repeated calls.

    latency(lambda: predictor.predict(image)).median_ms

What a whole bundle costs on a machine is measured by `bench/run.py`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np

SELF = Path("/proc/self/status")


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Times of repeated calls, in milliseconds; of fewer than 100 calls `p99_ms` is close to the slowest of them."""

    runs: int
    median_ms: float
    p95_ms: float
    p99_ms: float
    least_ms: float


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
        times.append(time_ms(call))
    return latency_of(times)


def latency_of(times: Sequence[float]) -> Latency:
    """Sum up times in milliseconds, one at least."""
    middle, p95, p99 = np.percentile(times, (50, 95, 99)).tolist()
    return Latency(runs=len(times), median_ms=middle, p95_ms=p95, p99_ms=p99, least_ms=float(min(times)))


def time_ms(call: Callable[[], object]) -> float:
    """Time one call, in milliseconds."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


def rss_mib(status: Path = SELF) -> float | None:
    """Give the resident memory of this process now, in MiB; None where the system does not tell."""
    return _status_mib(status, "VmRSS:")


def peak_rss_mib(status: Path = SELF) -> float | None:
    """Give the largest resident memory of this process so far, in MiB; None where the system does not tell."""
    # On Linux `ru_maxrss` survives exec: a small process that a large one started shows the large one's memory.
    peak = _status_mib(status, "VmHWM:")
    if peak is not None or find_spec("resource") is None:
        return peak
    import resource

    per_mib = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_mib


def _status_mib(status: Path, field: str) -> float | None:
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    words = next((line.split() for line in lines if line.startswith(field)), [])
    return float(words[1]) / 2**10 if len(words) == 3 else None  # `VmHWM:  123 kB`, which are KiB
