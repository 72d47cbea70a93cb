"""`foveola serve`: one bundle answers whoever may ask, by HTTP, DICOM and a folder, until it is told to stop.

    serve(Settings(command=Command(bundle=Path("chest.foveola")), state=Path("chest.state"), http=address))

The parts, each in a file of its own: doors (`web`, `node`, `folder`) hand images to the desk (`desk`), which keeps them
on disk (`jobs`); one worker (`work`) asks the engine's process (`keeper`, `child`); results go to the peer (`peer`).

Laws:
- The doors open before the engine is up, and say so; READY=1 is told after its self-test.
- On SIGTERM or SIGINT the doors take nothing more, whoever waits gets an answer, and the queue stays on disk.
- The watchdog is told of life only while the worker shows some.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import msgspec

from ..errors import FoveolaError, MissingPartError
from ..verbs.verb import to_stderr
from .desk import Desk
from .field import Field
from .folder import WatchFolder
from .frames import Command, Started
from .jobs import Queue
from .keeper import Keeper
from .limits import LIMITS, Limits
from .listen import Address, HttpServer
from .metrics import Metrics
from .node import Node
from .notify import notify, watchdog_s
from .peer import Peer, Sender
from .web import Web
from .work import Worker

TICK_S = 0.25
LIVED_S = 60.0  # a bundle on trial that answered an image, or was up so long, lives


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a service is.

    Args:
        command: bundle and engine.
        state: folder of queue and results.
        http: where to listen; None for no HTTP.
        inbox: folder to watch.
        dicom: host and port of the DICOM node; None for none.
        aet: own title.
        callers: titles that may call; empty: all.
        peer: where DICOM results go.
        kinds: of DICOM results.
        watch: folder of the watch.
        audit: folder of the audit log.
        limits: of the service.
    """

    command: Command
    state: Path
    http: Address | None = None
    inbox: Path | None = None
    dicom: tuple[str, int] | None = None
    aet: str = "FOVEOLA"
    callers: tuple[str, ...] = ()
    peer: Peer | None = None
    kinds: tuple[str, ...] = ("sr",)
    watch: Path | None = None
    audit: Path | None = None
    limits: Limits = LIMITS


def serve(settings: Settings, stop: threading.Event | None = None) -> dict[str, int]:
    """Serve until `stop` is set, by a signal or by the caller.

    Returns:
        Jobs on disk by state, as they are left.

    Raises:
        FoveolaError: a folder or port cannot be used.
        MissingPartError: a part that the settings need is not installed.
    """
    stop = stop or threading.Event()
    if settings.peer and find_spec("highdicom") is None:
        raise MissingPartError("highdicom", "is not installed", "pip install 'foveola[dicom]'")
    with ExitStack() as stack:
        field = Field(settings.watch, settings.audit)
        queue = Queue(settings.state, settings.limits)
        stack.callback(queue.close)
        stack.callback(field.close)
        command = msgspec.structs.replace(
            settings.command,
            record=settings.state / "selftest.json",
            watched=field.watches,
            audit=settings.audit,
            dicom=settings.dicom is not None,
            results=settings.peer is not None,
        )
        keeper, metrics = Keeper(command, settings.limits, on_start=field.ready), Metrics()
        kinds = settings.kinds if settings.peer else ()
        worker = Worker(queue, keeper, metrics, settings.limits, kinds, field)
        desk = Desk(queue, keeper, worker, metrics, field)
        stack.enter_context(_stopping_on_signals(stop))
        field.note("start")
        threads = _open_doors(stack, settings, queue, desk, metrics)
        worker.start()
        attendant = _Attendant(settings.command.root, worker, keeper, field, threads)
        while not stop.wait(TICK_S):
            attendant.look()
        notify("STOPPING=1")
        to_stderr("stopping: nothing new is taken")
        worker.stop()
        worker.join(2 * settings.limits.deadline_s)
        keeper.stop()
        return queue.counts()


