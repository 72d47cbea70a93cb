from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from foveola.runtime.measure import latency, latency_of, peak_rss_mib, rss_mib


def test_latency_is_in_milliseconds_and_leaves_out_the_warm_up() -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        time.sleep(0.2 if len(calls) <= 2 else 0.002)

    seen = latency(call, runs=5, warmup=2)

    assert (len(calls), seen.runs) == (7, 5)
    assert 2 <= seen.least_ms <= seen.median_ms <= seen.p95_ms <= seen.p99_ms < 200


def test_a_pause_comes_before_each_timed_call() -> None:
    start = time.perf_counter()

    seen = latency(lambda: None, runs=3, warmup=0, pause_s=0.01)

    assert time.perf_counter() - start >= 0.03
    assert seen.median_ms < 10


def test_tails_are_percentiles() -> None:
    seen = latency_of([float(n) for n in range(101)])

    assert (seen.runs, seen.least_ms, seen.median_ms, seen.p95_ms, seen.p99_ms) == (101, 0, 50, 95, 99)


def test_memory_grows_with_what_is_held() -> None:
    before = peak_rss_mib()
    held = np.ones(20 * 2**20, np.uint8)
    after, now = peak_rss_mib(), rss_mib()

    assert before is not None
    assert after is not None
    assert now is not None
    assert 5 < before <= after < 2**16
    assert now <= after
    assert held.all()


def test_a_small_process_does_not_inherit_the_peak_of_the_one_that_started_it() -> None:
    held = np.ones(150 * 2**20, np.uint8)
    code = "from foveola.runtime.measure import peak_rss_mib; print(peak_rss_mib())"

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert held.all()
    assert 5 < float(ended.stdout) < 100


def test_the_systems_own_words_are_understood_and_their_absence_too(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\n")

    assert (peak_rss_mib(status), rss_mib(status)) == (2.0, 1.0)
    assert rss_mib(tmp_path / "absent") is None
    assert (peak_rss_mib(tmp_path / "absent") or 0) > 5  # by `getrusage`
