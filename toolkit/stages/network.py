"""Stages that make networks: teachers, trained or taken over, and students; see `table.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from ...devices.profile import Profile
from ...runtime.errors import FoveolaError
from ...runtime.manifest import InputSpec
from ...runtime.task import Task
from ..knobs import (
    Above,
    Augment,
    BoxLesson,
    ClassLesson,
    Count,
    Hint,
    Lessons,
    MaskLesson,
    NotNegative,
    Plan,
    Shape,
    Share,
    TaskWeights,
    ValueLesson,
)
from ..stage import Stage
from ..work import Work
from .data import dataset_of

if TYPE_CHECKING:
    from ..data.dataset import Dataset

# stages that leave a teacher
TEACHERS = ("train", "sepl", "cooperate", "comprer", "load", "finetune", "continual", "team")
STARTS = ("pretrain", "continual", "finetune", "train")  # stages that leave a backbone
NETWORKS = ("train", "finetune", "continual")  # of these, those that leave one network of ours, which can be a graph
STUDENTS = ("distill", "prune", "rehearse", "qat")  # stages that leave a student, or a pruned network


class NetworkStage(Stage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What everything that trains a network shares.

    Args:
        weights: safetensors checkpoint of the backbone to start from; empty starts at random.
    """

    USES = frozenset({"tasks"})
    PATHS = ("weights",)
    RESUMES = True
    TOGETHER = True

    weights: str = ""

    def start(self) -> Path | None:
        """The checkpoint to start from."""
        return Path(self.weights) if self.weights else None


