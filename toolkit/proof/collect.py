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

import msgspec
import numpy as np

from ...runtime.answer import decode
from ...runtime.errors import FoveolaError
from ...runtime.features import answer_features, input_features, quality_features
from ...runtime.image import decode_image, prepare
from ...runtime.predict import Predictor
from ...runtime.prediction import Prediction
from ...runtime.task import Task
from ..data.dataset import Dataset
from ..parity.cases import Answers, Array, Cases, References
from ..parity.protocol import Protocol
from .answer_rows import mask_layers
from .kept_answers import StoredAnswers
from .mask_truth import Truth, Wanted, marker_of_truth, read_truth, wanted_of
from .predictions import Progress
from .rows import Row, Thresholds, answers_of, has_answer, row_of

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
    masked = [task for task in tasks if task.kind == "segmentation"]
    truths = _truths(masked, dataset, index, (taught, *answered.values()))
    layers = {
        task.name: mask_layers(task, taught) for task in masked if taught is not None and has_answer(task, taught)
    }
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


def _truths(
    masked: Sequence[Task], dataset: Dataset, index: int, answers: Sequence[Prediction | None]
) -> dict[str, Truth | None]:
    """Read the reference's masks of one image at the size of the answers' masks; None where nobody answered one."""
    size = next((one.masks[0].pixels.shape for one in answers if one is not None and one.masks), None)
    return {
        task.name: None if size is None else read_truth(dataset, task, index, (size[0], size[1])) for task in masked
    }


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
        rows.append(row_of(tasks, prediction, _truths(masked, dataset, index, [prediction]), wanted))
    return answers_of(tasks, rows, thresholds, wanted)
