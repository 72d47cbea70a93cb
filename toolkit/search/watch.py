"""Follows a trial's steps: passes on what they say, reads the slack after each epoch, and stops what is hopeless.

A training keeps each finished epoch in its resume point before it says so; there its scores are read. The training
itself knows nothing of the search.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..checkpoint import Epoch
from ..fit import CHECKPOINT
from ..plan import PARTIAL
from ..progress import Progress
from .quiet import Quiet

_CLOSED = re.compile(r"epoch (\d+)/(\d+):")


class HopelessError(Exception):
    """A training was given up; no mistake of anybody's."""

    def __init__(self, reason: str, folder: Path) -> None:
        super().__init__(reason)
        self.reason, self.folder = reason, folder


class _Resume(msgspec.Struct):
    history: list[Epoch]


class Watch:
    """A voice for one trial.

    Args:
        voice: who is told.
        name: of the trial.
        folder: the worker's run folder.
        quiet: where it holds still for the others' clocks.
        judge: takes step, epoch, epochs and the epoch's scores by task; gives a reason to stop, or none.
    """

    def __init__(
        self,
        voice: Progress,
        name: str,
        folder: Path,
        quiet: Quiet,
        judge: Callable[[str, int, int, dict[str, float]], str],
    ) -> None:
        self.voice, self.name, self.folder, self.quiet, self.judge = voice, name, folder, quiet, judge
        self.step = ""
        self.known: dict[str, int] = {}

    def begin(self, step: str, number: int, steps: int, reason: str) -> None:
        """Pass it on."""
        self.step = step
        self.voice.begin(f"{self.name}, {step}", number, steps, reason)

    def advance(self, done: float, total: float, text: str) -> None:
        """Pass it on; at an epoch's end look at its scores.

        Raises:
            HopelessError: the training should be given up.
        """
        self.quiet.breathe()
        self.voice.advance(done, total, text)
        closed = _CLOSED.match(text)
        if closed is None:
            return
        epochs, point = int(closed[2]), self._point()
        history = [] if point is None else msgspec.json.decode(point.read_bytes(), type=_Resume).history
        for epoch in history[self.known.get(self.step, 0) :]:  # a resumed training has several
            self.known[self.step] = self.known.get(self.step, 0) + 1
            reason = self.judge(self.step, self.known[self.step], epochs, epoch.scores)
            if reason and point is not None:
                raise HopelessError(reason, point.parents[1])

    def log(self, text: str) -> None:
        """Pass it on."""
        self.voice.log(text)

    def end(self, result: str) -> None:
        """Pass it on."""
        self.voice.end(result)

    def close(self) -> None:
        """Leave the voice open: other trials follow."""

    def _point(self) -> Path | None:
        """The newest resume point of the step: that of the training which has just spoken."""
        points = self.folder.glob(f"{self.step}-*{PARTIAL}/{CHECKPOINT}/progress.json")
        return max(points, key=lambda path: path.stat().st_mtime, default=None)
