"""The rewriting half of `typed.py`: every node gets its planned type, constants are stored in it, casts go between."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from .typed_plan import DEQUANTISE, FLOAT, HALF, SMALLEST_NORMAL, SUFFIX, TypePlan, dead_channels, dequantise_axis


def rewrite(graph: GraphProto, plan: TypePlan) -> int:
    """Give every node its type and put casts between; how many."""
    outputs = {value.name for value in graph.output}
    writer = _Writer(graph, plan, outputs)
    for node in graph.node:
        writer.add(node)
    for value in graph.output:
        writer.finish(value.name)
    constants = writer.initializers()  # first: the nodes get the constants' final names
    del graph.node[:], graph.initializer[:]
    graph.node.extend(writer.nodes)
    graph.initializer.extend(constants)
    return writer.casts


class _Writer:
    def __init__(self, graph: GraphProto, plan: TypePlan, outputs: Iterable[str]) -> None:
        self.plan = plan
        self.nodes: list[NodeProto] = []
        self.casts = 0
        self.outputs = frozenset(outputs)
        self.kind = {value.name: FLOAT for value in graph.input}  # type of every float value so far
        self.made: dict[tuple[str, int], str] = {}  # value in another type -> its name
        self.tensors = list(graph.initializer)
        self.wanted: dict[str, set[int]] = {}  # float constant -> types in which it is read
        self.changed: dict[str, NDArray[np.generic]] = {}  # constants with other values than before
        self.shared = self._shared_scales(graph)

    def _shared_scales(self, graph: GraphProto) -> set[str]:
        """Scales of activations that float16 reads anywhere: rounded for all, so that Q and DQ have one grid."""
        types = self.plan.types
        pairs = [node for node in graph.node if node.name in self.plan.quantisers]
        return {node.input[1] for node in pairs if types[node.name] == HALF}

    def add(self, node: NodeProto) -> None:
        """Take the next node of the graph, with casts before it where they are needed."""
        kind = self.plan.types.get(node.name, FLOAT)
        if node.op_type == DEQUANTISE and kind == HALF:
            self._bury_dead(node)
        inputs = []
        for index, name in enumerate(node.input):
            half = kind == HALF and name in self.plan.floats and self.plan.takes_half(node, index)
            inputs.append(self.read(name, HALF if half else FLOAT) if name in self.plan.floats else name)
        node.input[:] = inputs
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = kind
        results = []
        for name in node.output:
            half = kind == HALF and name in self.plan.floats
            if name in self.plan.floats:
                self.kind[name] = HALF if half else FLOAT
            results.append(self.typed_name(name, HALF) if half and name in self.outputs else name)
            if half and name in self.outputs:
                self.made[name, HALF] = results[-1]
        node.output[:] = results
        self.nodes.append(node)

    def read(self, name: str, kind: int) -> str:
        """Name a value in the type in which it is to be read."""
        if name in self.plan.weights:
            self.wanted.setdefault(name, set()).add(kind)
            return f"{name}\0{kind}"  # named at the end, when all readers are known
        if self.kind[name] == kind:
            return self.made.get((name, kind), name)
        if (name, kind) not in self.made:
            self.made[name, kind] = self.typed_name(name, kind)
            self._cast(self.made.get((name, self.kind[name]), name), self.made[name, kind], kind)
        return self.made[name, kind]

    def finish(self, name: str) -> None:
        """Give an output of the graph its own name and type."""
        if self.kind.get(name) == HALF:
            self._cast(self.made[name, HALF], name, FLOAT)

    def initializers(self) -> list[TensorProto]:
        """The constants, once for each type in which they are read; the readers get their names."""
        kept: list[TensorProto] = []
        final: dict[str, str] = {}
        for tensor in self.tensors:
            kinds = sorted(self.wanted.get(tensor.name, set()))
            for kind in kinds:
                name = self.typed_name(tensor.name, kind) if len(kinds) > 1 and kind == HALF else tensor.name
                final[f"{tensor.name}\0{kind}"] = name
                kept.append(numpy_helper.from_array(self._values(tensor.name, kind), name))
            if not kinds:
                array = self.changed.get(tensor.name)
                kept.append(tensor if array is None else numpy_helper.from_array(array, tensor.name))
        for node in self.nodes:
            node.input[:] = [final.get(name, name) for name in node.input]
        used = {name for node in self.nodes for name in node.input}
        return [tensor for tensor in kept if tensor.name in used]

    def typed_name(self, name: str, kind: int) -> str:
        return f"{name}.{SUFFIX[kind]}"

    def _values(self, name: str, kind: int) -> NDArray[np.generic]:
        array = self.changed.get(name, self.plan.weights[name])
        half = array.astype(np.float16) if kind == HALF or name in self.shared else array
        return half if kind == HALF else np.asarray(half, np.float32)

    def _cast(self, source: str, target: str, kind: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=kind))
        self.casts += 1

    def _bury_dead(self, node: NodeProto) -> None:
        """Make channels zero whose scale would be zero in float16, which TensorRT refuses."""
        integers, name = self.plan.weights.get(node.input[0]), node.input[1]
        if integers is None:
            return
        scale = np.asarray(self.plan.weights[name], np.float64)
        axis = dequantise_axis(node)
        dead = dead_channels(integers, scale, axis)
        if not dead.any():
            return
        shape = [1] * integers.ndim
        if scale.ndim:
            shape[axis % integers.ndim] = -1
        self.changed[node.input[0]] = np.where(dead.reshape(shape), 0, integers).astype(integers.dtype)
        self.changed[name] = np.where(dead, SMALLEST_NORMAL, scale).astype(np.float32)
