"""No engine leaves a number in the home directory, the visible half of reporting home."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from foveola.runtime.offline import SWITCHES

USE = "from foveola.runtime.offline import forbid_telemetry; forbid_telemetry(); import {}"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_imported_after_the_call_writes_nothing_to_the_home(engine: str, tmp_path: Path) -> None:
    if find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    environment = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}

    subprocess.run([sys.executable, "-c", USE.format(engine)], check=True, env=environment, cwd=tmp_path)

    assert list(tmp_path.rglob("*")) == []
