"""The build kit for TensorRT: one ONNX graph with every precision typed, and the plan by which engines are built.

TensorRT itself is not needed here: the graph is checked statically for 10.3 and 11, and the engine is built later, on
the target, by `foveola build-engine`. What the kit answers is computed by ONNX Runtime on the same typed graph
(`reference_options`), which casts float16 to float32 and back (NVIDIA/TensorRT#4355): a reference, not a forecast of
every bit.

    members = write_kit(Path("float.onnx"), folder, arithmetic="float16", images=images)
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from ...runtime.manifest import Arithmetic, OnnxRuntimeOptions, TensorRtOptions
from ...runtime.tensorrt.plan import FORMAT, RELEASES, BuildPlan, PlanTensor, encode_plan
from ..calibrate import Method, Range, measure_ranges
from ..corrections import Corrections
from ..features import tap
from ..onnx_graph import INPUT, encode
from ..quantize import quantize_onnx
from .operators import LINES, Line
from .rules import require_tensorrt
from .typed import DEQUANTISE, type_float16

Image = NDArray[np.float32]
RANGE_IMAGES = 16  # on which is seen whether float16 can hold every value


def write_kit(
    float_graph: Path,
    folder: Path,
    *,
    arithmetic: Arithmetic,
    images: Iterable[Image],
    method: Method = "minmax",
    float_layers: Collection[str] = (),
    known_ranges: Mapping[str, Range] | None = None,
    corrections: Corrections | None = None,
    min_images: int = 1,
    versions: Sequence[Line] = LINES,
    releases: str = RELEASES,
    origins: Mapping[str, str] | None = None,
    features: str = "",
) -> dict[str, bytes]:
    """Write `tensorrt.onnx` and `tensorrt.json` and give them as members of a bundle.

    Args:
        float_graph: float32 graph as `export_onnx` writes it, with a float32 input.
        folder: where the two files go.
        arithmetic: `float32` leaves the graph as it is; `float16` types it; `int8` quantises it in the signed form and
            types the rest float16.
        images: inputs as the device would feed them, float32 (1, C, H, W); drawn once. The first few show whether
            float16 can hold every value; int8 is calibrated on all.
        method: how the ranges of int8 follow (see `calibrate`).
        float_layers: names of layers that int8 leaves in float, beside the last of each head.
        known_ranges: of int8, by tensor, where they were measured or learned before.
        corrections: of biases and roundings of int8.
        min_images: refuse to calibrate on fewer.
        versions: lines of releases that must take the graph.
        releases: of TensorRT that may build the engine: the device's, a specifier of PEP 440.
        origins: module that a node comes from, for messages.
        features: a map of the float graph whose mean becomes another output (see `export.features`); empty: none.

    Raises:
        FoveolaError: TensorRT would not take the graph, too few images, or values that are not finite.
    """
    options = TensorRtOptions(arithmetic=arithmetic)
    target = folder / options.graph
    model = onnx.load(float_graph)
    kept: dict[str, str] = {}
    if arithmetic != "float32":
        first = list(itertools.islice(images := iter(images), RANGE_IMAGES))
        ranges = _ranges(model, first)
        if arithmetic == "int8":
            every = itertools.chain(first, images)
            quantize_onnx(
                float_graph,
                target,
                every,
                method=method,
                form="signed",
                float_layers=float_layers,
                min_images=min_images,
                ranges=known_ranges,
                corrections=corrections,
            )
            model = onnx.load(target)
        kept = type_float16(model, ranges).float32_nodes
    if features:
        tap(model, features)
    require_tensorrt(model, versions, origins)
    graph = encode(model)
    plan = encode_plan(make_plan(model, graph, arithmetic, versions, tuple(kept), releases))
    members = {options.graph: graph, options.plan: plan}
    for name, data in members.items():
        (folder / name).write_bytes(data)
    return members


def reference_options(options: TensorRtOptions) -> OnnxRuntimeOptions:
    """How ONNX Runtime computes what the engine should answer.

    Its optimisations are off: one of them (WeightBiasQuantization) turns biases into integers whose scale, the product
    of two float16 scales, has few digits left in float16. It doubled the error of a student's masks, measured.
    """
    return OnnxRuntimeOptions(graph=options.graph, arithmetic=options.arithmetic, graph_optimization="disable")


def make_plan(
    model: ModelProto,
    graph: bytes,
    arithmetic: Arithmetic,
    versions: Sequence[Line],
    float32_nodes: tuple[str, ...],
    releases: str = RELEASES,
) -> BuildPlan:
    """Describe how the engine of a graph is built; the graph has passed `require_tensorrt`."""
    integers = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8}
    layers = [node for node in model.graph.node if node.op_type == DEQUANTISE and node.input[0] in integers]
    faces = {value.name: _face(value) for value in (*model.graph.input, *model.graph.output)}
    return BuildPlan(
        format=FORMAT,
        graph_sha256=hashlib.sha256(graph).hexdigest(),
        arithmetic=arithmetic,
        opset=model.opset_import[0].version,
        input=faces[INPUT],
        outputs=tuple(faces[value.name] for value in model.graph.output),
        checked=tuple(versions),
        releases=releases,
        int8_layers=len(layers),
        float32_nodes=float32_nodes,
    )


def _face(value: onnx.ValueInfoProto) -> PlanTensor:
    return PlanTensor(name=value.name, shape=tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim))


def _ranges(model: ModelProto, images: Sequence[Image]) -> dict[str, Range]:
    """What values every float32 tensor takes on a few images."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    made = {name for node in model.graph.node for name in node.output}
    values = (*inferred.value_info, *inferred.output)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return measure_ranges(model, sorted(floats & made), images, "minmax")[0]