def _open_doors(
    stack: ExitStack, settings: Settings, queue: Queue, desk: Desk, metrics: Metrics
) -> list[threading.Thread]:
    """Start every door that is asked for, each closed when the stack is; and give the threads that have to live."""
    limits = settings.limits
    threads: list[threading.Thread] = []
    if settings.http:
        local = settings.http.path is None
        web = Web(desk, metrics, image_bytes=limits.image_bytes, local=local)
        server = HttpServer(web, settings.http, limits)
        server.start()
        stack.callback(server.stop)
        threads.append(server.thread)
        to_stderr(f"http    {server.address}")
    if settings.dicom:
        host, port = settings.dicom
        node = Node(desk, host=host, port=port, aet=settings.aet, callers=settings.callers, limits=limits)
        stack.callback(node.stop)
        to_stderr(f"dicom   {settings.aet}@{host}:{node.port}")
    if settings.inbox:
        folder = WatchFolder(settings.inbox, desk, limits)
        folder.start()
        stack.callback(folder.finish)
        threads.append(folder)
        to_stderr(f"inbox   {settings.inbox}")
    if settings.peer:
        sender = Sender(queue, settings.peer, settings.aet, metrics, limits)
        sender.start()
        stack.callback(sender.finish)
        threads.append(sender)
        to_stderr(f"peer    {settings.peer.aet}@{settings.peer.host}:{settings.peer.port}")
    return threads


class _Attendant:
    """Looks after a service that runs: tells what changes, and shows life."""

    def __init__(
        self,
        root: Path | None,
        worker: Worker,
        keeper: Keeper,
        field: Field,
        threads: Sequence[threading.Thread] = (),
    ) -> None:
        self._threads = (worker, *threads)
        self._root, self._worker, self._keeper, self._field = root, worker, keeper, field
        self._sign_s, self._signed = watchdog_s(), -math.inf
        self._since = time.monotonic()
        self._started: Started | None = None
        self._fault, self._lived = keeper.fault, ""

    def look(self) -> None:
        """Look once."""
        ended = [thread.name for thread in self._threads if not thread.is_alive()]
        if ended:
            raise RuntimeError(f"the {ended[0]} ended")  # its traceback stands on stderr
        started, fault = self._keeper.started, self._keeper.fault
        if started is not None and started is not self._started:
            self._since = time.monotonic()
            _tell_ready(started)
        elif started is None and fault and fault != self._fault:
            to_stderr(f"no engine: {fault}")
            notify(f"STATUS=no engine: {fault}")
            self._field.note("unavailable")
        self._started, self._fault = started, "" if started else fault or self._fault
        if self._root and started and started.bundle.digest != self._lived and self._lives(started):
            _mark_good(self._root, started.bundle.digest)
            self._lived = started.bundle.digest
        if self._sign_s and time.monotonic() - self._signed >= self._sign_s and not self._worker.hangs:
            self._signed = time.monotonic()
            notify("WATCHDOG=1")

    def _lives(self, started: Started) -> bool:
        """Whether this bundle, which may be another than at the start, has answered or was up for long enough."""
        return self._worker.answered == started.bundle.digest or time.monotonic() - self._since > LIVED_S


def _tell_ready(started: Started) -> None:
    bundle = started.bundle
    words = f"{bundle.name} {bundle.version} on {bundle.engine}, self-test of {started.images} images passed"
    to_stderr(f"ready   {words}")
    notify("READY=1", f"STATUS={words}")


def _mark_good(root: Path, digest: str) -> None:
    from ..slots.active import mark_good

    try:
        mark_good(root, digest)
    except FoveolaError as error:  # it answers all the same; the next start tries again
        to_stderr(str(error))


@contextmanager
def _stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """Let SIGTERM and SIGINT (Windows: SIGBREAK as well) ask for the end; other threads than the main one cannot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGTERM", "SIGINT", "SIGBREAK") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), lambda number, frame: stop.set()) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
