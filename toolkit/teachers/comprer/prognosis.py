"""Heads for what a pretraining was not taught: present and future conditions, from one modality's encoder.

- A condition to come (`incident_NAME`) has no target for who has it already (`prevalent_NAME`): such a row is refused.
- A probe is a linear head on the frozen encoder (`linear.py`).
- Fine-tuning starts from the probe (Kumar et al., ICLR 2022) and holds the embedding to the pretrained one.

N pictures, F features, T channels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ....runtime.errors import FoveolaError
from ....runtime.task import Task
from ...answers import answer_images
from ...batches import Batch, TrainingData
from ...checkpoint import Epoch, Objective
from ...course import Course, Report, Scores
from ...data.arrays import Arrays, prepare_arrays
from ...data.cells import read_flag
from ...data.dataset import Dataset
from ...data.samples import Sample
from ...fit import fit
from ...knobs import Plan
from ...losses import scalar_loss
from ...score import score_answers
from ...supervision import preparing
from .linear import fit_probe
from .parts import ValueHead, directions, pooled
from .teacher import ComprerTeacher

INCIDENT, PREVALENT = "incident_", "prevalent_"


def check_incident(dataset: Dataset) -> list[str]:
    """Refuse a target of a condition to come for somebody who has that condition already.

    Conditions are columns of binary and multilabel tasks and of embeddings' probes; `incident_stroke` belongs to
    `prevalent_stroke`, which may be an attribute too.

    Returns:
        Incident columns whose prevalent one is neither among the tasks nor the attributes, so that nobody can check it.

    Raises:
        FoveolaError: such targets, counted, with the first line; an attribute that is neither 0 nor 1.
    """
    columns = _conditions(dataset)
    unknown = []
    for name, incident in columns.items():
        if not name.startswith(INCIDENT):
            continue
        prevalent = _prevalent(dataset, PREVALENT + name.removeprefix(INCIDENT), columns)
        if prevalent is None:
            unknown.append(name)
            continue
        wrong = np.flatnonzero((prevalent > 0.5) & ~np.isnan(incident))
        if len(wrong):
            first = dataset.samples[int(wrong[0])]
            fault = f"{name} is given for {len(wrong)} image(s) of prevalent cases, first in line {first.row}"
            mend = "leave the cell empty: who has a condition cannot come to have it"
            raise FoveolaError(str(dataset.root), fault, mend)
    return unknown


def probe_heads(teacher: ComprerTeacher, train: Arrays, names: Sequence[str]) -> None:
    """Fit the heads of these tasks on the frozen encoder.

    Args:
        teacher: changed in place; on the CPU or a GPU.
        train: prepared train pictures of its modality.
        names: of its tasks.

    Raises:
        FoveolaError: a condition of which the train pictures show one kind only.
    """
    if not names:
        return
    features = encoded(teacher, train).astype(np.float64)
    patients = np.unique([sample.patient for sample in train.samples], return_inverse=True)[1]
    for task in teacher.tasks:
        if task.name in names:
            head = teacher.heads[task.name]
            assert isinstance(head, ValueHead)
            target = _standardised(task, train.scalars[task.name].astype(np.float64), teacher)
            weight, bias = fit_probe(task, features, target, patients)
            with torch.no_grad():
                head.linear.weight.copy_(torch.from_numpy(weight))
                head.linear.bias.copy_(torch.from_numpy(bias))


class Tuned(Objective):
    """All weights of a teacher on the reference standard; its embeddings stay near those it began with.

    Args:
        teacher: is trained.
        keep: weight of 1 - cosine between an embedding and the one at the start; 0 for none.
    """

    network: ComprerTeacher

    def __init__(self, teacher: ComprerTeacher, keep: float) -> None:
        super().__init__(teacher)
        codes = [task for task in teacher.tasks if task.kind == "embedding"]
        self.taught = [task for task in teacher.tasks if task.kind != "embedding"]
        self.codes, self.keep = codes, keep
        # Not a module of the teacher: it serves training only and is not kept.
        self.start = copy.deepcopy(teacher).requires_grad_(False) if keep > 0 and codes else None

    def compiled(self) -> list[nn.Module]:
        """The backbone."""
        return [self.network.encoder.backbone]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """One loss a task, and `keep`."""
        raw = self.network.raw(self.network.encoder(batch.images))
        losses = {task.name: task.weight * scalar_loss(task, raw[task.name], batch.scalars[task.name])
                  for task in self.taught}  # fmt: skip
        if self.start is not None:
            self.start.eval()
            with torch.no_grad():
                before = self.start.raw(self.start.encoder(batch.images))
            apart = [1 - (directions(raw[t.name]) * directions(before[t.name])).sum(1).mean() for t in self.codes]
            losses["keep"] = self.keep * torch.stack(apart).mean()
        return losses


def finetune(
    teacher: ComprerTeacher,
    dataset: Dataset,
    plan: Plan,
    *,
    keep: float,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    log: Path | None = None,
) -> list[Epoch]:
    """Train all weights of a teacher on the reference standard; the best epoch on the validation split is kept.

    Args:
        teacher: changed in place.
        dataset: the pictures of its modality, with its tasks; train and val are looked at.
        plan: the loop.
        keep: see `Tuned`.
        folder: where the last epoch is kept for a resume.
        cache: where decoded images are kept.
        seed: of everything random.
        report: progress.
        log: CSV of the curve.
    """
    train, val = (
        prepare_arrays(dataset.subset(name), teacher.input, cache=cache, progress=preparing(report))
        for name in ("train", "val")
    )
    mean, std = ({name: pair[i] for name, pair in teacher.target_scale.items()} for i in (0, 1))
    taught = tuple(task for task in teacher.tasks if task.kind != "embedding")
    data = TrainingData(train, taught, dict(mean), dict(std))

    def validate(candidate: nn.Module) -> Scores:
        assert isinstance(candidate, ComprerTeacher)
        device = next(candidate.parameters()).device
        return score_answers(
            taught, answer_images(candidate.eval(), val.images, device=device), val, teacher.target_scale
        )

    known = np.any([dataset.subset("train").known(task.name) for task in taught], axis=0)
    names = [sample.key for sample in train.samples]
    course = Course(data, validate, plan, names=names, places=np.flatnonzero(known))
    folder.mkdir(parents=True, exist_ok=True)
    return fit(Tuned(teacher, keep), course, seed=seed, folder=folder, report=report, log=log)


def encoded(teacher: ComprerTeacher, arrays: Arrays, at_once: int = 64) -> NDArray[np.float32]:
    """(N, F): a teacher's pooled features of prepared pictures, in evaluation mode."""
    device = next(teacher.parameters()).device
    teacher.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(arrays), at_once):
            x = torch.from_numpy(np.array(arrays.images[start : start + at_once])).to(device)
            found.append(pooled(teacher.encoder(x)).float().cpu().numpy())
    return np.concatenate(found)


