"""Watching without spying: what a device sees and answers, in counts by day.

Laws:
- Only numbers that fall between known edges, and words of closed lists, are counted: no name of a file, no text of an
  error, no identifier of a study can get into the folder, because nothing takes them there.
- Watching never stops an answer: a full disk is told by `fault`, and the counts wait in memory.
- The folder is bounded by days and bytes. Each file is whole at every instant; a killed process loses what it counted
  since the last flush, at most `flush_s` seconds of it while images come in.

    watch = Watch(folder, predictor.manifest)
    watch.record(prediction, input_features(x_CHW), latency_s=0.041)
    watch.refused("modality")
    watch.close()
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Protocol

import msgspec

from ..benchmark.sensors import Sensors
from ..durable import refused as cannot_write
from ..durable import write_file
from ..errors import FoveolaError
from ..histogram import Histogram
from ..lock import locked
from ..manifest import Manifest
from ..prediction import Prediction
from .day import DAY_NAME, Day, added, bundle_key, day_path, decode_day, encode_day, encode_watched, watched_of
from .edges import edges_of
from .observe import Seen, observe, unfit_vocabulary
from .words import refusal


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much is kept.

    Args:
        days: files of days; beyond it the oldest go. The clock is not asked: one that leaps deletes nothing.
        bytes: of all files of days.
        flush_s: seconds between two writings, to spare a flash disk.
        sense_s: seconds between two readings of the thermometer.
    """

    days: int = 400
    bytes: int = 16 * 2**20
    flush_s: float = 10.0
    sense_s: float = 5.0

    def __post_init__(self) -> None:
        """Refuse limits that nothing could be kept within.

        Raises:
            ValueError: less than a day, less than 64 KiB, or a length of time that is none.
        """
        if self.days < 1 or self.bytes < 2**16 or not (self.flush_s >= 0 and self.sense_s >= 0):
            raise ValueError(f"{self} keeps nothing")


class Thermometer(Protocol):
    """What is asked of the machine; `Sensors` is one."""

    def temperature_c(self) -> float | None:
        """Read the processor's temperature."""

    def throttles(self) -> int | None:
        """Count throttlings since the machine was started."""


