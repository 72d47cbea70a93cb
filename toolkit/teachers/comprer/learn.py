"""Pretrain encoders of several modalities by up to four losses: after COMPRER (Lutsker et al. 2024).

- Train patients alone take part; splits are by patient, which the data set has checked.
- Measures are standardised by the train patients.
- A batch is made of patients, each with all its drawn pictures (`sampler.py`).
- The last weights are kept; the validation split is looked at, not chosen by.

    network = pretrain_comprer(dataset, {"fundus": fundus, "carotid": carotid}, aims, plan, roles=Roles(), ...)
    embed(network.network, arrays)  # and pairing_of, for figures
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ....runtime.task import Task
from ...answers import Scale
from ...batches import Batch
from ...checkpoint import Epoch, Objective
from ...course import Course, Report, Scores
from ...data.arrays import Arrays, prepare_arrays
from ...data.dataset import Dataset
from ...fit import fit
from ...fresh import target_scale
from ...knobs import Plan
from ...supervision import preparing
from ..split_norm import processes
from ..start import start_backbone
from .batch import PatientBatch, PatientData, vary
from .judge import Judge
from .knobs import Aims, Encoding, Roles
from .network import Comprer
from .objective import Pretraining
from .records import (
    Records,
    check_measured,
    check_records,
    gap_scale,
    paired_subjects,
    read_records,
    returned_subjects,
)
from .sampler import mix
from .teacher import embeddings

DENSE = ("segmentation", "detection")


class Pretrained(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a pretraining leaves.

    Args:
        network: all encoders, on the CPU in evaluation mode.
        records: all pictures of all splits.
        scale: mean and standard deviation of each regression task over the train pictures.
        history: a line an epoch; its scores are of the validation split (`Judge`).
    """

    network: Comprer
    records: Records
    scale: Scale
    history: list[Epoch]


