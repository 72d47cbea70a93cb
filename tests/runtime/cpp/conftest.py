"""The C++ reader, built once for its sources and compiler, and the files that it is asked about."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import openvino
import pytest

from foveola.runtime.lock import locked

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ROOT / "runtime" / "cpp"
TOOLS = ("cmake", "c++", "pkg-config")
LIBRARIES = ("libcrypto", "libpng", "libjpeg", "nlohmann_json")

Ask = Callable[..., "subprocess.CompletedProcess[str]"]


def _build(folder: Path, *options: str) -> Path:
    """Build once for equal sources: the cache outlives a session, and is made anew when a source changes."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if not absent:
        here = [subprocess.run(["pkg-config", "--exists", name], check=False).returncode for name in LIBRARIES]
        absent = [name for name, code in zip(LIBRARIES, here, strict=True) if code]
    if absent:
        pytest.skip(f"to build the C++ reader there is no {', '.join(absent)}")
    digest = hashlib.sha256(" ".join((*options, sys.prefix, openvino.__version__)).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.read_bytes())
    target = folder / digest.hexdigest()[:16]
    with locked(folder):  # workers that test side by side share the cache
        if not (target / "built").exists():
            for old in folder.iterdir():
                if old.is_dir():
                    shutil.rmtree(old)
            _run("cmake", "-S", str(SOURCES), "-B", str(target), *options)
            _run("cmake", "--build", str(target), "--parallel", "2")
            (target / "built").touch()
    return target


def _run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]


@pytest.fixture(scope="session")
def built(pytestconfig: pytest.Config) -> Path:
    """Folder with `foveola-cpp`, `foveola-attack` and `libfoveola.so`."""
    cmake = Path(openvino.__file__).parent / "cmake"
    return _build(pytestconfig.cache.mkdir("foveola-cpp"), f"-DOpenVINO_DIR={cmake}")


@pytest.fixture(scope="session")
def sanitised(pytestconfig: pytest.Config) -> Path:
    """Folder with a `foveola-attack` that ends at the first wrong access to memory."""
    return _build(pytestconfig.cache.mkdir("foveola-cpp-sanitised"), "-DFOVEOLA_SANITIZE=ON")


@pytest.fixture(scope="session")
def ask(built: Path) -> Ask:
    """Run `foveola-cpp` with some words."""

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(built / "foveola-cpp"), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    return run
