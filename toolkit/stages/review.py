"""Stage that reports on teachers and their trainings; see `table.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from ...runtime.errors import FoveolaError
from ..stage import Stage, digest_of
from ..work import Work
from .data import dataset_of
from .network import TEACHERS


class Review(Stage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Report on one page how good teachers are, how their trainings went, what was forgotten and where they looked.

    Args:
        teachers: steps of networks that answer tasks; those that answer the same task stand side by side.
        trainings: steps whose curves are shown.
        split: the images that the teachers answer.
        resamples: of the patient bootstrap.
        pictures: attention pictures a label of each classification task.
    """

    INPUTS = ("teachers", "trainings")
    ACCEPTS = {  # noqa: RUF012 - msgspec leaves class variables alone
        "teachers": TEACHERS,
        "trainings": ("pretrain", "continual", "finetune", "train", "sepl", "cooperate", "comprer"),
    }
    USES = frozenset({"tasks"})

    teachers: tuple[str, ...] = ()
    trainings: tuple[str, ...] = ()
    split: Literal["test", "val"] = "test"
    resamples: Annotated[int, Meta(ge=100)] = 1000
    pictures: Annotated[int, Meta(ge=0, le=20)] = 3

    def check_ahead(self, work: Work) -> None:
        """There is something to report on, and cases with a reference."""
        from ..review.teachers import cases_to_review

        if not self.teachers and not self.trainings:
            raise FoveolaError("teachers", "no step is named", "name steps under teachers, trainings or both")
        for field in self.INPUTS:
            names: tuple[str, ...] = getattr(self, field)
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise FoveolaError(field, f"{twice[0]!r} is named twice", "name each step once")
        cases_to_review(dataset_of(work), self.split)

    def run(self, work: Work) -> None:
        """Write `review.json` and `review.html`."""
        from ..review.teachers import review_teachers

        review_teachers(
            dict(zip(self.teachers, work.listed("teachers"), strict=True)),
            dict(zip(self.trainings, work.listed("trainings"), strict=True)),
            dataset_of(work),
            split=self.split,
            resamples=self.resamples,
            pictures=self.pictures,
            seed=work.seed,
            folder=work.folder,
            cache=work.cache,
            title=work.recipe.name,
            progress=work.progress,
        )

    def files(self, folder: Path) -> str:
        """The names of the steps: they head the page's columns, so that here they are part of the result."""
        return digest_of([self.teachers, self.trainings])
