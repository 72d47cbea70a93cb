"""DRIVE: 40 fundus photographs of 565x584 pixels with drawn vessels and the field of view.

- `training/images/21_training.tif`, `training/1st_manual/21_manual1.gif`, `training/mask/21_training_mask.gif`;
  masks are GIF, which becomes PNG.
- The vessels of the test part are not in every release: without them that part is left out, and the test split is taken
  out of `training`. Where they are, there may also be those of a second observer.
- No patients are named.
"""

from __future__ import annotations

from pathlib import Path

from .files import find_base, images_in, stem
from .layout import TRAIN_VAL, Draft, Inked, Layout, Picture

MARKS = ("training/images", "training/1st_manual|training/mask")
VESSEL, SECOND, FIELD = "mask_vessel", "mask_vessel2", "mask_fov"
FOLDERS = {VESSEL: "1st_manual", SECOND: "2nd_manual", FIELD: "mask"}


def read_drive(root: Path) -> Layout:
    """Read DRIVE.

    Raises:
        FoveolaError: another layout.
    """
    base = find_base(root, MARKS)
    draft = Draft(root, base / "training", base / "test")
    test = _masks(draft, base, "test")
    judged = bool(test[VESSEL])
    _add(draft, base, "training", TRAIN_VAL if judged else "")
    if judged:
        _add(draft, base, "test", "test")
    else:
        for file in images_in(draft.stored, draft.path(base, "test", "images")):
            draft.drop("images of the test part, whose vessels are not public", file)
    draft.notes.append("no patients are named: every image is taken for its own")
    return draft.finish("drive", attributes=(), targets=(VESSEL, SECOND, FIELD))


def _add(draft: Draft, base: Path, part: str, split: str) -> None:
    masks = _masks(draft, base, part)
    images = {_number(file): file for file in images_in(draft.stored, draft.path(base, part, "images"))}
    for number in sorted(masks[VESSEL].keys() - images.keys()):
        draft.there(draft.path(base, part, "images", f"{number}_{part}.tif"))
    for number, file in images.items():
        drawn = {column: found[number] for column, found in masks.items() if number in found}
        if VESSEL not in drawn:
            draft.there(draft.path(base, part, FOLDERS[VESSEL], f"{number}_manual1.gif"))
            continue
        there = [draft.there(mask) for mask in drawn.values()]  # all are looked at, so that all missing files are told
        if all(there):
            draft.add(Picture(file=file, patient="", part=split, drawing=Inked(drawn)))


def _masks(draft: Draft, base: Path, part: str) -> dict[str, dict[str, str]]:
    """Files by column and by the number that begins their name."""
    found: dict[str, dict[str, str]] = {}
    for column, folder in FOLDERS.items():
        begin = f"{draft.path(base, part, folder)}/"
        found[column] = {_number(file): file for file in draft.stored if file.startswith(begin)}
    return found


def _number(file: str) -> str:
    return stem(file).split("_")[0]
