"""The stage that feeds back what compression forgot; see `table.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ...runtime.errors import FoveolaError
from ..knobs import Above, Count
from ..work import Work
from .data import dataset_of
from .finetune import FLOAT_STUDENTS
from .network import NETWORKS, TEACHERS, LessonStage

Times = Annotated[float, Meta(ge=1)]


class Rehearse(LessonStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Train a student a little further with what its int8 graph forgot: flipped and rare cases are drawn more often.

    The training images alone say what that is. Quantise the result again afterwards.

    Args:
        of: the step of the student, in float.
        compressed: the `quantize` step of the same student, whose decisions are held against the teacher's.
        teacher: the step of the teacher.
        flipped: how many times as often an image is drawn that the int8 graph decides otherwise than the teacher.
        rare: `effective` draws images of rare classes more often, by the effective number of their images; or `off`.
        beta: of the effective number: 0 makes all classes alike, 1 weights by the inverse of their number.
        most: the most times as often any image is drawn.
    """

    INPUTS = ("of", "compressed", "teacher")
    ACCEPTS = {  # noqa: RUF012
        "of": (*FLOAT_STUDENTS, *NETWORKS),
        "compressed": ("quantize",),
        "teacher": TEACHERS,
    }

    of: str
    compressed: str
    teacher: str
    flipped: Times = 3.0
    rare: Literal["effective", "off"] = "effective"
    beta: Annotated[float, Meta(ge=0, le=1)] = 0.999
    most: Times = 6.0
    epochs: Count = 8
    learning_rate: Above = 3e-4

    def check_ahead(self, work: Work) -> None:
        """The int8 step is one of the same student, and there are cases to train and validate on."""
        from ..supervision import check_splits

        made_of = getattr(self.int8_step(work), "of", "")
        if made_of != self.of:
            fault = f"{self.compressed} quantises {made_of}, and {self.of} is to be trained further"
            raise FoveolaError(f"{work.step}.compressed", fault, f"name a quantize step of {self.of}")
        check_splits(dataset_of(work))

    def int8_step(self, work: Work) -> msgspec.Struct:
        """The stage of the step that `compressed` names."""
        from ..recipe import Recipe

        assert isinstance(work.recipe, Recipe)
        return next(step.stage for step in work.recipe.steps if step.name == self.compressed)

    def run(self, work: Work) -> None:
        """Find what was forgotten, train, quantise for a second count; resumes at the last epoch."""
        from ..compress.rehearse import Rehearsal, rehearse_student
        from .artefact import Quantize

        quantize = self.int8_step(work)
        assert isinstance(quantize, Quantize)

        def again(student: Path, folder: Path) -> None:
            inner = msgspec.structs.replace(work, folder=folder, inputs={"of": student}, digests={"of": work.digest})
            quantize.run(inner)

        rehearse_student(
            work.inputs["of"],
            work.inputs["compressed"],
            work.inputs["teacher"],
            work.digests["teacher"],
            dataset_of(work),
            self.plan(),
            self.lessons(),
            Rehearsal(flipped=self.flipped, rare=self.rare == "effective", beta=self.beta, most=self.most),
            requantise=again,
            folder=work.folder,
            cache=work.cache,
            seed=work.seed,
            report=work.progress,
            say=work.log,
            log=work.log_file,
        )
