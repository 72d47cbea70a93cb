"""A float32 or signed QDQ graph with every precision typed in it: float16 where that is safe, casts where types meet.

TensorRT 11 computes in the types of the graph and in no others; TensorRT 10 does so in a strongly typed network. So the
graph itself must say what is float16. The input and the outputs stay float32. These stay float32 inside, each with its
reason in the result:

- all before the first layer: a 16-bit radiograph has more grey levels than float16 has steps between 0.5 and 1;
- sums over many values and normalisations, which overflow or lose digits (NVIDIA, "Strongly Typed Networks");
- last layers that are matrix products, and all behind last layers: they cost next to nothing, and a logit of float16
  has about a thousand steps between 1 and 2, so that cases would tie;
- layers whose values leave float16's range on calibration images, or whose weights it cannot hold.

A quantiser takes the type of what is before it and a dequantiser that of what follows; their scales are of that type
too (float16 scales need opset 19). A scale is rounded once, for both, so that both have the same grid.

    typed = type_float16(model, ranges)  # in place
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import onnx
from onnx import GraphProto, ModelProto, NodeProto

from ...runtime.errors import FoveolaError
from ..calibrate import Range
from .typed_plan import DEQUANTISE as DEQUANTISE
from .typed_plan import HALF, TypePlan
from .typed_plan import QUANTISE as QUANTISE
from .typed_plan import dequantise_axis as dequantise_axis
from .typed_writer import rewrite

LEAST_QDQ_OPSET = 19  # from which a scale may be float16


class Typed(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, for the plan and the log."""

    float16_nodes: int
    float32_nodes: dict[str, str]  # node -> why it stays float32, in graph order
    casts: int


def type_float16(model: ModelProto, ranges: Mapping[str, Range] | None = None) -> Typed:
    """Type a graph in place; its input and outputs stay float32.

    Args:
        model: float32, or int8 in the signed form; checked, in topological order, nodes named.
        ranges: what values tensors take on real images, by tensor; those that are not named are trusted.

    Raises:
        FoveolaError: quantisers below opset 19, or inner graphs.
    """
    _require_typable(model)
    _constants_to_initializers(model.graph)
    plan = TypePlan(model, ranges or {})
    del model.graph.value_info[:]  # it names the types of before
    casts = rewrite(model.graph, plan)
    onnx.checker.check_model(model, full_check=True)
    halves = sum(kind == HALF for name, kind in plan.types.items() if name not in plan.quantisers)
    return Typed(float16_nodes=halves, float32_nodes=plan.reasons, casts=casts)


def _require_typable(model: ModelProto) -> None:
    opset = {entry.domain: entry.version for entry in model.opset_import}.get("", 0)
    quantised = any(node.op_type in (QUANTISE, DEQUANTISE) for node in model.graph.node)
    if quantised and opset < LEAST_QDQ_OPSET:
        fault = f"opset {opset} has no float16 scales"
        raise FoveolaError("typed graph", fault, f"export with opset {LEAST_QDQ_OPSET} or newer")
    inner = [node.name for node in model.graph.node if any(a.HasField("g") or a.graphs for a in node.attribute)]
    if inner:
        raise FoveolaError("typed graph", f"{inner[0]} has a graph inside", "no branch may depend on the pixels")


def _constants_to_initializers(graph: GraphProto) -> None:
    kept: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
