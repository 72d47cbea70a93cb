"""What a network answers about prepared images, as numpy arrays: for validation, distillation and thresholds.

N cases, T task channels, K mask channels. Raw outputs stay raw (logits), so that every later use applies the device's
own decoding from `runtime.answer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch.nn import functional

from .models.network import Teacher

Scale = Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]  # regression task -> means, standard deviations

HINT_CELLS = 8  # a teacher's feature map is kept at most at this size


@dataclass(frozen=True)
class RawAnswers:
    """Answers to all cases, in their order."""

    raw: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # (N, T), or (N, K, h, w) for masks
    boxes: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)  # (M, 6): x1, y1, x2, y2, score, label
    hint: NDArray[np.float16] | None = None  # (N, F, h, w)

    def take(self, places: Sequence[int]) -> RawAnswers:
        """The answers to some cases."""
        index = np.asarray(places, dtype=np.int64)
        return RawAnswers(
            {name: values[index] for name, values in self.raw.items()},
            {name: [boxes[i] for i in index] for name, boxes in self.boxes.items()},
            None if self.hint is None else self.hint[index],
        )


def answer_images(
    teacher: Teacher,
    images: NDArray[np.float32],
    *,
    batch_size: int = 32,
    hint: bool = False,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RawAnswers:
    """Ask a network about prepared images (N, C, H, W).

    Args:
        teacher: teacher or student, in evaluation mode, already on `device`.
        images: as `prepare_arrays` makes them.
        batch_size: images at a time.
        hint: keep the coarsest feature map too, pooled to at most 8 by 8 cells.
        device: where to compute.
        progress: called with (done, total).
    """
    device = device or torch.device("cpu")
    raw: dict[str, list[NDArray[np.float32]]] = {task.name: [] for task in teacher.tasks if task.kind != "detection"}
    boxes: dict[str, list[NDArray[np.float32]]] = {task.name: [] for task in teacher.tasks if task.kind == "detection"}
    hints: list[NDArray[np.float16]] = []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            x = torch.from_numpy(np.array(images[start : start + batch_size])).to(device)
            answered = teacher.answer(x.contiguous(memory_format=torch.channels_last))
            for name, values in answered.raw.items():
                raw[name].append(values.float().cpu().numpy())
            for name, many in answered.boxes.items():
                boxes[name] += [one.float().cpu().numpy() for one in many]
            if hint and answered.hint is not None:
                hints.append(_small(answered.hint).cpu().numpy())
            if progress is not None:
                progress(min(start + batch_size, len(images)), len(images))
    joined = {name: np.concatenate(parts) for name, parts in raw.items()}
    return RawAnswers(joined, boxes, np.concatenate(hints) if hints else None)


def rescaled(answers: RawAnswers, before: Scale, after: Scale) -> RawAnswers:
    """The same answers with the regression values standardised otherwise.

    A student standardises by its own training data; a teacher from elsewhere does it otherwise, or answers in units.

    Args:
        answers: a teacher's.
        before: its mean and standard deviation of each regression task.
        after: those that are wanted.
    """
    raw = dict(answers.raw)
    for name in raw.keys() & before.keys() & after.keys():
        if before[name] != after[name]:
            (mean, std), (own_mean, own_std) = np.array(before[name]), np.array(after[name])
            raw[name] = ((raw[name] * std + mean - own_mean) / own_std).astype(np.float32)
    return RawAnswers(raw, answers.boxes, answers.hint)


def _small(x: torch.Tensor) -> torch.Tensor:
    if max(x.shape[-2:]) > HINT_CELLS:
        x = functional.adaptive_avg_pool2d(x, HINT_CELLS)
    return x.to(torch.float16)


def save_answers(answers: RawAnswers, path: Path) -> None:
    """Write safetensors: raw outputs, boxes as one long array with a count a case, features.

    `load_answers` gives the same arrays back.
    """
    tensors: dict[str, NDArray[np.generic]] = {f"raw/{name}": values for name, values in answers.raw.items()}
    for name, many in answers.boxes.items():
        tensors[f"boxes/{name}"] = np.concatenate([*many, np.zeros((0, 6), np.float32)])
        tensors[f"counts/{name}"] = np.array([len(one) for one in many], dtype=np.int64)
    if answers.hint is not None:
        tensors["hint"] = answers.hint
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, path)


def load_answers(path: Path) -> RawAnswers:
    """Read what `save_answers` wrote."""
    tensors = load_file(path)
    boxes = {}
    for key in [key for key in tensors if key.startswith("counts/")]:
        name = key.removeprefix("counts/")
        boxes[name] = np.split(tensors[f"boxes/{name}"], np.cumsum(tensors[key])[:-1])
    raw = {key.removeprefix("raw/"): values for key, values in tensors.items() if key.startswith("raw/")}
    return RawAnswers(raw, boxes, tensors.get("hint"))
