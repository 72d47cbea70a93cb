"""A typed graph as the rules of TensorRT ask about it: types, shapes, constants, and who makes and reads a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ...devices.finding import Finding, Severity
from ..onnx_graph import WEIGHTED
from ..placement import MOVERS, RECTIFIERS
from .operators import Line
from .typed import DEQUANTISE

Shape = tuple[int | None, ...]  # None: an axis whose length is not known


class View:
    """A graph with what the rules ask of it."""

    def __init__(self, model: ModelProto, line: Line, origins: Mapping[str, str]) -> None:
        self.model, self.origins = model, origins
        self.line: Line = line
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.tensors: dict[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        self.tensors.update(
            {
                node.output[0]: node.attribute[0].t
                for node in self.nodes
                if node.op_type == "Constant" and node.attribute
            }
        )
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.types, self.shapes = _types_and_shapes(model)

    def place(self, node: NodeProto) -> str:
        """Name a node, and the module that it comes from."""
        origin = self.origins.get(node.name, "")
        return f"{node.op_type} {node.name or node.output[0]}" + (f" of {origin}" if origin else "")

    def error(self, rule: str, place: NodeProto | str, fault: str, mend: str = "") -> Finding:
        """Say what TensorRT refuses."""
        return self._finding(rule, "error", place, fault, mend)

    def warning(self, rule: str, place: NodeProto | str, fault: str, mend: str = "") -> Finding:
        """Say what makes the engine slow or odd."""
        return self._finding(rule, "warning", place, fault, mend)

    def _finding(self, rule: str, severity: Severity, place: NodeProto | str, fault: str, mend: str) -> Finding:
        told = place if isinstance(place, str) else self.place(place)
        return Finding(rule=rule, severity=severity, place=told, fault=fault, mend=mend)

    def array(self, name: str) -> NDArray[np.generic] | None:
        """Values of a constant that is in the file; None for anything else."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        return np.asarray(numpy_helper.to_array(tensor))

    def quantised(self, name: str) -> bool:
        """Whether a value is integers turned back, perhaps moved about since."""
        node = self.maker.get(name)
        while node is not None and node.op_type in MOVERS | {"Cast"}:
            node = self.maker.get(node.input[0])
        return node is not None and node.op_type == DEQUANTISE

    def int8_layer(self, node: NodeProto | None) -> bool:
        """Whether a node, or the one whose result it rectifies, is a layer with integer inputs."""
        while node is not None and node.op_type in RECTIFIERS | {"Cast"}:
            node = self.maker.get(node.input[0])
        return node is not None and node.op_type in WEIGHTED and self.quantised(node.input[0])


def _types_and_shapes(model: ModelProto) -> tuple[dict[str, int], dict[str, Shape | None]]:
    """Types and shapes of all values; an axis of unknown length is None, a value of unknown rank too."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        graph = model.graph
    types: dict[str, int] = {tensor.name: tensor.data_type for tensor in graph.initializer}
    shapes: dict[str, Shape | None] = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type.tensor_type
        types[value.name] = kind.elem_type
        dims = kind.shape.dim
        known = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)
        shapes[value.name] = known if kind.HasField("shape") else None
    return types, shapes


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """Give a node's attribute, or what holds without it."""
    found: AttributeProto | None = next((one for one in node.attribute if one.name == name), None)
    return helper.get_attribute_value(found) if found is not None else default
