"""Stage of a teacher whose sub-models learn in turn (after MT-CooL, Wu et al., IEEE TMI 2025); see `table.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from ...runtime.errors import FoveolaError
from ...runtime.manifest import InputSpec
from ..knobs import Above, Augment, Count, NotNegative, Optimizer, Plan, Share, Whole
from ..work import Work
from .data import dataset_of
from .network import NetworkStage, chosen_tasks

if TYPE_CHECKING:
    from ..teachers.mtcool.course import Play
    from ..teachers.mtcool.learn import Build
    from ..teachers.mtcool.objective import Flat


class Cooperate(NetworkStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Train one sub-model a task in turns: each hears the others' features and becomes robust to what they may become.

    Args:
        backbone: timm's name of every encoder.
        backbones: of single tasks' encoders, where they differ.
        input: size, channels, window and normalisation of the input.
        tasks: the tasks, one sub-model each; empty means all.
        fusion: how a head takes in the others' features: `concat`, `gate` or `attention`.
        masks: head of segmentations: `light` (with the encoder's finer maps) or `deeplab`.
        width: channels of the light head.
        output_stride: input pixels per cell of a segmentation's coarsest map, with `deeplab`.
        stem: channels of a stem that all encoders share, with a turn of its own; 0 for none.
        perturb: `sam-feature` trains at the worst features of the others, `noise` at random ones, `sam-param` at those
            of their worst weights, `none` at the features as they are.
        rho: radius: share of the features' length, their deviations, or length of the weights' step; 0 is none.
        lam: share of the perturbed loss; the rest is the plain one.
        draws: random features a step of `noise`.
        inner: batches a turn; 0 is an epoch.
        order: of the turns: `reshuffled` each time, or `fixed` as in the recipe.
        alone: epochs of single-task training before they cooperate.
        steps: updates of each sub-model in an epoch; 0 is one pass over the largest task's images (with a stem, over
            those of all tasks).
        back: epochs before the last whose encoders are tried in place of the kept ones; 0 for none.
        keep: weights of the `best` epoch by validation among those in which they cooperate, or of the `last`.
        epochs: passes over the training images, of each sub-model.
        batch_size: images a step, over all devices.
        learning_rate: largest.
        optimizer: adam, adamw or sgd.
        momentum: of sgd.
        weight_decay: of the optimiser.
        schedule: `cosine` falls to zero; `constant` stays.
        warmup: share of the steps in which the rate rises.
        clip: largest norm of the gradient; 0 for none.
        augment: variation of the pictures.
    """

    backbone: str
    backbones: dict[str, str] = msgspec.field(default_factory=dict)
    input: InputSpec
    tasks: tuple[str, ...] = ()
    fusion: Literal["concat", "gate", "attention"] = "concat"
    masks: Literal["light", "deeplab"] = "light"
    width: Count = 64
    output_stride: Literal[8, 16, 32] = 32
    stem: Whole = 0
    perturb: Literal["sam-feature", "noise", "sam-param", "none"] = "sam-feature"
    rho: NotNegative = 0.05
    lam: Share = 1.0
    draws: Count = 2
    inner: Whole = 1
    order: Literal["reshuffled", "fixed"] = "reshuffled"
    alone: Whole = 3
    steps: Whole = 0
    back: Whole = 3
    keep: Literal["best", "last"] = "best"
    epochs: Count = 50
    batch_size: Count = 128
    learning_rate: Above = 1e-3
    optimizer: Optimizer = "adam"
    momentum: Share = 0.9
    weight_decay: NotNegative = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Share = 0.05
    clip: NotNegative = 5.0
    augment: Augment = Augment()

    def plan(self) -> Plan:
        """The loop's knobs; no moving average, since in a turn all others stay as they are."""
        return Plan(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            optimizer=self.optimizer,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            warmup=self.warmup,
            clip=self.clip,
            ema=0.0,
            augment=self.augment,
        )

    def build(self) -> Build:
        """The knobs of the architecture."""
        from ..teachers.mtcool.learn import Build

        return Build(**{field: getattr(self, field) for field in Build.__struct_fields__})

    def play(self) -> Play:
        """The knobs of the turns."""
        from ..teachers.mtcool.course import Play

        return Play(**{field: getattr(self, field) for field in Play.__struct_fields__})

    def flat(self) -> Flat:
        """The knobs of flatness."""
        from ..teachers.mtcool.objective import Flat

        return Flat(**{field: getattr(self, field) for field in Flat.__struct_fields__})

    def check_ahead(self, work: Work) -> None:
        """Every task can be answered and has labelled images, the turns fit the epochs, the backbones are known."""
        from ..models.network import check_backbone
        from ..supervision import check_splits
        from ..teachers.mtcool.learn import check_game

        if self.weights and (self.stem or self.backbones):
            mend = "leave `stem` and `backbones` out, or start at random"
            raise FoveolaError("weights", "one checkpoint cannot start encoders that differ, or see a stem", mend)
        dataset = chosen_tasks(dataset_of(work), self.tasks)
        check_splits(dataset)
        check_game(dataset, self.build(), self.plan(), self.play())
        for task in dataset.tasks:
            fine = task.kind == "segmentation" and self.masks == "light"
            name = self.backbones.get(task.name, self.backbone)
            check_backbone(name, self.stem or self.input.channels, (4, 8, 16, 32) if fine else (32,))

    def run(self, work: Work) -> None:
        """Train; resumes at the last epoch."""
        from ..teachers.mtcool.learn import learn_cooperatively

        learn_cooperatively(
            chosen_tasks(dataset_of(work), self.tasks),
            self.build(),
            self.plan(),
            self.play(),
            self.flat(),
            folder=work.folder,
            cache=work.cache,
            seed=work.seed,
            report=work.progress,
            weights=self.start(),
            log=work.log_file,
            say=work.log,
        )
