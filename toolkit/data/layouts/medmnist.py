"""MedMNIST: small pictures with labels in one archive of arrays a set, `NAME.npz` or `NAME_64.npz`, `_128`, `_224`.

- Six arrays: images and labels of `train`, `val` and `test`. The official split is kept.
- Pictures become PNG files in `foveola/images/NAME`; nothing is unpickled (see `unpack`).
- What a label means is said in words (`medmnist_sets`). The three sets of organs get organ group, side and region as
  columns of their own: mirroring such a picture changes its side.
- **The 0 of BreastMNIST is malignant**: the column `malignant` has it as 1.
- The MD5 of a file is held against that of the published one; another one is told and not refused. A set that is not
  known keeps its numbers, as `label`.
- No patients are named. Files of one set in two sizes are the same pictures: one is imported (`file`).
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ....runtime.errors import FoveolaError, UsageError
from ..faults import did_you_mean
from .files import find_base
from .layout import Draft, Layout, Picture, Slice
from .medmnist_sets import FORMER, ORGAN_COLUMNS, SETS, MedSet, organ_cells
from .unpack import FOLDER, names_in, read_array, read_shape

MARKS = ("*.npz",)
PARTS = ("train", "val", "test")
NAME = re.compile(r"(?P<name>.+?)(?:_(?P<side>28|64|128|224))?")
UNKNOWN = MedSet(columns=("label",), md5={})

Cells = dict[str, str]


def read_medmnist(root: Path, *, file: str = "") -> Layout:
    """Read the sets of MedMNIST that lie in a folder.

    Args:
        root: its folder.
        file: the name of one of several archives; all of them unless given.

    Raises:
        FoveolaError: no such file, other arrays, volumes, pickled objects, labels that are none of the classes.
        UsageError: one set in two sizes.
    """
    base = find_base(root, MARKS)
    draft = Draft(root)
    archives = sorted(path for path in base.glob("*.npz") if not path.name.startswith("."))
    if file:
        archives = [path for path in archives if path.name == file]
        if not archives:
            known = [path.name for path in sorted(base.glob("*.npz"))]
            raise FoveolaError(str(base / file), "no such file", did_you_mean(file, known) or f"there are {known}")
    _refuse_twice(base, archives)
    columns: dict[str, None] = {}
    for archive in archives:
        name, side = _name(archive)
        one = SETS.get(name, UNKNOWN)
        if name not in SETS:
            mend = did_you_mean(name, SETS)
            draft.notes.append(
                f"{archive.name} is none of the sets that are known: labels stay numbers{mend and '; ' + mend}"
            )
        else:
            _tell_md5(draft, archive, one.md5.get(side, ""))
        columns |= dict.fromkeys(_add(draft, archive, name, one))
    draft.notes.append("no patients are named: every image is taken for its own")
    return draft.finish("medmnist", attributes=("set", "plane"), targets=tuple(columns))


def _name(archive: Path) -> tuple[str, int]:
    """Name of the set, and side in pixels."""
    stem = archive.stem.lower()
    match = NAME.fullmatch(FORMER.get(stem, stem))
    assert match is not None, "every name matches"
    return FORMER.get(match["name"], match["name"]), int(match["side"] or 28)


def _refuse_twice(base: Path, archives: list[Path]) -> None:
    seen: dict[str, Path] = {}
    for archive in archives:
        first = seen.setdefault(_name(archive)[0], archive)
        if first != archive:
            fault = f"{first.name} and {archive.name} are the same pictures in two sizes"
            raise UsageError(str(base), fault, f"choose one, such as --file {archive.name}")


def _tell_md5(draft: Draft, archive: Path, published: str) -> None:
    try:
        with archive.open("rb") as stream:
            found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise FoveolaError(str(archive), f"cannot be read: {error.strerror}", "copy the file again") from None
    if found != published:
        draft.notes.append(f"WARNING: {archive.name} is not the published file: its MD5 is {found}, not {published}")


def _add(draft: Draft, archive: Path, name: str, one: MedSet) -> tuple[str, ...]:
    """Add the pictures of one archive; gives their columns."""
    there, wanted = names_in(archive), [f"{part}_images" for part in PARTS]
    if not set(wanted) & set(there):
        fault = f"another layout: holds {', '.join(there[:6]) or 'nothing'}"
        raise FoveolaError(str(archive), fault, f"expected are {', '.join(wanted)} and as many labels")
    columns = one.columns
    for part, key in zip(PARTS, wanted, strict=True):
        if key not in there:
            draft.notes.append(f"{archive.name} has no {key}")
            continue
        shape = read_shape(archive, key)
        _refuse_volumes(archive, key, shape)
        if f"{part}_labels" not in there:
            draft.drop(f"images without labels ({part})", f"{shape[0]} of {archive.name}")
            continue
        labels = read_array(archive, f"{part}_labels").reshape(_shape(archive, part, one))
        if len(labels) != shape[0]:
            fault = f"{shape[0]} images, but {len(labels)} labels in {part}"
            raise FoveolaError(str(archive), fault, "copy the file again")
        columns = one.columns if one is not UNKNOWN or labels.shape[1] == 1 else _numbered(labels.shape[1])
        rows = _cells(labels, one, columns, f"{archive}: {part}_labels")
        _add_part(draft, archive, FOLDER / name / part, rows, {"set": name, "plane": one.plane})
    return columns


def _add_part(draft: Draft, archive: Path, begin: PurePosixPath, rows: list[Cells], more: Cells) -> None:
    """Add the pictures of one part, whose files begin with `begin`."""
    inside, part = archive.relative_to(draft.root).as_posix(), begin.name
    digits = len(str(len(rows) - 1))
    for index, cells in enumerate(rows):
        place = Slice(archive=inside, key=f"{part}_images", index=index)
        file = f"{begin.as_posix()}_{index:0{digits}d}.png"
        draft.pictures.append(Picture(file=file, patient="", part=part, cells=cells | more, slice=place))


def _shape(archive: Path, part: str, one: MedSet) -> tuple[int, int]:
    """What the labels of a part are to be brought to: a row an image.

    Raises:
        FoveolaError: another number of labels than the set has.
    """
    shape = read_shape(archive, f"{part}_labels")
    width = shape[1] if len(shape) > 1 else 1
    known = 1 if one.classes else len(one.columns)
    if len(shape) > 2 or (one is not UNKNOWN and width != known):
        fault = f"{part}_labels is {' x '.join(map(str, shape))}, expected are {known} an image"
        raise FoveolaError(str(archive), fault, "take the official file")
    return -1, width


def _numbered(width: int) -> tuple[str, ...]:
    return tuple(f"{UNKNOWN.columns[0]}_{index}" for index in range(width))


def _refuse_volumes(archive: Path, key: str, shape: tuple[int, ...]) -> None:
    if len(shape) == 3 or (len(shape) == 4 and shape[3] == 3):
        return
    what = "volumes" if len(shape) == 4 else f"an array of {len(shape)} dimensions"
    fault = f"{key} holds {what} ({' x '.join(map(str, shape))}), not pictures"
    raise FoveolaError(str(archive), fault, "the sets in three dimensions are not read")


def _cells(labels: NDArray[np.int64], one: MedSet, columns: tuple[str, ...], place: str) -> list[Cells]:
    several = labels.shape[1] > 1
    most = 1 if several else len(one.classes) - 1 if one.classes else None
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0 or (most is not None and high > most):
        fault = f"label {low if low < 0 else high} is none of 0 to {high if most is None else most}"
        raise FoveolaError(place, fault, "take the official file")
    if several or not one.classes:
        return [dict(zip(columns, map(str, row), strict=True)) for row in labels.tolist()]
    if columns == ORGAN_COLUMNS:
        return [organ_cells(one.classes[label]) for label in labels[:, 0].tolist()]
    return [{columns[0]: one.classes[label]} for label in labels[:, 0].tolist()]
