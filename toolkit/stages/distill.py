"""The stage that makes a student; see `table.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...runtime.errors import FoveolaError
from ...runtime.manifest import InputSpec
from ..knobs import Count, Shape
from ..work import Work
from ..workers import leads
from .data import dataset_of
from .network import TEACHERS, LessonStage, check_new

if TYPE_CHECKING:
    from ..compress.joined import Voice
    from ..data.dataset import Dataset


class Distill(LessonStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Train a student on the teacher's answers, and on the reference standard where it is known.

    Args:
        teacher: the step of the teacher.
        teachers: steps of several; where more than one answers a task, their answers are averaged.
        hints_of: features of the `first` teacher guide the student, or those of `all`.
        scaling: of the measures: mean and standard deviation of the `train` split, or that of the `teacher`.
        backbone: timm's name of the network.
        input: size, channels, window and normalisation of the input.
        width: channels of the student's decoder.
        mask_stride: input pixels per mask cell.
        box_stride: input pixels per cell of the detector's grid.
    """

    VERSION = 2  # 1 took a teacher's values for standardised ones, whatever their scale
    INPUTS = ("teacher", "teachers")
    ACCEPTS = {"teacher": TEACHERS, "teachers": TEACHERS}  # noqa: RUF012 - msgspec leaves class variables alone

    teacher: str = ""
    teachers: tuple[str, ...] = ()
    hints_of: Literal["first", "all"] = "first"
    scaling: Literal["train", "teacher"] = "train"
    backbone: str
    input: InputSpec
    width: Count = 64
    mask_stride: Literal[4, 8] = 8
    box_stride: Literal[4, 8] = 8

    def __post_init__(self) -> None:
        """Refuse what the names alone show.

        Raises:
            FoveolaError: no teacher, or one that is named twice.
        """
        names = self.named()
        if not names:
            mend = "name the step of a teacher in `teacher`, or several in `teachers`"
            raise FoveolaError("teacher", "nobody teaches", mend)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise FoveolaError("teachers", f"{', '.join(twice)} is named more than once", "name each teacher once")

    def named(self) -> tuple[str, ...]:
        """The steps of all teachers, the first first."""
        return (*((self.teacher,) if self.teacher else ()), *self.teachers)

    def check_ahead(self, work: Work) -> None:
        """There are cases to train and validate on, the backbone is known, and all see the same part of a picture."""
        from ..compress.joined import check_same_view

        if len(self.named()) > 1:
            check_same_view({name: fed for name in self.named() if (fed := fed_by(work, name)) is not None})
        check_new(work, self.backbone, self.input)

    def run(self, work: Work) -> None:
        """Ask each teacher once, then train; resumes at the last epoch."""
        from ..compress.embedding_lessons import check_embeddings, embeddings_of
        from ..compress.joined import join_voices
        from ..compress.lessons import write_taught
        from ..compress.size import warn_if_larger
        from ..train import distil_student

        folders = [work.inputs["teacher"]] if self.teacher else []
        folders += work.listed("teachers")
        digests = [work.digests["teacher"]] if self.teacher else []
        digests += [work.digests[f"teachers.{number}"] for number in range(len(self.teachers))]
        dataset = dataset_of(work)
        train = dataset.subset("train")
        voices = [voice_of(work, folder, digest, train) for folder, digest in zip(folders, digests, strict=True)]
        check_embeddings(dataset.tasks, {name: one.answers.raw for name, one in zip(self.named(), voices, strict=True)})
        voice = join_voices(voices, self.hints_of)
        judged_by = None
        if any(task.kind == "embedding" for task in dataset.tasks):
            val = dataset.subset("val")
            found = [voice_of(work, folder, digest, val) for folder, digest in zip(folders, digests, strict=True)]
            judged_by = embeddings_of(dataset.tasks, [one.answers for one in found])
        shape = Shape(
            backbone=self.backbone,
            input=self.input,
            width=self.width,
            mask_stride=self.mask_stride,
            box_stride=self.box_stride,
        )
        distil_student(
            dataset,
            shape,
            self.plan(),
            voice.answers,
            taught_on=voice.input,
            taught_scale=voice.scale,
            keep_scale=self.scaling == "teacher",
            lessons=self.lessons(),
            folder=work.folder,
            cache=work.cache,
            seed=work.seed,
            report=work.progress,
            weights=self.start(),
            log=work.log_file,
            judged_by=judged_by,
            look=(lambda student: warn_if_larger(student, folders, work.log)) if leads() else None,
        )
        if leads():
            write_taught(work.folder, digests[0], tuple(digests[1:]))


def voice_of(work: Work, folder: Path, digest: str, train: Dataset) -> Voice:
    """A teacher's answers to the train split, asked for once, with what is needed to read them."""
    from ..compress.joined import Voice
    from ..compress.lessons import cached_answers
    from ..teachers.load import read_input, read_scale

    answers = cached_answers(folder, digest, train, work.cache, work.progress)
    return Voice(answers=answers, input=read_input(folder), scale=read_scale(folder))


def fed_by(work: Work, name: str) -> InputSpec | None:
    """How an earlier step's network will be fed, as far as the recipe says it; of a team its first member."""
    from ..recipe import Recipe

    assert isinstance(work.recipe, Recipe)
    stage = next(step.stage for step in work.recipe.steps if step.name == name)
    spec, of = getattr(stage, "input", None), getattr(stage, "of", "")
    if isinstance(spec, InputSpec) or not of:
        return spec
    return fed_by(work, of if isinstance(of, str) else of[0])
