"""One kind of step: a small frozen struct of knobs with a `run`.

Rules for a stage:
- its fields are exactly the knobs that change its result; what does not (workers, log interval) is no field;
- a field in `INPUTS` holds the name of an earlier step (or a tuple of names), a field in `PATHS` the path of something
  outside; a step's identity takes the digest of what they name, never the name or the path;
- `run` reads `work.inputs`, `work.data` and the outside files, and writes below `work.folder`, nowhere else but
  `work.cache`; equal identity gives equal bytes;
- `VERSION` is raised whenever the same knobs would give another result than before;
- a subclass repeats `frozen=True, kw_only=True`; msgspec passes the other settings on.

    class Prune(Stage, frozen=True, kw_only=True):
        VERSION = 1
        INPUTS = ("of",)
        of: str
        ratio: Annotated[float, Meta(gt=0, lt=1)] = 0.5

        def run(self, work: Work) -> None:
            prune(work.inputs["of"], work.folder, ratio=self.ratio)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from ..runtime.errors import FoveolaError
from .data.hashing import file_sha256
from .work import Work

Use = Literal["tasks", "margins", "device"]


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Knobs and `run` of one kind of step; see the rules above."""

    VERSION: ClassVar[int] = 1
    INPUTS: ClassVar[tuple[str, ...]] = ()  # fields that name an earlier step; an empty text names none
    ACCEPTS: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # input field -> stages it may name; absent: any
    USES: ClassVar[frozenset[Use]] = frozenset()  # parts of the recipe that change the result
    PATHS: ClassVar[tuple[str, ...]] = ()  # fields that are paths; relative ones start at the recipe's folder
    TOGETHER: ClassVar[bool] = False  # True: all processes that torchrun started take part (`workers.py`)
    RESUMES: ClassVar[bool] = False  # True: `run` finds what an interrupted `run` left in `work.folder`

    def run(self, work: Work) -> None:
        """Do the step.

        Raises:
            FoveolaError: refused, with place, fault and mend.
        """
        raise NotImplementedError

    def check_ahead(self, work: Work) -> None:
        """Refuse what can be known once the data are there, before any other step runs; reads `work.data` only.

        Raises:
            FoveolaError: the step could not succeed.
        """

    def files(self, folder: Path) -> str:
        """Content digest of everything outside that the step reads; empty when there is nothing.

        Args:
            folder: the recipe's folder, where relative paths start.

        Raises:
            FoveolaError: something is not there or cannot be read.
        """
        parts = [digest_path(folder / getattr(self, field), field) for field in self.PATHS if getattr(self, field)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest() if parts else ""


class DataStage(Stage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A stage that can stand as a recipe's `data`: it leaves a folder that the other steps read as `work.data`."""


def knobs(stage: msgspec.Struct, leave_out: tuple[str, ...] = ()) -> dict[str, object]:
    """All fields of a stage as plain JSON values, defaults too: a changed default is a changed knob."""
    fields = msgspec.structs.asdict(stage)  # and not `as_json`, since a struct may be told to omit its defaults
    return {field: as_json(value) for field, value in fields.items() if field not in leave_out}


def as_json(value: object) -> Any:
    """Read a value as JSON has it: structs are mappings, tuples are lists."""
    return msgspec.json.decode(msgspec.json.encode(value))


def digest_of(value: object) -> str:
    """Sha256 of the canonical JSON (keys sorted, no spaces) of a value."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()


def digest_path(path: Path, place: str) -> str:
    """Sha256 of a file's bytes, or of a folder's relative names and bytes in order.

    Raises:
        FoveolaError: the path is not there or cannot be read.
    """
    try:
        if path.is_file():
            return file_sha256(path)
        if path.is_dir():
            files = sorted(entry for entry in path.rglob("*") if entry.is_file())
            lines = [f"{entry.relative_to(path).as_posix()} {file_sha256(entry)}" for entry in files]
            return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    except OSError as error:
        raise FoveolaError(place, f"{error.filename} cannot be read: {error.strerror}") from None
    raise FoveolaError(
        place, f"{path} is not there", "a relative path starts at the recipe's folder; `--set` gives another"
    )
