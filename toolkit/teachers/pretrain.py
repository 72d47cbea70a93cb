"""Contrastive pretraining on the union of several data sets: MD-MoCo, and SimCLR for comparison.

- Labels are not looked at. Only train images take part, so that no image of validation, calibration or test is seen;
  `pool="all"` takes all of them as the paper did, which leaks.
- Two views of an image differ by the plan's augmentation. MTPret forbids random crops, blur, colour jitter and random
  grayscale, since they may change what a radiograph shows; what is left is flip, rotation, shift and scale.
- The result is the query's backbone alone. Queue, key encoder and projection serve training and are not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from ...runtime.errors import FoveolaError
from ...runtime.manifest import InputSpec
from ..batches import Batch, TrainingData, augment
from ..checkpoint import Objective
from ..course import Course, Report, Scores
from ..data.arrays import Arrays, prepare_arrays
from ..data.dataset import Dataset
from ..finished import HISTORY
from ..fit import fit, forget
from ..json_files import write_json
from ..knobs import Plan
from ..supervision import preparing
from ..workers import leads
from .contrast import Encoder, MoCo, SimCLR
from .probe import linear_probe, pooled_features
from .sampling import Sampling, draw_order
from .start import BACKBONE, start_backbone

PRETRAINED = "pretrained.json"


class Contrastive(msgspec.Struct, frozen=True, kw_only=True):
    """The knobs of a contrastive learner.

    Args:
        method: `moco` (He et al., CVPR 2020) or `simclr` (Chen et al., ICML 2020).
        dim: length of a key.
        queue: keys in the dictionary, a multiple of the batch; MoCo only.
        momentum: m of the key encoder; MoCo only.
        temperature: tau.
        mlp: two layers of projection, or one.
        splits: groups of a batch with batch statistics of their own (SplitBatchNorm).
        sampling: how often each data set is drawn.
        pool: `train`, or `all` images whatever their split.
        by: attribute that names an image's data set.
        only: data sets that take part; empty means all.
        probe_every: epochs between two linear probes on the validation split; 0 for none.
    """

    method: Literal["moco", "simclr"] = "moco"
    dim: int = 128
    queue: int = 4096
    momentum: float = 0.99
    temperature: float = 0.1
    mlp: bool = True
    splits: int = 1
    sampling: Sampling = "uniform"
    pool: Literal["train", "all"] = "train"
    by: str = "dataset"
    only: tuple[str, ...] = ()
    probe_every: int = 0


class Pretrained(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="pretrained"):
    """What a pretraining left: a backbone without heads."""

    method: str
    backbone: str
    input: InputSpec
    images: dict[str, int]  # that took part, by data set
    pool: str


class Contrast(Objective):
    """The contrastive loss of two views; what is kept is the encoder."""

    def __init__(self, learner: MoCo | SimCLR) -> None:
        nn.Module.__init__(self)
        self.learner = learner

    @property
    def network(self) -> Encoder:  # type: ignore[override]
        """The trained encoder; a part of the learner, not registered twice."""
        return self.learner.query if isinstance(self.learner, MoCo) else self.learner.encoder

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`{contrast: loss}`."""
        assert batch.second is not None
        return {"contrast": self.learner(batch.images, batch.second)}

    def compiled(self) -> list[nn.Module]:
        """Both backbones."""
        keys = [self.learner.key.backbone] if isinstance(self.learner, MoCo) else []
        return [self.network.backbone, *keys]


