"""Colour fundus photographs that never were: eyes with a disc, vessels, a macula and lesions, made from a seed.

Nothing in them comes from a patient. They are for trying the whole road without a download, not for any clinical claim.

    make_fundus(Path("phantom"), patients=300, seed=7)

writes `images/*.png` (8-bit RGB), `masks/*.png` and `manifest.csv`, all readable by `read_dataset`:

| column | holds |
|---|---|
| file, patient_id, split | as everywhere |
| eye, camera, quality | left or right; name of the camera; good or poor |
| dr_grade | 0 to 4, consistent with the lesions; `referable` is 1 from grade 2 on |
| cup_disc_ratio | vertical, 0.2 to 0.85; `glaucoma_suspect` is 1 from 0.6 on |
| od_x, od_y, fovea_x, fovea_y | pixels of the stored image |
| mask_disc | label map: 1 rim of the optic disc, 2 cup |
| mask_vessel, mask_fov, mask_ma, mask_he, mask_ex, mask_se | 255 inside |
| boxes | JSON: optic_disc, haemorrhage, hard_exudate, soft_exudate |

Some cells are empty on purpose (`gaps`): not every picture is annotated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .fundus_eye import CAMERAS, Camera, Eye, FundusPicture, draw_eye, photograph
from .fundus_lesions import KINDS
from .phantom import (
    BoxRow,
    Mask,
    boxes_cell,
    empty_folder,
    extent,
    make_all,
    random_of,
    split_patients,
    write_manifest,
    write_png,
)
from .phantoms import SHARES, Progress

GRADES = (0.34, 0.15, 0.22, 0.15, 0.14)  # share of the eyes by grade
GAPS: Mapping[str, float] = {"grade": 0.15, "masks": 0.4, "boxes": 0.4, "disc": 0.25}
GAP_SPLITS = ("train", "calibration")  # as in life, the test set is the one that somebody annotated in full
LABELS = {"he": "haemorrhage", "ex": "hard_exudate", "se": "soft_exudate"}
LEAST_BOX = 6  # pixels at 256 pixels a side: a smaller spot gets no box
LEAST_COVER = 0.5  # of a pixel: covered by so much, it belongs to the mask


def make_fundus(
    folder: Path,
    *,
    patients: int,
    seed: int = 0,
    size: int = 256,
    shares: Mapping[str, float] = SHARES,
    gaps: Mapping[str, float] = GAPS,
    gap_splits: Sequence[str] = GAP_SPLITS,
    progress: Progress | None = None,
) -> int:
    """Make a data set of fundus phantoms, one eye or both of each patient.

    Args:
        folder: where to; made if need be, must be empty.
        patients: how many.
        seed: equal seeds give equal files on the same machine.
        size: rows of a picture; some cameras' pictures are wider than high.
        shares: of the patients by split (train, val, calibration, test); they add up to 1.
        gaps: share of pictures without grade, masks of vessels and lesions, boxes, and what is known of the disc.
        gap_splits: splits in which gaps occur.
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
        missing = gaps if splits[number] in gap_splits else {}
        return _make_patient(folder, f"p{number:04d}", splits[number], random_of(seed, 2, number), size, missing)

    rows = make_all(make, patients, progress)
    write_manifest(folder, rows)
    return len(rows)


def _make_patient(
    folder: Path, patient: str, split: str, rng: np.random.Generator, size: int, gaps: Mapping[str, float]
) -> list[dict[str, str]]:
    camera = CAMERAS[int(rng.choice(len(CAMERAS), p=[camera.share for camera in CAMERAS]))]
    grade = int(rng.choice(len(GRADES), p=GRADES))
    first = draw_eye(rng, left=bool(rng.random() < 0.5), grade=grade)
    eyes = [first]
    if rng.random() < 0.6:
        # The fellow eye is much alike and mostly of the same grade.
        other = int(np.clip(grade + rng.choice((-1, 0, 0, 0, 1)), 0, 4)) if grade else 0
        eyes.append(draw_eye(rng, left=not first.left, grade=other, like=first))
    rows = []
    for eye in eyes:
        picture = photograph(eye, camera, size, rng)
        name = f"{patient}_{'left' if eye.left else 'right'}"
        write_png(folder / "images" / f"{name}.png", picture.pixels)
        row = {"file": f"images/{name}.png", "patient_id": patient, "split": split}
        rows.append(row | _cells(folder, name, eye, camera, picture, gaps, rng))
    return rows


def _cells(
    folder: Path,
    name: str,
    eye: Eye,
    camera: Camera,
    picture: FundusPicture,
    gaps: Mapping[str, float],
    rng: np.random.Generator,
) -> dict[str, str]:
    """Write what is known of a picture, with gaps, and its masks where there are any."""
    gap = {what: bool(rng.random() < gaps.get(what, 0.0)) for what in GAPS}

    def mask(kind: str, pixels: NDArray[np.uint8], *, missing: bool) -> str:
        if missing:
            return ""
        write_png(folder / "masks" / f"{name}_{kind}.png", pixels)
        return f"masks/{name}_{kind}.png"

    def inside(kind: str, where: Mask) -> str:
        return mask(kind, where.astype(np.uint8) * np.uint8(255), missing=gap["masks"])

    lesions = {kind: np.asarray(picture.lesions[kind] > LEAST_COVER) for kind in KINDS}
    points = {"od": picture.disc_at, "fovea": picture.fovea_at}
    known = {
        "dr_grade": str(eye.grade),
        "referable": str(int(eye.grade >= 2)),
    }
    disc = {
        "cup_disc_ratio": f"{eye.cup:.3f}",
        "glaucoma_suspect": str(int(eye.cup >= 0.6)),
        **{f"{what}_{axis}": f"{at[i]:.1f}" for what, at in points.items() for i, axis in enumerate("xy")},
    }
    return {
        "eye": "left" if eye.left else "right",
        "camera": camera.name,
        "quality": "poor" if picture.poor else "good",
        **{column: "" if gap["grade"] else cell for column, cell in known.items()},
        **{column: "" if gap["disc"] else cell for column, cell in disc.items()},
        "mask_disc": mask("disc", picture.disc, missing=gap["disc"]),
        "mask_vessel": inside("vessel", np.asarray(picture.vessels > LEAST_COVER)),
        "mask_fov": inside("fov", picture.field),
        **{f"mask_{kind}": inside(kind, lesions[kind]) for kind in KINDS},
        "boxes": "" if gap["boxes"] else boxes_cell(_boxes(picture.disc, lesions)),
    }


def _boxes(disc: NDArray[np.uint8], lesions: Mapping[str, Mask]) -> list[BoxRow | None]:
    """Make the box of the disc and one box for each connected part of a lesion mask."""
    least = LEAST_BOX * (disc.shape[0] / 256) ** 2
    boxes = [extent(disc > 0, "optic_disc")]
    for kind, label in LABELS.items():
        parts = np.empty(disc.shape, np.int32)
        ndimage.label(lesions[kind], structure=np.ones((3, 3)), output=parts)
        for number, window in enumerate(ndimage.find_objects(parts), start=1):
            if (parts[window] == number).sum() >= least:
                rows, columns = window
                boxes.append(BoxRow(label, columns.start, rows.start, columns.stop, rows.stop))
    return boxes
