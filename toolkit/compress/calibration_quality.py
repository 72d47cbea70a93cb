"""Whether the calibration images are what the device will see: how many, of what, whose, and nothing twice.

The ranges of an int8 graph are as good as the images that set them. `calibration_set` has refused an image that
training or the proof uses too, byte by byte; here the prepared pixels are looked at:

| looked at | rule | where it fails |
|---|---|---|
| number | 128 or more | warning |
| attributes | a value that has 2 % of the training images has a calibration image | warning |
| findings | each class, mask and box label has 5 images | warning |
| duplicates | no two images look alike | warning: the set is smaller than it seems |
| leakage | no image has the pixels of one of training or proof, in whatever file | refused |
| | none looks like one of them | warning |
| modality | most images resemble some training image as the training images resemble each other | refused |

Two images look alike where their difference hashes (256 bits of a 16 x 17 thumbnail) differ in at most 5 bits and
their thumbnails correlate by 0.99 or more. An image resembles the training set if its distance to the nearest training
image, over a thumbnail, quantiles of brightness, sharpness, shape and colour, each in units of its spread there, is at
most twice what 99 of 100 training images have among themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import FoveolaError
from ...runtime.manifest import InputSpec
from ..data.arrays import Arrays, prepare_arrays
from ..data.check import said
from ..data.dataset import Dataset

QUALITY = "calibration_quality.json"

USUAL = 128  # images
POSITIVES = 5  # images of each finding
COMMON = 0.02  # share of the training images from which on a value of an attribute must be there
MOST_VALUES = 20  # an attribute with more (an age) is none to cover
LOOKED_AT = 4096  # images of another split at most
HASH, BITS, ALIKE = 16, 5, 0.99
COMPARED = 512  # training images at most to which the modality is held
LEAST_COMPARED = 20  # fewer say nothing of what is usual
STRANGE = 2.0  # times the usual distance
NAMED = 3  # images that a message names

F32 = NDArray[np.float32]


class Twins(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A calibration image and another that looks like it."""

    image: str
    other: str
    split: str  # of the other
    same: bool  # pixel by pixel


