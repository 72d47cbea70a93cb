"""Chest Xray Masks and Labels: Montgomery and Shenzhen once more, reduced to one folder with 704 lung masks.

- **The masks of Shenzhen have `_mask` behind the name of the image, those of Montgomery have not.**
- 96 images lie in `test` and 96 in `CXR_png` without a mask: they are left out, unless `keep_without_mask`.
- They are the images of the layouts `montgomery` and `shenzhen`: the same patients, who get the same split by hash.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from .files import find_base, images_in, stem
from .layout import Draft, Layout
from .nlm import ATTRIBUTES, FIELDS, TUBERCULOSIS, nlm_picture

MARKS = ("CXR_png", "masks")
NO_MASK = "images without a mask"


def read_chest_masks(root: Path, *, keep_without_mask: bool = False) -> Layout:
    """Read Chest Xray Masks and Labels.

    Args:
        root: its folder.
        keep_without_mask: keep such images, with a gap.

    Raises:
        FoveolaError: another layout.
    """
    base = find_base(root, MARKS)
    draft = Draft(root, *(base / folder for folder in ("CXR_png", "test", "masks", "ClinicalReadings")))
    masks = {stem(file).removesuffix("_mask"): file for file in images_in(draft.stored, draft.path(base, "masks"))}
    used: set[str] = set()
    for folder in ("CXR_png", "test"):
        for file in images_in(draft.stored, draft.path(base, folder)):
            picture = nlm_picture(draft, base, file)
            if picture is None:
                continue
            mask = masks.get(stem(file), "")
            used.add(stem(file))
            if not mask and not keep_without_mask:
                draft.drop(NO_MASK, file)
                continue
            draft.add(msgspec.structs.replace(picture, cells=picture.cells | ({FIELDS: mask} if mask else {})))
    for name in sorted(masks.keys() - used):
        draft.there(draft.path(base, "CXR_png", f"{name}.png"))  # a mask speaks of an image that is not there
    draft.notes.append("these are images of montgomery and shenzhen: do not count them as another source")
    return draft.finish("chest-masks", attributes=ATTRIBUTES, targets=(TUBERCULOSIS, FIELDS))
