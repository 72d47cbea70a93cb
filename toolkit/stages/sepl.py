"""Stage of SePL (Ko et al., MICCAI 2025): simple factors first, complex ones by their help; see `table.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from ...runtime.manifest import InputSpec
from ..knobs import Above, Augment, Count, NotNegative, Optimizer, Plan, Share, Whole
from ..work import Work
from .data import dataset_of
from .network import NetworkStage

if TYPE_CHECKING:
    from ..teachers.sepl.learn import Sepl


class TrainSepl(NetworkStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Train a teacher whose first answers guide its harder ones: SePL. The defaults are those of the released code.

    Args:
        backbone: timm's name of the network; its width is read from it.
        input: size, channels, window and normalisation of the input.
        simple: the tasks that are answered first.
        complex: the tasks that these answers guide; empty means all others that are values or classes.
        experts: of the mixture; 0 for plain heads, to compare with.
        hidden: width of an expert, or of the layer before plain heads (0: no such layer).
        prior_hidden: width of what the priors become in an expert.
        prior: `guide`; or, to compare with: `none`, `detached`, or `reference` (true values while training).
        attention: whether an expert weighs the priors.
        sex_as: how simple factors of classes stand among the priors: raw `logit`, or `sigmoid`.
        scaling: of the measures: `robust` (median, interquartile range) or `standard` (mean, standard deviation).
        clip_targets: largest scaled target, both ways, as the loss sees it; 0 leaves outliers as they are.
        prior_epochs: epochs at the start that train the simple factors alone; none of them is kept.
        task_weights: `fixed` (those of the tasks) or `learned` beside them.
        keep: the epoch of the smallest validation `loss`, or of the best mean `score`.
        views: each picture in `one` of four ways (as it is, mirrored, upside down, turned by up to 15 degrees), or
            `affine`, as far as `augment` says. Where the side of the eye or a place is a factor take `affine`.
        epochs: passes over the training images.
        batch_size: images a step, over all devices.
        learning_rate: largest rate.
        optimizer: adam, adamw or sgd.
        weight_decay: of the optimiser.
        schedule: `constant`, or `cosine` that falls to zero.
        warmup: share of the steps in which the rate rises.
        clip: largest norm of the gradient; 0 for none.
        ema: decay of the averaged weights that are validated and kept; 0 for none.
        patience: epochs without a better validation after which the training ends; 0 never ends it early.
        augment: variation of the pictures where views is affine.
    """

    backbone: str
    input: InputSpec
    simple: tuple[str, ...]
    complex: tuple[str, ...] = ()
    experts: Whole = 4
    hidden: Whole = 512
    prior_hidden: Count = 12
    prior: Literal["guide", "none", "detached", "reference"] = "guide"
    attention: bool = True
    sex_as: Literal["logit", "sigmoid"] = "logit"
    scaling: Literal["robust", "standard"] = "robust"
    clip_targets: NotNegative = 0.0
    prior_epochs: Whole = 0
    task_weights: Literal["fixed", "learned"] = "fixed"
    keep: Literal["loss", "score"] = "loss"
    views: Literal["one", "affine"] = "one"
    epochs: Count = 100
    batch_size: Count = 64
    learning_rate: Above = 1e-4
    optimizer: Optimizer = "adam"
    weight_decay: NotNegative = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: Share = 0.0
    clip: NotNegative = 0.0
    ema: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    patience: Whole = 10
    augment: Augment = Augment()

    def plan(self) -> Plan:
        """The loop's knobs."""
        return Plan(**{field: getattr(self, field) for field in Plan.__struct_fields__ if hasattr(self, field)})

    def settings(self) -> Sepl:
        """SePL's own knobs."""
        from ..teachers.sepl.learn import Sepl

        return Sepl(**{field: getattr(self, field) for field in Sepl.__struct_fields__})

    def check_ahead(self, work: Work) -> None:
        """The factors are there, known and have a scale, there are cases to train on, and the backbone is known."""
        from ..models.network import check_backbone
        from ..supervision import check_splits
        from ..teachers.sepl.learn import check_plan, plan_of
        from ..teachers.sepl.teacher import COARSEST

        how, dataset = self.settings(), dataset_of(work)
        check_plan(how, self.plan())
        check_splits(dataset)
        check_backbone(self.backbone, self.input.channels, (COARSEST,))
        plan_of(dataset, self.backbone, self.input, how)

    def run(self, work: Work) -> None:
        """Train; resumes at the last epoch."""
        from ..teachers.sepl.learn import train_sepl

        train_sepl(
            dataset_of(work),
            self.backbone,
            self.input,
            self.settings(),
            self.plan(),
            folder=work.folder,
            cache=work.cache,
            seed=work.seed,
            report=work.progress,
            weights=self.start(),
            log=work.log_file,
            say=work.log,
        )
