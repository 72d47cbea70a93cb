"""Cuts the power of a real process at every call that changes the disk; run as a process of its own by a test.

    python cutting.py BASE BUNDLE KEY WORK STEP

In BASE version 1 lives. For n = 1, 2, ... (every STEP-th) a child installs BUNDLE (version 2) into a copy, switches to
it and marks it good, and dies without a word at its n-th call; at a write, half of the data are written. Another child
then powers on as a device would, and tells which version answers. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # noqa: F401 - once, for all children

from foveola.runtime.predict import Predictor
from foveola.runtime.slots.active import mark_good
from foveola.runtime.slots.install import activate, install
from foveola.runtime.slots.power_on import power_on

NAMES = ("open", "write", "fsync", "replace", "unlink", "mkdir")
CUT, VERSION = 77, 10  # exit codes; VERSION is added to the version that answers


class Hooks:
    """Counts calls, dies at one of them, and sees writes that go past them."""

    def __init__(self, root: Path, cut_at: int) -> None:
        self.root, self.cut_at, self.count, self.inside = str(root), cut_at, 0, False
        self.past: list[str] = []

    def arm(self) -> None:
        for name in NAMES:
            setattr(os, name, self._hooked(name, getattr(os, name)))
        sys.addaudithook(self._watch)

    def _hooked(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def hooked(*args: Any, **named: Any) -> Any:
            if name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return call(*args, **named)
            self.count += 1
            if self.count == self.cut_at:
                if name == "write":
                    call(args[0], bytes(args[1])[: len(args[1]) // 2])
                os._exit(CUT)
            self.inside = True
            try:
                return call(*args, **named)
            finally:
                self.inside = False

        return hooked

    def _watch(self, event: str, args: tuple[Any, ...]) -> None:
        changing = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
        if event == "open" and isinstance(args[2], int):
            changing = bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        if changing and not self.inside and str(args[0]).startswith(self.root):
            self.past.append(f"{event} {args[0]}")


def child(work: Callable[[], int]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(work())
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def update(root: Path, bundle: Path, key: Path, hooks: Hooks) -> int:
    hooks.arm()
    install(bundle, root, key=key)
    activate(root, key=key)
    power_on(root, key=key)
    mark_good(root)
    if hooks.past:
        print(f"writes that no cut has reached: {hooks.past}", file=sys.stderr, flush=True)
        return 2
    return 0


def answer(root: Path, key: Path) -> int:
    """What a device does after the power is back: it answers, and takes the update anew."""
    predictor = Predictor(power_on(root, key=key))
    spec = predictor.manifest.input
    predictor.run(np.zeros((1, spec.channels, spec.height, spec.width), np.float32))
    return VERSION + int(predictor.manifest.version)


def again(root: Path, bundle: Path, key: Path) -> int:
    opened = power_on(root, key=key)
    if opened.manifest.version != "2":
        install(bundle, root, key=key)
        activate(root, key=key)
        opened = power_on(root, key=key)
    mark_good(root)
    return VERSION + int(opened.manifest.version)


def main(base: Path, bundle: Path, key: Path, work: Path, step: int) -> None:
    versions: dict[int, list[int]] = {}
    cut_at = 1
    while True:
        root = work / str(cut_at)
        shutil.copytree(base, root)
        hooks = Hooks(root, cut_at)
        code = child(lambda root=root, hooks=hooks: update(root, bundle, key, hooks))  # type: ignore[misc]
        if code != CUT:
            break
        versions[cut_at] = [child(lambda: answer(root, key)), child(lambda: again(root, bundle, key))]  # noqa: B023
        shutil.rmtree(root)
        cut_at += step
    print(json.dumps({"last": code, "versions": versions}))


if __name__ == "__main__":
    base, bundle, key, work = map(Path, sys.argv[1:5])
    main(base, bundle, key, work, int(sys.argv[5]))
