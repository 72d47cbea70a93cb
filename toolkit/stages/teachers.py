"""Stages of MTPret (Liao et al., IEEE TAI 2024): pretrain, learn continually, fine-tune; see `table.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from ...runtime.errors import FoveolaError
from ...runtime.manifest import InputSpec
from ..knobs import Above, Augment, Count, Optimizer, Plan, Shape, Share
from ..work import Work
from .data import dataset_of
from .network import TEACHERS, LessonStage, NetworkStage, begun_with, check_teachable

T = TypeVar("T")

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..teachers.pretrain import Contrastive
    from ..teachers.visits import Rounds

Whole = Annotated[int, Meta(ge=0)]
NotNegative = Annotated[float, Meta(ge=0)]
STARTS = ("pretrain", "continual", "finetune", "train")  # stages that leave a backbone
FLOAT_STUDENTS = ("distill", "prune", "rehearse")  # stages whose network can be trained further; `qat` would be undone

# What a radiograph shows must survive: no crops, no blur, no jitter of light (Liao et al., sec. II-B).
VIEWS = Augment(rotate=10, scale=0.1, shift=0.05, brightness=0, contrast=0, noise=0, flip=True)


class Pretrain(NetworkStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Pretrain a backbone by contrast on all images of all data sets, without their labels: MD-MoCo.

    What is left empty comes from the preset.

    Args:
        backbone: timm's name of the network.
        input: size, channels, window and normalisation of the input.
        method: `moco` or `simclr`.
        preset: where the paper is silent: `moco-small`, `moco-cxr`, `mocov2-imagenet`, or `tiny` for a try-out.
        epochs: as many images as there are, so often.
        batch_size: images a step, over all devices.
        learning_rate: largest.
        optimizer: sgd, adam or adamw.
        weight_decay: of the optimiser.
        schedule: `cosine` falls to zero; `constant` stays.
        warmup: share of the steps in which the rate rises.
        dim: length of a key.
        queue: keys in the dictionary; a multiple of batch_size.
        momentum: m, by which the key encoder follows.
        temperature: tau.
        mlp: two layers of projection.
        splits: groups of a batch with batch statistics of their own, on one device (SplitBatchNorm).
        sampling: `uniform` over images, by the `sqrt` of a data set's size, or `balanced` over data sets.
        pool: `train` images only; `all` also those of validation and test, as the paper did, which leaks.
        by: attribute that names an image's data set.
        only: data sets that take part; empty means all (SD-MoCo names one).
        probe_every: epochs between two linear probes of the recipe's classification tasks; 0 for none.
        augment: how the two views of an image differ.
    """

    # A new task changes no weight here, and hours of pretraining are not repeated for its probe.
    USES = frozenset()

    backbone: str
    input: InputSpec
    method: Literal["moco", "simclr"] = "moco"
    preset: Literal["moco-small", "moco-cxr", "mocov2-imagenet", "tiny"] = "moco-small"
    epochs: Count | None = None
    batch_size: Count | None = None
    learning_rate: Above | None = None
    optimizer: Optimizer | None = None
    weight_decay: NotNegative | None = None
    schedule: Literal["cosine", "constant"] | None = None
    warmup: Share = 0.0
    dim: Count | None = None
    queue: Count | None = None
    momentum: Share | None = None
    temperature: Above | None = None
    mlp: bool | None = None
    splits: Count | None = None
    sampling: Literal["uniform", "sqrt", "balanced"] = "uniform"
    pool: Literal["train", "all"] = "train"
    by: str = "dataset"
    only: tuple[str, ...] = ()
    probe_every: Whole = 0
    augment: Augment = VIEWS

    def check_ahead(self, work: Work) -> None:
        """The images are there, the backbone is known, the queue fits the batch."""
        from ..models.network import check_backbone
        from ..teachers.pretrain import by_dataset, check_queue

        dataset = dataset_of(work)
        check_backbone(self.backbone, self.input.channels, (4, 8, 16, 32))
        how, plan = self.settings()
        places = by_dataset(
            dataset if self.pool == "all" else dataset.subset("train"), self.by, self.only, self.sampling
        )
        check_queue(how, plan.batch_size, sum(map(len, places.values())))

    def settings(self) -> tuple[Contrastive, Plan]:
        """The learner and the loop: the preset with the knobs that are given."""
        from ..teachers.contrast import PRESETS
        from ..teachers.pretrain import Contrastive

        preset = PRESETS[self.preset]

        how = Contrastive(
            method=self.method,
            dim=_or(self.dim, preset.dim),
            queue=_or(self.queue, preset.queue),
            momentum=_or(self.momentum, preset.momentum),
            temperature=_or(self.temperature, preset.temperature),
            mlp=_or(self.mlp, preset.mlp),
            splits=_or(self.splits, preset.splits),
            sampling=self.sampling,
            pool=self.pool,
            by=self.by,
            only=self.only,
            probe_every=self.probe_every,
        )
        plan = Plan(
            epochs=_or(self.epochs, preset.epochs),
            batch_size=_or(self.batch_size, preset.batch_size),
            learning_rate=_or(self.learning_rate, preset.learning_rate),
            optimizer=_or(self.optimizer, preset.optimizer),
            momentum=preset.sgd_momentum,
            weight_decay=_or(self.weight_decay, preset.weight_decay),
            schedule=_or(self.schedule, preset.schedule),
            warmup=self.warmup,
            clip=0.0,
            ema=0.0,
            augment=self.augment,
        )
        return how, plan

    def run(self, work: Work) -> None:
        """Pretrain; resumes at the last epoch."""
        from ..teachers.pretrain import pretrain

        how, plan = self.settings()
        if self.pool == "all":
            work.log(
                "warning: images of the validation and test splits take part in pretraining: their scores will flatter"
            )
        pretrain(
            dataset_of(work),
            self.backbone,
            self.input,
            how,
            plan,
            folder=work.folder,
            cache=work.cache,
            seed=work.seed,
            report=work.progress,
            weights=self.start(),
            log=work.log_file,
        )


