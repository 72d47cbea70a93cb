"""The convention of folders: `{train,val,test}/CLASS/*`, as RETFound's fine-tuning and many others have it.

The folders name no patients: every image is its own. Where there is no `val`, it is taken out of `train`.
"""

from __future__ import annotations

from pathlib import Path

from .files import find_base, images_in
from .layout import TRAIN_VAL, Draft, Layout, Picture

MARKS = ("train",)
PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read_folders(root: Path) -> Layout:
    """Read class folders; the column `label` holds the class.

    Raises:
        FoveolaError: another layout.
    """
    base = find_base(root, MARKS)
    draft = Draft(root, *(base / part for part in PARTS))
    has_val = any((base / part).is_dir() for part, split in PARTS.items() if split == "val")
    classes: set[str] = set()
    for part, split in PARTS.items():
        folder = draft.path(base, part)
        for file in images_in(draft.stored, folder):
            label, _, rest = file.removeprefix(f"{folder}/").partition("/")
            if not rest:
                draft.drop("images outside of a class folder", file)
                continue
            classes.add(label)
            official = split if has_val or split != "train" else TRAIN_VAL
            draft.add(Picture(file=file, patient="", part=official, cells={"label": label}))
    draft.notes.append(f"classes of label: {', '.join(sorted(classes)) or 'none'}")
    draft.notes.append("the folders name no patients: every image is taken for its own")
    return draft.finish("folders", attributes=(), targets=("label",))
