"""The worst flips as pictures: the case with what the reference, the teacher and the student see; needs no torch.

Pictures show patients. They are drawn for those who hold the data, never where names are hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import FoveolaError
from ...runtime.image import read_image
from ...runtime.prediction import Prediction
from ...runtime.task import Task
from ..data.dataset import Dataset, load_mask
from ..parity.evidence import Flip
from ..report.pictures import flip_picture
from ..report.render import Picture, flips_to_draw
from .answer_rows import box_rows

Mask = NDArray[np.bool_]


def draw_wall(
    flips: Sequence[Flip],
    count: int,
    cases: Dataset,
    teacher: Callable[[int], Prediction | None],
    student: Callable[[str, int], Prediction | None],
) -> list[Picture]:
    """Draw the flips to look at first, a case at most once; an image that cannot be read is passed over.

    Args:
        flips: of the evidence.
        count: how many at most.
        cases: holds images and reference; keys are those of the flips.
        teacher: answers about a case, by its place in `cases`.
        student: likewise, by engine and place.
    """
    place = {sample.key: i for i, sample in enumerate(cases.samples)}
    pictures = []
    for flip in flips_to_draw(flips, count):
        index = place[flip.case]
        try:
            png = _draw(flip, cases, index, teacher(index), student(flip.engine, index))
        except FoveolaError:
            continue
        pictures.append(Picture(flip=flip, png=png, caption=""))
    return pictures


def _draw(flip: Flip, cases: Dataset, index: int, teacher: Prediction | None, student: Prediction | None) -> bytes:
    image = read_image(cases.samples[index].path)
    task = next((one for one in cases.tasks if one.name == flip.task), None)  # None: a number made of masks
    if task is not None and task.kind == "segmentation":
        label = task.classes.index(flip.label) if flip.label in task.classes else 0
        return flip_picture(
            image,
            reference_mask=_truth(cases, task, index, label, (image.shape[0], image.shape[1])),
            teacher_mask=_mask(teacher, task, label),
            student_mask=_mask(student, task, label),
        )
    if task is not None and task.kind == "detection":
        return flip_picture(
            image,
            reference_boxes=cases.boxes[task.name][index],
            teacher_boxes=_positive(task, teacher),
            student_boxes=_positive(task, student),
        )
    return flip_picture(image)


def _truth(cases: Dataset, task: Task, index: int, label: int, size: tuple[int, int]) -> Mask | None:
    if task.name not in cases.masks:
        return None
    target = load_mask(cases, task.name, index, size)
    return np.asarray(target == label + 1 if task.exclusive else target[label] == 1)


def _mask(prediction: Prediction | None, task: Task, label: int) -> Mask | None:
    masks = () if prediction is None else prediction.masks
    return next((one.pixels for one in masks if one.task == task.name and one.label == task.classes[label]), None)


def _positive(task: Task, prediction: Prediction | None) -> NDArray[np.float64] | None:
    if prediction is None:
        return None
    kept = tuple(box for box in prediction.boxes if box.task == task.name and box.positive)
    return box_rows(task, Prediction(boxes=kept))
