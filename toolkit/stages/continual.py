"""The stage `continual` of MTPret (Liao et al., IEEE TAI 2024): one task after another, without forgetting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from ...runtime.manifest import InputSpec
from ..knobs import Above, Augment, Count, NotNegative, Optimizer, Plan, Shape, Share, Whole
from ..work import Work
from .data import dataset_of
from .network import STARTS, NetworkStage, begun_with, check_teachable, chosen_tasks

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..teachers.visits import Rounds


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


def check_low(low: dict[str, float], dataset: Dataset) -> None:
    """Refuse a smallest rate for a task that is not there.

    Raises:
        UsageError: which.
    """
    for name in low:
        dataset.task(name)
