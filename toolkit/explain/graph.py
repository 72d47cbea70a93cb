"""The layers of a student's graphs: what they ask, which module and part they come from, which were left in float.

The modules are read from the float graph itself: weights keep their place in the network as their name, and what has no
weights belongs with what it computes from. No network is exported for it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from math import prod
from pathlib import Path

import onnx
from onnx import GraphProto, NodeProto

from ...export.graph_facts import layer_work
from ...export.placement import LAYERS, place
from ...runtime.manifest import Arithmetic
from .record import Layer, PartKind

LAST = "last of a head: one scale would squash its answers"
ASKED = "asked for"
BEHIND = "computes with a head's answers"
ROOT = "input"
NORMALISE = "normalise"  # mean and deviation are numbers of the input, not parameters
_STAGE = re.compile(r"backbone\.([A-Za-z_]+\w*)(?:\.(\d+))?")
_DIGIT = re.compile(r"\d")


def read_layers(
    float_graph: Path,
    int8_graph: Path | None,
    *,
    modules: Mapping[str, str],
    asked: Collection[str] = (),
    reasons: Mapping[str, str] | None = None,
) -> tuple[Layer, ...]:
    """The layers in graph order, with all that the graphs themselves tell.

    Args:
        float_graph: as `export_onnx` writes it.
        int8_graph: that was written from it; None: there is none.
        modules: of nodes, as far as they are known otherwise (of an export, of the saturation lint).
        asked: layers that were to stay float.
        reasons: why layers were left in float, where it is known otherwise; these come first.
    """
    graph = onnx.shape_inference.infer_shapes(onnx.load(float_graph)).graph
    places = _places(graph, modules)
    sizes = {tensor.name: prod(tensor.dims) for tensor in graph.initializer}
    channels = {value.name: _channels(value) for value in (*graph.value_info, *graph.output)}
    integers = _integer_nodes(onnx.load(int8_graph).graph) if int8_graph else frozenset()
    kept = _kept(graph, integers, asked, reasons or {}) if int8_graph else {}
    nodes = {node.name: node for node in graph.node}
    counted: set[str] = set()
    found = []
    for work in layer_work(float_graph):
        node = nodes[work.name]
        weighted = node.op_type in LAYERS and node.input[1] in sizes
        own = _own_constants(node, sizes, counted, weighted=weighted)
        arithmetic: Arithmetic = "int8" if work.name in integers else work.arithmetic
        found.append(
            Layer(
                node=work.name,
                operator=work.operator,
                module=places[work.name][0],
                part=places[work.name][1],
                weighted=weighted,
                parameters=sum(sizes[name] for name in own),
                macs=work.macs,
                arithmetic=arithmetic,
                kept_float=kept.get(work.name, ""),
                channels=channels.get(node.output[0], 0),
            )
        )
    return tuple(found)


def _own_constants(node: NodeProto, sizes: Mapping[str, int], counted: set[str], *, weighted: bool) -> list[str]:
    """The parameters of a node that no node before it has.

    A layer's weight decides: several layers may share one (a detector's levels), but biases that happen to be equal are
    one constant of the graph and parameters of each. Constants that no module has are no parameters.
    """
    found = [name for name in node.input if name in sizes]
    if weighted:
        found = [] if node.input[1] in counted else found
    else:
        found = [x for x in found if "." in x and not x.startswith(NORMALISE) and x not in counted]
    counted.update(found)
    return found


def part_of(module: str) -> str:
    """The part that a module belongs to: `backbone blocks.2`, `decoder`, `head findings`."""
    if module.startswith("heads."):
        return f"head {module.split('.')[1]}"
    stage = _STAGE.match(module)
    if stage is not None:
        name, number = stage.groups()
        # `blocks.2` is a stage; of `layer1.0` the stage is `layer1`.
        return f"backbone {name}" if number is None or _DIGIT.search(name) else f"backbone {name}.{number}"
    return module.split(".")[0] if module and not module.startswith(NORMALISE) else ROOT


def kind_of_part(part: str) -> PartKind:
    """What a part is, by its name."""
    kinds: dict[str, PartKind] = {"head": "head", "backbone": "backbone", ROOT: "input"}
    return kinds.get(part.split(" ")[0], "decoder")


def _places(graph: GraphProto, known: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Module and part of every node; what has no weights of a module belongs to the part that it computes from."""
    constants = {tensor.name for tensor in graph.initializer}
    made: dict[str, tuple[int, str]] = {}  # tensor -> number of its node, part
    found: dict[str, tuple[str, str]] = {}
    for number, node in enumerate(graph.node):
        named = [name.rpartition(".")[0] for name in node.input if name in constants and "." in name]
        layer = node.op_type in LAYERS and node.input[1] in constants
        # A layer alone: the exporter would name an addition by the module whose activation is called next.
        module = (known.get(node.name, "") if layer else "") or next(iter(named), "")
        latest = max((made[name] for name in node.input if name in made), default=(0, ROOT))
        part = part_of(module) if module else latest[1]
        found[node.name] = (module, part)
        made |= dict.fromkeys(node.output, (number, part))
    return found


def _integer_nodes(graph: GraphProto) -> frozenset[str]:
    """Names of the nodes of a QDQ graph that engines compute on integers: all they read is dequantised."""
    maker = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name for tensor in graph.initializer}

    def dequantised(name: str) -> bool:
        return name in maker and maker[name].op_type == "DequantizeLinear"

    def integer(node: NodeProto) -> bool:
        if node.op_type in LAYERS:
            return dequantised(node.input[1])
        read = [name for name in node.input if name and name not in constants]
        return bool(read) and all(map(dequantised, read)) and _quantised_after(graph, node)

    return frozenset(node.name for node in graph.node if integer(node))


def _quantised_after(graph: GraphProto, node: NodeProto) -> bool:
    """Whether a node's result is quantised at once; behind an activation counts too."""
    outputs = set(node.output)
    for later in graph.node:
        if outputs & set(later.input):
            if later.op_type == "QuantizeLinear":
                return True
            if later.op_type in ("Relu", "Clip"):
                outputs |= set(later.output)
    return False


def _kept(
    graph: GraphProto, integers: Collection[str], asked: Collection[str], reasons: Mapping[str, str]
) -> dict[str, str]:
    """Why each layer with weights that is not in integers was left in float."""
    constants = {tensor.name for tensor in graph.initializer}
    last = set(place(graph, after_layers=True).float_layers)
    found = {}
    for node in graph.node:
        if node.op_type not in LAYERS or node.input[1] not in constants or node.name in integers:
            continue
        own = reasons.get(node.name) or (ASKED if node.name in asked else "")
        found[node.name] = LAST if node.name in last else own or BEHIND
    return found


def _channels(value: onnx.ValueInfoProto) -> int:
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    return dims[1] if len(dims) > 1 else 0
