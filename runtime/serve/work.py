"""The one worker: takes what waits, asks the engine, stores the answer; never two images at a time.

Laws:
- Who waits on HTTP and who lies in the queue take turns, so that neither starves the other.
- Who waits on HTTP is answered within `deadline_s` of its arrival, or told that there was no time.
- An image whose answer was not stored is asked again, also after a crash; one whose answer is stored is not.
- Where there is a peer, a picture with the SOP Instance UID of another one is refused: results refer to their source
  by that UID alone, so that an archive would show them on the other picture.
- A worker that `hangs` is for the watchdog: it is asked about what it does, not whether its thread exists.
"""

from __future__ import annotations

import threading
import time
from collections import deque

import msgspec

from ..errors import ExitCode, FoveolaError
from ..verbs.verb import to_stderr
from .field import Field
from .frames import Answering, Ask, Refused, Told
from .jobs import FullError, Job, Queue, State
from .keeper import DeadlineError, EngineFailedError, Keeper, UnavailableError
from .limits import Limits
from .metrics import Metrics

IDLE_S = 0.5  # between two looks at the engine's process while nothing is to be done
TWIN = "image: has the SOP Instance UID of another image, which was answered about; give each image a UID of its own"
SLACK_S = 30.0  # beyond every deadline: a disk that is slow to sync is no reason to end the service


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it leaves the service: what answered, and the JSON of the prediction."""

    bundle: Answering
    prediction: msgspec.Raw


class Waiter:
    """One HTTP request that waits for its answer."""

    def __init__(self, data: bytes, deadline_s: float) -> None:
        self.data, self.since = data, time.monotonic()
        self.until = self.since + deadline_s
        self._done = threading.Event()
        self._said: bytes | Refused | Exception = DeadlineError(f"no answer within {deadline_s:g} s")

    def tell(self, said: bytes | Refused | Exception) -> None:
        """Hand over what the engine said: the answer's JSON, a refusal, or why there is none."""
        self._said = said
        self._done.set()

    def wait(self) -> bytes | Refused:
        """Give what it said.

        Raises:
            UnavailableError: there is no engine for now.
            EngineFailedError: it died of the image, or (DeadlineError) took too long.
        """
        self._done.wait(self.until - time.monotonic() + 1)  # the engine's own deadline is told in other words
        if isinstance(self._said, Exception):
            raise self._said
        return self._said


