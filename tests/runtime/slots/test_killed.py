"""A real process dies at every call that changes the disk; the next one finds a bundle that answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to die a hundred times in seconds")
SCRIPT = Path(__file__).with_name("cutting.py")


def cut(root: Path, release: Callable[..., Path], key: Path, work: Path, step: int) -> dict[int, list[int]]:
    command = [sys.executable, str(SCRIPT), str(root), str(release("2")), str(key), str(work), str(step)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["last"] == 0, done.stderr  # no call was left uncounted, and the last run came to its end
    return {int(at): versions for at, versions in result["versions"].items()}


def require_one_working_slot(versions: dict[int, list[int]]) -> None:
    first = [answered for answered, _ in versions.values()]
    assert set(first) == {11, 12}, versions  # version 1 or version 2, never an error
    assert first == sorted(first)  # one switch, at one instant
    assert {after for _, after in versions.values()} == {12}, versions  # and the update goes through afterwards


def test_a_process_killed_at_any_fifth_change_of_the_disk_leaves_one_working_slot(
    root: Path, release: Callable[..., Path], key: Path, tmp_path: Path
) -> None:
    require_one_working_slot(cut(root, release, key, tmp_path / "work", 5))


@pytest.mark.slow
def test_a_process_killed_at_any_change_of_the_disk_leaves_one_working_slot(
    root: Path, release: Callable[..., Path], key: Path, tmp_path: Path
) -> None:
    versions = cut(root, release, key, tmp_path / "work", 1)

    assert len(versions) > 40
    require_one_working_slot(versions)
