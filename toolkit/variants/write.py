"""One form of the network as the members of a bundle: the graph that an engine reads, and nothing else.

The float graph and the portable int8 graph are there already; each form is made of one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from ...export.calibrate import Method, Range, measure_ranges
from ...export.corrections import Corrections
from ...export.features import tap_ir, tap_onnx
from ...export.input_words import take_words
from ...export.nncf_int8 import Slack, nncf_int8
from ...export.onnx_graph import Origins, encode
from ...export.openvino_ir import write_ir
from ...export.placement import LAYERS
from ...export.weight_only import weight_only
from ...runtime.engine import as_input
from ...runtime.errors import FoveolaError
from ...runtime.manifest import InputType, OpenVinoOptions, TensorRtOptions
from ...runtime.tensorrt.plan import RELEASES
from .candidates import Candidate

SHOWN = 16  # images whose values a typed graph must hold; as many as `write_kit` looks at
Images = Callable[[], Sequence[NDArray[np.float32]]]  # calibration inputs (1, C, H, W), read when they are needed


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """What all forms are made of.

    Args:
        float_graph: float32 ONNX graph with a float32 input.
        int8_graph: portable int8 graph; None where the student is not quantised.
        images: the calibration images.
        method: how their ranges follow.
        float_layers: layers that stay float in every int8 graph but NNCF's, by their names in `float_graph`.
        ranges: of the tensors of `float_graph`, where the step's own hold.
        corrections: of biases and roundings, where the step's own hold.
        input_type: of the graphs that ship.
        tensorrt: releases of TensorRT that the device runs, a specifier of PEP 440; empty: any.
        weight_bits: of int8 weights on the device.
        origins: gives the module that each node comes from, for messages; may take a while.
        features: the map of `float_graph` whose mean becomes a second output of every form; empty: none does.
    """

    float_graph: Path
    int8_graph: Path | None
    images: Images
    method: Method = "minmax"
    float_layers: tuple[str, ...] = ()
    ranges: Mapping[str, Range] | None = None
    corrections: Corrections = Corrections()
    input_type: InputType
    tensorrt: str
    weight_bits: Literal[7, 8]
    origins: Callable[[], Origins]
    features: str = ""


def write_variant(candidate: Candidate, sources: Sources, folder: Path, slack: Slack | None = None) -> dict[str, bytes]:
    """Write the files of one form into `folder` and give them as members.

    Args:
        candidate: the form.
        sources: what it is made of.
        folder: an empty folder.
        slack: NNCF puts layers back to float until it is 0 or more; None: as it comes.

    Raises:
        FoveolaError: the engine cannot take the graph.
    """
    if isinstance(candidate.options, TensorRtOptions):
        return _write_kit(candidate, sources, folder)
    portable = candidate.quantiser == "portable"
    source = sources.int8_graph if portable else sources.float_graph
    assert source is not None
    graph = folder / "model.onnx"
    if candidate.quantiser == "weights":
        source = folder / "weights.onnx"
        weight_only(sources.float_graph, source, sources.float_layers)
    if sources.input_type == "uint16":
        take_words(source, graph)
    else:
        graph.write_bytes(source.read_bytes())
    if not isinstance(candidate.options, OpenVinoOptions):
        if candidate.arithmetic == "float16":
            _type_half(graph, sources)
        if sources.features:
            tap_onnx(graph, sources.features)
        return {candidate.options.graph: graph.read_bytes()}
    xml = folder / candidate.options.graph
    if candidate.quantiser == "nncf":
        kind = sources.input_type
        images = [as_input(image, kind) for image in sources.images()]
        nncf_int8(graph, xml, images, weight_bits=sources.weight_bits, slack=slack)
        if sources.features:
            tap_ir(xml, sources.features)
    else:
        if sources.features:
            tap_onnx(graph, sources.features)
        write_ir(graph, xml, half=candidate.arithmetic == "float16")
    return {name: (folder / name).read_bytes() for name in candidate.options.files}


def _type_half(graph: Path, sources: Sources) -> None:
    """Type a float graph for ONNX Runtime, whose kernels follow the graph's types: float16 where that is safe."""
    from ...export.tensorrt.typed import type_float16

    if sources.input_type != "float32":
        raise FoveolaError("onnxruntime float16", "is written for a float32 input", "take input_type float32")
    model = onnx.load(graph)
    tensors = [node.output[0] for node in model.graph.node if node.op_type in LAYERS]
    type_float16(model, measure_ranges(model, tensors, sources.images()[:SHOWN], "minmax")[0])
    graph.write_bytes(encode(model))


def _write_kit(candidate: Candidate, sources: Sources, folder: Path) -> dict[str, bytes]:
    """The build kit: a typed graph and the plan of the build; the engine is built on the device."""
    from ...export.tensorrt.kit import write_kit

    if sources.input_type != "float32":
        fault = "TensorRT knows no 16-bit integers"
        raise FoveolaError("tensorrt", fault, "take input_type float32, or leave the engine out")
    return write_kit(
        sources.float_graph,
        folder,
        arithmetic=candidate.arithmetic,
        images=sources.images(),
        method=sources.method,
        float_layers=sources.float_layers,
        known_ranges=sources.ranges,
        corrections=sources.corrections,
        releases=sources.tensorrt or RELEASES,
        origins=sources.origins(),
        features=sources.features,
    )