class Worker(threading.Thread):
    """The worker; `stop` lets it finish what it has begun and whom it lets wait.

    Args:
        queue: of jobs on disk.
        keeper: of the engine.
        metrics: where it counts.
        limits: of the service.
        kinds: of DICOM results to make for the peer; none where there is no peer.
        field: watch and audit log; None for none.
    """

    def __init__(
        self,
        queue: Queue,
        keeper: Keeper,
        metrics: Metrics,
        limits: Limits,
        kinds: tuple[str, ...] = (),
        field: Field | None = None,
    ) -> None:
        super().__init__(name="worker", daemon=True)
        self._queue, self._keeper, self._metrics, self._limits = queue, keeper, metrics, limits
        self._kinds, self._field = kinds, field or Field()
        self._waiters: deque[Waiter] = deque()
        self._served_waiter = False
        self.stopping = False
        self.answered = ""  # digest of the bundle that answered last
        self.beat = time.monotonic()

    def answer(self, data: bytes) -> bytes | Refused:
        """Answer about an image while the caller waits; nothing of it is kept.

        Raises:
            FullError: too many wait already.
            UnavailableError: there is no engine for now.
            EngineFailedError: as `Waiter.wait`.
        """
        waiter = Waiter(data, self._limits.deadline_s)
        with self._queue.work:
            if self.stopping:
                raise UnavailableError("the service is stopping")
            if not self._keeper.available:
                raise UnavailableError(self._keeper.fault)
            if len(self._waiters) >= self._limits.waiting:
                raise FullError(f"{len(self._waiters)} requests wait already")
            self._waiters.append(waiter)
            self._queue.work.notify_all()
        return waiter.wait()

    def stop(self) -> None:
        """Take nothing new; what lies in the queue stays there for the next start."""
        with self._queue.work:
            self.stopping = True
            self._queue.work.notify_all()

    @property
    def hangs(self) -> bool:
        """Whether it is dead, or shows no sign of life although nothing allows it to take so long."""
        return not self.is_alive() or time.monotonic() > max(self.beat, self._keeper.busy_until) + SLACK_S

    def run(self) -> None:
        """Work until `stop`."""
        while True:
            self.beat = time.monotonic()
            try:
                if not self._turn():
                    break
            except FoveolaError as error:  # a full disk: nothing is lost, and nothing ends before there is room
                to_stderr(str(error))
                time.sleep(IDLE_S)
        self._keeper.stop()

    def _turn(self) -> bool:
        """Answer one image, or wait for one; False when it is time to end."""
        waiter, job = self._next()
        if waiter:
            self._serve(waiter)
        elif job:
            self._work(job)
        elif self.stopping:
            return False
        else:
            self._idle()
        return True

    def _next(self) -> tuple[Waiter | None, Job | None]:
        with self._queue.work:
            job, turn = None, self._served_waiter or not self._waiters
            self._served_waiter = False  # also where a full disk takes no claim: who waits is next
            if turn and not self.stopping and self._keeper.started:
                job = self._queue.claim()
            if job is None and not self._waiters and not self.stopping:
                self._queue.work.wait(IDLE_S)
            waiter = self._waiters.popleft() if job is None and self._waiters else None
            self._served_waiter = waiter is not None
            return waiter, job

    def _idle(self) -> None:
        """Notice a process that died in its sleep before somebody waits for it."""
        try:
            self._keeper.ensure()
        except UnavailableError:
            time.sleep(IDLE_S)

    def _serve(self, waiter: Waiter) -> None:
        if time.monotonic() > waiter.until:
            waiter.tell(DeadlineError(f"no answer within {self._limits.deadline_s:g} s"))
            return
        try:
            said = self._keeper.ask(Ask(), waiter.data)
        except (UnavailableError, EngineFailedError) as error:
            waiter.tell(error)
            self._lost(error)
        else:
            self._count(said, waiter.data, "http", time.monotonic() - waiter.since)
            waiter.tell(said if isinstance(said, Refused) else _envelope(said))

    def _work(self, job: Job) -> None:
        queue, kinds = self._queue, self._kinds
        try:
            data = queue.image(job.id).read_bytes()
        except OSError:
            queue.end(job.id, "failed", error="unavailable: the image is lost; send it again")
            return
        try:
            said = self._keeper.ask(Ask(results=str(queue.made) if kinds else "", kinds=kinds), data)
        except UnavailableError:
            queue.give_back(job.id)  # no fault of the image
            return
        except EngineFailedError as error:
            self._lost(error)  # the attempt counts; `claim` ends the job when there were enough
            return
        if isinstance(said, Told) and said.source and queue.has_twin(said.source):
            queue.discard(said.results)
            said = Refused(error=TWIN, exit_code=int(ExitCode.REFUSED), digest=said.bundle.digest)
        self._count(said, data, job.way, queue.waited_s(job))
        if isinstance(said, Refused):
            state: State = "failed" if said.device else "refused"
            queue.end(job.id, state, bundle=said.digest, error=said.error)
            return
        state = "unfit" if said.outcome == "unfit" else "answered"
        queue.end(
            job.id,
            state,
            bundle=said.bundle.digest,
            answer=_envelope(said),
            results=said.results,
            source=said.source,
        )

    def _count(self, said: Told | Refused, data: bytes, way: str, waited_s: float) -> None:
        outcome = "refused" if isinstance(said, Refused) else said.outcome
        self._metrics.count("foveola_answers_total", outcome=outcome)
        self._metrics.time("foveola_wait_seconds", waited_s)
        if isinstance(said, Refused):
            self._field.refused(said, data, way)
        else:
            self.answered = said.bundle.digest
            self._metrics.time("foveola_engine_seconds", said.seconds)
            self._field.told(said, data, way)

    def _lost(self, error: Exception) -> None:
        self._metrics.count("foveola_answers_total", outcome="failed")
        self._field.lost("deadline" if isinstance(error, DeadlineError) else "unavailable")
        self._field.note("engine-restart")


def _envelope(told: Told) -> bytes:
    return msgspec.json.encode(Envelope(bundle=told.bundle, prediction=told.answer))
