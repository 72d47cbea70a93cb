"""The stage `finetune`: the last stage of MTPret (Liao et al., IEEE TAI 2024), and a student's own network further."""

from __future__ import annotations

from typing import Literal

import msgspec

from ...runtime.errors import FoveolaError
from ...runtime.manifest import InputSpec
from ..knobs import Count, Plan, Shape, Whole
from ..work import Work
from .data import dataset_of
from .network import STARTS, TEACHERS, LessonStage, begun_with, check_teachable, chosen_tasks

FLOAT_STUDENTS = ("distill", "prune", "rehearse")  # stages whose network can be trained further; `qat` would be undone


class Finetune(LessonStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fine-tune all weights: a new network from an earlier step's backbone, or a student's own network further.

    A student (of `distill`, `prune`, `rehearse`, or of a fine-tuning of one) keeps its network, input and heads, pruned
    channels included; it learns from the reference standard, and from a teacher where one is named. The knobs of
    lessons (`soft_weight` and what follows) count with a teacher only.

    Args:
        of: the step whose backbone or student is the start; empty starts from `weights` or at random.
        teacher: for a student: the step of the teacher that guides it; empty leaves the reference standard alone.
        backbone: timm's name of the network; empty means that of the step `of`.
        input: size, channels, window and normalisation of the input; left out, it is that of the step `of`.
        tasks: the tasks to train; empty means all of them, jointly. A student trains all that it has.
        heads: `new` ones, or those of the step `of` that are `kept` where it has the task; a student keeps its own.
        width: channels of the detector's feature pyramid; a student has its own.
        output_stride: input pixels per cell of the coarsest map; 16 or 8 dilate the last stages; a student has its own.
        patience: epochs without a better validation score after which the training ends; 0 never ends it early.
        mask_entropy: cross entropy beside soft Dice for masks; the paper has soft Dice alone.
    """

    INPUTS = ("of", "teacher")
    ACCEPTS = {"of": (*STARTS, *FLOAT_STUDENTS), "teacher": TEACHERS}  # noqa: RUF012

    of: str = ""
    teacher: str = ""
    backbone: str = ""
    input: InputSpec | None = None
    tasks: tuple[str, ...] = ()
    heads: Literal["new", "kept"] = "new"
    width: Count = 256
    output_stride: Literal[8, 16, 32] = 32
    patience: Whole = 0
    mask_entropy: bool = True

    def plan(self) -> Plan:
        """The loop's knobs."""
        return msgspec.structs.replace(super().plan(), patience=self.patience)

    def check_ahead(self, work: Work) -> None:
        """There are labelled cases, and the start is of the same architecture."""
        from ..models.network import check_backbone
        from ..supervision import check_splits

        dataset = chosen_tasks(dataset_of(work), self.tasks)
        check_splits(dataset)
        if not self.teacher:
            check_teachable(dataset.tasks, work.step)
        if starts_student(work, self.of):
            self._check_student(work)
            return
        if self.teacher:
            fault = "a teacher guides a student only"
            raise FoveolaError(f"{work.step}.teacher", fault, "distil a student, or leave the teacher out")
        backbone, spec = begun_with(work, self.of, self.backbone, self.input)
        check_backbone(backbone, spec.channels, (4, 8, 16, 32))

    def _check_student(self, work: Work) -> None:
        own = [name for name in ("weights", "backbone", "input", "tasks") if getattr(self, name)]
        if own:
            fault = f"{self.of} leaves a student, which keeps its network, input and heads"
            raise FoveolaError(f"{work.step}.{own[0]}", fault, f"leave out {', '.join(own)}")

    def run(self, work: Work) -> None:
        """Train; resumes at the last epoch."""
        if starts_student(work, self.of):
            self._further(work)
        else:
            self._anew(work)

    def _further(self, work: Work) -> None:
        from ..compress.go_on import finetune_student

        finetune_student(
            work.inputs["of"],
            dataset_of(work),
            self.plan(),
            teacher=work.inputs.get("teacher"),
            teacher_digest=work.digests.get("teacher", ""),
            lessons=self.lessons(),
            mask_entropy=self.mask_entropy,
            folder=work.folder,
            cache=work.cache,
            seed=work.seed,
            report=work.progress,
            log=work.log_file,
        )

    def _anew(self, work: Work) -> None:
        from ..train import train_teacher

        backbone, spec = begun_with(work, self.of, self.backbone, self.input)
        shape = Shape(backbone=backbone, input=spec, width=self.width, output_stride=self.output_stride)
        train_teacher(
            chosen_tasks(dataset_of(work), self.tasks),
            shape,
            self.plan(),
            folder=work.folder,
            cache=work.cache,
            seed=work.seed,
            report=work.progress,
            weights=self.start(),
            start=work.inputs.get("of"),
            keep_heads=self.heads == "kept",
            mask_entropy=self.mask_entropy,
            log=work.log_file,
            say=work.log,
        )


def starts_student(work: Work, of: str) -> bool:
    """Whether a step leaves a student, directly or by a fine-tuning of one."""
    from ..recipe import Recipe

    assert isinstance(work.recipe, Recipe)
    steps = {step.name: step for step in work.recipe.steps}
    while of and steps[of].kind == "finetune":
        of = getattr(steps[of].stage, "of", "")
    return bool(of) and steps[of].kind in FLOAT_STUDENTS
