"""What teacher and shipped bundle say about the same image files, as the proof takes it.

Both sides end in the runtime's own `Prediction`: the bundle through its own preprocessing from the file's bytes, the
teacher through its own preprocessing and the same decoding. Masks are measured on the stored image's pixels, image by
image, and let go: memory grows with the cases' numbers, not with their pixels.

    found = gather(tasks, cases, stored, predictors, protocol=protocol)
    prove(tasks, cases_of(cases), found.references, found.teacher, found.students, ...)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.answer import Box, Prediction, decode
from ...runtime.errors import FoveolaError
from ...runtime.features import answer_features, input_features, quality_features
from ...runtime.image import Geometry, decode_image, prepare
from ...runtime.manifest import InputSpec, TaskOutput
from ...runtime.predict import Predictor
from ...runtime.task import Task
from ..data.dataset import Dataset
from ..parity.cases import Answers, Array, Cases, References
from ..parity.protocol import Protocol
from .answer_rows import THRESHOLDED, is_scored, mask_layers, score_row, score_width
from .answer_rows import box_rows as box_rows
from .kept_answers import StoredAnswers
from .mask_truth import (
    Layers,
    Truth,
    Wanted,
    dice_against,
    dice_of,
    marker_of,
    marker_of_truth,
    read_truth,
    surfaces_against,
    wanted_of,
    worst_surfaces,
)

if TYPE_CHECKING:
    from ..answers import RawAnswers

Progress = Callable[[int, int], None]
Thresholds = Mapping[str, tuple[float, ...]]
WORKERS = 2  # images in the works at once; while one is decoded, an engine answers about the other


class Gathered(msgspec.Struct, frozen=True, kw_only=True):
    """All that the proof is made from beside the cases, and what was seen of the images themselves.

    Args:
        references: what is true, biomarkers among it.
        teacher: the teacher's answers.
        students: the bundle's by engine.
        seen: what was described, by feature (N,): under "" the prepared images, under an engine's name its answers; NaN
            where there was nothing to describe.
    """

    references: References
    teacher: Answers
    students: dict[str, Answers]
    seen: dict[str, dict[str, Array]]


class Row(msgspec.Struct, eq=False):
    """What one model's answer to one image comes to, by task; what is absent is NaN (or None for boxes)."""

    scores: dict[str, list[float]] = {}
    dice: dict[str, list[float]] = {}
    nsd: dict[str, list[float]] = {}
    hd95: dict[str, list[float]] = {}
    alike: dict[str, list[float]] = {}
    boxes: dict[str, Array] = {}


class Looked(msgspec.Struct, frozen=True, eq=False):
    """One image, looked at by everybody."""

    reference: dict[str, float]  # biomarkers
    teacher: Row
    students: dict[str, Row]
    seen: dict[str, Mapping[str, float]]


def cases_of(dataset: Dataset) -> Cases:
    """Keys, patients, image digests and attributes of a data set's images."""
    names = sorted({name for sample in dataset.samples for name in sample.attributes})
    return Cases(
        keys=tuple(sample.key for sample in dataset.samples),
        patients=tuple(sample.patient for sample in dataset.samples),
        attributes={name: tuple(sample.attributes.get(name, "") for sample in dataset.samples) for name in names},
        images=tuple(sample.sha256 for sample in dataset.samples),
    )


def references_of(dataset: Dataset) -> References:
    """What the reference standard says, but for biomarkers."""
    return References(scores=dict(dataset.scalars), boxes=dict(dataset.boxes))


# --- everybody at once ---


def gather(
    tasks: Sequence[Task],
    dataset: Dataset,
    stored: StoredAnswers,
    predictors: Mapping[str, Predictor],
    *,
    protocol: Protocol | None = None,
    describe: bool = False,
    progress: Progress | None = None,
) -> Gathered:
    """Ask every engine about every image and hold all answers against the reference and the teacher's.

    Args:
        tasks: of the bundle, those that the teacher answers.
        dataset: the cases; a task that it does not know has no reference standard.
        stored: the teacher's answers to these images.
        predictors: of one bundle, by engine.
        protocol: asks for surface measures and biomarkers.
        describe: describe images and answers too, for drift.
        progress: called with (done, total).

    Raises:
        FoveolaError: a mask of the reference cannot be read.
    """
    wanted = wanted_of(protocol)

    def look(index: int) -> Looked:
        return _look(index, tasks, dataset, stored, predictors, wanted, describe=describe)

    count = len(dataset)
    looked: list[Looked] = []
    for one in _in_order(look, count):
        looked.append(one)
        if progress is not None:
            progress(len(looked), count)
    first = next(iter(predictors.values()))
    locked = {output.task.name: output.thresholds for output in first.manifest.outputs}
    known = references_of(dataset)
    markers = {name: np.array([[one.reference[name]] for one in looked]) for name in wanted.markers}
    return Gathered(
        references=msgspec.structs.replace(known, scores={**known.scores, **markers}),
        teacher=answers_of(tasks, [one.teacher for one in looked], stored.meta.thresholds, wanted),
        students={
            engine: answers_of(tasks, [one.students[engine] for one in looked], locked, wanted, beside=True)
            for engine in predictors
        },
        seen={who: _table([one.seen.get(who, {}) for one in looked]) for who in ("", *predictors)} if describe else {},
    )


