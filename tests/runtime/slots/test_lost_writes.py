"""A model disk that forgets what was not flushed: after a power cut at any instant the device still has its bundle.

The model is less kind than any journalling file system: of a file that was not flushed, nothing, half or all may be
there; of the names that were given and taken in a folder that was not flushed, any first part may be there, in each
folder by itself.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from foveola.runtime.bundle import open_bundle
from foveola.runtime.errors import FoveolaError
from foveola.runtime.slots.active import active_bundle, fail_trial, mark_good, start_trial
from foveola.runtime.slots.install import activate, install, rollback
from foveola.runtime.slots.state import bundle_path, read_state

Image = dict[str, bytes]  # what is on the disk after a power cut: content by path


class Disk:
    """Follows a folder's changes and tells what a power cut may leave of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.live: list[bytes] = []  # by inode
        self.kept: list[bytes] = []
        self.folders: dict[Path, dict[str, int]] = {root: {}}  # flushed names
        self.pending: dict[Path, list[tuple[str, str, int]]] = {root: []}
        self.handles: dict[int, tuple[Path, int]] = {}
        self.images: dict[frozenset[tuple[str, bytes]], None] = {}
        for path in root.rglob("*"):
            if path.is_dir():
                self.folders.setdefault(path, {})
                self.pending.setdefault(path, [])
            else:
                self.folders.setdefault(path.parent, {})[path.name] = self._inode(path.read_bytes())
                self.pending.setdefault(path.parent, [])

    def _inode(self, content: bytes) -> int:
        self.live.append(content)
        self.kept.append(content)
        return len(self.live) - 1

    def names(self, folder: Path, steps: int) -> dict[str, int]:
        found = dict(self.folders[folder])
        for change, name, inode in self.pending[folder][:steps]:
            if change == "give":
                found[name] = inode
            else:
                found.pop(name, None)
        return found

    def crash(self) -> Iterator[Image]:
        """Everything that a power cut may leave now."""
        folders = sorted(self.folders)
        for steps in itertools.product(*(range(len(self.pending[folder]) + 1) for folder in folders)):
            there = {
                str((folder / name).relative_to(self.root)): inode
                for folder, count in zip(folders, steps, strict=True)
                for name, inode in self.names(folder, count).items()
            }
            dirty = [inode for inode in set(there.values()) if self.live[inode] != self.kept[inode]]
            versions = [{self.kept[i], self.live[i], self.live[i][: len(self.live[i]) // 2]} for i in dirty]
            for contents in itertools.product(*versions):
                chosen = dict(zip(dirty, contents, strict=True))
                yield {path: chosen.get(inode, self.kept[inode]) for path, inode in there.items()}

    def note(self) -> None:
        for image in self.crash():
            self.images[frozenset((name, data) for name, data in image.items() if name != "lock")] = None

    def follow(self, patch: pytest.MonkeyPatch) -> None:
        calls: dict[str, Callable[..., Any]] = {
            name: getattr(os, name) for name in ("open", "write", "fsync", "replace", "unlink", "mkdir")
        }

        def opened(path: str | Path, flags: int, mode: int = 0o777) -> int:
            new, handle = not Path(path).exists(), calls["open"](path, flags, mode)
            where = Path(path)
            self.handles.pop(handle, None)
            if where == self.root or self.root in where.parents:
                inode = -1
                if not where.is_dir():
                    known = self.names(where.parent, len(self.pending[where.parent]))
                    inode = self._inode(b"") if new else known[where.name]
                    if new:
                        self.pending[where.parent].append(("give", where.name, inode))
                self.handles[handle] = (where, inode)
                self.note()
            return int(handle)

        def write(handle: int, data: Any) -> int:
            count = int(calls["write"](handle, data))
            if handle in self.handles:
                self.live[self.handles[handle][1]] += bytes(data)[:count]
                self.note()
            return count

        def fsync(handle: int) -> None:
            calls["fsync"](handle)
            where, inode = self.handles.get(handle, (Path(), -1))
            if inode >= 0:
                self.kept[inode] = self.live[inode]
            elif where in self.pending:
                self.folders[where] = self.names(where, len(self.pending[where]))
                self.pending[where] = []
            self.note()

        def replace(source: Path, target: Path) -> None:
            calls["replace"](source, target)
            inode = self.names(source.parent, len(self.pending[source.parent]))[source.name]
            # A rename is one step: no power cut sees both names gone.
            self.pending[target.parent] += [("give", target.name, inode), ("take", source.name, -1)]
            self.note()

        def unlink(path: Path) -> None:
            calls["unlink"](path)
            self.pending[path.parent].append(("take", path.name, -1))

        def mkdir(path: Path, mode: int = 0o777) -> None:
            calls["mkdir"](path, mode)
            self.folders[path], self.pending[path] = {}, []

        for name, hook in {
            "open": opened, "write": write, "fsync": fsync, "replace": replace, "unlink": unlink, "mkdir": mkdir,
        }.items():  # fmt: skip
            patch.setattr(os, name, hook)


def live_a_life(root: Path, two: Path, three: Path, key: Path) -> None:
    """Every change there is: 1 -> 2, which lives; back and forth; 3, which is tried and fails."""
    install(two, root, key=key)
    activate(root, key=key)
    start_trial(root)
    mark_good(root)
    rollback(root, key=key)
    activate(root, key=key)
    install(three, root, key=key)
    activate(root, key=key)
    start_trial(root)
    fail_trial(root, "it does not work here")


def put(image: frozenset[tuple[str, bytes]], folder: Path) -> Path:
    for name, data in image:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def fault_of(root: Path, key: Path) -> str:
    """What is wrong with a device after a power cut; empty where nothing is."""
    try:
        state = read_state(root)
        active = open_bundle(active_bundle(root), key=key)
        for name in ("a", "b"):
            slot = state.slot(name)
            if slot is not None and open_bundle(bundle_path(root, name), key=key).digest != slot.digest:
                return f"slot {name} is another bundle than on record"
    except FoveolaError as error:
        return str(error)
    slot = state.slot(state.active)
    return "" if slot is not None and slot.digest == active.digest else "the active bundle is not the one on record"


def images_of_a_life(
    root: Path, release: Callable[..., Path], key: Path, monkeypatch: pytest.MonkeyPatch
) -> list[frozenset[tuple[str, bytes]]]:
    two, three, disk = release("2"), release("3"), Disk(root)
    with monkeypatch.context() as patch:
        disk.follow(patch)
        live_a_life(root, two, three, key)
    return list(disk.images)


def test_a_power_cut_that_loses_whatever_was_not_flushed_leaves_the_device_its_bundle(
    root: Path, release: Callable[..., Path], key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_of_a_life(root, release, key, monkeypatch)

    assert len(images) > 50
    faults = [fault_of(put(image, tmp_path / "cut" / str(i)), key) for i, image in enumerate(images)]
    assert not list(filter(None, faults))


@pytest.mark.parametrize("forgotten", ["file", "folder"])
def test_the_model_catches_a_flush_that_is_forgotten(
    forgotten: str,
    root: Path,
    release: Callable[..., Path],
    key: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    two, disk = release("2"), Disk(root)
    with monkeypatch.context() as patch:
        disk.follow(patch)
        flush = os.fsync

        def forgetful(handle: int) -> None:
            if (disk.handles[handle][1] < 0) != (forgotten == "folder"):
                flush(handle)

        patch.setattr(os, "fsync", forgetful)
        install(two, root, key=key)
        activate(root, key=key)

    faults = [fault_of(put(image, tmp_path / "cut" / str(i)), key) for i, image in enumerate(disk.images)]
    assert list(filter(None, faults))
