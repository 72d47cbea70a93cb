"""Meters of energy: a counter, a power monitor that is read again and again, a program that prints watts.

Each counts the joules between `start` and `stop`; which of them a machine has is for `bench_energy.py` to find out.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TypeVar

from .machine import read_number, read_text

T = TypeVar("T")

SAMPLE_S = 0.05  # between two readings of a power monitor; its own average is of some milliseconds
# Rails that carry the whole input of a board; where one is there, the others are parts of it.
INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")


class Meter(Protocol):
    """Something that tells the energy drawn between `start` and `stop`."""

    @property
    def source(self) -> str:
        """By what it is measured."""
        ...

    @property
    def rails(self) -> tuple[str, ...]:
        """What is counted."""
        ...

    def start(self) -> None:
        """Begin to count."""
        ...

    def stop(self) -> float | None:
        """Give the joules since `start`; None where nothing was told meanwhile."""
        ...


class Rapl:
    """Counters of microjoules that start again at zero when they are full.

    Args:
        zones: folders of the zones that are added up.
    """

    def __init__(self, zones: tuple[Path, ...]) -> None:
        self._zones = zones
        self._before: dict[Path, int | None] = {}
        self.source = "RAPL"
        self.rails = tuple(read_text(zone / "name") for zone in zones)

    def start(self) -> None:
        """Begin to count."""
        self._before = {zone: read_number(zone / "energy_uj") for zone in self._zones}

    def stop(self) -> float | None:
        """Give the joules since `start`; a counter that was full once meanwhile is understood."""
        total = 0
        for zone, before in self._before.items():
            after = read_number(zone / "energy_uj")
            if before is None or after is None:
                return None
            full = read_number(zone / "max_energy_range_uj") or 0
            total += after - before if after >= before else after - before + full
        return total / 1e6


class Sampled:
    """Watts, read again and again by a thread, and integrated over time (trapezium rule).

    Args:
        source: by what it is measured.
        rails: what is counted.
        watts: reads all rails together; None where one of them does not answer this time.
        interval_s: seconds between two readings.
    """

    def __init__(
        self, source: str, rails: tuple[str, ...], watts: Callable[[], float | None], interval_s: float = SAMPLE_S
    ) -> None:
        self.source, self.rails = source, rails
        self._watts, self._interval_s = watts, interval_s
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._samples: list[tuple[float, float]] = []

    def start(self) -> None:
        """Begin to count."""
        self._samples, self._done = [], threading.Event()
        self._sample()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> float | None:
        """Give the joules since `start`."""
        assert self._thread is not None
        self._done.set()
        self._thread.join()
        self._sample()
        return integrate(self._samples)

    def _run(self) -> None:
        while not self._done.wait(self._interval_s):
            self._sample()

    def _sample(self) -> None:
        watts = self._watts()
        if watts is not None:
            self._samples.append((time.perf_counter(), watts))


class Printed:
    """Watts that a program prints line by line (`tegrastats`, `nvidia-smi`), each dated when it arrives.

    Args:
        source: by what it is measured.
        command: the program, which prints until it is ended.
        read: gives the rails of a line in watts; empty for a line without any.
    """

    def __init__(self, source: str, command: tuple[str, ...], read: Callable[[str], Mapping[str, float]]) -> None:
        self.source = source
        self.rails: tuple[str, ...] = ()  # known once the program has printed
        self._command, self._read = command, read
        self._samples: list[tuple[float, float]] = []

    def start(self) -> None:
        """Begin to count."""
        self._samples = []
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def stop(self) -> float | None:
        """Give the joules between the first and the last line since `start`."""
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        return integrate(self._samples)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                rails = total_rails(self._read(line))
                if rails:
                    self.rails = tuple(rails)
                    self._samples.append((time.perf_counter(), sum(rails.values())))


def integrate(samples: list[tuple[float, float]]) -> float | None:
    """Integrate watts over seconds by the trapezium rule; None for fewer than two samples."""
    if len(samples) < 2:
        return None
    pairs = pairwise(samples)
    return sum((later - earlier) * (one + other) / 2 for (earlier, one), (later, other) in pairs)


def total_rails(rails: Mapping[str, T]) -> dict[str, T]:
    """Choose the rails that add up to the whole: the input's own rail where there is one, else all."""
    inputs = {name: value for name, value in rails.items() if name in INPUT_RAILS}
    return inputs or dict(rails)
