from __future__ import annotations

import time

import numpy as np
import pytest

from foveola.runtime.bundle import Bundle
from foveola.runtime.measure import bench, latency, peak_rss_mib, sustained
from foveola.runtime.predict import Predictor


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


def test_a_sustained_run_tells_how_it_began_and_how_it_ended() -> None:
    slow = iter(np.linspace(0.0005, 0.004, 10_000))

    seen = sustained(lambda: time.sleep(next(slow)), 0.0)
    longer = sustained(lambda: time.sleep(0.001), 0.05)

    assert seen.runs == 1
    assert longer.runs > 5
    assert longer.first_ms >= 1
    assert longer.last_ms >= 1


def test_memory_grows_with_what_is_held() -> None:
    before = peak_rss_mib()
    held = np.ones(20 * 2**20, np.uint8)
    after = peak_rss_mib()

    assert before is not None
    assert after is not None
    assert 5 < before <= after < 2**16
    assert held.all()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_bundle_is_measured_from_bytes_to_prediction_and_bare(
    tiny_bundle: Bundle, tiny_image: bytes, engine: str
) -> None:
    seen = bench(Predictor(tiny_bundle, engine), tiny_image, runs=10, idle_s=0.001, sustain_s=0.01)

    assert seen.engine == engine
    assert seen.end_to_end.runs == seen.inference.runs == 10
    assert seen.inference.least_ms < seen.end_to_end.p99_ms
    assert seen.after_idle is not None
    assert seen.sustained is not None
    assert bench(Predictor(tiny_bundle, engine), tiny_image, runs=1).after_idle is None
