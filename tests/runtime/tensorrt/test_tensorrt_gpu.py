"""The real thing: an engine built by TensorRT on an NVIDIA GPU, and held against the typed graph on ONNX Runtime."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from foveola.runtime.bundle import Bundle
from foveola.runtime.errors import FoveolaError
from foveola.runtime.predict import Predictor
from foveola.runtime.tensorrt.build import build_engine


def why_not() -> str:
    """Say what is missing here; empty where nothing is."""
    if find_spec("tensorrt") is None:
        return "TensorRT is not installed"
    from foveola.runtime.tensorrt.cuda import Gpu

    try:
        Gpu()
    except FoveolaError as fault:
        return str(fault)
    return ""


@pytest.mark.gpu
def test_a_real_engine_is_built_found_again_and_answers_as_its_graph(bundle: Bundle, tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)

    built = build_engine(bundle, engines=tmp_path)
    again = build_engine(bundle, engines=tmp_path)

    assert (built.state, again.state) == ("built", "found")
    assert built.test.ok
    assert again.test.ok
    assert Predictor(bundle, "tensorrt", tmp_path).engine == "tensorrt"
