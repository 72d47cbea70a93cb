"""Files of a layout that are byte for byte the same: one is kept, so that none stands in two splits.

What one of them says and the other leaves open is put together: IDRiD has lesions of an image in one folder and its
grade in another.

Only files of equal size are opened, and of those only the ends are read first: two different images of the same size
differ there, since both PNG and JPEG end with data that depend on all pixels before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

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
        first, *rest = sorted((by_file[file] for file in group), key=lambda one: (one.part != "test", one.file))
        if _at_odds(layout, [first, *rest]):
            out[AT_ODDS] += group
        else:
            by_file[first.file] = _joined(first, rest)
            out[COPIES] += [picture.file for picture in rest]
    gone = {*out[COPIES], *out[AT_ODDS]}
    return with_pictures(layout, (by_file[one.file] for one in layout.pictures if one.file not in gone), out)


def _at_odds(layout: Layout, pictures: list[Picture]) -> bool:
    """Whether two of them say different things; a gap says nothing, and masks are files that are not compared."""
    for name in layout.targets:
        if name not in layout.mask_columns and len({one.cells.get(name, "") for one in pictures} - {""}) > 1:
            return True
    boxes = [tuple((box.label, box.x1, box.y1) for box in one.boxes) for one in pictures if one.boxes is not None]
    return len(set(boxes)) > 1


def _joined(first: Picture, rest: Iterable[Picture]) -> Picture:
    """The first one, its gaps filled by the others."""
    for other in rest:
        filled = {name: cell for name, cell in other.cells.items() if cell and not first.cells.get(name, "")}
        first = msgspec.structs.replace(first, cells=first.cells | filled)
        if first.boxes is None:
            first = msgspec.structs.replace(first, boxes=other.boxes, box_size=other.box_size)
        if first.drawing is None:
            first = msgspec.structs.replace(first, drawing=other.drawing, drawn=other.drawn)
    return first


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
