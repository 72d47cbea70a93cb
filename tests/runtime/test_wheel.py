"""The device's own install: the wheel with its base dependencies in a fresh environment, then one engine more.

Slowest test of the runtime (it installs packages from the configured index); skipped, with the reason, where there is
no index to be reached.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from foveola.tests.environments import ROOT, build_wheel, found_packages, make_environment, pip, run

HEAVY = ("torch", "click", "onnx", "scipy", "yaml", "nncf", "rich", "matplotlib")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    return build_wheel(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """Python of an environment that holds the base install and nothing else."""
    return make_environment(tmp_path_factory.mktemp("device"), str(wheel))


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

    assert found_packages(device, HEAVY, tmp_path) == "[]"
    first = predict("onnxruntime")
    assert first.returncode == 0, first.stderr
    missing = predict("openvino")
    assert (missing.returncode, missing.stdout) == (4, "")
    assert missing.stderr == "openvino: is not installed; pip install 'foveola[openvino]'\n"

    pip(device, "install", f"{wheel}[openvino]", cwd=tmp_path)

    second = predict("openvino")
    assert second.returncode == 0, second.stderr
    assert found_packages(device, HEAVY, tmp_path) == "[]"
    here, there = (json.loads(ended.stdout)["images"][0]["prediction"] for ended in (first, second))
    for one, other in zip(here["findings"], there["findings"], strict=True):
        assert one["label"] == other["label"]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)