class Watch:
    """The watch over one bundle on one device; several threads, and several processes on one folder, may share it.

    Args:
        folder: made where it is absent; readable by its owner alone.
        manifest: of the bundle that answers.
        limits: how much is kept.
        now: the clock of days; another one in tests.
        sensors: of the machine.

    Attributes:
        fault: why the last writing failed; empty where it did not.

    Raises:
        FoveolaError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        limits: Limits | None = None,
        *,
        now: Callable[[], datetime] = datetime.now,
        sensors: Thermometer | None = None,
    ) -> None:
        self.folder, self.limits, self.fault = folder, limits or Limits(), ""
        self._manifest, self._key, self._now = manifest, bundle_key(manifest), now
        self._edges = edges_of(manifest)
        self._unfit = unfit_vocabulary(manifest)
        self._sensors: Thermometer = sensors or Sensors()
        self._throttles = self._sensors.throttles()
        self._sensed = self._flushed = -math.inf
        self._pending: dict[str, _Tally] = {}
        self._lock = Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked(folder):
                write_file(folder / f"bundle.{self._key}.json", encode_watched(watched_of(manifest)))
        except OSError as error:
            raise cannot_write(folder, error) from None

    def record(
        self, prediction: Prediction, features: Mapping[str, float] | None = None, latency_s: float = math.nan
    ) -> None:
        """Count an image that was answered about, or was found unfit.

        Args:
            prediction: its answer.
            features: of the prepared image (`input_features`); names that are not known are left out.
            latency_s: from its bytes to its answer.
        """
        self.count(observe(prediction, self._manifest, features), latency_s)

    def count(self, seen: Seen, latency_s: float = math.nan) -> None:
        """Count what another process observed; see `record`. Names and words that are not known are not written."""
        with self._lock:
            tally = self._today()
            tally.images += 1
            tally.unfit_images += not seen.fit
            tally.unfit.update(word if word in self._unfit else "other" for word in seen.unfit)
            for name, value in {**seen.values, "latency_s": latency_s}.items():
                self._count(tally, name, value)
            self._sense(tally)
            self._flush_if_due()

    def refused(self, kind: str) -> None:
        """Count an image that got no answer, by a word of `words.REFUSALS`; any other counts as `other`."""
        with self._lock:
            self._today().refused[refusal(kind)] += 1
            self._flush_if_due()

    def flush(self) -> None:
        """Bring all counts to the disk; where it fails they are kept and `fault` tells why."""
        with self._lock:
            self._flush()

    def close(self) -> None:
        """Bring the last counts to the disk."""
        self.flush()

    def _today(self) -> _Tally:
        return self._pending.setdefault(self._now().strftime("%Y-%m-%d"), _Tally())

    def _count(self, tally: _Tally, name: str, value: float) -> None:
        edges = self._edges.get(name)
        if edges is not None and math.isfinite(value):
            tally.bins.setdefault(name, [0] * (len(edges) + 1))[bisect_right(edges, value)] += 1

    def _sense(self, tally: _Tally) -> None:
        now = time.monotonic()
        if now - self._sensed < self.limits.sense_s:
            return
        self._sensed = now
        temperature, throttles = self._sensors.temperature_c(), self._sensors.throttles()
        if temperature is not None:
            self._count(tally, "temperature_c", temperature)
        if throttles is not None:
            tally.throttles += max(0, throttles - (self._throttles or 0))  # a restart begins at nought
            self._throttles = throttles

    def _flush_if_due(self) -> None:
        if time.monotonic() - self._flushed >= self.limits.flush_s:
            self._flush()

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        try:
            if self._pending:
                with locked(self.folder):
                    for day in (written := sorted(self._pending)):
                        self._write(day, self._pending[day])
                        del self._pending[day]
                    _prune(self.folder, self.limits, written)
        except (OSError, FoveolaError) as error:
            self.fault = str(error if isinstance(error, FoveolaError) else cannot_write(self.folder, error))
            for day in sorted(self._pending)[: -self.limits.days]:
                del self._pending[day]
        else:
            self.fault = ""

    def _write(self, day: str, tally: _Tally) -> None:
        path = day_path(self.folder, day, self._key)
        part = tally.as_day(day, self._key, self._edges)
        if path.exists():
            try:
                part = added(part, decode_day(path.read_bytes(), path.name))
            except FoveolaError:  # a disk's fault or somebody's edit: set aside, so that today is counted
                path.replace(path.with_name(path.name + ".broken"))
        write_file(path, encode_day(part))


class _Tally:
    """Counts that are not on the disk yet."""

    def __init__(self) -> None:
        self.images = self.unfit_images = self.throttles = 0
        self.refused: Counter[str] = Counter()
        self.unfit: Counter[str] = Counter()
        self.bins: dict[str, list[int]] = {}

    def as_day(self, day: str, bundle: str, edges: Mapping[str, tuple[float, ...]]) -> Day:
        """Give the same as a part of a day."""
        return Day(
            day=day,
            bundle=bundle,
            images=self.images,
            refused=dict(self.refused),
            unfit=dict(self.unfit),
            unfit_images=self.unfit_images,
            throttles=self.throttles,
            histograms={name: Histogram(edges=edges[name], counts=tuple(counts)) for name, counts in self.bins.items()},
        )


def _prune(folder: Path, limits: Limits, written: Sequence[str]) -> None:
    """Delete the oldest days beyond the limits, never one that was just written, and bundles without days."""
    days = sorted(path for path in folder.iterdir() if DAY_NAME.match(path.name))
    sizes = {path: path.stat().st_size for path in days}
    dates = sorted({path.name[:10] for path in days})
    kept = {*dates[-limits.days :], *written}
    for path in days:
        if path.name[:10] not in kept or (sum(sizes.values()) > limits.bytes and path.name[:10] not in written):
            path.unlink(missing_ok=True)
            del sizes[path]
    alive = {path.name.split(".")[1] for path in sizes}
    for path in folder.glob("bundle.*.json"):
        if path.name.split(".")[1] not in alive:
            with suppress(OSError):
                path.unlink()
