"""What TensorRT takes, checked on the graph alone: no GPU and no TensorRT is needed.

The rules, each with its name in a finding and where it comes from:

| rule | what |
|---|---|
| `opset`, `operator` | within the parser's list for the line of releases (`tensorrt_operators.py`) |
| `type` | no float64, no uint16, no strings; integers only for shapes and indices (operators.md, head) |
| `static-shape` | every shape is known before the first image; no operator whose rows the pixels decide |
| `zero-point` | int8 and zero point 0 (TensorRT#4698: "Non-zero zero point is not supported") |
| `integer-type` | Q and DQ on int8 only; no int32 bias behind a DQ, no uint8, no int4, no float8 |
| `scale` | a constant, positive and finite, of the type that is quantised ("Quantize": T1) |
| `axis` | an activation has one scale; a weight one in all, or one an output channel (on the axis that its layer has) |
| `weight` | int8 inputs meet int8 weights |
| `residual` | an addition of which one input is quantised and the other comes from an int8 layer has both quantised |
| `small-gemm` | int8 products with fewer than 16 rows or columns are slower than float16 (warning) |
| `operator-form` | no antialiased or cubic Resize, no pooling with indices or dilation, one output of a norm |
| `range` | no constant is infinite or not a number, as one too large for float16 becomes |
| `external` | all weights are in the file |

    require_tensorrt(model)  # raises one line with every fault, for each line of releases
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from ...devices.finding import Finding
from ...runtime.errors import FoveolaError
from ..onnx_graph import INPUT
from .operators import DATA_DEPENDENT, LINES, OPERATORS, OPSETS, Line
from .quantised import layers, quantisers, residuals
from .view import View, attribute

FORBIDDEN: dict[int, str] = {TensorProto.DOUBLE: "float64", TensorProto.UINT16: "uint16", TensorProto.STRING: "string"}
SHOWN = 5  # findings that an error quotes

Rule = Callable[[View], Iterator[Finding]]


def check_tensorrt(model: ModelProto, version: Line, origins: Mapping[str, str] | None = None) -> tuple[Finding, ...]:
    """Give all that TensorRT would say to a graph, and what would make it slow; errors first.

    Args:
        model: the typed graph.
        version: line of releases.
        origins: module that a node comes from, by the node's name, for the messages.
    """
    graph = View(model, version, origins or {})
    found = [finding for rule in RULES for finding in rule(graph)]
    return tuple(sorted(found, key=lambda finding: finding.severity != "error"))


def require_tensorrt(
    model: ModelProto | Path, versions: Sequence[Line] = LINES, origins: Mapping[str, str] | None = None
) -> tuple[Finding, ...]:
    """Refuse a graph that one of the lines of releases would not take; give the warnings.

    Raises:
        FoveolaError: one line with all faults.
    """
    loaded = onnx.load(model, load_external_data=False) if isinstance(model, Path) else model
    warnings: list[Finding] = []
    for version in versions:
        found = check_tensorrt(loaded, version, origins)
        errors = [finding for finding in found if finding.severity == "error"]
        if errors:
            told = ", ".join(f"{one.place}: {one.fault}" for one in errors[:SHOWN])
            more = f" and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
            mends = list(dict.fromkeys(one.mend for one in errors if one.mend))
            raise FoveolaError(f"TensorRT {version}", told + more, ", ".join(mends[:SHOWN]))
        warnings += [finding for finding in found if finding not in warnings]
    return tuple(warnings)


def _opset(graph: View) -> Iterator[Finding]:
    least, most = OPSETS[graph.line]
    for entry in graph.model.opset_import:
        if entry.domain not in ("", "ai.onnx"):
            yield graph.error("opset", "opset", f"operators of {entry.domain} are not ONNX's own", "export anew")
        elif not least <= entry.version <= most:
            mend = f"export with opset {most} at most" if entry.version > most else "export with a newer opset"
            yield graph.error("opset", "opset", f"{entry.version} is not within {least} to {most}", mend)


def _operators(graph: View) -> Iterator[Finding]:
    for node in graph.nodes:
        if node.op_type in DATA_DEPENDENT:
            fault = "the shape of its result depends on the pixels"
            yield graph.error("static-shape", node, fault, "leave that to the runtime, after the graph")
        elif node.op_type not in OPERATORS[graph.line] or node.domain not in ("", "ai.onnx"):
            fault = f"TensorRT {graph.line} has no such operator"
            yield graph.error("operator", node, fault, "write the module with other operators")


def _value_types(graph: View) -> Iterator[Finding]:
    for name, kind in graph.types.items():
        if kind in FORBIDDEN:
            mend = "keep the float32 input" if name == INPUT else "export anew"
            yield graph.error("type", name, f"is {FORBIDDEN[kind]}, which TensorRT does not know", mend)
    for value in (*graph.model.graph.input, *graph.model.graph.output):
        kind = value.type.tensor_type.elem_type
        if kind != TensorProto.FLOAT and kind not in FORBIDDEN:
            fault = f"is {TensorProto.DataType.Name(kind).lower()}, inputs and outputs are float32"
            yield graph.error("type", value.name, fault, "type the graph with type_float16")


def _shapes(graph: View) -> Iterator[Finding]:
    names = [value.name for value in graph.model.graph.input]
    names += [name for node in graph.nodes for name in node.output if name]
    for name in names:
        shape = graph.shapes.get(name)
        if shape is None or None in shape:
            node = graph.maker.get(name)
            if node is not None and node.op_type in DATA_DEPENDENT:
                continue  # said already
            yield graph.error(
                "static-shape", node or name, f"the shape of {name} is not fixed", "export with one shape"
            )
            return  # all that follows it is open too


def _forms(graph: View) -> Iterator[Finding]:
    for node in graph.nodes:
        fault = FORMS[node.op_type](node) if node.op_type in FORMS else ""
        if fault:
            yield graph.error("operator-form", node, fault, "write the module without it")


def _resize(node: NodeProto) -> str:
    if attribute(node, "antialias", 0):
        return "antialiasing is not supported"
    mode = attribute(node, "mode", b"nearest")
    return "" if mode in (b"nearest", b"linear") else "its mode is neither nearest nor linear"


def _pool(node: NodeProto) -> str:
    if len([name for name in node.output if name]) > 1:
        return "its indices are not supported"
    dilations = attribute(node, "dilations", [])
    return "dilation is not supported" if any(one != 1 for one in dilations) else ""


def _one_output(node: NodeProto) -> str:
    return "only its first result is supported" if len([name for name in node.output if name]) > 1 else ""


FORMS: dict[str, Callable[[NodeProto], str]] = {
    "Resize": _resize,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "LpPool": _pool,
    "LayerNormalization": _one_output,
    "BatchNormalization": _one_output,
}


def _constants(graph: View) -> Iterator[Finding]:
    for name, tensor in graph.tensors.items():
        if tensor.data_location == TensorProto.EXTERNAL:
            yield graph.error("external", name, "is kept in another file", "write all weights into the graph")
            continue
        floats = tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
        if floats and not np.all(np.isfinite(np.asarray(numpy_helper.to_array(tensor), np.float32))):
            yield graph.error("range", name, "holds infinity or NaN", "keep its layer in float32")


RULES: tuple[Rule, ...] = (
    _opset,
    _operators,
    _value_types,
    _shapes,
    quantisers,
    layers,
    residuals,
    _forms,
    _constants,
)