class ContrastCourse(Course):
    """Two views of every image; images are drawn by data set.

    Args:
        data: all images, without targets.
        plan: the loop.
        places: images by data set.
        sampling: how often each data set is drawn.
        probe: measures an encoder, or None.
        probe_every: epochs between two measurements.
        names: of the images.
    """

    keeps_last = True

    def __init__(
        self,
        data: TrainingData,
        plan: Plan,
        places: dict[str, NDArray[np.int64]],
        sampling: Sampling,
        *,
        probe: Probe | None,
        probe_every: int,
        names: Sequence[str],
    ) -> None:
        super().__init__(data, _no_scores, plan, names=names, places=np.concatenate(list(places.values())))
        self.groups, self.probe, self.probe_every = places, probe, probe_every
        self.sampling: Sampling = sampling

    def order(self, epoch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """By data set."""
        return draw_order(self.groups, self.sampling, rng)

    def vary(self, batch: Batch, generator: torch.Generator, device: torch.device) -> Batch:
        """Two independent draws of the augmentation."""
        first = augment(batch, self.plan.augment, generator, device)
        second = augment(batch, self.plan.augment, generator, device)
        return msgspec.structs.replace(first, second=second.images)

    def judge(self, epoch: int, network: nn.Module) -> Scores:
        """A linear probe now and then; a contrastive loss itself is no measure of quality."""
        last = epoch + 1 == self.epochs
        if self.probe is None or not self.probe_every or not (last or (epoch + 1) % self.probe_every == 0):
            return Scores(0.0, {})
        assert isinstance(network, Encoder)
        by_task = self.probe(network.eval())
        return Scores(float(np.mean(list(by_task.values()))) if by_task else 0.0, by_task)


class Probe:
    """Linear probes of every classification task: fitted on the train split, judged on the validation split.

    The score is twice the area under the ROC curve less one, or the accuracy, as in `score.py`.
    """

    def __init__(self, dataset: Dataset, spec: InputSpec, cache: Path, report: Report) -> None:
        self.tasks = [task for task in dataset.tasks if task.kind in ("binary", "multilabel", "multiclass")]
        train, val = (dataset.subset(name) for name in ("train", "val"))
        self.train, self.val = (
            prepare_arrays(part, spec, cache=cache, progress=preparing(report)) for part in (train, val)
        )

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Score by task; a task that cannot be judged is absent."""
        device = next(encoder.parameters()).device
        train, val = (pooled_features(encoder, part.images, device=device) for part in (self.train, self.val))
        found = {}
        for task in self.tasks:
            measured = linear_probe(train, _target(self.train, task.name), val, _target(self.val, task.name), task.kind)
            if "auc" in measured:
                found[task.name] = 2 * measured["auc"] - 1
            elif "accuracy" in measured:
                found[task.name] = measured["accuracy"]
        return {name: value for name, value in found.items() if np.isfinite(value)}


def pretrain(
    dataset: Dataset,
    backbone: str,
    spec: InputSpec,
    how: Contrastive,
    plan: Plan,
    *,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    weights: Path | None = None,
    log: Path | None = None,
) -> nn.Module:
    """Pretrain a backbone; writes `backbone.safetensors`, `pretrained.json` and `history.json`.

    Args:
        dataset: images; targets serve the probe alone.
        backbone: timm's name.
        spec: how images are fed.
        how: the learner.
        plan: the loop; its augmentation makes the views.
        folder: where the results go.
        cache: where decoded images are kept.
        seed: of everything random, the first weights included.
        report: progress.
        weights: a safetensors checkpoint of the backbone to start from.
        log: CSV of the curve.

    Raises:
        FoveolaError: no images, a queue that is no multiple of the batch, a checkpoint that does not fit.
    """
    pool = dataset if how.pool == "all" else dataset.subset("train")
    places = by_dataset(pool, how.by, how.only, how.sampling)
    check_queue(how, plan.batch_size, sum(map(len, places.values())))
    torch.manual_seed(seed)
    encoder = Encoder(backbone, spec, dim=how.dim, mlp=how.mlp)
    if weights is not None:
        start_backbone(encoder.backbone, weights, backbone)
    learner = (
        MoCo(encoder, queue=how.queue, momentum=how.momentum, temperature=how.temperature, splits=how.splits)
        if how.method == "moco"
        else SimCLR(encoder, temperature=how.temperature, splits=how.splits)
    )
    images = prepare_arrays(pool.only((), labelled=False), spec, cache=cache, progress=preparing(report))
    probe = Probe(dataset, spec, cache, report) if how.probe_every else None
    course = ContrastCourse(
        TrainingData(images, (), {}, {}),
        plan,
        places,
        how.sampling,
        probe=probe,
        probe_every=how.probe_every,
        names=[sample.key for sample in pool.samples],
    )
    objective = Contrast(learner)
    history = fit(objective, course, seed=seed, folder=folder, report=report, log=log)
    trained = objective.network.cpu()
    if leads():
        counts = {name: len(found) for name, found in places.items()}
        about = Pretrained(method=how.method, backbone=backbone, input=spec, images=counts, pool=how.pool)
        save_file({k: v.contiguous() for k, v in trained.backbone.state_dict().items()}, folder / BACKBONE)
        write_json(folder / PRETRAINED, about)
        write_json(folder / HISTORY, history)
        forget(folder)
    backbone_only: nn.Module = trained.backbone
    return backbone_only


def by_dataset(pool: Dataset, attribute: str, only: Sequence[str], sampling: Sampling) -> dict[str, NDArray[np.int64]]:
    """Places of the images of each data set, by the attribute that names it.

    Raises:
        FoveolaError: a data set that is asked for has no image, or the images do not say whose they are.
    """
    names = np.array([sample.attributes.get(attribute, "") for sample in pool.samples], dtype=object)
    known = sorted({str(name) for name in names})
    if (only or sampling != "uniform") and known == [""]:
        mend = "name it among the data's attributes, or use stage join"
        raise FoveolaError("by", f"no image says its data set: attribute {attribute!r} is not there", mend)
    missing = [name for name in only if name not in known]
    if missing or not len(pool):
        fault = f"no train image of {', '.join(missing)}" if missing else "no image to learn from"
        raise FoveolaError("only", fault, f"there are {', '.join(known)}" if known else "")
    return {name: np.flatnonzero(names == name) for name in known if not only or name in only}


def check_queue(how: Contrastive, batch_size: int, images: int) -> None:
    """Refuse a queue that whole batches of keys do not fill, or a batch that the images do not fill.

    Raises:
        FoveolaError: with the nearest numbers that would do.
    """
    if images < batch_size:
        raise FoveolaError("batch_size", f"{batch_size} images a step, but only {images} images", "lower it")
    if how.method == "moco" and how.queue % batch_size:
        below = how.queue // batch_size * batch_size
        nearest = f"{below} or {below + batch_size}" if below else str(batch_size)
        fault = f"{how.queue} keys are no multiple of {batch_size} images a step"
        raise FoveolaError("queue", fault, f"give {nearest}")
    if batch_size % how.splits:
        raise FoveolaError("splits", f"{batch_size} images do not part into {how.splits} groups", "give a divisor")


def _target(arrays: Arrays, name: str) -> NDArray[np.float32]:
    return arrays.scalars[name]


def _no_scores(network: nn.Module) -> Scores:
    return Scores(0.0, {})
