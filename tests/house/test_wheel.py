"""The wheel holds the package and nothing else, and every subpackage of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("devices", "export", "recipes", "runtime", "toolkit")
LEFT_BEHIND = shutil.ignore_patterns(".venv", ".git", ".link", "runs", "build", "*.egg-info", ".*_cache", "__pycache__")


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, so that the build leaves nothing in the checkout and takes nothing from an earlier one.
    shutil.copytree(ROOT, folder / "source", ignore=LEFT_BEHIND, symlinks=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(folder / "source"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_holds_the_package_only(wheel_names: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"foveola"}


def test_every_file_of_every_folder_is_in_the_wheel(wheel_names: set[str]) -> None:
    wanted = {
        f"foveola/{path.relative_to(ROOT).as_posix()}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".j2", ".cpp", ".hpp", ".h", ".txt") and "__pycache__" not in path.parts
    }

    assert wanted - wheel_names == set()


def test_the_wheel_says_that_it_is_typed_and_licensed(wheel_names: set[str]) -> None:
    assert "foveola/py.typed" in wheel_names
    assert any(name.endswith("LICENSE") for name in wheel_names)
