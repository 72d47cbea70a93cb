"""How good a teacher is, in the metrics of MTPret (Liao et al., IEEE TAI 2024), each with a 95 % interval by patient.

| kind | main metric | beside it |
|---|---|---|
| binary | auc | accuracy, sensitivity, specificity at the locked threshold |
| multilabel | auc, mean over labels (mAUC) | auc of each label |
| multiclass | accuracy | ovr_auc: one class against the rest, mean over classes |
| ordinal | kappa, quadratic weights | accuracy |
| regression | mae of each measure | |
| segmentation | dice, mean over structures | miou (background included); dice and iou of each |
| embedding | pair_percentile | recall_at_1; probe_auc, mean over its classes, and of each |
| detection | map50, mean over classes | map50 of each class; map: mean over IoU 0.5, 0.55 .. 0.95 |

- Patients are the clusters. One resample matrix serves all tasks and teachers: it depends on the seed and on the
  patients of the split only (`parity/bootstrap.py`). AUC has DeLong's interval, clustered (`parity/delong.py`).
- Where fewer than `FEW` patients show a wrong decision, or a right one, the bootstrap has nothing to draw from: the
  interval then reaches at least z^2 / (P + z^2) to either side (Wilson's bound for what was not seen in P patients).
- A number that cannot be told from chance, or that rests on fewer than `MIN_PATIENTS` patients of a class, says so.

N cases, C classes, M measures; NaN in a reference is a gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...runtime.answer import directions, probabilities
from ...runtime.errors import FoveolaError
from ...runtime.task import Task
from ..answers import RawAnswers
from ..data.arrays import Arrays
from ..data.masks import IGNORE
from ..parity.measured import Setting
from . import dense_metrics
from .class_metrics import measure_classes, measure_labels, measure_values
from .embedding_metrics import measure_embedding
from .measure import Measure

if TYPE_CHECKING:
    from ..checkpoint import Epoch

Scale = Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]  # task -> mean and standard deviation of its measures


def measure_task(
    task: Task, answers: RawAnswers, arrays: Arrays, limits: Sequence[float], scale: Scale, setting: Setting
) -> list[Measure]:
    """All metrics of one task, the main one first; none where no case has a reference.

    Args:
        task: what was asked.
        answers: raw outputs to all cases (`answers.answer_images`).
        arrays: the cases' references (`data.arrays.prepare_arrays`).
        limits: locked thresholds of the task's labels; empty means 0.5.
        scale: regression: by which raw values become units.
        setting: the patients of the cases, and the numbers of the bootstrap.

    Raises:
        FoveolaError: an answer is not finite.
    """
    if task.kind == "detection":
        return dense_metrics.measure_boxes(task, answers.boxes[task.name], arrays.boxes[task.name], setting)
    raw = answers.raw[task.name]
    broken = int((~np.isfinite(raw)).reshape(len(raw), -1).any(axis=1).sum())
    if broken:
        fault = f"the answers to {broken} of {len(raw)} cases are not finite"
        raise FoveolaError(f"task {task.name!r}", fault, "the network diverged: lower its learning rate")
    if task.kind == "segmentation":
        target = without_padding(arrays, task.name)
        return dense_metrics.measure_masks(task, raw, target, limits, setting)
    reference = arrays.scalars[task.name].astype(np.float64)
    if task.kind == "embedding":
        return measure_embedding(task, reference, directions(raw).astype(np.float64), setting)
    if task.kind == "regression":
        mean, std = scale[task.name]
        values = raw.astype(np.float64) * np.array(std) + np.array(mean)
        return measure_values(task, reference, values, setting)
    probability = np.asarray(probabilities(task, raw), np.float64)
    if task.kind in ("binary", "multilabel"):
        return measure_labels(task, reference, probability, limits, setting)
    return measure_classes(task, reference, probability, setting)


def without_padding(arrays: Arrays, name: str) -> NDArray[np.uint8]:
    """The masks of a task with the input's padding marked as ignored: it is no part of the picture."""
    masks = np.full(arrays.masks[name].shape, IGNORE, np.uint8)
    for mask, known, place in zip(masks, arrays.masks[name], arrays.geometries, strict=True):
        rows = slice(place.pad_y, place.pad_y + place.content_height)
        columns = slice(place.pad_x, place.pad_x + place.content_width)
        mask[..., rows, columns] = known[..., rows, columns]
    return masks


def forgetting(history: Sequence[Epoch]) -> dict[str, float]:
    """By task: its best validation score so far minus its last one (Chaudhry et al., ECCV 2018); never below 0.

    Args:
        history: one line a visit, each with the scores of all tasks (0 is chance, 1 perfect).
    """
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for epoch in history for name in epoch.scores):
        seen = [epoch.scores[name] for epoch in history if name in epoch.scores]
        found[name] = max(seen) - seen[-1]
    return found
