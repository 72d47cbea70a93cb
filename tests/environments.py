"""The wheel in an environment of its own, as its users install it; packages come from the configured index."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("runtime", "devices", "export", "recipes", "toolkit")
UNREACHABLE = ("Temporary failure in name resolution", "Network is unreachable", "Connection refused", "NewConnection")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing of this process's Python in its environment."""
    clean = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "FOVEOLA_KEY")
    }
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )


def pip(python: Path | str, *arguments: str, cwd: Path) -> None:
    """Run pip; where no index can be reached the test is skipped, with the reason."""
    ended = run(python, "-m", "pip", "-q", "--disable-pip-version-check", *arguments, cwd=cwd)
    if ended.returncode and any(word in ended.stderr for word in UNREACHABLE):
        pytest.skip(f"no package index can be reached: {ended.stderr.strip().splitlines()[-1]}")
    assert ended.returncode == 0, ended.stderr


def build_wheel(source: Path, target: Path) -> Path:
    """Build from a copy in `source`, so that nothing is left in the checkout."""
    for part in PARTS:
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "-w", str(target), str(source), cwd=target)
    (built,) = target.glob("foveola-*.whl")
    return built


def make_environment(folder: Path, wheel: str) -> Path:
    """Install a wheel (with extras in brackets) and what it asks for, and nothing else; the environment's Python."""
    venv.create(folder / "venv", with_pip=True, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    pip(python, "install", wheel, cwd=folder)
    return python


def found_packages(python: Path, names: tuple[str, ...], cwd: Path) -> str:
    """Which of these can be imported there, as a printed list."""
    look = f"import importlib.util as u; print([m for m in {names!r} if u.find_spec(m)])"
    return run(python, "-I", "-c", look, cwd=cwd).stdout.strip()
