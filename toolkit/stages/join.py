"""The stage that makes a recipe's data of several data sets; see `table.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from ...runtime.task import Task
from ..data.samples import Source, SourceName
from ..stage import digest_of, digest_path
from ..work import Work
from .data import FileStage

if TYPE_CHECKING:
    from ..data.check import Survey
    from ..data.dataset import Dataset


class Join(FileStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Several data sets as one, each with its own manifest, splits and tasks (docs/data.md).

    Args:
        root: the folder that holds them all.
        sources: the data sets by name; keys, patients and the attribute `dataset` get this name.
    """

    VERSION = 1

    sources: Annotated[dict[SourceName, Source], Meta(min_length=1)]

    def files(self, folder: Path) -> str:
        """Content digest of the sources' folders, and of nothing that lies beside them."""
        paths = {name: folder / self.root / source.folder for name, source in self.sources.items()}
        return digest_of({name: digest_path(path, f"sources.{name}") for name, path in paths.items()})

    def survey(self, tasks: tuple[Task, ...], seed: int, progress: Callable[[int, int], None]) -> Survey:
        """Of all sources."""
        from ..data.join import survey_joined

        return survey_joined(Path(self.root), self.sources, tasks, seed=seed, progress=progress)

    def dataset(self, work: Work) -> Dataset:
        """The data sets as they lie there, put together."""
        from ..data.join import read_joined

        dataset, faults = read_joined(Path(self.root), self.sources, work.tasks, seed=work.seed)
        faults.refuse(self.root)
        return dataset
