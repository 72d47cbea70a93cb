"""Keeps the engine's process: starts it, asks it with a deadline, ends it, and starts it anew within a budget.

Laws:
- One question at a time; an answer belongs to the question that was asked, since a process that missed its deadline
  is ended before another is asked.
- After `restarts` failures within `restarts_s` the service is unavailable; it tries again every `pause_s`, and is
  available again as soon as a fresh process has passed the self-test.
- A process that grew above `memory_mib` is started anew after its answer.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

import msgspec

from ..errors import FoveolaError
from .frames import Ask, Command, Refused, Said, Started, Told, read_said, write_frame
from .limits import LIMITS, Limits


class UnavailableError(Exception):
    """There is no engine for now; the text is one line that says why."""


class EngineFailedError(Exception):
    """The engine's process died of this image or missed the deadline; the text says which."""


class DeadlineError(EngineFailedError):
    """It missed the deadline."""


class Keeper:
    """The engine's process and its restarts; one thread uses it, others may read its state.

    `started` is what the process told when it was up, None while there is none; `fault` why there is none. `available`
    says whether images may be accepted: it is up, or it was and is being restarted within the budget.

    Args:
        command: what the process is to open.
        limits: of the service.
        words: the process's command line, where it is another than `child`.
        on_start: is told of every process that is up, before it is asked anything.
    """

    def __init__(
        self,
        command: Command,
        limits: Limits = LIMITS,
        words: Sequence[str] | None = None,
        on_start: Callable[[Started], None] = lambda started: None,
    ) -> None:
        self._words, self._limits, self._on_start = words or _words(command), limits, on_start
        self._process: subprocess.Popen[bytes] | None = None
        self._said: SimpleQueue[Said | None] = SimpleQueue()
        self._failures: deque[float] = deque()
        self._tried = -float("inf")
        self.started: Started | None = None
        self.digest = ""  # of the bundle of the last process that was up
        self.available = False
        self.fault = "the engine has not been started yet"
        self.restarts = 0
        self.busy_until = 0.0  # on the monotonic clock; whoever watches is patient until then
        self.memory_mib: float | None = None

    def ensure(self) -> Started:
        """Give the running process's identity; start one where there is none and the budget allows it.

        Raises:
            UnavailableError: it does not start, or has failed too often.
        """
        if self._process is not None and self._process.poll() is not None:
            self._failed(f"the engine's process ended with code {self._process.returncode}")
        if self.started is None:
            if self._spent() and time.monotonic() - self._tried < self._limits.pause_s:
                raise UnavailableError(self.fault)
            self._start()
        assert self.started
        return self.started

    def ask(self, ask: Ask, payload: bytes = b"") -> Told | Refused:
        """Ask about one image.

        Raises:
            UnavailableError: as `ensure`.
            EngineFailedError: the process died; it is started anew at the next call.
            DeadlineError: no answer within `deadline_s`; likewise.
        """
        self.ensure()
        assert self._process
        assert self._process.stdin
        self.busy_until = time.monotonic() + self._limits.deadline_s
        # A process that does not even read its question would keep the writer waiting for ever.
        timer = threading.Timer(self._limits.deadline_s + 1, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            write_frame(self._process.stdin, msgspec.structs.replace(ask, payload=len(payload)), payload)
            said = self._said.get(timeout=self._limits.deadline_s)
        except Empty:
            self._failed(f"no answer within {self._limits.deadline_s:g} s")
            raise DeadlineError(f"no answer within {self._limits.deadline_s:g} s") from None
        except OSError:
            said = None
        finally:
            timer.cancel()
        if said is None or isinstance(said, Started):
            fault = f"the engine's process ended with code {self._code()}"
            self._failed(fault)
            raise EngineFailedError(fault)
        if isinstance(said, Told):
            self.memory_mib = said.memory_mib
            if self._limits.memory_mib and (said.memory_mib or 0) > self._limits.memory_mib:
                self.stop()  # no failure: it answered, and a fresh one is smaller
        return said

    def stop(self) -> None:
        """End the process."""
        process, self._process, self.started = self._process, None, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream:
                with contextlib.suppress(OSError):  # of what could not be sent any more
                    stream.close()

    def _start(self) -> None:
        self._tried = time.monotonic()
        self.busy_until = self._tried + self._limits.start_s
        said: SimpleQueue[Said | None] = SimpleQueue()
        self._said = said
        # Bytes that a dead process left unread must not wait in a buffer for the next one: a queue for each.
        process = subprocess.Popen(self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._process = process
        threading.Thread(target=_listen, args=(process, said), daemon=True, name="engine").start()
        try:
            first = said.get(timeout=self._limits.start_s)
        except Empty:
            first = None
        if not isinstance(first, Started):
            why = first.error if isinstance(first, Refused) else f"the engine does not start (code {self._code()})"
            self._failed(why, was_up=False)
            raise UnavailableError(self.fault)
        self._on_start(first)
        self.started, self.digest, self.available, self.fault = first, first.bundle.digest, True, ""

    def _failed(self, fault: str, *, was_up: bool = True) -> None:
        """Count a failure; beyond the budget the fault says so."""
        self.stop()
        self.restarts += 1
        self._failures.append(time.monotonic())
        spent = self._spent()
        self.available = self.available and was_up and not spent
        self.fault = f"unavailable after {len(self._failures)} failures of the engine: {fault}" if spent else fault

    def _spent(self) -> bool:
        while self._failures and time.monotonic() - self._failures[0] > self._limits.restarts_s:
            self._failures.popleft()
        return len(self._failures) > self._limits.restarts

    def _code(self) -> int | str:
        if self._process is None:
            return "?"
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=1)
        return "none yet"


def _listen(process: subprocess.Popen[bytes], said: SimpleQueue[Said | None]) -> None:
    """Hand over what the process says, and None when it ends."""
    assert process.stdout
    with contextlib.suppress(OSError, ValueError, FoveolaError, msgspec.DecodeError):  # closed by `stop`, or nonsense
        while (one := read_said(process.stdout)) is not None:
            said.put(one)
    said.put(None)


def _words(command: Command) -> list[str]:
    """Give the command line of the engine's process."""
    own = msgspec.json.encode(command, enc_hook=str).decode()
    return [sys.executable, *_flags(), "-m", "foveola.runtime.serve.child", own]


def _flags() -> list[str]:
    """Let the process find the same modules as this one, and nothing in a working folder that this one skips."""
    if sys.flags.isolated:
        return ["-I"]
    # Python 3.10 has no -P.
    return [] if {"", str(Path.cwd())} & set(sys.path) or sys.version_info < (3, 11) else ["-P"]
