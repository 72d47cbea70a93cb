"""Which task suffers where one part of a network alone is quantised: its slack on validation images, part by part.

The slack of a task is 1 where nothing was lost and 0 where the whole margin of its primary metric is gone
(`variants.slack`). The reference is the float graph, so that only quantisation is seen.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...export.calibrate import Range
from ...export.quantize import calibrate_graph, write_int8
from ...runtime.engine import open_session
from ...runtime.manifest import OnnxRuntimeOptions
from ..data.arrays import Arrays
from ..models.network import Network
from ..variants.slack import ask, slacks

Progress = Callable[[float, float, str], None]


def part_slacks(
    float_graph: Path,
    parts: Mapping[str, Sequence[str]],
    network: Network,
    calibration: Sequence[NDArray[np.float32]],
    val: Arrays,
    *,
    ranges: Mapping[str, Range] | None = None,
    limit_s: float,
    progress: Progress,
) -> dict[str, dict[str, float]]:
    """Slack of each task where one part alone is quantised.

    Args:
        float_graph: of the network.
        parts: layers of each part that are quantised in what ships, by their nodes.
        network: gives tasks and margins.
        calibration: images (1, C, H, W) that set the ranges.
        val: validation images with their targets.
        ranges: those that are known already.
        limit_s: no part is begun after so many seconds.
        progress: called with (done, total, text).

    Returns:
        By part, then by task; parts for which there was no time are left out.
    """
    begin, found = time.monotonic(), {}
    every = [node for nodes in parts.values() for node in nodes]
    with tempfile.TemporaryDirectory() as scratch:
        reference = ask(_opened(float_graph), network, val.images)
        for number, (part, nodes) in enumerate(parts.items()):
            if time.monotonic() - begin > limit_s:
                break
            progress(number, len(parts), f"quantising {part} alone")
            graph = Path(scratch) / "part.onnx"
            others = [node for node in every if node not in nodes]
            calibrated = calibrate_graph(float_graph, calibration, float_layers=others, min_images=1, ranges=ranges)
            write_int8(calibrated, graph)
            found[part] = slacks(network, reference, ask(_opened(graph), network, val.images), val)
    return found


def _opened(graph: Path) -> Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    options = OnnxRuntimeOptions(threads=1, arithmetic="float32")
    return open_session(options, {options.graph: graph.read_bytes()}).run
