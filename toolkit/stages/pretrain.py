"""The stage `pretrain` of MTPret (Liao et al., IEEE TAI 2024): a backbone by contrast, without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar

from ...runtime.manifest import InputSpec
from ..knobs import Above, Augment, Count, NotNegative, Optimizer, Plan, Share, Whole
from ..work import Work
from .data import dataset_of
from .network import NetworkStage

if TYPE_CHECKING:
    from ..teachers.pretrain import Contrastive

T = TypeVar("T")

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


def _or(own: T | None, usual: T) -> T:
    return usual if own is None else own
