"""A bundle's graph, cut at one tensor: the same graph up to there, with that tensor as its only output.

Rules:

- nothing else becomes an output. An engine fuses a layer, its activation and its quantiser where nobody reads between
  them, and computes on integers only then; with further outputs it would no longer run what is shipped;
- a tensor has its name in the float graph. Where the graph quantises it, the cut lies behind the quantiser, so that the
  layer before it is computed as it ships; `bare` cuts before the quantiser instead;
- the cut graph takes the place of the whole one among the bundle's members, and is opened by `open_session` with the
  manifest's settings and no others.

    graph = open_graph(options, members)
    session = open_session(options, graph.cut("conv_12.out"))
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from ..runtime.errors import FoveolaError
from ..runtime.manifest import EngineOptions, OnnxRuntimeOptions, OpenVinoOptions
from ..runtime.offline import forbid_telemetry
from .onnx_graph import encode

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
BEHIND = ".dequantized"  # what `quantize.py` appends to a tensor's name behind its quantiser; OpenVINO keeps the name


class CutGraph(Protocol):
    """A graph that can be cut."""

    @property
    def tensors(self) -> frozenset[str]:
        """Names of the tensors at which it can be cut: those of floats that depend on the image."""
        ...

    @property
    def quantised(self) -> frozenset[str]:
        """Those of them behind which there is a quantiser."""
        ...

    @property
    def bare(self) -> frozenset[str]:
        """Those of them that can be cut before their quantiser, or have none."""
        ...

    def cut(self, tensor: str, *, bare: bool = False) -> dict[str, bytes]:
        """Give the members of the cut graph, by the names that the engine's options have for them."""
        ...


def open_graph(options: EngineOptions, members: Mapping[str, bytes]) -> CutGraph:
    """Open an engine's graph for cutting.

    Raises:
        FoveolaError: graphs of that engine are not cut.
    """
    if isinstance(options, OnnxRuntimeOptions):
        return CutOnnx(ModelProto.FromString(members[options.graph]), options.graph)
    if isinstance(options, OpenVinoOptions):
        return CutIr(options, members)
    raise FoveolaError(options.graph, "is not cut: TensorRT would build an engine for each cut")


class CutOnnx:
    """An ONNX graph, float or in QDQ form."""

    def __init__(self, model: ModelProto, member: str = "model.onnx") -> None:
        self.model = model
        self.member = member
        self._maker: dict[str, NodeProto] = {name: node for node in model.graph.node for name in node.output}
        self._behind = behind_quantiser(model.graph)
        self._types = _types(model)
        plain = _depends(model.graph) - set(self._behind.values())
        self.tensors = frozenset(name for name in plain if _is_float(self._types.get(name)))
        self.quantised = frozenset(self._behind) & self.tensors
        self.bare = self.tensors

    def cut(self, tensor: str, *, bare: bool = False) -> dict[str, bytes]:
        """Give the cut graph; see `CutGraph`."""
        name = tensor if bare else self._behind.get(tensor, tensor)
        used = self._nodes_before(name)
        cut = ModelProto(ir_version=self.model.ir_version, producer_name=self.model.producer_name)
        cut.opset_import.extend(self.model.opset_import)
        cut.graph.name = self.model.graph.name
        cut.graph.input.extend(self.model.graph.input)
        cut.graph.node.extend(node for node in self.model.graph.node if node.name in used)
        read = {source for node in cut.graph.node for source in node.input}
        cut.graph.initializer.extend(weight for weight in self.model.graph.initializer if weight.name in read)
        cut.graph.output.append(self._types[name])
        return {self.member: encode(cut)}

    def _nodes_before(self, tensor: str) -> set[str]:
        used: set[str] = set()
        waiting = [tensor]
        while waiting:
            node = self._maker.get(waiting.pop())
            if node is not None and node.name not in used:
                used.add(node.name)
                waiting += [source for source in node.input if source]
        return used