class Continual(NetworkStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Visit one task after another, round by round, without forgetting: MTPret's multitask continual learning.

    Args:
        of: the step whose backbone is the start; empty starts from `weights` or at random.
        backbone: timm's name of the network; empty means that of the step `of`.
        input: size, channels, window and normalisation of the input; left out, it is that of the step `of`.
        tasks: the tasks to visit; empty means all.
        width: channels of the detector's feature pyramid.
        output_stride: input pixels per cell of the coarsest map; 16 or 8 dilate the last stages.
        rounds: visits of each task.
        steps: steps a visit; 0 is one pass over the task's images.
        batch_size: images a step, over all devices.
        learning_rate: eta_max of the cycle.
        low: eta_min.
        task_low: eta_min of single tasks.
        schedule: `cyclic` (eq. 4), or `constant` at the cycle's mean.
        cycle: steps of eq. 4's T: those of a `visit`, of a `round`, or `fixed`.
        period: steps a cycle where it is fixed.
        reshuffle: a new order of the tasks for each round.
        optimizer: sgd, adam or adamw; L2-SP is a true pull with sgd.
        momentum: of sgd.
        alpha: pull of the backbone to the anchor (L2-SP); 0 for none.
        beta: decay of the heads.
        anchor: where the pull goes: the weights at the start of the task's visit, of the round, or of the stage.
        norms: running statistics of batch normalisation are `shared` by all tasks, or `frozen`.
        evaluate: judge and keep the weights at the cycle's `minimum` or at the visit's `end`; `both` judges both.
        recalibrate: images on which the statistics are estimated anew before a task is judged; 0 for none.
        mask_entropy: cross entropy beside soft Dice for masks; the paper has soft Dice alone.
        clip: largest norm of the gradient.
        augment: variation of the pictures.
    """

    INPUTS = ("of",)
    ACCEPTS = {"of": STARTS}  # noqa: RUF012

    of: str = ""
    backbone: str = ""
    input: InputSpec | None = None
    tasks: tuple[str, ...] = ()
    width: Count = 256
    output_stride: Literal[8, 16, 32] = 32
    rounds: Count = 20
    steps: Whole = 0
    batch_size: Count = 32
    learning_rate: Above = 1e-2
    low: Above = 1e-4
    task_low: dict[str, Above] = msgspec.field(default_factory=dict)
    schedule: Literal["cyclic", "constant"] = "cyclic"
    cycle: Literal["visit", "round", "fixed"] = "visit"
    period: Whole = 0
    reshuffle: bool = True
    optimizer: Optimizer = "sgd"
    momentum: Share = 0.9
    alpha: NotNegative = 0.1
    beta: NotNegative = 0.01
    anchor: Literal["task_start", "round_start", "stage_start"] = "task_start"
    norms: Literal["shared", "frozen"] = "shared"
    evaluate: Literal["minimum", "end", "both"] = "minimum"
    recalibrate: Whole = 0
    mask_entropy: bool = False
    clip: Above = 5.0
    augment: Augment = Augment()

    def plan(self) -> Plan:
        """The loop's knobs; L2-SP takes the place of weight decay."""
        return Plan(
            epochs=self.rounds,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            optimizer=self.optimizer,
            momentum=self.momentum,
            weight_decay=0.0,
            clip=self.clip,
            ema=0.0,
            augment=self.augment,
        )

    def settings(self) -> Rounds:
        """The knobs of continual learning."""
        from ..teachers.visits import Rounds

        return Rounds(**{field: getattr(self, field) for field in Rounds.__struct_fields__})

    def check_ahead(self, work: Work) -> None:
        """Every task has labelled images, the pull does not overshoot, the start is of the same architecture."""
        from ..models.network import check_backbone
        from ..teachers.continual import check_pull, labelled_places

        dataset = chosen_tasks(dataset_of(work), self.tasks)
        check_teachable(dataset.tasks, work.step)
        labelled_places(dataset)
        check_low(self.task_low, dataset)
        check_pull(self.plan(), self.settings())
        backbone, spec = begun_with(work, self.of, self.backbone, self.input)
        check_backbone(backbone, spec.channels, (4, 8, 16, 32))

    def run(self, work: Work) -> None:
        """Learn; resumes at the last visit."""
        from ..teachers.continual import learn_continually

        backbone, spec = begun_with(work, self.of, self.backbone, self.input)
        shape = Shape(backbone=backbone, input=spec, width=self.width, output_stride=self.output_stride)
        learn_continually(
            chosen_tasks(dataset_of(work), self.tasks),
            shape,
            self.plan(),
            self.settings(),
            folder=work.folder,
            cache=work.cache,
            seed=work.seed,
            report=work.progress,
            weights=self.start(),
            start=work.inputs.get("of"),
            log=work.log_file,
            say=work.log,
        )


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
        from ..train import check_splits

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


def chosen_tasks(dataset: Dataset, tasks: tuple[str, ...]) -> Dataset:
    """The data set with these tasks only; with all where none is named."""
    return dataset.only(tasks or tuple(task.name for task in dataset.tasks), labelled=False)


def check_low(low: dict[str, float], dataset: Dataset) -> None:
    """Refuse a smallest rate for a task that is not there.

    Raises:
        UsageError: which.
    """
    for name in low:
        dataset.task(name)


def _or(own: T | None, usual: T) -> T:
    return usual if own is None else own
