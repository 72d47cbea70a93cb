"""Raw outputs of the network as answers: findings, choices, measurements, masks, boxes and embeddings.

Laws:
- An output that is missing, of another shape, NaN or infinite is a refusal, never a score.
- An embedding has length 1; one without direction (all zero) is a refusal.
- Training, validation and proof call the array functions below (`probabilities`, `directions`, `decode_boxes`), so that
  a probability means the same everywhere.

Shapes: N cases, C classes, D numbers of an embedding, M boxes, K kept boxes, h x w the network's grid, H x W the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .boxes import decode_boxes as decode_boxes
from .errors import FoveolaError
from .exponential import sigmoid as sigmoid
from .image import Geometry, mask_bands
from .manifest import InputSpec, TaskOutput
from .prediction import Box, Choice, Embedding, Finding, Mask, Measurement, Prediction
from .task import Task
from .two_stage import decode_two_stage, tensor_shapes

Float = NDArray[np.float32] | NDArray[np.float64]


def decode(
    outputs: tuple[TaskOutput, ...], raw: Mapping[str, NDArray[np.float32]], geometry: Geometry, spec: InputSpec
) -> Prediction:
    """Turn the graph's outputs for one image into its prediction.

    Args:
        outputs: what each output means, from the manifest.
        raw: arrays by tensor name, first axis 1.
        geometry: where the image lies in the input, from `prepare`.
        spec: the input, from the manifest.

    Raises:
        FoveolaError: an output is missing, of another shape, NaN or infinite; an embedding is zero.
    """
    findings: list[Finding] = []
    choices: list[Choice] = []
    measurements: list[Measurement] = []
    masks: list[Mask] = []
    boxes: list[Box] = []
    embeddings: list[Embedding] = []
    for output in outputs:
        arrays = _checked(output, raw)
        match output.task.kind:
            case "binary" | "multilabel":
                findings += _findings(output, tempered(output, arrays[0]))
            case "multiclass" | "ordinal":
                choices.append(_choice(output.task, tempered(output, arrays[0])))
            case "regression":
                measurements += _measurements(output, arrays[0])
            case "segmentation":
                masks += _masks(output, arrays[0], geometry, spec)
            case "detection":
                boxes += _boxes(output, arrays, geometry, spec)
            case "embedding":
                embeddings.append(_embedding(output, arrays[0]))
    return Prediction(
        findings=tuple(findings),
        choices=tuple(choices),
        measurements=tuple(measurements),
        masks=tuple(masks),
        boxes=tuple(boxes),
        embeddings=tuple(embeddings),
    )


def probabilities(task: Task, raw: NDArray[Any]) -> Float:
    """Raw outputs (N, channels, ...) as probabilities of the same kind of number, classes on axis 1.

    binary (N, 1) of the positive class; multilabel (N, C); multiclass and ordinal (N, C), rows that sum to 1;
    segmentation (N, channels, h, w). Regression, detection and embedding have none. NaN in, NaN out.

    A grade's probability is the difference of neighbouring "above grade k" (Frank & Hall 2001), which are first made
    to fall: the k-th is at most the ones before it.
    """
    assert task.kind not in ("regression", "detection", "embedding"), task.kind
    if task.activation == "softmax":
        power = np.exp(raw - raw.max(axis=1, keepdims=True))
        softmax: Float = power / power.sum(axis=1, keepdims=True)
        return softmax
    above = sigmoid(raw)
    if task.kind != "ordinal":
        return above
    above = np.minimum.accumulate(above, axis=1)
    edge = np.ones_like(above[:, :1])
    graded: Float = np.concatenate([edge, above], axis=1) - np.concatenate([above, 0 * edge], axis=1)
    return graded


def directions(raw_ND: NDArray[Any]) -> NDArray[np.float32]:
    """Scale embeddings (N, D) to length 1; NaN where there is no direction: all zero, or not finite.

    The squares are summed in float64 as numpy sums a contiguous row, so that another runtime can do it bit for bit.
    """
    exact = np.ascontiguousarray(raw_ND, np.float64)
    length = np.sqrt(np.sum(exact * exact, axis=1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(exact / np.where(np.isfinite(length) & (length > 0), length, np.nan), np.float32)


def tempered(output: TaskOutput, raw: NDArray[Any]) -> NDArray[Any]:
    """Divide raw outputs by the task's temperature; 1 leaves them as they are, bit for bit.

    Raises:
        FoveolaError: the quotient is beyond the largest number there is.
    """
    if output.temperature == 1.0:
        return raw
    with np.errstate(over="ignore"):
        quotient: NDArray[Any] = raw / np.asarray(output.temperature, raw.dtype)
    if not np.isfinite(quotient).all():
        fault = f"output {output.tensors[0]!r} is infinite at temperature {output.temperature}"
        raise FoveolaError(f"task {output.task.name}", fault, "there is no answer for this image")
    return quotient


def _checked(output: TaskOutput, raw: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    place = f"task {output.task.name}"
    arrays: list[NDArray[Any]] = []
    for name, (begin, axes) in zip(output.tensors, _shapes(output), strict=True):
        if name not in raw:
            raise FoveolaError(place, f"the graph has no output {name!r}", "make the bundle anew")
        array = raw[name]
        if array.ndim != axes or array.shape[: len(begin)] != begin:
            wanted = begin if output.proposals is not None else f"(1, {begin[1]}, ...)"
            raise FoveolaError(place, f"output {name!r} has shape {array.shape}, not {wanted}")
        if not np.isfinite(array).all():
            raise FoveolaError(place, f"output {name!r} holds NaN or infinity", "there is no answer for this image")
        arrays.append(array)
    return arrays


def _shapes(output: TaskOutput) -> list[tuple[tuple[int, ...], int]]:
    """How the shape of each tensor must begin, and how many axes it must have."""
    task = output.task
    if output.proposals is not None:
        return [(shape, len(shape)) for shape in tensor_shapes(output)]
    if task.kind == "detection":
        return [((1, 4), 4), ((1, task.channels), 4)]
    return [((1, task.channels), 4 if task.kind == "segmentation" else 2)]


def threshold_of(output: TaskOutput, index: int) -> float:
    """Give the locked threshold of a class; 0.5 where the manifest locks none."""
    return output.thresholds[index] if output.thresholds else 0.5


def _findings(output: TaskOutput, raw: NDArray[Any]) -> list[Finding]:
    task = output.task
    labels = task.classes[1:] if task.kind == "binary" else task.classes
    found = []
    for index, (label, probability) in enumerate(zip(labels, probabilities(task, raw)[0].tolist(), strict=True)):
        limit = threshold_of(output, index)
        found.append(
            Finding(
                task=task.name,
                label=label,
                probability=probability,
                threshold=limit,
                positive=probability >= limit,
            )
        )
    return found


def _choice(task: Task, raw: NDArray[Any]) -> Choice:
    chances = probabilities(task, raw)[0]
    index = int(chances.argmax())
    return Choice(
        task=task.name,
        label=task.classes[index],
        index=index,
        probabilities=tuple(chances.tolist()),
        classes=task.classes,
    )


def _measurements(output: TaskOutput, raw: NDArray[Any]) -> list[Measurement]:
    task = output.task
    values = raw[0].astype(np.float64) * output.std + output.mean
    return [
        Measurement(task=task.name, name=name, value=value, unit=task.unit)
        for name, value in zip(task.classes, values.tolist(), strict=True)
    ]


def _embedding(output: TaskOutput, raw: NDArray[Any]) -> Embedding:
    values = directions(raw)[0]
    if not np.isfinite(values).all():
        fault = f"output {output.tensors[0]!r} is zero and has no direction"
        raise FoveolaError(f"task {output.task.name}", fault, "there is no answer for this image")
    return Embedding(task=output.task.name, values=tuple(values.tolist()))


def _masks(output: TaskOutput, raw: NDArray[Any], geometry: Geometry, spec: InputSpec) -> list[Mask]:
    task = output.task
    grid = np.asarray(probabilities(task, raw)[0], np.float32)
    layers = np.zeros((len(task.classes), geometry.image_height, geometry.image_width), np.bool_)
    crop = geometry.of_crop(layers)
    limits = np.array([threshold_of(output, k) for k in range(len(task.classes))], np.float32)[:, None, None]
    for rows, band in mask_bands(grid, geometry, spec):
        if task.exclusive:
            _winners(band, out=crop[:, rows])
        else:
            np.greater_equal(band, limits, out=crop[:, rows])
    masks = []
    for label, pixels in zip(task.classes, layers, strict=True):
        area = int(np.count_nonzero(pixels))
        masks.append(Mask(task=task.name, label=label, pixels=pixels, area_px=area, fraction=area / pixels.size))
    return masks


def _winners(band: NDArray[np.float32], *, out: NDArray[np.bool_]) -> None:
    """Mark where each class but the first has the highest probability; the earlier class at a tie, as argmax has it.

    numpy's argmax over the first axis takes twenty times as long.
    """
    best = band.max(axis=0)
    taken = band[0] == best
    for layer, wins in zip(band[1:], out, strict=True):
        np.equal(layer, best, out=wins)
        wins &= ~taken
        taken |= wins


def boxes_of(output: TaskOutput, raw: Mapping[str, NDArray[Any]], spec: InputSpec) -> NDArray[np.float64]:
    """A detection task's boxes (K, 6) x1, y1, x2, y2, score, label in input pixels, by falling score.

    Args:
        output: the task, of one stage or two.
        raw: arrays by tensor name, first axis 1.
        spec: the input.

    Raises:
        FoveolaError: an output is missing, of another shape, NaN or infinite.
    """
    return _input_boxes(output, _checked(output, raw), spec)


def _input_boxes(output: TaskOutput, arrays: list[NDArray[Any]], spec: InputSpec) -> NDArray[np.float64]:
    if output.proposals is not None:
        proposals, objectness, classes, deltas = (array[0] for array in arrays)
        return decode_two_stage(
            proposals,
            objectness,
            classes,
            deltas,
            how=output.proposals,
            height=spec.height,
            width=spec.width,
            nms_iou=output.nms_iou,
            score_floor=output.score_floor,
            max_boxes=output.max_boxes,
        )
    sides, scores = (array[0] for array in arrays)
    return decode_boxes(
        sides,
        scores,
        stride=output.stride,
        height=spec.height,
        width=spec.width,
        nms_iou=output.nms_iou,
        score_floor=output.score_floor,
        max_boxes=output.max_boxes,
    )


def _boxes(output: TaskOutput, arrays: list[NDArray[Any]], geometry: Geometry, spec: InputSpec) -> list[Box]:
    found = _input_boxes(output, arrays, spec)
    return [
        Box(
            task=output.task.name,
            label=output.task.classes[int(label)],
            score=score,
            x1=x1,
            y1=y1,
            x2=x2,
            y2=y2,
            positive=score >= threshold_of(output, int(label)),
        )
        for x1, y1, x2, y2, score, label in geometry.boxes_to_image(found).tolist()
        if x1 < x2 and y1 < y2  # not one that lies in the padding
    ]
