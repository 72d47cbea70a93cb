"""Chest radiographs that never were: 16-bit pictures with findings, lung masks and boxes, made from a seed.

Nothing in them comes from a patient. They are for trying the whole road without a download, not for any clinical claim.

    make_chest(Path("phantom"), patients=300, seed=7)

writes `images/*.png`, `masks/*.png` and `manifest.csv`, all readable by `read_dataset`:

| column | holds |
|---|---|
| file, patient_id, split | as everywhere |
| sex, age, view, site | F or M; years; PA or AP; name of the machine's site |
| finding_nodule, finding_effusion, finding_cardiomegaly, finding_opacity, no_finding | 0 or 1 |
| cardiothoracic_ratio | width of the heart over that of the rib cage, as drawn |
| mask_lungs | label map: 1 right lung (left in the picture), 2 left lung; the visible fields, heart left out |
| boxes | JSON: right_lung, left_lung, nodule, effusion, opacity, cardiomegaly (the heart, where it is too large) |

Some cells are empty on purpose (`gaps`): not every picture is annotated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from .chest_body import Shadow, cast
from .chest_findings import FINDINGS, Change, effusion, lung_texture, lung_vessels, nodules, opacities
from .chest_patient import Body, Pose, draw_body, draw_pose
from .chest_picture import SITES, Site, expose
from .phantom import (
    IMAGES_A_PATIENT,
    BoxRow,
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

PREVALENCE: Mapping[str, float] = {"nodule": 0.40, "effusion": 0.34, "cardiomegaly": 0.34, "opacity": 0.36}
GAPS: Mapping[str, float] = {"findings": 0.15, "masks": 0.4, "boxes": 0.35, "age": 0.1}
GAP_SPLITS = ("train", "calibration")  # as in life, the test set is the one that somebody annotated in full


class ChestPicture(msgspec.Struct, frozen=True, kw_only=True):
    """One picture and all that is known about it."""

    pixels: NDArray[np.uint16]  # (H, W)
    lungs: NDArray[np.uint8]  # (H, W): 1 right, 2 left
    boxes: tuple[BoxRow, ...]
    findings: dict[str, bool]
    heart_ratio: float


def make_chest(
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
    """Make a data set of chest phantoms, one to three pictures a patient.

    Args:
        folder: where to; made if need be, must be empty.
        patients: how many.
        seed: equal seeds give equal files on the same machine.
        size: pixels a side.
        shares: of the patients by split (train, val, calibration, test); they add up to 1.
        gaps: share of pictures without findings, masks, boxes and age; what is left out has none missing.
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
        return _make_patient(folder, f"p{number:04d}", splits[number], random_of(seed, 1, number), size, missing)

    rows = make_all(make, patients, progress)
    write_manifest(folder, rows)
    return len(rows)


def draw_picture(
    body: Body, pose: Pose, site: Site, findings: Mapping[str, bool], size: int, rng: np.random.Generator
) -> ChestPicture:
    """Draw one picture; the heart's size is the body's, the other findings are added here."""
    shadow = cast(body, pose, size)
    air = shadow.air * lung_texture(shadow, rng)
    soft = shadow.soft + lung_vessels(body, pose, shadow, rng)
    changes: list[Change] = []
    aerated = shadow
    for name, draw in (("opacity", opacities), ("effusion", effusion), ("nodule", nodules)):
        # Each finding has random numbers of its own, so that the rest of the picture does not hang on it.
        own = np.random.default_rng(rng.integers(2**63))
        if findings[name]:
            change = draw(aerated, own)
            changes.append(change)
            air, soft = air * change.air, soft + change.soft
            # The next finding looks for a place in what is still air: a nodule in fluid would not be seen.
            aerated = _with_less_air(aerated, change)
    attenuation = np.maximum(soft - air, 0.0) + shadow.bone
    lungs = shadow.right.astype(np.uint8) + 2 * shadow.left.astype(np.uint8)
    found = [box for change in changes for box in change.boxes]
    return ChestPicture(
        pixels=expose(np.asarray(attenuation, np.float32), site, rng),
        lungs=lungs,
        boxes=(*_anatomy_boxes(shadow, cardiomegaly=findings["cardiomegaly"]), *found),
        findings=dict(findings),
        heart_ratio=shadow.heart_ratio,
    )


def _make_patient(
    folder: Path, patient: str, split: str, rng: np.random.Generator, size: int, gaps: Mapping[str, float]
) -> list[dict[str, str]]:
    ill = {name: bool(rng.random() < PREVALENCE[name]) for name in FINDINGS}
    body = draw_body(rng, enlarged=ill["cardiomegaly"])
    site = SITES[int(rng.choice(len(SITES), p=[site.share for site in SITES]))]
    rows = []
    for number in range(1 + int(rng.choice(len(IMAGES_A_PATIENT), p=IMAGES_A_PATIENT))):
        pose = draw_pose(rng, ap=bool(rng.random() < site.portable))
        # A finding may not be there yet, or be new.
        now = {name: bool(rng.random() < (0.85 if ill[name] else 0.05)) for name in FINDINGS}
        now["cardiomegaly"] = ill["cardiomegaly"]
        picture = draw_picture(body, pose, site, now, size, rng)
        name = f"{patient}_{number}"
        write_png(folder / "images" / f"{name}.png", picture.pixels)
        row = {"file": f"images/{name}.png", "patient_id": patient, "split": split}
        rows.append(row | _cells(folder, name, body, pose, site, picture, gaps, rng))
    return rows


def _cells(
    folder: Path,
    name: str,
    body: Body,
    pose: Pose,
    site: Site,
    picture: ChestPicture,
    gaps: Mapping[str, float],
    rng: np.random.Generator,
) -> dict[str, str]:
    """Write what is known of a picture, with gaps, and the mask where there is one."""
    gap = {what: bool(rng.random() < gaps.get(what, 0.0)) for what in GAPS}
    flags = {f"finding_{finding}": picture.findings[finding] for finding in FINDINGS}
    flags["no_finding"] = not any(picture.findings.values())
    if not gap["masks"]:
        write_png(folder / "masks" / f"{name}.png", picture.lungs)
    return {
        "sex": "F" if body.female else "M",
        "age": "" if gap["age"] else f"{body.age:.0f}",
        "view": "AP" if pose.ap else "PA",
        "site": site.name,
        **{flag: "" if gap["findings"] else str(int(there)) for flag, there in flags.items()},
        "cardiothoracic_ratio": "" if gap["findings"] else f"{picture.heart_ratio:.3f}",
        "mask_lungs": "" if gap["masks"] else f"masks/{name}.png",
        "boxes": "" if gap["boxes"] else boxes_cell(picture.boxes),
    }


def _with_less_air(shadow: Shadow, change: Change) -> Shadow:
    left, right = shadow.left_depth * change.air, shadow.right_depth * change.air
    return msgspec.structs.replace(shadow, left_depth=np.asarray(left), right_depth=np.asarray(right))


def _anatomy_boxes(shadow: Shadow, *, cardiomegaly: bool) -> list[BoxRow]:
    boxes = [extent(shadow.right, "right_lung"), extent(shadow.left, "left_lung")]
    if cardiomegaly:
        boxes.append(extent(shadow.heart, "cardiomegaly"))
    return [box for box in boxes if box is not None]