class PatientCourse(Course):
    """An epoch shows every train patient once.

    Args:
        data: by patient.
        judge: scores a network.
        plan: the loop; its batch counts patients, its own augmentation is not looked at.
        encodings: how far each modality is varied.
        aims: what the decoder is to give.
        roles: what is a pair.
        judge_every: epochs between two judgements; the last epoch always has one.
    """

    keeps_last = True
    data: PatientData

    def __init__(
        self,
        data: PatientData,
        judge: Callable[[nn.Module], Scores],
        plan: Plan,
        encodings: Mapping[str, Encoding],
        aims: Aims,
        roles: Roles,
        judge_every: int = 1,
    ) -> None:
        names = [f"patient {data.records.patients[i]}" for i in range(len(data.records.patients))]
        super().__init__(data, judge, plan, names=names, places=np.array(data.subjects, np.int64))
        self.encodings, self.aims, self.judge_every = encodings, aims, judge_every
        self.pairs = paired_subjects(data.records, roles)
        self.returns = returned_subjects(data.records) if aims.temporal > 0 else set[int]()

    def order(self, epoch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw each patient's pictures; patients with pairs are spread over the batches."""
        self.data.draw(rng)
        # With several processes each one's part of a batch needs pairs of its own.
        size = max(1, min(self.plan.batch_size, len(self.places)) // processes())
        return mix(self.pairs, self.returns, self.data.subjects, size, rng)

    def vary(self, batch: Batch, generator: torch.Generator, device: torch.device) -> Batch:
        """Each modality in its own way."""
        assert isinstance(batch, PatientBatch)
        clean, masked = self.aims.rebuild == "clean", self.aims.masked
        return vary(batch, self.encodings, generator, device, clean=clean, masked=masked)

    def after_step(self, epoch: int, step: int, steps: int, objective: Objective) -> None:
        """Keep the temperatures in their range."""
        assert isinstance(objective, Pretraining)
        objective.network.clamp()

    def judge(self, epoch: int, network: nn.Module) -> Scores:
        """Look at the validation split now and then."""
        last = epoch + 1 == self.epochs
        return self.validate(network) if last or (epoch + 1) % self.judge_every == 0 else Scores(0.0, {})


def pretrain_comprer(
    dataset: Dataset,
    encodings: Mapping[str, Encoding],
    aims: Aims,
    plan: Plan,
    *,
    roles: Roles,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    weights: Path | None = None,
    log: Path | None = None,
    judge_every: int = 1,
    say: Callable[[str], None] | None = None,
) -> Pretrained:
    """Pretrain the encoders of all modalities together.

    A weight of `aims` that is 0 takes its loss out, which is an arm of the ablation. The random weights of encoders and
    heads are the same whichever losses are in.

    Args:
        dataset: all pictures of all modalities; the measures and embeddings among its tasks count.
        encodings: by modality.
        aims: the losses.
        plan: the loop; `batch_size` counts patients.
        roles: which attributes say what.
        folder: where the last epoch is kept for a resume; nothing else is written, `forget` removes it.
        cache: where decoded images are kept.
        seed: of everything random, the first weights included.
        report: progress.
        weights: a safetensors checkpoint from which all backbones start.
        log: CSV of the curve.
        judge_every: epochs between two looks at the validation split.
        say: told in a line what there is to learn from.

    Raises:
        FoveolaError: a loss that no patient has what it needs for, a measure that is constant, a modality without
            pictures, a loss that is not finite.
    """
    check_measured(dataset, aims.measured)
    plain = without_dense(dataset)
    records = read_records(plain, encodings, roles)
    train, val = records.subset("train"), records.subset("val")
    check_records(train, aims, roles)
    if say is not None:
        say(f"learns from {train.counted()}")
    measures = measured_tasks(plain, aims)
    scale = scale_of(plain)
    network = new_comprer(plain, encodings, aims, seed, weights)
    data, judge = _prepared(train, val, encodings, aims, roles, measures, scale, cache, report)
    course = PatientCourse(data, judge, plan, encodings, aims, roles, judge_every)
    objective = Pretraining(network, aims, measures, gap_scale(train))
    folder.mkdir(parents=True, exist_ok=True)
    history = fit(objective, course, seed=seed, folder=folder, report=report, log=log)
    return Pretrained(network=network.cpu().eval(), records=records, scale=scale, history=history)


def new_comprer(
    dataset: Dataset, encodings: Mapping[str, Encoding], aims: Aims, seed: int, weights: Path | None = None
) -> Comprer:
    """The network for a data set's measures and embeddings, with random weights from the seed.

    Raises:
        FoveolaError: an unknown backbone, or a checkpoint that does not fit it.
    """
    torch.manual_seed(seed)
    sizes = [task.size for task in embeddings(dataset.tasks)]
    network = Comprer(encodings, aims, measured_tasks(dataset, aims), sizes)
    if weights is not None:
        for name, branch in network.items():
            start_backbone(branch.encoder.backbone, weights, encodings[name].backbone)
    return network


def measured_tasks(dataset: Dataset, aims: Aims) -> tuple[Task, ...]:
    """The tasks that are learned as measures, none where that loss is out."""
    return tuple(dataset.task(name) for name in aims.measured) if aims.measures > 0 else ()


def scale_of(dataset: Dataset) -> Scale:
    """Mean and standard deviation of each regression task over the train pictures, whatever their modality.

    Raises:
        FoveolaError: a measure is constant or nowhere known.
    """
    means, stds = target_scale(dataset.subset("train"))
    return {name: (means[name], stds[name]) for name in means}


def without_dense(dataset: Dataset) -> Dataset:
    """The data set without its tasks of masks and boxes."""
    return dataset.only([task.name for task in dataset.tasks if task.kind not in DENSE], labelled=False)


def prepare_modalities(
    records: Records, encodings: Mapping[str, Encoding], cache: Path, report: Report
) -> dict[str, Arrays]:
    """The pictures of each modality as its encoder is fed."""
    return {
        name: prepare_arrays(scans.dataset, encodings[name].input, cache=cache, progress=preparing(report))
        for name, scans in records.scans.items()
    }


def _prepared(
    train: Records,
    val: Records,
    encodings: Mapping[str, Encoding],
    aims: Aims,
    roles: Roles,
    measures: tuple[Task, ...],
    scale: Scale,
    cache: Path,
    report: Report,
) -> tuple[PatientData, Judge]:
    learned, judged = (prepare_modalities(part, encodings, cache, report) for part in (train, val))
    mean, std = ({name: pair[i] for name, pair in scale.items()} for i in (0, 1))
    data = PatientData(train, learned, measures, mean, std, roles)
    return data, Judge(val, judged, learned, measures, scale, aims, roles)
