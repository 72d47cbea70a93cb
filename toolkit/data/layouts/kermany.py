"""Kermany's chest radiographs of children: 5,856, normal or pneumonia (bacterial, viral).

Patients stand in the names, of which there are three kinds: `person1000_bacteria_2931`, `IM-0115-0001` and
`NORMAL2-IM-1427-0001`, and in the later release `VIRUS-1003233-0001`. One number may come with both kinds of
pneumonia and in both official parts; whether that is one child is not told, so it is taken for one.

The 16 images of `val` are too few to choose anything by; they are put with `train`.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from .files import find_base, images_in
from .layout import TRAIN_VAL, Draft, Layout, Picture

MARKS = ("train/NORMAL", "train/PNEUMONIA")
PARTS = {"train": TRAIN_VAL, "val": TRAIN_VAL, "test": "test"}
NAMES = (
    re.compile(r"(?P<patient>person\d+)_(?P<cause>bacteria|virus)_\d+"),
    re.compile(r"(?P<patient>(?:NORMAL2-)?IM-\d+)-.+"),
    re.compile(r"(?P<cause>NORMAL|BACTERIA|VIRUS)-(?P<patient>\d+)-\d+"),
)


def read_kermany(root: Path) -> Layout:
    """Read Kermany's chest radiographs, the earlier release (with `val`) or the later one.

    Raises:
        FoveolaError: another layout.
    """
    base = find_base(root, MARKS)
    draft = Draft(root, *(base / part for part in PARTS))
    merged = 0
    for part, official in PARTS.items():
        for kind in ("NORMAL", "PNEUMONIA"):
            for file in images_in(draft.stored, draft.path(base, part, kind)):
                match = next((found for name in NAMES if (found := name.fullmatch(PurePosixPath(file).stem))), None)
                if match is None:
                    draft.drop("images whose name tells no patient", file)
                    continue
                groups = match.groupdict()
                cells = {"finding_Pneumonia": str(int(kind == "PNEUMONIA")), "cause": _cause(groups.get("cause") or "")}
                merged += part == "val"
                draft.add(Picture(file=file, patient=groups["patient"], part=official, cells=cells))
    if merged:
        draft.notes.append(f"the {merged} images of val were put with train: too few to choose by")
    return draft.finish("kermany", attributes=("cause",), targets=("finding_Pneumonia",))


def _cause(word: str) -> str:
    return {"bacteria": "bacteria", "virus": "virus"}.get(word.lower(), "")
