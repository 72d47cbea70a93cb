"""The device's own install: the wheel with its base dependencies in a fresh environment, then one engine more.

Slowest test of the runtime (it installs packages from the configured index); skipped, with the reason, where there is
no index to be reached.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("runtime", "devices", "export", "recipes", "toolkit")
HEAVY = ("torch", "click", "onnx", "scipy", "yaml", "nncf", "rich", "matplotlib")
UNREACHABLE = ("Temporary failure in name resolution", "Network is unreachable", "Connection refused", "NewConnection")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "FOVEOLA_KEY")
    }
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )


def pip(python: Path | str, *arguments: str, cwd: Path) -> None:
    ended = run(python, "-m", "pip", "-q", "--disable-pip-version-check", *arguments, cwd=cwd)
    if ended.returncode and any(word in ended.stderr for word in UNREACHABLE):
        pytest.skip(f"no package index can be reached: {ended.stderr.strip().splitlines()[-1]}")
    assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for part in PARTS:
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "-w", str(target), str(source), cwd=target)
    (built,) = target.glob("foveola-*.whl")
    return built


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """Python of an environment that holds the base install and nothing else."""
    folder = tmp_path_factory.mktemp("device")
    venv.create(folder / "venv", with_pip=True, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    pip(python, "install", str(wheel), cwd=folder)
    return python


def test_the_wheel_holds_the_runtime_and_its_type_mark(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert {f"foveola/runtime/{path.name}" for path in (ROOT / "runtime").glob("*.py")} <= set(names)
    assert "foveola/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"foveola", wheel.name.split("-py3")[0] + ".dist-info"}


def test_the_base_install_predicts_and_an_engine_can_be_added(
    device: Path, wheel: Path, tiny_path: Path, tiny_image: bytes, tmp_path: Path
) -> None:
    bundle, picture = tmp_path / "tiny.foveola", tmp_path / "chest.png"
    shutil.copy(tiny_path, bundle)
    picture.write_bytes(tiny_image)
    key = tiny_path.with_suffix(".pub")

    def predict(engine: str) -> subprocess.CompletedProcess[str]:
        words = ("predict", bundle, picture, "--engine", engine, "--key", key, "--json")
        return run(device, "-I", "-W", "error", "-m", "foveola.runtime", *words, cwd=tmp_path)

    look = f"import importlib.util as u; print([m for m in {HEAVY!r} if u.find_spec(m)])"
    assert run(device, "-I", "-c", look, cwd=tmp_path).stdout.strip() == "[]"
    first = predict("onnxruntime")
    assert first.returncode == 0, first.stderr
    missing = predict("openvino")
    assert (missing.returncode, missing.stdout) == (4, "")
    assert missing.stderr == "openvino: is not installed; pip install 'foveola[openvino]'\n"

    pip(device, "install", f"{wheel}[openvino]", cwd=tmp_path)

    second = predict("openvino")
    assert second.returncode == 0, second.stderr
    assert run(device, "-I", "-c", look, cwd=tmp_path).stdout.strip() == "[]"
    here, there = (json.loads(ended.stdout)["images"][0]["prediction"] for ended in (first, second))
    for one, other in zip(here["findings"], there["findings"], strict=True):
        assert one["label"] == other["label"]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)
