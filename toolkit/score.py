"""One number a task for choosing the best epoch, and the thresholds that are locked on validation data.

Scores are for training only: 0 is chance (or nothing found), 1 is perfect. What the proof reports is computed by
`toolkit.parity` on the shipped bundle instead.

An embedding's score is that of retrieval among the images at hand: twice the mean pair percentile less one. Where no
patient has two of them, twice the mean AUC less one of logistic probes of its classes, cross-fitted by patient. While a
student is distilled its best epoch is chosen by the mean of that and of its mean cosine with the teacher's embedding
(`with_agreement`): greys alone may tell a few patients apart, and the teacher's space is what must be kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..runtime.answer import directions, probabilities
from ..runtime.task import Task
from .answers import RawAnswers
from .course import Scores
from .data.arrays import Arrays
from .data.masks import IGNORE
from .parity.cases import patient_codes
from .parity.class_endpoints import quadratic_kappa
from .parity.delong import auc
from .parity.detection import average_precision, match_class
from .parity.pair_retrieval import retrieve
from .parity.probe import probe_scores
from .parity.threshold import lock_threshold

Scale = Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]  # task -> mean and standard deviation of its measures


def score_answers(tasks: Sequence[Task], answers: RawAnswers, arrays: Arrays, scale: Scale) -> Scores:
    """Score raw answers against prepared targets; a task without any known target is left out."""
    by_task: dict[str, float] = {}
    for task in tasks:
        if task.kind == "segmentation":
            score = _dice_score(task, answers.raw[task.name], arrays.masks[task.name])
        elif task.kind == "detection":
            score = _detection_score(task, answers.boxes[task.name], arrays.boxes[task.name])
        elif task.kind == "regression":
            mean, std = scale[task.name]
            values = answers.raw[task.name] * np.array(std) + np.array(mean)
            score = _skill(values, arrays.scalars[task.name])
        elif task.kind == "embedding":
            patients = patient_codes([sample.patient for sample in arrays.samples])
            score = _embedding_score(answers.raw[task.name], arrays.scalars[task.name], patients)
        else:
            score = _class_score(task, probabilities(task, answers.raw[task.name]), arrays.scalars[task.name])
        if score is not None:
            by_task[task.name] = score
    return Scores(float(np.mean(list(by_task.values()))) if by_task else 0.0, by_task)


def with_agreement(scores: Scores, tasks: Sequence[Task], answers: RawAnswers, taught: RawAnswers) -> Scores:
    """Scores whose total weighs each embedding's retrieval and its mean cosine with the teacher's alike.

    Args:
        scores: of the student's answers.
        tasks: of the student.
        answers: the student's.
        taught: the teacher's to the same images; embeddings that it does not answer count by their retrieval alone.
    """
    total, cosines = dict(scores.by_task), dict[str, float]()
    for task in tasks:
        if task.kind == "embedding" and task.name in taught.raw:
            own, theirs = (directions(one.raw[task.name]) for one in (answers, taught))
            cosine = float(np.nan_to_num(np.sum(own * theirs, axis=1)).mean())
            total[task.name] = (cosine + scores.by_task.get(task.name, cosine)) / 2
            cosines[f"cosine/{task.name}"] = cosine
    if not cosines:
        return scores
    mean = float(np.mean(list(total.values())))
    return Scores(mean, scores.by_task, {**scores.measures, **cosines})


def _class_score(task: Task, probability_NC: NDArray[Any], target: NDArray[np.float32]) -> float | None:
    """Twice the AUC less one (binary, multilabel mean), accuracy, or quadratic kappa."""
    if task.kind in ("binary", "multilabel"):
        return _class_areas(probability_NC, target)
    known = ~np.isnan(target[:, 0])
    if not known.any():
        return None
    truth, chosen = target[known, 0].astype(int), probability_NC[known].argmax(1)
    if task.kind == "ordinal":
        kappa = quadratic_kappa(truth.astype(np.float64), chosen.astype(np.float64))
        return 0.0 if np.isnan(kappa) else kappa  # one grade only on both sides
    return float((truth == chosen).mean())


def _skill(values_NM: NDArray[Any], target: NDArray[np.float32]) -> float | None:
    """1 - MAE / MAE of the constant median, mean over measures."""
    skills = []
    for column in range(target.shape[1]):
        known = ~np.isnan(target[:, column])
        truth = target[known, column]
        spread = float(np.abs(truth - np.median(truth)).mean()) if known.any() else 0.0
        if spread > 0:
            skills.append(1 - float(np.abs(values_NM[known, column] - truth).mean()) / spread)
    return float(np.mean(skills)) if skills else None


def _embedding_score(
    raw_ND: NDArray[np.float32], target: NDArray[np.float32], patients: NDArray[np.intp]
) -> float | None:
    """Twice the mean pair percentile less one; without a pair, the same of the probes' mean AUC."""
    embedding = directions(raw_ND).astype(np.float64)
    found = retrieve((embedding,), patients, np.ones(len(patients), dtype=bool))
    if found is not None:
        return 2 * found.means[0] - 1
    return _class_areas(probe_scores(embedding, target.astype(np.float64), patients), target)