def _table(rows: Sequence[Mapping[str, float]]) -> dict[str, Array]:
    """Turn descriptions into columns, NaN where a name is absent."""
    names = sorted({name for row in rows for name in row})
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}


def _in_order(look: Callable[[int], Looked], count: int) -> Iterator[Looked]:
    """Yield all images in order, a few in the works at once; what fails stops the rest."""
    pool = ThreadPoolExecutor(WORKERS)
    try:
        yield from pool.map(look, range(count))
    finally:
        pool.shutdown(cancel_futures=True)


def _look(
    index: int,
    tasks: Sequence[Task],
    dataset: Dataset,
    stored: StoredAnswers,
    predictors: Mapping[str, Predictor],
    wanted: Wanted,
    *,
    describe: bool,
) -> Looked:
    taught = stored.prediction(stored.places[dataset.samples[index].sha256])
    answered, seen = _ask(dataset, index, predictors, describe=describe)
    size = next((one.masks[0].pixels.shape for one in (taught, *answered.values()) if one and one.masks), None)
    masked = [task for task in tasks if task.kind == "segmentation"]
    truths = {
        task.name: None if size is None else read_truth(dataset, task, index, (size[0], size[1])) for task in masked
    }
    layers = {task.name: mask_layers(task, taught) for task in masked if taught is not None and _has(task, taught)}
    classes = {task.name: task.classes for task in masked}
    reference = {}
    for name, marker in wanted.markers.items():
        truth = truths.get(marker.task)
        reference[name] = np.nan if truth is None else marker_of_truth(marker, classes[marker.task], truth)
    return Looked(
        reference=reference,
        teacher=row_of(tasks, taught, truths, wanted),
        students={engine: row_of(tasks, one, truths, wanted, layers) for engine, one in answered.items()},
        seen=seen,
    )


def _ask(
    dataset: Dataset, index: int, predictors: Mapping[str, Predictor], *, describe: bool
) -> tuple[dict[str, Prediction | None], dict[str, Mapping[str, float]]]:
    """Ask each engine about one image, which is decoded once; no answer is None, which the proof counts and names."""
    manifest = next(iter(predictors.values())).manifest
    path = dataset.samples[index].path
    try:
        picture = decode_image(path, str(path))
        x_CHW, geometry = prepare(picture, manifest.input)
    except FoveolaError:
        return dict.fromkeys(predictors), {}
    answered: dict[str, Prediction | None] = {}
    for engine, predictor in predictors.items():
        try:
            answered[engine] = decode(manifest.outputs, predictor.run(x_CHW[None]), geometry, manifest.input)
        except FoveolaError:  # no answer is the worst answer
            answered[engine] = None
    if not describe:
        return answered, {}
    given = {engine: answer_features(one) for engine, one in answered.items() if one is not None}
    gate = next(iter(predictors.values())).gate
    quality = {} if gate is None else quality_features(gate.look(picture))
    return answered, {"": input_features(x_CHW) | quality, **given}


# --- one model's answers ---


def collect(
    tasks: Sequence[Task],
    dataset: Dataset,
    predictions: Iterator[Prediction | None] | Iterator[Prediction],
    thresholds: Thresholds,
    *,
    protocol: Protocol | None = None,
) -> Answers:
    """Answers of one model to all images in the form of the proof.

    Args:
        tasks: those that the model answers.
        dataset: the cases.
        predictions: one an image, in order; None where there is no answer.
        thresholds: the model's own, locked.
        protocol: asks for surface measures and biomarkers; without one masks come down to Dice alone.

    Raises:
        FoveolaError: a mask of the reference cannot be read.
    """
    wanted, rows = wanted_of(protocol), []
    masked = [task for task in tasks if task.kind == "segmentation"]
    for index, prediction in enumerate(predictions):
        size = prediction.masks[0].pixels.shape if prediction is not None and prediction.masks else None
        truths = {
            task.name: None if size is None else read_truth(dataset, task, index, (size[0], size[1])) for task in masked
        }
        rows.append(row_of(tasks, prediction, truths, wanted))
    return answers_of(tasks, rows, thresholds, wanted)


