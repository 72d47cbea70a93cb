"""What compression forgot: the training images on which an int8 artefact decides otherwise, and the rarest classes.

Laws:
- A flip is a flip of the proof (`parity.flips`): decisions at locked thresholds, Dice, F1, values. Where the teacher
  was wrong and the artefact is right, nothing was forgotten.
- Teacher and artefact decide at thresholds of their own, locked on validation images.
- The flipped cases are compression identified exemplars (Hooker et al. 2019, arXiv 1911.05248): few images carry most
  of what is lost, and rare classes lose first (Hooker et al. 2020, arXiv 2010.03058; on radiographs PruneCXR, Holste et
  al., MICCAI 2023).
- A class's weight is inverse to its effective number of images (Cui et al., CVPR 2019, eq. 3), relative to the most
  frequent class of its task; an image takes the largest weight of the classes that it shows.

N images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.manifest import InputSpec
from ...runtime.task import Task
from ..answers import RawAnswers, Scale
from ..data.arrays import Arrays
from ..data.dataset import Dataset
from ..data.masks import IGNORE
from ..parity.evidence import Flip
from ..parity.flips import find_flips
from ..parity.pairing import pair
from ..proof.collect import cases_of, collect, references_of
from ..proof.predictions import teacher_predictions
from ..proof.rows import Thresholds

FORGOTTEN = ("lost", "unknown", "disagree")  # kinds of flips that are fed back


class RareClass(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How often a class is seen, and how much more often it is drawn for it."""

    task: str
    label: str
    images: int  # of the train split that show it
    weight: float  # 1 for the task's most frequent class


class Side(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One model's raw answers to some images, and how they become decisions."""

    answers: RawAnswers
    arrays: Arrays  # the images as the model is fed them
    input: InputSpec
    scale: Scale
    locked: Thresholds


def flips_between(tasks: Sequence[Task], dataset: Dataset, teacher: Side, student: Side) -> list[Flip]:
    """All cases of a data set that a student decides otherwise than its teacher.

    Args:
        tasks: those that both answer.
        dataset: the cases, in the order of both sides' answers.
        teacher: one side.
        student: the other.
    """
    sides = []
    for side in (teacher, student):
        predictions = teacher_predictions(
            tasks, side.answers, side.arrays.geometries, side.input, side.scale, side.locked
        )
        sides.append(collect(tasks, dataset, predictions, side.locked))
    cases, references = cases_of(dataset), references_of(dataset)
    return [flip for task in tasks for flip in find_flips("int8", pair(task, references, *sides), cases)]


def forgotten_images(flips: Sequence[Flip], dataset: Dataset) -> NDArray[np.bool_]:
    """Which images (N,) have a decision that compression lost or changed for the worse, or that nobody can judge."""
    keys = {flip.case for flip in flips if flip.kind in FORGOTTEN}
    return np.array([sample.key in keys for sample in dataset.samples], np.bool_)


def count_kinds(flips: Sequence[Flip]) -> dict[str, dict[str, int]]:
    """Task -> kind of flip -> how many."""
    found: dict[str, Counter[str]] = {}
    for flip in flips:
        found.setdefault(flip.task, Counter())[flip.kind] += 1
    return {task: dict(sorted(kinds.items())) for task, kinds in sorted(found.items())}


def class_images(tasks: Sequence[Task], arrays: Arrays) -> Iterator[tuple[Task, dict[str, NDArray[np.bool_]]]]:
    """Of each task with classes: which images (N,) show each of them; what is not known shows nothing."""
    for task in tasks:
        if task.kind == "segmentation":
            yield task, _shown_in_masks(task, arrays.masks[task.name])
        elif task.kind == "detection":
            yield task, _shown_in_boxes(task, arrays.boxes[task.name])
        elif task.kind in ("multilabel", "embedding"):  # an embedding's conditions; it may have none
            values = arrays.scalars[task.name]
            yield task, {label: values[:, k] > 0.5 for k, label in enumerate(task.classes)}
        elif task.kind != "regression":
            values = arrays.scalars[task.name]
            yield task, {label: values[:, 0] == k for k, label in enumerate(task.classes)}


def _shown_in_masks(task: Task, masks: NDArray[np.uint8]) -> dict[str, NDArray[np.bool_]]:
    def shows(one: NDArray[np.uint8], k: int) -> bool:
        return bool((one == k + 1).any()) if task.exclusive else bool(((one[k] != 0) & (one[k] != IGNORE)).any())

    return {label: np.array([shows(one, k) for one in masks], np.bool_) for k, label in enumerate(task.classes)}


def _shown_in_boxes(task: Task, boxes: Sequence[NDArray[np.float32] | None]) -> dict[str, NDArray[np.bool_]]:
    return {
        label: np.array([one is not None and bool((one[:, 4] == k).any()) for one in boxes], np.bool_)
        for k, label in enumerate(task.classes)
    }


def effective_number(images: int, beta: float) -> float:
    """Images that a class is worth: (1 - beta^n) / (1 - beta) (Cui et al., CVPR 2019, eq. 2)."""
    return float(images) if beta == 1.0 else (1 - beta**images) / (1 - beta)


def rare_weights(
    tasks: Sequence[Task], arrays: Arrays, beta: float
) -> tuple[NDArray[np.float64], tuple[RareClass, ...]]:
    """Weight of each image by the rarest class that it shows, 1 and more; and the account by class.

    Args:
        tasks: of the network.
        arrays: the train split.
        beta: 0 makes all classes alike, 1 weights by the inverse of their number of images.
    """
    weights = np.ones(len(arrays))
    account: list[RareClass] = []
    for task, shown in class_images(tasks, arrays):
        counts = {label: int(images.sum()) for label, images in shown.items()}
        most = effective_number(max(counts.values(), default=0), beta)
        for label, images in shown.items():
            if counts[label] == 0:
                continue
            weight = most / effective_number(counts[label], beta)
            weights = np.where(images, np.maximum(weights, weight), weights)
            account.append(RareClass(task=task.name, label=label, images=counts[label], weight=round(weight, 4)))
    return weights, tuple(account)


def draws_of(
    forgotten: NDArray[np.bool_], rare: NDArray[np.float64], *, flipped: float, most: float
) -> NDArray[np.float64]:
    """How often each image is drawn (N,): the two weights multiplied, at most `most`.

    Args:
        forgotten: (N,) images that compression flipped.
        rare: (N,) weights of rarity.
        flipped: how much more often a flipped image is drawn.
        most: the largest weight, so that no image is learned by heart.
    """
    return np.asarray(np.minimum(np.where(forgotten, flipped, 1.0) * rare, most))


Ask = Callable[[Arrays], RawAnswers]
Kinds = Mapping[str, Mapping[str, int]]