def _class_areas(scores_NC: NDArray[Any], target: NDArray[np.float32]) -> float | None:
    """Twice the mean AUC less one over the columns with both classes; a score that is missing is chance."""
    areas = []
    for column in range(target.shape[1]):
        known = ~np.isnan(target[:, column])
        positive = target[known, column] > 0.5
        if positive.any() and not positive.all():
            areas.append(2 * auc(positive, np.nan_to_num(scores_NC[known, column])) - 1)
    return float(np.mean(areas)) if areas else None


def _dice_score(task: Task, raw_NKhw: NDArray[np.float32], target: NDArray[np.uint8]) -> float | None:
    """Mean Dice over images and structures, at the target's resolution."""
    scores: list[float] = []
    for raw, wanted in zip(raw_NKhw, target, strict=True):
        height, width = wanted.shape[-2:]
        if bool((wanted == IGNORE).all()):
            continue
        logits = np.stack(
            [
                np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BILINEAR))
                for one in raw.astype(np.float32)
            ]
        )
        chosen = logits.argmax(0) if task.exclusive else logits > 0
        for label in range(len(task.classes)):
            truth = wanted == label + 1 if task.exclusive else wanted[label] == 1
            known = (wanted if task.exclusive else wanted[label]) != IGNORE
            found = (chosen == label + 1 if task.exclusive else chosen[label]) & known
            if known.any():
                total = int(found.sum()) + int(truth.sum())
                scores.append(2 * int((found & truth).sum()) / total if total else 1.0)
    return float(np.mean(scores)) if scores else None


def _detection_score(
    task: Task, found: list[NDArray[np.float32]], target: Sequence[NDArray[np.float32] | None]
) -> float | None:
    """Mean average precision at IoU 0.5 over the classes that occur."""
    places = [i for i, one in enumerate(target) if one is not None]
    truths = [np.asarray(target[i], np.float64) for i in places]
    answers = [np.asarray(found[i], np.float64) for i in places]
    present = [k for k in range(len(task.classes)) if any((one[:, 4] == k).any() for one in truths)]
    areas = [average_precision(match_class(answers, truths, label)) for label in present]
    return float(np.mean(areas)) if areas else None


def lock_thresholds(tasks: Sequence[Task], answers: RawAnswers, arrays: Arrays) -> dict[str, tuple[float, ...]]:
    """Thresholds of every task that decides by one: binary and multilabel by their rule, masks 0.5, boxes 0.3."""
    locked: dict[str, tuple[float, ...]] = {}
    for task in tasks:
        if task.kind in ("binary", "multilabel"):
            target, probability = arrays.scalars[task.name], probabilities(task, answers.raw[task.name])
            found = []
            for column in range(target.shape[1]):
                known = ~np.isnan(target[:, column])
                found.append(
                    lock_threshold(task.operating_point, target[known, column] > 0.5, probability[known, column])
                )
            locked[task.name] = tuple(found)
        elif task.kind == "segmentation" and not task.exclusive:
            locked[task.name] = (0.5,) * len(task.classes)
        elif task.kind == "detection":
            locked[task.name] = (0.3,) * len(task.classes)
    return locked
