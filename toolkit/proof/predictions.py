"""Who answers for the proof: the bundle from an image file's bytes, the teacher from its raw answers.

Both end in the runtime's own `Prediction`.

    for prediction in bundle_predictions(predictor, dataset): ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...runtime.answer import decode
from ...runtime.errors import FoveolaError
from ...runtime.image import Geometry
from ...runtime.manifest import InputSpec, TaskOutput
from ...runtime.predict import Predictor
from ...runtime.prediction import Box, Prediction
from ...runtime.task import Task
from ..data.dataset import Dataset
from .rows import Thresholds

if TYPE_CHECKING:
    from ..answers import RawAnswers

Progress = Callable[[int, int], None]


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
    locked: Thresholds,
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
            embeddings=prediction.embeddings,
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