def row_of(
    tasks: Sequence[Task],
    prediction: Prediction | None,
    truths: Mapping[str, Truth | None],
    wanted: Wanted,
    beside: Mapping[str, Layers] | None = None,
) -> Row:
    """Turn one model's answer to one image into numbers.

    Args:
        tasks: those that are asked.
        prediction: the answer; None where there is none.
        truths: the reference's masks by segmentation task; None where there are none.
        wanted: what is measured beside Dice.
        beside: the teacher's masks by segmentation task, for a student's agreement with it.
    """
    row = Row()
    if prediction is None:
        row.alike = {name: [0.0] * len(layers) for name, layers in (beside or {}).items()}  # agrees with nothing
        for name, rules in wanted.surfaces.items() if beside is not None else ():
            truth = truths.get(name)
            if truth is not None:
                row.nsd[name], row.hd95[name] = worst_surfaces(truth, rules)
    for task in tasks if prediction is not None else ():
        assert prediction is not None
        if not _has(task, prediction):
            continue
        if task.kind == "detection":
            row.boxes[task.name] = box_rows(task, prediction)
        elif is_scored(task):
            row.scores[task.name] = score_row(task, prediction)
        else:
            _measure_masks(row, task, mask_layers(task, prediction), truths.get(task.name), wanted, beside or {})
    return row


def _measure_masks(
    row: Row, task: Task, layers: Layers, truth: Truth | None, wanted: Wanted, beside: Mapping[str, Layers]
) -> None:
    if truth is not None:
        row.dice[task.name] = dice_against(truth, layers)
        if task.name in wanted.surfaces:
            row.nsd[task.name], row.hd95[task.name] = surfaces_against(truth, layers, wanted.surfaces[task.name])
    if task.name in beside:
        row.alike[task.name] = dice_of(beside[task.name], layers)
    for name, marker in wanted.markers.items():
        if marker.task == task.name:
            row.scores[name] = [marker_of(marker, task.classes, layers, truth)]


def answers_of(
    tasks: Sequence[Task], rows: Sequence[Row], thresholds: Thresholds, wanted: Wanted, *, beside: bool = False
) -> Answers:
    """Stack one model's rows, in the order of the cases; `beside`: they tell the agreement of masks, too."""
    masked = {task.name: len(task.classes) for task in tasks if task.kind == "segmentation"}
    surfaces = {name: width for name, width in masked.items() if name in wanted.surfaces}
    scored = {task.name: score_width(task) for task in tasks if is_scored(task)} | dict.fromkeys(wanted.markers, 1)

    def table(field: str, widths: Mapping[str, int]) -> dict[str, NDArray[np.floating]]:
        return {
            name: np.array([getattr(row, field).get(name, [np.nan] * width) for row in rows]).reshape(len(rows), width)
            for name, width in widths.items()
        }

    return Answers(
        scores=table("scores", scored),
        dice=table("dice", masked),
        nsd=table("nsd", surfaces),
        hd95=table("hd95", surfaces),
        alike=table("alike", masked) if beside else {},
        boxes={
            task.name: tuple(row.boxes.get(task.name) for row in rows) for task in tasks if task.kind == "detection"
        },
        thresholds={
            task.name: tuple(thresholds[task.name])
            for task in tasks
            if task.kind in THRESHOLDED and task.name in thresholds
        },
    )


def _has(task: Task, prediction: Prediction) -> bool:
    """Whether there is an answer to the task; no box is one."""
    match task.kind:
        case "binary" | "multilabel":
            return any(one.task == task.name for one in prediction.findings)
        case "multiclass" | "ordinal":
            return any(one.task == task.name for one in prediction.choices)
        case "regression":
            return any(one.task == task.name for one in prediction.measurements)
        case "segmentation":
            return any(one.task == task.name for one in prediction.masks)
        case "embedding":
            return any(one.task == task.name for one in prediction.embeddings)
        case "detection":
            return True


# --- predictions ---


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
