"""What a step is given while it runs: folders, the recipe's head, and a voice.

Rules:
- `folder` is the only place for results; it becomes the finished step by one rename, after `run` has returned;
- `cache` is for what can be made again at any time; it is never part of a result and may be deleted between runs;
- whatever may be read by a later attempt is written by `write_atomic`, so that a kill leaves the old file or the new.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..runtime.task import Task
from .progress import Progress

if TYPE_CHECKING:
    from ..devices.profile import Profile

SHORT_NAME = 12  # digits of a digest in a file's name
WRITING = ".writing"  # suffix of a file that is not complete yet


class RecipeHead(msgspec.Struct, frozen=True, kw_only=True):
    """What every step may know of its recipe."""

    name: str
    device: str  # id of a profile in devices/
    seed: int
    tasks: tuple[Task, ...]
    digest: str  # of the whole recipe but its outside paths
    folder: Path  # where relative paths start


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """The surroundings of one step."""

    step: str  # the step's name in the recipe
    digest: str  # identity of the step, 64 hex digits
    folder: Path  # results go here
    inputs: dict[
        str, Path
    ]  # finished folders by the name of the field that names the step; `of.0`, `of.1` where it lists several
    digests: dict[str, str]  # identities of the inputs by field, and of the data as "data"
    data: Path  # finished folder of the recipe's data; the data step itself sees its own `folder`
    cache: Path
    recipe: RecipeHead
    reporter: Progress

    @property
    def device(self) -> Profile:
        """The profile of the recipe's device; a stage that reads it has "device" in `USES`."""
        from ..devices.profile import load_profile

        return load_profile(self.recipe.device)

    @property
    def seed(self) -> int:
        """The recipe's seed."""
        return self.recipe.seed

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The recipe's tasks, in its order; a stage that reads them has "tasks" (and "margins") in `USES`."""
        return self.recipe.tasks

    @property
    def log_file(self) -> Path:
        """Where a training writes its curve, which holds times and is thus no part of its result."""
        return self.cache.parent / "logs" / f"{self.step}-{self.digest[:SHORT_NAME]}.csv"

    def listed(self, field: str) -> tuple[Path, ...]:
        """Finished folders of the steps that a field lists, in its order."""
        count = sum(name.startswith(f"{field}.") for name in self.inputs)
        return tuple(self.inputs[f"{field}.{number}"] for number in range(count))

    def progress(self, done: float, total: float, text: str = "") -> None:
        """Say that `done` of `total` parts of the step are done; cheap enough for every batch."""
        self.reporter.advance(done, total, text)

    def log(self, text: str) -> None:
        """One line for whoever watches."""
        self.reporter.log(text)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file that is there wholly or not at all, also after a power cut."""
    temporary = path.with_name(path.name + WRITING)
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make renames and new names in a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
