"""What a reader of a published layout gives: pictures with what is known of them, and notes on what is not there.

- Readers read tables and names of files; they open no image and write nothing. What needs pixels is written down
  (`drawing`, `slice`, `box_size`, `points`, `may_be_damaged`) and done afterwards, for all layouts alike.
- A cell that is absent or empty is a gap: not known. Where the source says that there is none, `boxes` is empty.
- Patients are named as the source names them; an empty name makes a picture its own patient.

Paths are relative to the data set's folder, with `/` between their parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from ..cells import BoxCell
from .files import list_files

TRAIN_VAL = "train_val"  # an official part out of which the validation patients are taken by hash
NAMED = 10  # files named in a note or an error; the others are counted

Boxes = tuple[BoxCell, ...]


class LungPair(msgspec.Struct, frozen=True):
    """Two masks of one lung each, which become one label map: 1 the patient's right lung, 2 the left one."""

    first: str
    second: str


class Outline(msgspec.Struct, frozen=True):
    """Polygons in pixels of the stored image, each x, y, x, y, ...; inside becomes 255."""

    polygons: tuple[tuple[float, ...], ...]


class Inked(msgspec.Struct, frozen=True):
    """Masks by column in files of which some cannot be read as a mask (GIF, colours): what is not black becomes 255."""

    files: dict[str, str]


class DiscCup(msgspec.Struct, frozen=True):
    """One file with optic disc and cup, in whichever three values its publisher wrote (see `eye_masks`)."""

    file: str


class Slice(msgspec.Struct, frozen=True):
    """A picture that is stored in an archive of arrays: which row of which array; it becomes a PNG."""

    archive: str
    key: str
    index: int


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """One image and what the source says about it.

    Args:
        file: its path.
        patient: who it is.
        part: the official part: train, val, test or `TRAIN_VAL`; empty where the source has none.
        cells: attributes and targets by column.
        boxes: None is a gap, an empty tuple is "none".
        box_size: width and height of the picture in whose pixels the boxes are; None: of the stored one.
        drawing: a mask that has to be drawn first.
        drawn: the columns that get its path.
        slice: where the picture is stored, if it is no file yet.
    """

    file: str
    patient: str
    part: str = ""
    cells: dict[str, str] = {}
    boxes: Boxes | None = None
    box_size: tuple[int, int] | None = None
    drawing: LungPair | Outline | Inked | DiscCup | None = None
    drawn: tuple[str, ...] = ()
    slice: Slice | None = None


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """A data set as its publisher laid it out.

    Args:
        name: what the column `dataset` says.
        pictures: in the order of the source.
        attributes: columns for subgroups, in order.
        targets: columns that tasks can ask for, in order, without `boxes`.
        has_boxes: whether there is a column `boxes`.
        sizes: of the pictures' files, in bytes by path.
        notes: what somebody who trains on this should know, one line each.
        dropped: names by why they were left out.
        missing: files that a table or another file speaks of and that are not there, or are empty.
        may_be_damaged: the publisher's own files are known to be broken here and there, so all have to be decoded.
        box_mend: what to do when boxes or points do not fit their images.
        points: pairs of targets, x and y in pixels of the stored image.
    """

    name: str
    pictures: tuple[Picture, ...]
    attributes: tuple[str, ...]
    targets: tuple[str, ...]
    has_boxes: bool = False
    sizes: dict[str, int] = {}
    notes: tuple[str, ...] = ()
    dropped: dict[str, tuple[str, ...]] = {}
    missing: tuple[str, ...] = ()
    may_be_damaged: bool = False
    box_mend: str = ""
    points: tuple[tuple[str, str], ...] = ()

    @property
    def mask_columns(self) -> tuple[str, ...]:
        """The targets that are masks."""
        return tuple(name for name in self.targets if name.startswith("mask_"))


class Draft:
    """A layout while it is read: pictures are added, others left out with a reason, absent files written down."""

    def __init__(self, root: Path, *folders: Path) -> None:
        self.root = root
        self.stored: dict[str, int] = {}  # size in bytes by path
        for folder in folders:
            self.stored |= list_files(root, folder)
        self.pictures: list[Picture] = []
        self.notes: list[str] = []
        self.dropped: dict[str, list[str]] = {}
        self.missing: dict[str, None] = {}

    def path(self, base: Path, *parts: str) -> str:
        """Write a path as the manifest does."""
        return base.joinpath(*parts).relative_to(self.root).as_posix()

    def there(self, file: str) -> bool:
        """Say whether a file is there and not empty; one that is not is written down as missing."""
        size = self.stored.get(file)
        if not size:
            self.missing[file if size is None else f"{file} (0 bytes)"] = None
        return bool(size)

    def add(self, picture: Picture) -> None:
        """Add a picture, or write its file down as missing."""
        if self.there(picture.file):
            self.pictures.append(picture)

    def drop(self, why: str, name: str) -> None:
        """Leave something out."""
        self.dropped.setdefault(why, []).append(name)

    def finish(
        self,
        name: str,
        *,
        attributes: Sequence[str],
        targets: Sequence[str],
        has_boxes: bool = False,
        may_be_damaged: bool = False,
        box_mend: str = "",
        points: Sequence[tuple[str, str]] = (),
    ) -> Layout:
        """Close the draft."""
        return Layout(
            name=name,
            pictures=tuple(self.pictures),
            attributes=tuple(attributes),
            targets=tuple(targets),
            has_boxes=has_boxes,
            # What is still in an archive has no file yet.
            sizes={picture.file: self.stored[picture.file] for picture in self.pictures if picture.slice is None},
            notes=tuple(self.notes),
            dropped={why: tuple(names) for why, names in self.dropped.items()},
            missing=tuple(self.missing),
            may_be_damaged=may_be_damaged,
            box_mend=box_mend,
            points=tuple(points),
        )


def with_pictures(
    layout: Layout, pictures: Iterable[Picture], dropped: Mapping[str, Sequence[str]] | None = None, *notes: str
) -> Layout:
    """The layout with other pictures, further names left out and further notes."""
    more = {why: (*layout.dropped.get(why, ()), *names) for why, names in (dropped or {}).items() if names}
    return msgspec.structs.replace(
        layout, pictures=tuple(pictures), dropped=layout.dropped | more, notes=(*layout.notes, *notes)
    )


def named(names: Sequence[str]) -> str:
    """Name the first ones and count the rest."""
    more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
