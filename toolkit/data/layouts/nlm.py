"""The tuberculosis sets of the National Library of Medicine: Montgomery County and Shenzhen.

Names say it: `MCUCXR_0001_0.png`, `CHNCXR_0327_1.png`; the last digit is 1 for tuberculosis. `ClinicalReadings` holds
one text an image with sex, age and what was read. Each image is of another patient.

Two columns of masks: `mask_lungs` is a label map (1 the patient's right lung, 2 the left one), which only Montgomery
can give; `mask_lung_fields` is set wherever there is lung, whichever side. A file of 0 and 255 must not stand in the
first: 255 means "ignore" in a label map.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from ....runtime.errors import FoveolaError
from .files import find_base, images_in, stem
from .layout import Draft, Layout, LungPair, Picture
from .tables import OLDEST

MONTGOMERY = ("CXR_png", "ManualMask/leftMask", "ManualMask/rightMask")
SHENZHEN = ("CXR_png/CHNCXR_*", "!CXR_png/MCUCXR_*", "!ManualMask")
NAME = re.compile(r"(?P<patient>(?:MCUCXR|CHNCXR)_\d+)_(?P<tb>[01])")
ATTRIBUTES = ("sex", "age", "reading")
TUBERCULOSIS = "finding_Tuberculosis"
FIELDS = "mask_lung_fields"
LUNGS = "mask_lungs"
UNITS = {"y": 1.0, "m": 12.0, "d": 365.25}  # of one year


def read_montgomery(root: Path) -> Layout:
    """Read the Montgomery County set: 138 images with both lungs drawn.

    Raises:
        FoveolaError: another layout.
    """
    base = find_base(root, MONTGOMERY)
    draft = Draft(root, *(base / folder for folder in ("CXR_png", "ManualMask", "ClinicalReadings")))
    for file in images_in(draft.stored, draft.path(base, "CXR_png")):
        picture = nlm_picture(draft, base, file)
        if picture is None:
            continue
        sides = [draft.path(base, "ManualMask", side, PurePosixPath(file).name) for side in ("leftMask", "rightMask")]
        there = [draft.there(side) for side in sides]  # both are looked at, so that all missing files are told
        if all(there):
            picture = _with_drawing(picture, LungPair(*sides))
        draft.add(picture)
    draft.notes.append(
        "the masks of both sides were put together in foveola/masks: 1 right lung of the patient, 2 left"
    )
    return draft.finish("montgomery", attributes=ATTRIBUTES, targets=(TUBERCULOSIS, LUNGS, FIELDS))


def read_shenzhen(root: Path) -> Layout:
    """Read the Shenzhen set: 662 images; 566 have a lung mask in a separate release (`mask/NAME_mask.png`).

    Raises:
        FoveolaError: another layout.
    """
    base = find_base(root, SHENZHEN)
    masks = next((folder for folder in (base / "mask", base / "mask" / "mask") if any(folder.glob("*_mask.png"))), None)
    draft = Draft(root, base / "CXR_png", base / "mask", base / "ClinicalReadings")
    bare = 0
    for file in images_in(draft.stored, draft.path(base, "CXR_png")):
        picture = nlm_picture(draft, base, file)
        if picture is None:
            continue
        mask = draft.path(masks, f"{stem(file)}_mask.png") if masks else ""
        bare += mask not in draft.stored
        cells = picture.cells | ({FIELDS: mask} if mask in draft.stored else {})
        draft.add(Picture(file=file, patient=picture.patient, cells=cells))
    if masks is None:
        draft.notes.append("no folder mask: there are no lung masks (they are a separate release)")
    elif bare:
        draft.notes.append(f"{bare} images have no lung mask: gaps")
    return draft.finish("shenzhen", attributes=ATTRIBUTES, targets=(TUBERCULOSIS, FIELDS))


def nlm_picture(draft: Draft, base: Path, file: str) -> Picture | None:
    """What the name and the reading of an image say; None (and a reason) when the name is of another form."""
    match = NAME.fullmatch(stem(file))
    if match is None:
        draft.drop("files whose name is not of the form MCUCXR_0001_0 or CHNCXR_0001_0", file)
        return None
    cells = {TUBERCULOSIS: match["tb"]}
    text = base / "ClinicalReadings" / f"{stem(file)}.txt"
    if draft.path(text) in draft.stored:
        cells |= read_reading(text)
    return Picture(file=file, patient=match["patient"], cells=cells)


def read_reading(path: Path) -> dict[str, str]:
    """Sex, age in years and the reading of one clinical text; what cannot be made out is left out.

    Montgomery writes `Patient's Sex: F`, `Patient's Age: 027Y` and the reading; Shenzhen `female, 45yrs` (also
    `femal`, `16month`, `64days`) and the reading.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise FoveolaError(str(path), f"cannot be read: {error.strerror}", "unpack the data set again") from None
    lines = [line.strip() for line in text.replace("\0", "").splitlines() if line.strip()]
    heads = [line for i, line in enumerate(lines) if re.match(r"patient's", line, re.I) or (i == 0 and _is_head(line))]
    head = " ".join(heads).lower()
    cells = {}
    if found := re.search(r"sex:\s*([mf])|\b(fe)?mal", head):
        cells["sex"] = found[1].upper() if found[1] else ("F" if found[2] else "M")
    if found := re.search(r"(\d+)\s*([ymd])", head):
        age = int(found[1]) / UNITS[found[2]]
        cells |= {"age": f"{age:.3g}"} if age <= OLDEST else {}
    reading = "; ".join(line for line in lines if line not in heads)
    return cells | ({"reading": reading} if reading else {})


def _is_head(line: str) -> bool:
    return re.search(r"\b(fe)?mal|\d+\s*(y|month|day)", line, re.I) is not None


def _with_drawing(picture: Picture, drawing: LungPair) -> Picture:
    return Picture(
        file=picture.file, patient=picture.patient, cells=picture.cells, drawing=drawing, drawn=(LUNGS, FIELDS)
    )
