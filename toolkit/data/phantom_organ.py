"""Organs of the trunk that never were: windows of coronal CT slices, one organ each, made from a seed.

Nothing in them comes from a patient. They are for trying the whole road without a download, not for any clinical claim.

    make_organs(Path("phantom"), patients=300, seed=7)

writes `images/*.png` (8-bit grey), `masks/*.png` and `manifest.csv`, all readable by `read_dataset`. The eleven labels
are those of OrganCMNIST, and so are the three that follow from them:

| column | holds |
|---|---|
| file, patient_id, split | as everywhere |
| organ | one of eleven: bladder, femur-left, femur-right, heart, kidney-left, ... spleen |
| organ_group, side, region | eight organs; left, right or unpaired; thorax, abdomen or pelvis: `organ` tells them |
| area_cm2 | of the organ in the slice |
| mask_organ | 1 inside the organ |
| scanner, phase | name of the scanner; native or contrast |
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from .organ_body import ORGANS, Organ, Slice, draw_organ
from .phantom import (
    IMAGES_A_PATIENT,
    blurred,
    empty_folder,
    make_all,
    random_of,
    split_patients,
    write_manifest,
    write_png,
)
from .phantoms import SHARES, Progress


class Scanner(msgspec.Struct, frozen=True):
    """A scanner and how it shows grey."""

    name: str
    share: float  # of the patients
    noise: float
    blur: float  # in 1/64 of the picture's side
    gain: float
    offset: float


SCANNERS = (
    Scanner("orion", 0.45, 0.035, 0.55, 1.00, 0.00),
    Scanner("vega", 0.35, 0.050, 0.75, 0.88, 0.05),
    Scanner("atlas", 0.20, 0.075, 1.10, 1.10, -0.05),
)


def make_organs(
    folder: Path,
    *,
    patients: int,
    seed: int = 0,
    size: int = 64,
    shares: Mapping[str, float] = SHARES,
    progress: Progress | None = None,
) -> int:
    """Make a data set of organ phantoms, one to three slices of each patient.

    Args:
        folder: where to; made if need be, must be empty.
        patients: how many.
        seed: equal seeds give equal files on the same machine.
        size: pixels a side.
        shares: of the patients by split (train, val, calibration, test); they add up to 1.
        progress: called with patients done and in all.

    Returns:
        The number of pictures.

    Raises:
        FoveolaError: the folder is not empty.
        UsageError: the shares are none, or there is nothing to make.
    """
    splits = split_patients(patients, shares, random_of(seed, 0), size)
    empty_folder(folder)
    (folder / "images").mkdir()
    (folder / "masks").mkdir()

    def make(number: int) -> list[dict[str, str]]:
        return _make_patient(folder, f"p{number:05d}", splits[number], random_of(seed, 3, number), size)

    rows = make_all(make, patients, progress)
    write_manifest(folder, rows)
    return len(rows)


def _make_patient(folder: Path, patient: str, split: str, rng: np.random.Generator, size: int) -> list[dict[str, str]]:
    scanner = SCANNERS[int(rng.choice(len(SCANNERS), p=[scanner.share for scanner in SCANNERS]))]
    contrast = float(rng.uniform(0.6, 1.0)) if rng.random() < 0.6 else 0.0
    count = 1 + int(rng.choice(len(IMAGES_A_PATIENT), p=IMAGES_A_PATIENT))
    rows = []
    for place in rng.permutation(len(ORGANS))[:count]:
        organ = ORGANS[int(place)]
        drawn = draw_organ(organ, contrast, size, rng)
        name = f"{patient}_{organ.name}"
        write_png(folder / "images" / f"{name}.png", _scanned(drawn, scanner, rng))
        write_png(folder / "masks" / f"{name}.png", drawn.organ.astype(np.uint8))
        rows.append(
            {
                "file": f"images/{name}.png",
                "patient_id": patient,
                "split": split,
                "organ": organ.name,
                "organ_group": organ.group,
                "side": organ.side,
                "region": organ.region,
                "area_cm2": f"{_area_cm2(drawn, organ):.1f}",
                "mask_organ": f"masks/{name}.png",
                "scanner": scanner.name,
                "phase": "contrast" if contrast else "native",
            }
        )
    return rows


def _scanned(
    drawn: Slice, scanner: Scanner, rng: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    size = drawn.tissue.shape[0]
    seen = blurred(drawn.tissue, scanner.blur * size / 64) * scanner.gain + scanner.offset
    # The grain of a reconstruction is coarser than a pixel.
    grain = blurred(rng.standard_normal(drawn.tissue.shape).astype(np.float32), 0.6 * size / 64)
    grain /= max(float(grain.std()), 1e-6)
    return np.asarray(np.clip(seen + scanner.noise * grain, 0, 1) * 255, np.uint8)


def _area_cm2(drawn: Slice, organ: Organ) -> float:
    pixel_cm = organ.width_mm / 10 / drawn.organ.shape[0]
    return float(drawn.organ.sum() * pixel_cm**2)