class CalibrationQuality(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file `calibration_quality.json`.

    Args:
        format: of this file.
        images: how many set the ranges.
        attributes: by attribute and value: calibration images that have it.
        findings: by task and class, structure or label: calibration images (or boxes) that have it.
        twins: images that look alike, within the calibration images or across splits.
        looked_at: how many images of each other split were held against them.
        strange: calibration images unlike any training image.
        compared: training images that they were held against; 0 where these were too few.
        warnings: in words.
    """

    format: Literal[1] = 1
    images: int
    attributes: dict[str, dict[str, int]]
    findings: dict[str, dict[str, int]]
    twins: tuple[Twins, ...]
    looked_at: dict[str, int]
    strange: tuple[str, ...]
    compared: int
    warnings: tuple[str, ...]


def check_calibration(
    dataset: Dataset, chosen: Dataset, arrays: Arrays, spec: InputSpec, cache: Path
) -> CalibrationQuality:
    """Look at the calibration images, see the table above.

    Args:
        dataset: all images.
        chosen: those that set the ranges.
        arrays: them, prepared.
        spec: the network's input.
        cache: where decoded images are kept.

    Raises:
        FoveolaError: an image of training or proof is among them in another file, or they are of another modality.
    """
    others = {split: _prepared(dataset, split, spec, cache) for split in ("train", "test")}
    twins = _twins(arrays, others)
    shared = [one for one in twins if one.same and one.split]
    if shared:
        fault = f"{shared[0].image} has the pixels of {shared[0].other} of split {shared[0].split}"
        raise FoveolaError(f"{dataset.root}: calibration", fault, "keep the splits apart by patient and by image")
    strange = _strange(arrays, others["train"])
    if 2 * len(strange) > len(chosen):
        fault = f"{len(strange)} of {len(chosen)} images are of another modality than the training images"
        raise FoveolaError(
            f"{dataset.root}: calibration", f"{fault}, first {strange[0]}", "calibrate on images of the task"
        )
    attributes, findings = _attributes(chosen), _findings(chosen)
    warnings = [
        *_few(len(chosen)),
        *_uncovered(dataset, attributes),
        *_rare(dataset, findings),
        *_alike(twins),
        *([f"{len(strange)} calibration images are unlike any training image: {_named(strange)}"] if strange else []),
    ]
    return CalibrationQuality(
        images=len(chosen),
        attributes=attributes,
        findings=findings,
        twins=tuple(twins),
        looked_at={split: len(one) for split, one in others.items()},
        strange=tuple(strange),
        compared=_compared(others["train"]),
        warnings=tuple(warnings),
    )


def _prepared(dataset: Dataset, split: str, spec: InputSpec, cache: Path) -> Arrays:
    """A split's pictures without its targets; all of them, as training and export keep them, or an even choice."""
    found = dataset.subset(split).only((), labelled=False)
    if len(found) > LOOKED_AT:
        found = found.take(np.linspace(0, len(found) - 1, LOOKED_AT).round().astype(int))
    return prepare_arrays(found, spec, cache=cache)


def _few(images: int) -> list[str]:
    return [f"{images} calibration images, {USUAL} are usual"] if images < USUAL else []


def _attributes(dataset: Dataset) -> dict[str, dict[str, int]]:
    names = dict.fromkeys(name for sample in dataset.samples for name in sample.attributes)
    counts = {name: Counter(sample.attributes.get(name, "") for sample in dataset.samples) for name in names}
    return {name: dict(sorted(found.items())) for name, found in counts.items() if len(found) <= MOST_VALUES}


def _uncovered(dataset: Dataset, attributes: dict[str, dict[str, int]]) -> list[str]:
    """Attributes' values that training knows and calibration does not."""
    train = dataset.subset("train")
    told = []
    for name, known in _attributes(train).items():
        for value, count in known.items():
            if value and count >= COMMON * len(train) and not attributes.get(name, {}).get(value):
                share = 100 * count / len(train)
                told.append(f"no calibration image has {name} {value!r}, {share:.0f} % of the training images do")
    return told


def _findings(dataset: Dataset) -> dict[str, dict[str, int]]:
    every = np.arange(len(dataset))
    return {task.name: said(dataset, task, every) for task in dataset.tasks}


def _rare(dataset: Dataset, findings: dict[str, dict[str, int]]) -> list[str]:
    """Classes that training has and of which there are too few calibration images."""
    told, train = [], _findings(dataset.subset("train"))
    for task, counts in findings.items():
        few = [f"{name} ({count})" for name, count in counts.items() if count < POSITIVES <= train[task].get(name, 0)]
        if few:
            told.append(f"{task}: fewer than {POSITIVES} calibration images of {', '.join(few)}")
    return told


def _alike(twins: Sequence[Twins]) -> list[str]:
    told = []
    for split, where in (("", "each other"), ("train", "a training image"), ("test", "an image of the proof")):
        pairs = [f"{one.image} and {one.other}" for one in twins if one.split == split]
        if pairs:
            told.append(f"{len(pairs)} calibration images look like {where}: {_named(pairs)}")
    return told


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _twins(arrays: Arrays, others: dict[str, Arrays]) -> list[Twins]:
    """Pairs that look alike: within the calibration images (split empty), and with those of other splits."""
    bits, thumbs = _hashes(arrays.images)
    found = []
    for split, other in {"": arrays, **others}.items():
        if not len(other):
            continue
        other_bits, other_thumbs = (bits, thumbs) if other is arrays else _hashes(other.images)
        for i in range(len(arrays)):
            start = i + 1 if other is arrays else 0
            near = start + np.flatnonzero((bits[i] != other_bits[start:]).sum(1) <= BITS)
            for j in near[(other_thumbs[near] @ thumbs[i]) >= ALIKE].tolist():
                same = bool(np.array_equal(arrays.images[i], other.images[j]))
                found.append(Twins(image=arrays.samples[i].key, other=other.samples[j].key, split=split, same=same))
    return found


def _hashes(images: F32) -> tuple[NDArray[np.bool_], F32]:
    """Difference hashes (N, 256), and thumbnails (N, 272) of mean 0 and length 1."""
    thumbs = np.stack([_thumbnail(image, HASH, HASH + 1) for image in images])
    centred = (thumbs - thumbs.mean((1, 2), keepdims=True)).reshape(len(thumbs), -1)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return (np.diff(thumbs, axis=2) > 0).reshape(len(thumbs), -1), centred / np.maximum(length, 1e-12)


def _thumbnail(image_CHW: F32, height: int, width: int) -> F32:
    """Means over a grid of cells."""
    gray = image_CHW.mean(0)
    rows, columns = (
        np.linspace(0, side, count + 1).astype(int) for side, count in zip(gray.shape, (height, width), strict=True)
    )
    sums = np.add.reduceat(np.add.reduceat(gray, rows[:-1], axis=0), columns[:-1], axis=1)
    return np.asarray(sums / (np.diff(rows)[:, None] * np.diff(columns)), np.float32)


def _compared(train: Arrays) -> int:
    return min(len(train), COMPARED) if len(train) >= LEAST_COMPARED else 0


def _strange(arrays: Arrays, train: Arrays) -> list[str]:
    """Calibration images that no training image resembles."""
    count = _compared(train)
    if not count:
        return []
    known = _features(train, np.linspace(0, len(train) - 1, count).round().astype(int))
    own = _features(arrays, np.arange(len(arrays)))
    centre, spread = known.mean(0), known.std(0)
    spread = np.maximum(spread, 0.05 * max(float(np.median(spread)), 1e-6))
    known, own = (known - centre) / spread, (own - centre) / spread
    among = _distances(known, known)
    np.fill_diagonal(among, np.inf)
    usual = float(np.quantile(among.min(1), 0.99))
    far = _distances(own, known).min(1) > STRANGE * usual
    return [arrays.samples[i].key for i in np.flatnonzero(far).tolist()]


def _features(arrays: Arrays, places: NDArray[np.intp]) -> NDArray[np.float64]:
    """What an image looks like, coarsely: (N, 64 + 9 + 3)."""
    rows = []
    for i in places.tolist():
        image, geometry = np.asarray(arrays.images[i], np.float64), arrays.geometries[i]
        gray = image.mean(0)
        sharp = np.abs(np.diff(gray, axis=0)).mean() + np.abs(np.diff(gray, axis=1)).mean()
        shape = np.log(geometry.image_width / geometry.image_height)
        colour = np.ptp(image, axis=0).mean()
        quantiles = np.quantile(gray, np.linspace(0.1, 0.9, 9))
        rows.append([*_thumbnail(arrays.images[i], 8, 8).ravel(), *quantiles, np.log(sharp + 1e-4), shape, colour])
    return np.array(rows, np.float64)


def _distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))
