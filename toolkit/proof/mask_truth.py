"""One image's masks against the reference and against each other, on the stored image's pixels.

- Pixels that the reference ignores (255) count for neither side.
- A structure that is not annotated is NaN in every measure; an empty mask is an answer like any other.

Shapes: C classes, H and W of the stored image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.task import Task
from ..data.dataset import Dataset, load_mask
from ..data.masks import IGNORE, Size
from ..parity.biomarkers import measure_marker
from ..parity.protocol import Biomarker, Protocol, TaskRules
from ..parity.surface import surface_measures

Layers = NDArray[np.bool_]  # (C, H, W)


class Wanted(msgspec.Struct, frozen=True):
    """What is measured of masks beside Dice: surfaces by task, numbers from masks by name."""

    surfaces: dict[str, TaskRules] = {}
    markers: dict[str, Biomarker] = {}


class Truth(msgspec.Struct, frozen=True, eq=False):
    """The reference standard's masks of one image and task."""

    inside: Layers
    known: Layers  # False where the pixel is ignored, or the structure is not annotated


def wanted_of(protocol: Protocol | None) -> Wanted:
    """Look up what a protocol asks of masks; without one it is Dice alone."""
    if protocol is None:
        return Wanted()
    asked = {name: rules for name, rules in protocol.tasks.items() if {"nsd", "hd95"} & set(rules.endpoints)}
    return Wanted(asked, dict(protocol.biomarkers))


def read_truth(dataset: Dataset, task: Task, index: int, size: Size) -> Truth | None:
    """Read the masks of one image; None where there are none.

    Raises:
        FoveolaError: a mask cannot be read.
    """
    if task.name not in dataset.masks or all(file is None for file in dataset.masks[task.name][index]):
        return None
    target = load_mask(dataset, task.name, index, size)
    if not task.exclusive:
        return Truth(target == 1, target != IGNORE)
    labels = np.arange(1, len(task.classes) + 1, dtype=np.uint8)[:, None, None]
    return Truth(target == labels, np.broadcast_to(target != IGNORE, (len(labels), *target.shape)))


def dice_of(one: Layers, other: Layers) -> list[float]:
    """Dice coefficient of each layer; of two empty ones it is 1."""
    found = []
    for a, b in zip(one, other, strict=True):
        total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
        found.append(2 * int(np.count_nonzero(a & b)) / total if total else 1.0)
    return found


def dice_against(truth: Truth, answer: Layers) -> list[float]:
    """Dice coefficient of each class; NaN where the structure is not annotated."""
    dice = dice_of(truth.inside, answer & truth.known)
    return [value if known.any() else float("nan") for value, known in zip(dice, truth.known, strict=True)]


def surfaces_against(truth: Truth, answer: Layers, rules: TaskRules) -> tuple[list[float], list[float]]:
    """Normalised surface Dice and 95th percentile of the surface distance of each class, as the protocol asks."""
    pairs = [
        surface_measures(inside, mask & known, rules.spacing, rules.tolerance)
        if known.any()
        else (float("nan"), float("nan"))
        for inside, known, mask in zip(truth.inside, truth.known, answer, strict=True)
    ]
    return [nsd for nsd, _ in pairs], [hd95 for _, hd95 in pairs]


def worst_surfaces(truth: Truth, rules: TaskRules) -> tuple[list[float], list[float]]:
    """Give what no answer at all comes to: 0, and the image's diagonal; NaN where the structure is not annotated."""
    diagonal = math.hypot(*truth.known.shape[1:]) * (rules.spacing or 1.0)
    known = [bool(one.any()) for one in truth.known]
    return [0.0 if one else math.nan for one in known], [diagonal if one else math.nan for one in known]


def marker_of(marker: Biomarker, classes: Sequence[str], layers: Layers, truth: Truth | None = None) -> float:
    """Measure a biomarker in a model's masks, as far as the reference's pixels count; NaN where a part is empty."""
    if truth is None:
        return measure_marker(marker, classes, layers)
    ignored = ~truth.known & truth.known.any(axis=(1, 2), keepdims=True)  # of structures that are annotated at all
    return measure_marker(marker, classes, layers & ~ignored)


def marker_of_truth(marker: Biomarker, classes: Sequence[str], truth: Truth) -> float:
    """Measure a biomarker in the reference's masks; NaN where a part is empty or not annotated."""
    parts = [classes.index(name) for name in (*marker.inner, *marker.outer)]
    if not all(truth.known[part].any() for part in parts):
        return float("nan")
    return measure_marker(marker, classes, truth.inside)