class LoopStage(NetworkStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The knobs of an ordinary training.

    Args:
        epochs: passes over the training images.
        batch_size: images a step, over all devices.
        learning_rate: largest rate of AdamW.
        weight_decay: of AdamW.
        warmup: share of the steps in which the rate rises.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights that are validated and kept; 0 for none.
        augment: variation of the pictures.
    """

    epochs: Count = 30
    batch_size: Count = 32
    learning_rate: Above = 1e-3
    weight_decay: Annotated[float, Meta(ge=0)] = 0.05
    warmup: Share = 0.1
    clip: Above = 5.0
    ema: Annotated[float, Meta(ge=0, lt=1)] = 0.99
    augment: Augment = Augment()

    def plan(self) -> Plan:
        """The loop's knobs."""
        return Plan(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            clip=self.clip,
            ema=self.ema,
            augment=self.augment,
        )


class FitStage(LoopStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A training that begins with a new network.

    Args:
        backbone: timm's name of the network.
        input: size, channels, window and normalisation of the input.
    """

    backbone: str
    input: InputSpec

    def check_ahead(self, work: Work) -> None:
        """There are cases to train and validate on, and the backbone is known."""
        check_new(work, self.backbone, self.input)


class Train(FitStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Train a teacher with full heads (linear, DeepLabV3, Faster R-CNN) on the reference standard.

    Args:
        width: channels of the detector's feature pyramid.
        output_stride: input pixels per cell of the coarsest map; 16 or 8 dilate the last stages.
    """

    width: Count = 256
    output_stride: Literal[8, 16, 32] = 16

    def check_ahead(self, work: Work) -> None:
        """There are cases to train and validate on, the backbone is known, and no task needs a teacher."""
        super().check_ahead(work)
        check_teachable(dataset_of(work).tasks, work.step)

    def run(self, work: Work) -> None:
        """Train; resumes at the last epoch."""
        from ..train import train_teacher

        shape = Shape(backbone=self.backbone, input=self.input, width=self.width, output_stride=self.output_stride)
        train_teacher(
            dataset_of(work),
            shape,
            self.plan(),
            folder=work.folder,
            cache=work.cache,
            seed=work.seed,
            report=work.progress,
            weights=self.start(),
            log=work.log_file,
        )


class Load(Stage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Take a teacher that was trained elsewhere: a timm or torchvision architecture and its safetensors checkpoint.

    Args:
        library: `timm` or `torchvision`.
        architecture: the library's name for the network.
        weights: the checkpoint, with the library's own keys.
        input: how the network was fed; `mean` and `std` as in its training.
        tasks: names of the tasks that its output channels answer, in order; empty means all of the recipe.
        outputs: number of its output channels, where there are more than the tasks need.
    """

    USES = frozenset({"tasks"})
    PATHS = ("weights",)

    library: Literal["timm", "torchvision"]
    architecture: str
    weights: str
    input: InputSpec
    tasks: tuple[str, ...] = ()
    outputs: Annotated[int, Meta(ge=0)] = 0

    def run(self, work: Work) -> None:
        """Load, lock thresholds on the validation split, save."""
        from ..teachers.take import take_teacher

        take_teacher(
            dataset_of(work),
            library=self.library,
            architecture=self.architecture,
            weights=Path(self.weights),
            spec=self.input,
            names=self.tasks,
            outputs=self.outputs,
            folder=work.folder,
            cache=work.cache,
        )


class LessonStage(LoopStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The knobs of every training that a teacher's answers guide.

    Args:
        soft_weight: share of the teacher's lesson in the loss.
        temperature: by which the teacher's logits are softened.
        hint_weight: weight of the feature hint; 0 for none.
        class_lesson: `kd` (divergence of softened answers), `dist` (their correlation) or `dkd` (decoupled divergence).
        value_lesson: `close` to the teacher's value, `bounded` by its error, or `uncertain` with a learned variance.
        mask_lesson: divergence by `pixels`, of `channels` over the picture, or `both`.
        box_lesson: the teacher's sure `boxes` as if annotated, or all of them with its `scores` as targets.
        hint: features are compared by `cosine` after a projection, by `similarity` of images, or by `attention` maps.
        hint_foreground: share of the hint that counts only where the teacher sees boxes.
        relation_weight: weight of distances and angles between the features of a batch's images; 0 for none.
        embedding_cosine: weight of an embedding's direction; `soft_weight` does not touch embeddings.
        embedding_mse: weight of its numbers.
        embedding_relation: weight of the cosines between a batch's images.
        task_weights: `fixed` (those of the tasks) or `learned` beside them.
        unlabelled: train images without any target teach too, through the teacher's answers.
    """

    soft_weight: Share = 0.7
    temperature: Above = 2.0
    hint_weight: NotNegative = 0.5
    class_lesson: ClassLesson = "kd"
    value_lesson: ValueLesson = "close"
    mask_lesson: MaskLesson = "pixels"
    box_lesson: BoxLesson = "boxes"
    hint: Hint = "cosine"
    hint_foreground: Share = 0.0
    relation_weight: NotNegative = 0.0
    embedding_cosine: NotNegative = 1.0
    embedding_mse: NotNegative = 0.5
    embedding_relation: NotNegative = 1.0
    task_weights: TaskWeights = "fixed"
    unlabelled: bool = True

    def lessons(self) -> Lessons:
        """How the teacher's answers enter the loss."""
        return Lessons(**{field: getattr(self, field) for field in Lessons.__struct_fields__})


def check_new(work: Work, backbone: str, spec: InputSpec) -> None:
    """There are cases to train and validate a new network on, and its backbone is known.

    Raises:
        FoveolaError: what is missing.
    """
    from ..models.network import check_backbone
    from ..supervision import check_splits

    check_splits(dataset_of(work))
    check_backbone(backbone, spec.channels)


def check_teachable(tasks: Sequence[Task], place: str) -> None:
    """Refuse a training on the reference standard alone of what only a teacher can teach.

    Raises:
        FoveolaError: a task is an embedding.
    """
    found = [task.name for task in tasks if task.kind == "embedding"]
    if found:
        fault = f"{', '.join(found)} is an embedding, which nothing but a teacher can teach"
        raise FoveolaError(place, fault, "distil it from a teacher that has it, or leave the task out")


def require_int8(device: Profile, place: str) -> None:
    """Refuse a step that makes integers for a device that cannot compute with them.

    Args:
        device: its profile.
        place: the step.

    Raises:
        FoveolaError: no engine of the device has int8.
    """
    if any("int8" in engine.precisions for engine in device.engines):
        return
    offers = "; ".join(f"{one.engine}: {', '.join(one.precisions)}" for one in device.engines)
    fault = f"no engine of {device.id} computes int8 ({offers})"
    raise FoveolaError(place, fault, "leave the step out, or choose another device")


def begun_with(work: Work, of: str, backbone: str, spec: InputSpec | None) -> tuple[str, InputSpec]:
    """Backbone and input of a step: its own words, or those of the step that it starts from.

    Raises:
        FoveolaError: neither says it, or both do and differ in the backbone.
    """
    from ..recipe import Recipe

    assert isinstance(work.recipe, Recipe)
    steps = {step.name: step.stage for step in work.recipe.steps}
    own, earlier = backbone, of
    while earlier:
        stage = steps[earlier]
        theirs = getattr(stage, "backbone", "")
        if own and theirs and own != theirs:
            raise FoveolaError("backbone", f"{own}, but {earlier} leaves a {theirs}", "give both the same backbone")
        own, spec, earlier = own or theirs, spec or getattr(stage, "input", None), getattr(stage, "of", "")
    if not own or spec is None:
        missing = "input" if own else "backbone"
        raise FoveolaError(missing, "not given", "state it here, or start from a step by `of`")
    return own, spec


def chosen_tasks(dataset: Dataset, tasks: tuple[str, ...]) -> Dataset:
    """The data set with these tasks only; with all where none is named."""
    return dataset.only(tasks or tuple(task.name for task in dataset.tasks), labelled=False)
