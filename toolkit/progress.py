"""How a run says where it is: step k of n, time passed, time left. All of it goes to stderr.

On a terminal a live bar (rich); elsewhere plain lines, at most one every few seconds and step. `Progress` is what the
pipeline and the stages see; neither knows which of the two it talks to.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import TaskID

INTERVAL = 5.0  # seconds between two plain lines of one step


class Progress(Protocol):
    """A voice for one run."""

    def begin(self, step: str, number: int, steps: int, reason: str) -> None:
        """Step `number` of `steps` begins, because of `reason`."""
        ...

    def advance(self, done: float, total: float, text: str) -> None:
        """`done` of `total` parts of the present step are done."""
        ...

    def log(self, text: str) -> None:
        """One line, kept on the screen."""
        ...

    def end(self, result: str) -> None:
        """Close the present step: `reused`, `done`, `stopped`."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


def make_progress(stream: TextIO | None = None) -> Progress:
    """Choose the voice that fits the stream (stderr unless given): live on a terminal, plain lines elsewhere."""
    chosen = sys.stderr if stream is None else stream
    return LiveProgress(chosen) if chosen.isatty() else PlainProgress(chosen)


class SilentProgress:
    """Says nothing."""

    def begin(self, step: str, number: int, steps: int, reason: str) -> None:
        """Say nothing."""

    def advance(self, done: float, total: float, text: str) -> None:
        """Say nothing."""

    def log(self, text: str) -> None:
        """Say nothing."""

    def end(self, result: str) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Say nothing."""


class Pace:
    """Time left, from how long the parts of a step have taken so far."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.start = clock()
        self.first: tuple[float, float] | None = None  # time and share of the first word after (re)start
        self.share = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the step began."""
        return self.clock() - self.start

    def left(self, done: float, total: float) -> float | None:
        """Seconds left when `done` of `total` are done; None while nothing can be said."""
        share = min(done / total, 1.0) if total > 0 else 0.0
        if self.first is None or share < self.share:  # a resumed step, or a second phase counted anew
            self.first = (self.clock(), share)
        self.share = share
        since, was = self.clock() - self.first[0], self.first[1]
        return since / (share - was) * (1 - share) if share > was else None


class PlainProgress:
    """Plain lines for logs and pipes."""

    def __init__(self, stream: TextIO, interval: float = INTERVAL, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.interval, self.clock = stream, interval, clock
        self.head = ""
        self.pace = Pace(clock)
        self.spoke = clock()

    def begin(self, step: str, number: int, steps: int, reason: str) -> None:
        """Say why the step runs."""
        self.head = f"[{number}/{steps}] {step}"
        self.pace = Pace(self.clock)
        self.spoke = self.clock()
        if reason != "reused":
            self._say(f"{self.head}: {reason}")

    def advance(self, done: float, total: float, text: str) -> None:
        """Say it when the last line is long enough ago."""
        left = self.pace.left(done, total)
        if self.clock() - self.spoke < self.interval:
            return
        self.spoke = self.clock()
        rest = f", about {duration(left)} left" if left is not None else ""
        said = f" {text}" if text else ""
        self._say(f"{self.head}: {done:g}/{total:g}{said}, {duration(self.pace.elapsed)}{rest}")

    def log(self, text: str) -> None:
        """Say it at once."""
        self._say(f"{self.head}: {text}" if self.head else text)

    def end(self, result: str) -> None:
        """Say how it ended."""
        took = "" if result == "reused" else f" in {duration(self.pace.elapsed)}"
        self._say(f"{self.head}: {result}{took}")
        self.head = ""

    def close(self) -> None:
        """Nothing is open."""

    def _say(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


class LiveProgress:
    """One live bar on a terminal; finished steps stay above it as lines."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.fields[head]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}{task.description}"),
        )
        self.console = Console(file=stream, highlight=False)
        # Standard output stays what it is: the command's result goes there, also through a pipe.
        self.bar = Bar(*columns, console=self.console, transient=True, redirect_stdout=False, redirect_stderr=False)
        self.task: TaskID | None = None
        self.head = ""
        self.pace = Pace()

    def begin(self, step: str, number: int, steps: int, reason: str) -> None:
        """Open a bar."""
        self.head = f"[{number}/{steps}] {step}"
        self.pace = Pace()
        if reason == "reused":
            return
        self.bar.start()
        self.task = self.bar.add_task(reason, total=None, head=self.head, left="")

    def advance(self, done: float, total: float, text: str) -> None:
        """Move the bar."""
        left = self.pace.left(done, total)
        said = f"{duration(left)} left  " if left is not None else ""
        if self.task is not None:
            self.bar.update(self.task, completed=done, total=total, description=text, left=said)

    def log(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(f"{self.head}: {text}" if self.head else text, markup=False)

    def end(self, result: str) -> None:
        """Close the bar and leave a line."""
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None
        took = "" if result == "reused" else f" in {duration(self.pace.elapsed)}"
        self.console.print(f"{self.head}: {result}{took}", markup=False)
        self.head = ""

    def close(self) -> None:
        """Give the terminal back."""
        self.bar.stop()


def duration(seconds: float) -> str:
    """Seconds as people say them: `4 s`, `2 min 05 s`, `1 h 20 min`."""
    whole = int(seconds + 0.5)
    if whole < 100:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
