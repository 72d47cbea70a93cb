"""The stage of quantisation-aware training; see `table.py`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ...runtime.errors import FoveolaError
from ..knobs import Above, Count, NotNegative
from ..work import Work
from ..workers import leads
from .artefact import MIN_CALIBRATION_IMAGES
from .data import dataset_of
from .network import NETWORKS, TEACHERS, LessonStage, check_teachable, require_int8


class Qat(LessonStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Train a student a little further with the rounding of its int8 graph; `quantize` then takes the learned ranges.

    The int8 graph has the same operators and quantisers as without this step. Give `quantize` the same `overflow` and
    `float_layers`.

    The learning rate is relative to each channel's own weights.

    Args:
        of: the step of the student, in float.
        teacher: the step of the teacher; empty trains on the reference standard alone.
        only_below: train only where the worst task's slack without training is below it (0: where it lost its margin);
            without it there is a training in any case.
        steps: whether the steps of activations are `learned`, follow an `average` of the extremes, or stay `fixed`.
        split: the images that set the first ranges; never those of training or of the proof.
        images: at most so many of them.
        min_images: fewer are refused.
        method: how the first ranges are set.
        overflow: the cure on a device whose profile asks for 7-bit weights.
        float_layers: layers that stay float, by name (`saturation.json`) or by module (`backbone.conv_stem`).
    """

    INPUTS = ("of", "teacher")
    ACCEPTS = {"of": ("distill", "prune", "rehearse", *NETWORKS), "teacher": TEACHERS}  # noqa: RUF012
    USES = frozenset({"tasks", "margins", "device"})

    of: str
    teacher: str = ""
    only_below: Annotated[float, Meta(le=1)] | None = None
    steps: Literal["learned", "average", "fixed"] = "learned"
    split: Literal["calibration", "val"] = "calibration"
    images: Count = 256
    min_images: Count = MIN_CALIBRATION_IMAGES
    method: Literal["minmax", "percentile", "entropy", "mse"] = "minmax"
    overflow: Literal["fit", "seven", "unsigned"] = "fit"
    float_layers: tuple[str, ...] = ()
    epochs: Count = 8
    learning_rate: Above = 5e-4
    hint_weight: NotNegative = 0.0

    def check_ahead(self, work: Work) -> None:
        """The device computes int8; images to calibrate, train and validate on; no knob without effect."""
        from ..data.dataset import calibration_set
        from ..supervision import check_splits

        if self.weights:
            raise FoveolaError(f"{work.step}.weights", "this training starts from the step `of`", "leave it out")
        for knob in ("hint_weight", "relation_weight"):
            if getattr(self, knob) > 0:
                fault = "what is trained is the graph that ships, which gives no features"
                raise FoveolaError(f"{work.step}.{knob}", fault, "leave it out")
        require_int8(work.device, work.step)
        dataset = dataset_of(work)
        check_splits(dataset)
        if not self.teacher:
            check_teachable(dataset.tasks, work.step)
        calibration_set(dataset, self.split, self.images, self.min_images)

    def run(self, work: Work) -> None:
        """Calibrate, judge, train where it is needed; resumes at the last epoch."""
        from ..compress.go_on import Guide
        from ..compress.lessons import cached_answers, write_taught
        from ..compress.qat import Rounding, train_quantised
        from ..teachers.load import read_input, read_scale

        dataset, guide = dataset_of(work), None
        if self.teacher:
            teacher = work.inputs["teacher"]
            train = dataset.subset("train")
            answers = cached_answers(teacher, work.digests["teacher"], train, work.cache, work.progress)
            guide = Guide(answers=answers, input=read_input(teacher), scale=read_scale(teacher), lessons=self.lessons())
        rounding = Rounding(
            opset=work.device.export.opset,
            weight_bits=work.device.export.weight_bits,
            overflow=self.overflow,
            float_layers=self.float_layers,
            steps=self.steps,
            split=self.split,
            images=self.images,
            min_images=self.min_images,
            method=self.method,
        )
        train_quantised(
            work.inputs["of"],
            dataset,
            self.plan(),
            rounding,
            guide=guide,
            only_below=self.only_below,
            folder=work.folder,
            cache=work.cache,
            seed=work.seed,
            report=work.progress,
            say=work.log,
            log=work.log_file,
        )
        if self.teacher and leads():
            write_taught(work.folder, work.digests["teacher"])
