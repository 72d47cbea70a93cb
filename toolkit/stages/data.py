"""Stages that make a recipe's data: phantoms, or a folder with a manifest; see `table.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, field

from ...runtime.task import Task
from ..data.phantoms import LEAST_SIZE, PHANTOMS, SHARES, Anatomy
from ..data.samples import Columns
from ..knobs import Count, Share
from ..stage import DataStage
from ..work import Work

if TYPE_CHECKING:
    from ..data.check import Survey
    from ..data.dataset import Dataset


class ImageStage(DataStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every data stage shares.

    Args:
        only: attribute -> value: what the device sees, such as `modality: fundus`. All steps work on these images
            alone, but for a pretraining that learns from the others too.
    """

    only: dict[str, str] = field(default_factory=dict)

    def dataset(self, work: Work) -> Dataset:
        """All images, as they lie there."""
        raise NotImplementedError


class Phantom(ImageStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Make phantoms: a data set without a download.

    Args:
        anatomy: what is drawn; `foveola data phantom --help` tells what each is.
        patients: number of patients, one to three images each.
        size: side of the pictures in pixels.
        shares: share of the patients in train, val, calibration and test.
    """

    anatomy: Anatomy = "chest"
    patients: Count = 300
    size: Annotated[int, Meta(ge=LEAST_SIZE)] = 256
    shares: dict[str, Share] = field(default_factory=lambda: dict(SHARES))

    def run(self, work: Work) -> None:
        """Draw all pictures."""
        PHANTOMS[self.anatomy].make(
            work.folder,
            patients=self.patients,
            seed=work.seed,
            size=self.size,
            shares=self.shares,
            progress=work.progress,
        )

    def dataset(self, work: Work) -> Dataset:
        """The finished phantoms."""
        from ..data.dataset import Columns, read_dataset

        return read_dataset(work.data, work.tasks, columns=Columns(attributes=PHANTOMS[self.anatomy].attributes))


class FileStage(ImageStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Images that exist; what reads them says how they are surveyed and read."""

    VERSION = 2
    PATHS = ("root",)

    root: str

    def survey(self, tasks: tuple[Task, ...], seed: int, progress: Callable[[int, int], None]) -> Survey:
        """Look at everything, pictures and all, and count what is there."""
        raise NotImplementedError

    def run(self, work: Work) -> None:
        """Check everything; refuse it with its faults, and leave `survey.json`."""
        from ..data.faults import Faults
        from ..json_files import write_json

        survey = self.survey(work.tasks, work.seed, work.progress)
        for fault in survey.warnings:
            work.log(f"warning: {fault}")
        faults = Faults()
        faults.found.extend(survey.faults)
        faults.refuse(self.root)
        self.dataset(work)  # what only reading finds is this step's fault, not that of the first one that reads
        write_json(work.folder / "survey.json", survey)


class Manifest(FileStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Images that exist: a folder with a manifest (docs/data.md).

    Args:
        root: the folder; paths in the manifest are relative to it.
        manifest: name of the CSV in it.
        columns: which columns hold file, patient, split and the attributes for subgroups.
        calibration: share of the train patients set apart for calibration.
    """

    manifest: str = "manifest.csv"
    columns: Columns = Columns()
    calibration: Share = 0.0

    def survey(self, tasks: tuple[Task, ...], seed: int, progress: Callable[[int, int], None]) -> Survey:
        """Of the one manifest."""
        from ..data.check import survey_dataset

        return survey_dataset(
            Path(self.root),
            tasks,
            manifest=self.manifest,
            columns=self.columns,
            calibration=self.calibration,
            seed=seed,
            progress=progress,
        )

    def dataset(self, work: Work) -> Dataset:
        """The data set as it lies there."""
        from ..data.dataset import read_dataset

        return read_dataset(
            Path(self.root),
            work.tasks,
            manifest=self.manifest,
            columns=self.columns,
            calibration=self.calibration,
            seed=work.seed,
        )


def dataset_of(work: Work, *, every: bool = False) -> Dataset:
    """The data set of the recipe.

    Args:
        work: of the step.
        every: all images, those too that the device does not see (`ImageStage.only`).

    Raises:
        FoveolaError: anything is wrong with the data, or no image has the attributes that `only` names.
    """
    from ..recipe import Recipe

    assert isinstance(work.recipe, Recipe)
    stage = work.recipe.data.stage
    assert isinstance(stage, ImageStage)
    dataset = stage.dataset(work)
    return dataset if every else dataset.having(stage.only)
