"""What teacher and shipped bundle say about the same image files, as the proof takes it.

Both sides end in the runtime's own `Prediction`: the bundle through `Predictor.predict` from the file's bytes, the
teacher through its own preprocessing and the same decoding. Dice is measured on the stored image's pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..runtime.answer import Box, Prediction, decode
from ..runtime.errors import FoveolaError
from ..runtime.image import Geometry
from ..runtime.manifest import InputSpec, TaskOutput
from ..runtime.predict import Predictor
from ..runtime.task import Task
from .answers import RawAnswers
from .data.dataset import Dataset, load_mask
from .data.masks import IGNORE
from .parity.cases import Answers, Cases, References

Progress = Callable[[int, int], None]


def cases_of(dataset: Dataset) -> Cases:
    """Keys, patients and attributes of a data set's images."""
    names = sorted({name for sample in dataset.samples for name in sample.attributes})
    return Cases(
        keys=tuple(sample.key for sample in dataset.samples),
        patients=tuple(sample.patient for sample in dataset.samples),
        attributes={name: tuple(sample.attributes.get(name, "") for sample in dataset.samples) for name in names},
    )


def references_of(dataset: Dataset) -> References:
    """What the reference standard says."""
    return References(scores=dict(dataset.scalars), boxes=dict(dataset.boxes))


def bundle_predictions(
    predictor: Predictor, dataset: Dataset, progress: Progress | None = None
) -> Iterator[Prediction | None]:
    """The bundle's answer to each image file, in order; None where it refuses to answer."""
    for done, sample in enumerate(dataset.samples, 1):
        try:
            yield predictor.predict(sample.path)
        except FoveolaError:  # no answer is the worst answer; the proof counts and names it
            yield None
        if progress is not None:
            progress(done, len(dataset))


def teacher_predictions(
    tasks: Sequence[Task],
    answers: RawAnswers,
    geometries: Sequence[Geometry],
    spec: InputSpec,
    scale: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]],
    locked: Mapping[str, tuple[float, ...]],
) -> Iterator[Prediction]:
    """A teacher's raw answers as predictions, decoded as the device would."""
    dense = [task for task in tasks if task.kind != "detection"]
    outputs = tuple(
        TaskOutput(
            task=task,
            tensors=(task.name,),
            thresholds=locked.get(task.name, ()),
            mean=scale[task.name][0] if task.kind == "regression" else (),
            std=scale[task.name][1] if task.kind == "regression" else (),
        )
        for task in dense
    )
    for i, geometry in enumerate(geometries):
        raw = {task.name: answers.raw[task.name][i : i + 1] for task in dense}
        prediction = decode(outputs, raw, geometry, spec)
        boxes = [
            box
            for task in tasks
            if task.kind == "detection"
            for box in _boxes(task, geometry.boxes_to_image(answers.boxes[task.name][i]), locked[task.name])
        ]
        yield Prediction(
            findings=prediction.findings,
            choices=prediction.choices,
            measurements=prediction.measurements,
            masks=prediction.masks,
            boxes=tuple(boxes),
        )


def _boxes(task: Task, boxes: NDArray[np.float32], thresholds: tuple[float, ...]) -> list[Box]:
    return [
        Box(
            task=task.name,
            label=task.classes[int(label)],
            score=score,
            x1=x1,
            y1=y1,
            x2=x2,
            y2=y2,
            positive=score >= thresholds[int(label)],
        )
        for x1, y1, x2, y2, score, label in boxes.tolist()
    ]


def collect(
    tasks: Sequence[Task],
    dataset: Dataset,
    predictions: Iterator[Prediction | None] | Iterator[Prediction],
    thresholds: Mapping[str, tuple[float, ...]],
) -> Answers:
    """Answers to all images in the form of the proof; masks become Dice at once, so that memory stays small."""
    count = len(dataset)
    scores = {
        task.name: np.full((count, _width(task)), np.nan)
        for task in tasks
        if task.kind not in ("segmentation", "detection")
    }
    dice = {task.name: np.full((count, len(task.classes)), np.nan) for task in tasks if task.kind == "segmentation"}
    boxes: dict[str, list[NDArray[np.float64] | None]] = {task.name: [] for task in tasks if task.kind == "detection"}
    known = {task.name: dataset.known(task.name) for task in tasks if task.kind == "segmentation"}
    for i, prediction in enumerate(predictions):
        for task in tasks:
            if task.kind == "detection":
                boxes[task.name].append(None if prediction is None else box_rows(task, prediction))
            elif task.kind != "segmentation":
                if prediction is not None:
                    scores[task.name][i] = score_row(task, prediction)
            elif prediction is not None and known[task.name][i]:
                dice[task.name][i] = dice_row(task, dataset, i, prediction)
    return Answers(
        scores=scores,
        dice=dice,
        boxes={name: tuple(many) for name, many in boxes.items()},
        thresholds={
            task.name: thresholds[task.name] for task in tasks if task.kind in ("binary", "multilabel", "detection")
        },
    )


def _width(task: Task) -> int:
    return 1 if task.kind == "binary" else len(task.classes)


def score_row(task: Task, prediction: Prediction) -> list[float]:
    """Probabilities or values of one task."""
    if task.kind in ("binary", "multilabel"):
        return [one.probability for one in prediction.findings if one.task == task.name]
    if task.kind == "regression":
        return [one.value for one in prediction.measurements if one.task == task.name]
    return next(list(one.probabilities) for one in prediction.choices if one.task == task.name)


def box_rows(task: Task, prediction: Prediction) -> NDArray[np.float64]:
    """Boxes (K, 6) of one task: x1, y1, x2, y2, score, label."""
    rows = [
        (box.x1, box.y1, box.x2, box.y2, box.score, task.classes.index(box.label))
        for box in prediction.boxes
        if box.task == task.name
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 6)


def dice_row(task: Task, dataset: Dataset, index: int, prediction: Prediction) -> list[float]:
    """Dice of each structure on the stored image; both empty is 1; NaN where the structure is not annotated."""
    masks = [one.pixels for one in prediction.masks if one.task == task.name]
    height, width = masks[0].shape
    target = load_mask(dataset, task.name, index, (height, width))
    found: list[float] = []
    for label, mask in enumerate(masks):
        layer = target if task.exclusive else target[label]
        known = layer != IGNORE
        truth = (layer == label + 1) if task.exclusive else (layer == 1)
        total = int((mask & known).sum()) + int(truth.sum())
        found.append(float("nan") if not known.any() else 2 * int((mask & truth).sum()) / total if total else 1.0)
    return found
