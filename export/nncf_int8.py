"""NNCF's own int8 of a graph, with its default settings: what an OpenVINO user would do today.

The benchmark holds the student against it. Calibration uses the images given, and telemetry is off; all else is as NNCF
comes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import MissingPartError
from ..runtime.offline import forbid_telemetry
from .onnx_graph import INPUT, quiet
from .openvino_ir import read_model, save_ir


def nncf_int8(source: Path, xml: Path, images: Sequence[NDArray[np.float32]]) -> None:
    """Quantise a float graph with NNCF on OpenVINO and write it as IR.

    Args:
        source: float32 ONNX graph as `export_onnx` writes it.
        xml: file to write; its `.bin` comes beside it.
        images: calibration inputs, float32 (1, C, H, W); all of them are used (NNCF's own default is at most 300).

    Raises:
        MissingPartError: NNCF is not installed.
    """
    nncf = _import_nncf()
    model = read_model(source)
    with quiet():
        dataset = nncf.Dataset(list(images), lambda image: {INPUT: image})
        quantised = nncf.quantize(model, dataset, subset_size=len(images))
    save_ir(quantised, xml)


def _import_nncf() -> Any:
    forbid_telemetry()
    try:
        with quiet():
            import nncf
    except ImportError:
        raise MissingPartError("nncf", "is not installed", "pip install 'foveola[toolkit]'") from None
    nncf.set_log_level(logging.ERROR)
    return nncf
