"""The desk of the service: every door asks it, so that each takes and refuses alike.

Laws:
- Nothing new is taken while the service stops or has no engine: the doors say "unavailable" and the sender keeps it.
- What is said of an image at the door is counted by way: taken, full, unavailable.
"""

from __future__ import annotations

from typing import Any

from ..errors import FoveolaError
from .field import Field
from .frames import Refused
from .jobs import FullError, Job, Queue
from .keeper import Keeper, UnavailableError
from .metrics import Metrics
from .work import Worker


class Desk:
    """Takes images for the worker and tells the state of things.

    Args:
        queue: of jobs on disk.
        keeper: of the engine.
        worker: who answers.
        metrics: where it counts.
        field: watch and audit log; None for none.
    """

    def __init__(
        self, queue: Queue, keeper: Keeper, worker: Worker, metrics: Metrics, field: Field | None = None
    ) -> None:
        self._queue, self._keeper, self._worker, self._metrics = queue, keeper, worker, metrics
        self._field = field or Field()

    def submit(self, data: bytes, way: str) -> Job:
        """Put an image on disk; when this returns it will be answered.

        Raises:
            FullError: too much waits already.
            UnavailableError: there is no engine for now, or the service stops.
            FoveolaError: the disk does not take it.
        """
        try:
            self._require_engine()
            job = self._queue.submit(data, way, self._keeper.digest)
        except (FullError, UnavailableError, FoveolaError) as error:
            if way != "folder":  # a file waits where it is, and is offered again every half second
                self._no(way, error)
            raise
        self._metrics.count("foveola_images_total", way=way, said="taken")
        return job

    def answer(self, data: bytes) -> bytes | Refused:
        """Answer about an image while the caller waits; see `Worker.answer`."""
        try:
            self._require_engine()
            said = self._worker.answer(data)
        except (FullError, UnavailableError) as error:
            self._no("http", error)
            raise
        self._metrics.count("foveola_images_total", way="http", said="taken")
        return said

    def job(self, name: str) -> Job | None:
        """Look a job up."""
        return self._queue.get(name)

    def counts(self) -> dict[str, int]:
        """Jobs by state, and results that wait for the peer."""
        return self._queue.counts()

    def readiness(self) -> dict[str, Any]:
        """Tell whether images are answered, by which bundle; else why not."""
        started, stopping = self._keeper.started, self._worker.stopping
        if started is None or stopping:
            return {"ready": False, "error": "the service is stopping" if stopping else self._keeper.fault}
        bundle = started.bundle
        return {
            "ready": True,
            "bundle": {"name": bundle.name, "version": bundle.version, "digest": bundle.digest},
            "engine": bundle.engine,
            "selftest_images": started.images,
        }

    def measure(self) -> None:
        """Bring the gauges up to date."""
        started, counts, put = self._keeper.started, self.counts(), self._metrics.put
        put("foveola_ready", float(started is not None and not self._worker.stopping))
        put("foveola_results_waiting", counts.pop("results"))
        put("foveola_engine_restarts_total", self._keeper.restarts)
        for state, count in counts.items():
            put("foveola_jobs", count, state=state)
        if self._keeper.memory_mib is not None:
            put("foveola_engine_memory_bytes", self._keeper.memory_mib * 2**20)
        if started:
            bundle = started.bundle
            labels = {"name": bundle.name, "version": bundle.version, "digest": bundle.digest, "engine": bundle.engine}
            self._metrics.put_only("foveola_build_info", 1, **labels)

    def _require_engine(self) -> None:
        if self._worker.stopping:
            raise UnavailableError("the service is stopping")
        if not self._keeper.available:
            raise UnavailableError(self._keeper.fault)

    def _no(self, way: str, error: Exception) -> None:
        said = {FullError: "full", UnavailableError: "unavailable"}.get(type(error), "storage")
        self._metrics.count("foveola_images_total", way=way, said=said)
        self._field.lost(said)
