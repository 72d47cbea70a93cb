"""A time is taken while the other workers of the machine hold still.

Two locks of the kernel, which end with their process: whoever trains holds the `room` together with others and lets go
of it at the next step when somebody stands in the `door`; whoever takes a time stands in the door and waits until the
room is empty. The door keeps a crowd that comes and goes from making the clock wait for ever.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path


class Quiet:
    """The two locks of one machine.

    Args:
        folder: where they lie; None where a worker is alone, and nothing is locked.
    """

    def __init__(self, folder: Path | None) -> None:
        self.door: TextIOWrapper | None = None
        self.room: TextIOWrapper | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.door, self.room = ((folder / name).open("a") for name in ("door.lock", "room.lock"))
            self.enter()

    def enter(self) -> None:
        """Begin to make noise; waits while a time is taken."""
        if self.door is not None and self.room is not None:
            fcntl.flock(self.door, fcntl.LOCK_SH)
            fcntl.flock(self.room, fcntl.LOCK_SH)
            fcntl.flock(self.door, fcntl.LOCK_UN)

    def breathe(self) -> None:
        """Hold still if somebody wants to take a time; cheap enough for every training step."""
        if self.door is None or self.room is None:
            return
        try:
            fcntl.flock(self.door, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(self.door, fcntl.LOCK_UN)
        except BlockingIOError:
            fcntl.flock(self.room, fcntl.LOCK_UN)
            self.enter()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else makes noise while this lasts."""
        if self.door is None or self.room is None:
            yield
            return
        fcntl.flock(self.room, fcntl.LOCK_UN)  # or two that want a time would wait for each other
        fcntl.flock(self.door, fcntl.LOCK_EX)
        fcntl.flock(self.room, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self.room, fcntl.LOCK_SH)
            fcntl.flock(self.door, fcntl.LOCK_UN)

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Make no more noise."""
        for stream in (self.door, self.room):
            if stream is not None:
                stream.close()
        self.door = self.room = None
