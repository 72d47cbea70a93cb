"""A sustained run: what heat does to a device that a short measurement does not see.

A run of a minute and one of 30 minutes can rank devices differently (microsoft/MegaDetector#34), so times, temperature
and clock are kept as a series of at most `POINTS` stretches, whatever the length of the run.

    sustained(lambda: predictor.predict(image), 1800).last_ms
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from ..measure import latency_of, time_ms
from .record import Point, Sustained
from .sensors import Sensors

POINTS = 120  # at most, in the series
LEAST_POINT_S = 0.25
SAY_EVERY_S = 10.0


def sustained(
    call: Callable[[], object],
    seconds: float,
    sensors: Sensors | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Sustained:
    """Call without a pause for so many seconds; one call at least.

    Args:
        call: answers one image.
        seconds: how long.
        sensors: of temperature and clock; by default this machine's.
        say: takes a line of progress every ten seconds.
    """
    sensors = sensors or Sensors()
    stretch = max(seconds / POINTS, LEAST_POINT_S)
    before, points = sensors.throttles(), list[Point]()
    start = told = time.perf_counter()
    while not points or time.perf_counter() - start < seconds:
        left = seconds - (time.perf_counter() - start)
        times = _times(call, min(stretch, left))
        # Read at once, while the clock is still that of the work.
        point = _point(times, time.perf_counter() - start, sensors)
        points.append(point)
        if time.perf_counter() - told >= SAY_EVERY_S:
            told = time.perf_counter()
            say(_words(point, seconds))
    return _summary(tuple(points), time.perf_counter() - start, before, sensors)


def _times(call: Callable[[], object], seconds: float) -> list[float]:
    times: list[float] = []
    start = time.perf_counter()
    while not times or time.perf_counter() - start < seconds:
        times.append(time_ms(call))
    return times


def _point(times: list[float], second: float, sensors: Sensors) -> Point:
    clock, temperature, seen = sensors.clock_mhz(), sensors.temperature_c(), latency_of(times)
    return Point(
        second=second,
        runs=seen.runs,
        median_ms=seen.median_ms,
        p99_ms=seen.p99_ms,
        temperature_c=temperature,
        clock_mhz=clock,
    )


def _summary(points: tuple[Point, ...], seconds: float, before: int | None, sensors: Sensors) -> Sustained:
    tenth = max(1, len(points) // 10)
    after, runs = sensors.throttles(), sum(point.runs for point in points)
    temperatures = [point.temperature_c for point in points if point.temperature_c is not None]
    clocks = [point.clock_mhz for point in points if point.clock_mhz is not None]
    return Sustained(
        seconds=seconds,
        runs=runs,
        images_per_s=runs / seconds,
        first_ms=statistics.median(point.median_ms for point in points[:tenth]),
        last_ms=statistics.median(point.median_ms for point in points[-tenth:]),
        hottest_c=max(temperatures, default=None),
        slowest_clock_mhz=min(clocks, default=None),
        throttled=after - before if after is not None and before is not None else None,
        temperature_source=sensors.temperature_source,
        clock_source=sensors.clock_source,
        points=points,
    )


def _words(point: Point, seconds: float) -> str:
    heat = "" if point.temperature_c is None else f", {point.temperature_c:.0f} °C"
    clock = "" if point.clock_mhz is None else f", {point.clock_mhz:.0f} MHz"
    return f"sustained {point.second:.0f} of {seconds:.0f} s: {point.median_ms:.2f} ms{heat}{clock}"
