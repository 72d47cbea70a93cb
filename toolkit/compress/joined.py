"""Several teachers' answers as those of one: where several answer a task they are averaged.

- Logits are averaged, class by class and pixel by pixel (You et al., KDD 2017, average softened outputs; the mean of
  logits is the same in log odds). Values are brought to one scale first.
- Boxes are fused by weighted boxes fusion (Solovyev et al., Image and Vision Computing 2021, sec. 3): a box that only
  one of several teachers sees counts by its share of the teachers.
- All teachers see the same part of a picture; the sizes of their inputs may differ, and boxes follow the first.

N cases, M boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ...runtime.errors import FoveolaError
from ...runtime.manifest import InputSpec
from ..answers import RawAnswers, Scale, rescaled

SAME_OBJECT = 0.55  # intersection over union above which two teachers' boxes are one (Solovyev et al. 2021, sec. 4)


class Voice(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One teacher's answers, and what is needed to read them.

    Args:
        answers: to all cases.
        input: how it is fed.
        scale: mean and standard deviation of its regression values.
    """

    answers: RawAnswers
    input: InputSpec
    scale: Scale


def check_same_view(inputs: Mapping[str, InputSpec]) -> None:
    """Refuse teachers that see different parts of a picture.

    Raises:
        FoveolaError: the first that differs from the first.
    """
    first, *others = inputs
    own = inputs[first]
    for name in others:
        spec = inputs[name]
        if (spec.crop, spec.fit) != (own.crop, own.fit) or spec.height * own.width != spec.width * own.height:
            fault = f"{name!r} sees {_seen(spec)}, {first!r} {_seen(own)}"
            raise FoveolaError("teachers", fault, "give all teachers the same crop, fit and aspect ratio")


def join_voices(voices: Sequence[Voice], hints: Literal["first", "all"] = "first") -> Voice:
    """One voice of several, fed as the first; a single one is returned as it is.

    Args:
        voices: the first decides on input and scale.
        hints: features of the `first` teacher that has any, or of `all`, one beside the other.

    Raises:
        FoveolaError: two teachers answer a task with different numbers of channels.
    """
    if len(voices) == 1:
        return voices[0]
    check_same_view({f"teacher {number}": voice.input for number, voice in enumerate(voices, 1)})
    scale: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {}
    for voice in voices:
        scale = {**voice.scale, **scale}
    answers = [rescaled(voice.answers, voice.scale, scale) for voice in voices]
    raw = {
        name: _mean(name, [one.raw[name] for one in answers if name in one.raw])
        for name in dict.fromkeys(name for one in answers for name in one.raw)
    }
    boxes = {
        name: _fused([v for v in voices if name in v.answers.boxes], name, voices[0].input)
        for name in dict.fromkeys(name for one in answers for name in one.boxes)
    }
    features = [one.hint for one in answers if one.hint is not None]
    hint = None if not features else features[0] if hints == "first" else _beside(features)
    return Voice(answers=RawAnswers(raw, boxes, hint), input=voices[0].input, scale=scale)


def fuse_boxes(lists: Sequence[NDArray[np.float32]], overlap: float = SAME_OBJECT) -> NDArray[np.float32]:
    """Weighted boxes fusion of one image.

    Args:
        lists: (M, 6) a teacher: x1, y1, x2, y2, score, label.
        overlap: least intersection over union of boxes that are one.

    Returns:
        (M, 6), best first.
    """
    together = np.concatenate(lists)
    clusters: list[list[NDArray[np.float32]]] = []
    fused = np.zeros((0, 6), np.float64)
    for box in together[np.argsort(-together[:, 4], kind="stable")]:
        at = _match(box, fused, overlap)
        if at < 0:
            clusters.append([box])
            fused = np.concatenate([fused, box[None].astype(np.float64)])
        else:
            clusters[at].append(box)
            members = np.stack(clusters[at]).astype(np.float64)
            fused[at, :4] = np.average(members[:, :4], axis=0, weights=np.maximum(members[:, 4], 1e-9))
            fused[at, 4] = members[:, 4].mean()
    seen = np.array([min(len(one), len(lists)) for one in clusters]) / len(lists)
    fused[:, 4] *= seen
    return fused[np.argsort(-fused[:, 4], kind="stable")].astype(np.float32)


def _match(box: NDArray[np.float32], fused: NDArray[np.float64], overlap: float) -> int:
    """Place of the fused box of the same label that overlaps most, or -1."""
    if len(fused) == 0:
        return -1
    low, high = np.maximum(box[:2], fused[:, :2]), np.minimum(box[2:4], fused[:, 2:4])
    shared = np.clip(high - low, 0, None).prod(1)
    areas = (fused[:, 2:4] - fused[:, :2]).prod(1) + float((box[2:4] - box[:2]).prod())
    found = np.where(fused[:, 5] == box[5], shared / np.maximum(areas - shared, 1e-9), 0.0)
    best = int(found.argmax())
    return best if found[best] > overlap else -1


def _mean(name: str, answers: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    if len({one.shape[:2] for one in answers}) > 1:
        counts = " and ".join(str(one.shape[1]) for one in answers)
        raise FoveolaError("teachers", f"task {name!r} is answered with {counts} channels", "leave one of them out")
    if len(answers) == 1:
        return answers[0]
    if answers[0].ndim == 4:
        size = max(one.shape[-2] for one in answers), max(one.shape[-1] for one in answers)
        answers = [_resized(one, size) for one in answers]
    mean: NDArray[np.float32] = np.stack(answers).mean(axis=0).astype(np.float32)
    return mean


def _resized(masks: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    if masks.shape[-2:] == size:
        return masks
    return functional.interpolate(torch.from_numpy(masks), size=size, mode="bilinear", align_corners=False).numpy()


def _fused(voices: Sequence[Voice], name: str, spec: InputSpec) -> list[NDArray[np.float32]]:
    """Boxes of one task in the pixels of an input, fused where several answer it."""
    scaled = [[_in_pixels(one, voice.input, spec) for one in voice.answers.boxes[name]] for voice in voices]
    return scaled[0] if len(scaled) == 1 else [fuse_boxes(lists) for lists in zip(*scaled, strict=True)]


def _in_pixels(boxes: NDArray[np.float32], own: InputSpec, wanted: InputSpec) -> NDArray[np.float32]:
    if own.width == wanted.width:
        return boxes
    scaled = boxes.copy()
    scaled[:, :4] *= wanted.width / own.width
    return scaled


def _beside(features: Sequence[NDArray[np.float16]]) -> NDArray[np.float16]:
    """All teachers' features on the smallest grid, each at a root mean square of one, so that none drowns another."""
    size = min(one.shape[-2] for one in features), min(one.shape[-1] for one in features)
    parts = []
    for one in features:
        pooled = functional.adaptive_avg_pool2d(torch.from_numpy(one).float(), size)
        parts.append(pooled / pooled.square().mean().sqrt().clamp(min=1e-6))
    return torch.cat(parts, 1).to(torch.float16).numpy()


def _seen(spec: InputSpec) -> str:
    return f"{spec.width} x {spec.height} (crop {spec.crop}, fit {spec.fit})"
