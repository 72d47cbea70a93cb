"""Importing the runtime costs next to nothing and loads nothing that a device has not got."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import foveola.runtime as face

HEAVY = {"torch", "click", "yaml", "scipy", "pandas", "onnx", "onnxruntime", "openvino", "nncf", "matplotlib", "rich"}
SAY = """
import json, sys, time
import numpy
start = time.perf_counter()
{code}
took = 1e3 * (time.perf_counter() - start)
print(json.dumps({{"modules": sorted({{name.split(".")[0] for name in sys.modules}}), "ms": took}}))
"""


def said(code: str) -> dict[str, Any]:
    ended = subprocess.run([sys.executable, "-c", SAY.format(code=code)], capture_output=True, text=True, check=True)
    result = json.loads(ended.stdout)
    assert isinstance(result, dict)
    return result


@pytest.mark.parametrize(
    "code",
    ["import foveola.runtime", "from foveola.runtime import *", "import foveola.runtime.__main__"],
    ids=["package", "every name", "command line"],
)
def test_importing_loads_no_engine_and_nothing_heavy(code: str) -> None:
    result = said(code)

    assert not HEAVY & set(result["modules"])


def test_the_package_alone_loads_neither_pillow_nor_cryptography() -> None:
    result = min((said("import foveola.runtime") for _ in range(3)), key=lambda one: one["ms"])

    assert not {"PIL", "cryptography", "msgspec"} & set(result["modules"])
    assert result["ms"] < 60  # seen: 1


def test_every_name_of_the_face_is_there() -> None:
    for name in face.__all__:
        assert getattr(face, name).__module__.startswith("foveola.runtime.")
    assert set(face.__all__) <= set(dir(face))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'predictor'"):
        _ = face.predictor