def _conditions(dataset: Dataset) -> dict[str, NDArray[np.float32]]:
    found: dict[str, NDArray[np.float32]] = {}
    for task in dataset.tasks:
        if task.kind in ("binary", "multilabel", "embedding"):
            found |= dict(zip(task.manifest_columns, dataset.scalars[task.name].T, strict=True))
    return found


def _prevalent(dataset: Dataset, name: str, columns: dict[str, NDArray[np.float32]]) -> NDArray[np.floating] | None:
    if name in columns:
        return columns[name]
    if not len(dataset) or name not in dataset.samples[0].attributes:
        return None
    return np.array([_flag(dataset, sample, name) for sample in dataset.samples])


def _flag(dataset: Dataset, sample: Sample, name: str) -> float:
    try:
        return read_flag(sample.attributes[name]) if sample.attributes[name] else np.nan
    except ValueError as error:
        fault, mend = error.args
        raise FoveolaError(f"{dataset.root}: line {sample.row}, column {name}", fault, mend) from None


def _standardised(task: Task, values: NDArray[np.float64], teacher: ComprerTeacher) -> NDArray[np.float64]:
    if task.kind != "regression":
        return values
    mean, std = teacher.target_scale[task.name]
    return np.asarray((values - np.array(mean)) / np.array(std), np.float64)
