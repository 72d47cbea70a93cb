"""Files of a layout that are byte for byte the same: one is kept, so that none stands in two splits.

Only files of equal size are opened, and of those only the ends are read first: two different images of the same size
differ there, since both PNG and JPEG end with data that depend on all pixels before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from ....runtime.errors import FoveolaError
from ..hashing import file_sha256
from .layout import Layout, Picture, with_pictures

ENDS = 4096  # bytes
COPIES = "byte-for-byte copies of another image"
AT_ODDS = "byte-for-byte copies with other labels than their twin (neither is kept)"

Progress = Callable[[int, int, str], None]  # done, total, of what


def find_copies(root: Path, sizes: dict[str, int], progress: Progress) -> list[list[str]]:
    """Groups of two or more files with the same bytes.

    Args:
        root: folder of the paths.
        sizes: in bytes by path.
        progress: told how many files were looked at.
    """
    suspects = [group for group in _grouped(sizes, sizes.__getitem__) if len(group) > 1]
    total, done = sum(map(len, suspects)), 0
    found: list[list[str]] = []
    for group in suspects:
        for alike in _grouped(group, lambda file: _ends(root / file, sizes[file])):
            if len(alike) > 1:
                found += [same for same in _grouped(alike, lambda file: file_sha256(root / file)) if len(same) > 1]
        done += len(group)
        progress(done, total, "files of equal size")
    return found


def without_copies(layout: Layout, groups: Iterable[list[str]]) -> Layout:
    """Keep one picture of each group, rather one of the official test part; none where their labels are at odds."""
    by_file = {picture.file: picture for picture in layout.pictures}
    out: dict[str, list[str]] = {COPIES: [], AT_ODDS: []}
    for group in groups:
        pictures = [by_file[file] for file in group]
        if len({_said(layout, picture) for picture in pictures}) > 1:
            out[AT_ODDS] += group
        else:
            kept = min(pictures, key=lambda picture: (picture.part != "test", picture.file)).file
            out[COPIES] += [file for file in group if file != kept]
    gone = {*out[COPIES], *out[AT_ODDS]}
    return with_pictures(layout, (one for one in layout.pictures if one.file not in gone), out)


def _said(layout: Layout, picture: Picture) -> tuple[object, ...]:
    """What is said of a picture; masks are files of its own and say nothing that could be compared here."""
    targets = [name for name in layout.targets if name not in layout.mask_columns]
    boxes = None if picture.boxes is None else tuple((box.label, box.x1, box.y1) for box in picture.boxes)
    return (*(picture.cells.get(name, "") for name in targets), boxes)


def _grouped(files: Iterable[str], key: Callable[[str], object]) -> list[list[str]]:
    groups: dict[object, list[str]] = {}
    for file in files:
        groups.setdefault(key(file), []).append(file)
    return list(groups.values())


def _ends(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as stream:
            stream.seek(max(size - ENDS, 0))
            return hashlib.sha256(stream.read(ENDS)).digest()
    except OSError as error:
        raise FoveolaError(str(path), f"cannot be read: {error.strerror}", "copy the file again") from None