def behind_quantiser(graph: GraphProto) -> dict[str, str]:
    """For each activation that is quantised, the tensor behind its pair of QuantizeLinear and DequantizeLinear."""
    integers = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    behind: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in integers:
            behind.setdefault(integers[node.input[0]], node.output[0])
    return behind


def _depends(graph: GraphProto) -> set[str]:
    """Names of all values inside the graph on which the image has an influence."""
    inputs = {value.name for value in graph.input}
    found = set(inputs)
    for node in graph.node:
        if not found.isdisjoint(node.input):
            found.update(name for name in node.output if name)
    return found - inputs


def shapes_of(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of all values of a graph; an open axis is 0."""
    return {
        name: tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
        for name, value in _types(model).items()
    }


def _is_float(value: ValueInfoProto | None) -> bool:
    return value is not None and value.type.tensor_type.elem_type in FLOATS


def _types(model: ModelProto) -> dict[str, ValueInfoProto]:
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = (*graph.value_info, *graph.output, *graph.input)
    return {value.name: value for value in values}


class CutIr:
    """An OpenVINO IR made of an ONNX graph, whose names of tensors it kept.

    The conversion merges operations, a ReLU with the quantiser behind it for one: what lay between them is gone.
    """

    def __init__(self, options: OpenVinoOptions, members: Mapping[str, bytes]) -> None:
        forbid_telemetry()
        import openvino

        self._options = options
        # The compiler is not asked: this is the graph as it was saved.
        self._model: Any = openvino.Core().read_model(members[options.graph], members[options.weights])
        named, unnamed = _ports(self._model)
        self._bare = {name: port for name, port in named.items() if not name.endswith(BEHIND)}
        pairs = {name.removesuffix(BEHIND): port for name, port in named.items() if name.endswith(BEHIND)}
        self._behind: dict[str, tuple[str, int]] = {**unnamed, **pairs}
        self.bare = frozenset(self._bare)
        self.quantised = frozenset(self._behind)
        self.tensors = self.bare | self.quantised

    def cut(self, tensor: str, *, bare: bool = False) -> dict[str, bytes]:
        """Give the cut graph; see `CutGraph`."""
        import openvino

        node, index = self._bare[tensor] if bare or tensor not in self._behind else self._behind[tensor]
        twin = self._model.clone()  # a new result would stay in the model
        (found,) = (one for one in twin.get_ops() if one.get_friendly_name() == node)
        output = found.output(index)
        output.get_tensor().add_names({tensor})
        make: Any = openvino.Model  # its stubs contradict themselves
        cut = make([output], twin.get_parameters(), "foveola")
        with TemporaryDirectory() as folder:
            xml = Path(folder) / "cut.xml"
            openvino.serialize(cut, str(xml))  # `save_model` would optimise
            return {self._options.graph: xml.read_bytes(), self._options.weights: xml.with_suffix(".bin").read_bytes()}


def _ports(model: Any) -> tuple[dict[str, tuple[str, int]], dict[str, tuple[str, int]]]:
    """Float ports by the name of their tensor, and nameless quantisers (NNCF's) by that of the tensor they quantise.

    A port is a node's name and an index. Weights and what is made of them alone are left out.
    """
    named: dict[str, tuple[str, int]] = {}
    quantisers: dict[str, tuple[str, int]] = {}
    moving: set[str] = set()  # operations that the image has an influence on
    for node in model.get_ordered_ops():
        place, kind = node.get_friendly_name(), node.get_type_name()
        sources = [value.get_node().get_friendly_name() for value in node.input_values()]
        if kind == "Parameter":
            moving.add(place)
        if kind in ("Parameter", "Result") or moving.isdisjoint(sources):
            continue
        moving.add(place)
        for index, port in enumerate(node.outputs()):
            if port.get_element_type().is_real():
                named |= dict.fromkeys(port.get_names(), (place, index))
        if kind == "FakeQuantize" and not node.output(0).get_names():
            quantisers |= dict.fromkeys(node.input_value(0).get_names(), (place, 0))
    return named, quantisers
