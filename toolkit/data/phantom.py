"""What the phantoms share: random numbers, smooth noise, shares of patients, files and the manifest.

Every patient has random numbers of its own, so that a patient looks the same however many others there are.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ...runtime.errors import FoveolaError, UsageError
from .phantoms import LEAST_SIZE, Progress
from .splits import SPLITS

F32 = NDArray[np.float32]
# What arithmetic on F32 is to a type checker; at run time it is float32 all the same.
Grid = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

IMAGES_A_PATIENT = (0.5, 0.3, 0.2)  # chances of one, two and three images


class BoxRow(msgspec.Struct, frozen=True):
    """A box of the manifest, in pixels of the image; x2 and y2 are the far borders."""

    label: str
    x1: float
    y1: float
    x2: float
    y2: float


def random_of(seed: int, *place: int) -> np.random.Generator:
    """Give the random numbers of one patient (or of one thing of a patient)."""
    return np.random.default_rng([seed, *place])


def split_patients(patients: int, shares: Mapping[str, float], rng: np.random.Generator, size: int) -> list[str]:
    """Give each patient a split; the shares are kept as exactly as whole patients allow.

    Raises:
        UsageError: no patient, pictures too small, an unknown split, or shares that do not add up to 1.
    """
    if patients < 1 or size < LEAST_SIZE:
        fault = f"{patients} patients of {size} pixels a side"
        raise UsageError("phantom", fault, f"at least one patient and {LEAST_SIZE} pixels")
    unknown = sorted(set(shares) - set(SPLITS))
    if unknown or min(shares.values(), default=0) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise UsageError("shares", f"{dict(shares)} are no shares of {', '.join(SPLITS)}", "they add up to 1")
    ends = np.round(np.cumsum(list(shares.values())) * patients).astype(int)
    splits = np.repeat(np.array(list(shares), dtype=object), np.diff(ends, prepend=0))
    return [str(split) for split in rng.permutation(splits)]


def empty_folder(folder: Path) -> None:
    """Make the folder; one that holds something is refused, so that no phantom mixes with anything.

    Raises:
        FoveolaError: the folder is not empty, or cannot be made.
    """
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise FoveolaError(str(folder), "not empty", "name a new folder, or delete this one")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FoveolaError(str(folder), f"cannot be made: {error.strerror}", "name another folder") from error


def make_all(
    make: Callable[[int], list[dict[str, str]]], patients: int, progress: Progress | None
) -> list[dict[str, str]]:
    """Make every patient, on all cores (numpy and Pillow let go of Python's lock); rows in the patients' order."""
    rows: list[dict[str, str]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, made in enumerate(pool.map(make, range(patients))):
            rows += made
            if progress is not None:
                progress(number + 1, patients)
    return rows


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> F32:
    """Make noise of mean 0 and deviation about 1 whose hills are 1 / `cells` of the longer side wide, (H, W)."""
    height, width = shape
    scale = cells / max(height, width)
    grid = rng.standard_normal((max(4, round(height * scale) + 3), max(4, round(width * scale) + 3)), np.float32)
    return resized(grid, shape) * np.float32(1.4)


def resized(array: F32, shape: tuple[int, int]) -> F32:
    """Enlarge a float array smoothly, (H, W)."""
    picture = Image.fromarray(array).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.float32)


def blurred(array: Grid, sigma: float) -> F32:
    """Blur by a Gaussian of `sigma` pixels; a wide one is done on a smaller grid."""
    step = int(sigma // 3)
    if step < 2:
        return np.asarray(ndimage.gaussian_filter(array, sigma, mode="nearest", truncate=3.0), np.float32)
    height, width = array.shape
    small = Image.fromarray(array).resize((max(1, width // step), max(1, height // step)), Image.Resampling.BOX)
    soft = ndimage.gaussian_filter(np.asarray(small, np.float32), sigma / step, mode="nearest", truncate=3.0)
    return resized(np.asarray(soft, np.float32), (height, width))


def along(at: Grid, points: NDArray[np.float64], values: NDArray[np.float64]) -> F32:
    """Look a curve up at every pixel: linear between equally spaced points, which is quicker than computing it."""
    scale = (len(points) - 1) / (points[-1] - points[0])
    place = np.clip((at - np.float32(points[0])) * np.float32(scale), 0, len(points) - 1.001)
    index = place.astype(np.intp)
    table, rise = values.astype(np.float32), np.diff(values, append=values[-1]).astype(np.float32)
    return np.asarray(table[index] + rise[index] * (place - index), np.float32)


def soft_step(distance: Grid, width: float) -> F32:
    """Rise from 0 to 1 around distance 0 over about `width` on each side (a logistic curve)."""
    return np.asarray(0.5 + 0.5 * np.tanh(distance * np.float32(1.0 / width)), np.float32)


def extent(mask: Mask, label: str, scale: float = 1.0) -> BoxRow | None:
    """Give the box around what is set; None where nothing is."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    x1, y1, x2, y2 = (float(value) * scale for value in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return BoxRow(label, x1, y1, x2, y2)


def boxes_cell(boxes: Sequence[BoxRow | None]) -> str:
    """Write boxes as the manifest's JSON."""
    return json.dumps([msgspec.structs.asdict(box) for box in boxes if box is not None])


def write_png(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Write a PNG, quickly rather than small."""
    Image.fromarray(pixels).save(path, format="PNG", compress_level=1, compress_type=3)


def write_manifest(folder: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write manifest.csv last, so that a folder with a manifest is complete."""
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
