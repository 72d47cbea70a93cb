"""Which files lie below a folder, and where in it a layout begins.

Archives are unpacked in many ways: into ROOT itself, or with the archive's own folder, or two of them, in between. So a
layout is looked for in ROOT and two levels below it. Files that systems leave behind (`._x`, `.DS_Store`,
`__MACOSX`) are never seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from ....runtime.errors import FoveolaError, UsageError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
DEPTH = 2  # levels below ROOT at which a layout may begin
MOST_FOLDERS = 200  # of one level that are looked into: a layout does not begin in one of thousands of patients


def list_files(root: Path, folder: Path) -> dict[str, int]:
    """Files below a folder: sizes in bytes by path relative to `root`, sorted; none when there is no such folder.

    Raises:
        FoveolaError: a folder that may not be read.
    """
    found: dict[str, int] = {}
    begin = folder.relative_to(root).as_posix()
    try:
        if folder.is_dir():
            _walk(str(folder), "" if begin == "." else f"{begin}/", found)
    except OSError as error:
        place = error.filename or str(folder)
        raise FoveolaError(place, f"cannot be read: {error.strerror}", "give yourself the right to read it") from None
    return dict(sorted(found.items()))


def _walk(folder: str, prefix: str, found: dict[str, int]) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if _left_behind(entry.name):
                continue
            if entry.is_dir():
                _walk(entry.path, f"{prefix}{entry.name}/", found)
            elif entry.is_file():
                found[prefix + entry.name] = entry.stat().st_size


def images_in(stored: dict[str, int], folder: str) -> list[str]:
    """The image files below a folder, in order."""
    begin = "" if folder in ("", ".") else f"{folder}/"
    return [path for path in stored if path.startswith(begin) and path.lower().endswith(IMAGES)]


def by_name(stored: Iterable[str]) -> dict[str, str]:
    """Paths by the file's name alone; of several with one name the first."""
    names: dict[str, str] = {}
    for path in stored:
        names.setdefault(PurePosixPath(path).name, path)
    return names


def by_stem(stored: Iterable[str]) -> dict[str, str]:
    """Paths by the file's name in lower case without its suffix: copies differ in `.JPG`, `.jpg`, `.png`."""
    stems: dict[str, str] = {}
    for path in stored:
        stems.setdefault(stem(path).lower(), path)
    return stems


def folders_of(path: str) -> tuple[str, ...]:
    """The names of the folders of a file, in lower case."""
    return tuple(part.lower() for part in PurePosixPath(path).parts[:-1])


def stem(path: str) -> str:
    """The file's name without its last suffix."""
    return PurePosixPath(path).stem


def find_base(root: Path, marks: Sequence[str]) -> Path:
    """Find the folder in which a layout begins: ROOT or one up to two levels below.

    Args:
        root: as the user gave it.
        marks: paths that must be there; `a|b` is satisfied by either, `*` stands for anything, `!a` must not be there.

    Raises:
        FoveolaError: there is no such folder, or it holds no such layout.
        UsageError: there are several.
    """
    if not root.is_dir():
        raise FoveolaError(str(root), "no such folder", "give the folder into which the data set was unpacked")
    found = look_for(root, marks)
    if not found:
        raise FoveolaError(str(root), "another layout", f"looked for {describe(marks)} here and up to two levels below")
    if len(found) > 1:
        names = ", ".join(str(path) for path in found[:3])
        raise UsageError(
            str(root), f"holds the layout {len(found)} times: {names}", "give one of these folders as ROOT"
        )
    return found[0]


def look_for(root: Path, marks: Sequence[str]) -> list[Path]:
    """The nearest folders that bear the marks; empty where there are none."""
    level = [root]
    for depth in range(DEPTH + 1):
        found = [folder for folder in level if all(_bears(folder, mark) for mark in marks)]
        if found or depth == DEPTH:
            return found
        level = [child for folder in level for child in _folders(folder)]
    return []


def describe(marks: Sequence[str]) -> str:
    """Write marks as a reader wants them."""
    wanted = [" or ".join(mark.split("|")) for mark in marks if not mark.startswith("!")]
    unwanted = [f"no {mark[1:]}" for mark in marks if mark.startswith("!")]
    return ", ".join((*wanted, *unwanted))


def _bears(folder: Path, mark: str) -> bool:
    if mark.startswith("!"):
        return not _bears(folder, mark[1:])
    return any(
        next(folder.glob(path), None) is not None if "*" in path else (folder / path).exists()
        for path in mark.split("|")
    )


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not _left_behind(entry.name) and entry.is_dir())
    except PermissionError:
        return []
    return [folder / name for name in names[:MOST_FOLDERS]]


def _left_behind(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
