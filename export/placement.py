"""Where quantisers go: a plan made from the graph alone, before any image is seen.

Rules:

- A layer is a Conv, Gemm or MatMul with constant weights. It is quantised unless it is the last of a head, that is, the
  first layer met on some way back from an output of the graph. All that follows a last layer stays float too.
- A layer that the caller keeps in float is read and written in float; what stands around it is quantised all the same.
- What is computed from a last layer's answer is float up to the next layer, also where it goes back into the network
  (the corners of a detector's proposals).
- Add, Mul and Concat are quantised where each input is an activation and one of them at least comes from a quantised
  layer; a constant operand (a normalisation) keeps its operation in float.
- MaxPool, Resize, Reshape and their like move values without changing their range: where what follows is quantised
  they work on the integers, with one grid before and after.
- A ReLU belongs to the layer or addition before it, if nothing else reads that one: the quantiser comes after it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec
from onnx import GraphProto, NodeProto

LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
ARITHMETIC = frozenset({"Add", "Mul", "Concat"})
MOVERS = frozenset({"Flatten", "MaxPool", "Reshape", "Resize", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
RECTIFIERS = frozenset({"Relu", "Clip"})


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """The plan: which layers get integer weights, and which tensors get a quantiser."""

    layers: frozenset[str]  # names of nodes
    float_layers: tuple[str, ...]  # last layers of the heads and those kept so, in graph order
    tensors: dict[str, str]  # tensor with a quantiser -> tensor whose range it takes, often itself

    @property
    def measured(self) -> frozenset[str]:
        """Tensors whose range must be known."""
        return frozenset(self.tensors.values())


def place(graph: GraphProto, *, after_layers: bool, keep_float: Collection[str] = ()) -> Placement:
    """Plan the quantisers of a graph.

    Args:
        graph: float graph in topological order, nodes named.
        after_layers: put a quantiser behind every quantised operation, also where float follows (ONNX Runtime
            computes on integers only between two quantisers); otherwise only before quantised operations.
        keep_float: names of layers that stay float beside the last ones.
    """
    return _Planner(graph).plan(after_layers, frozenset(keep_float))


class _Planner:
    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.constants = {tensor.name for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self.maker = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def plan(self, after_layers: bool, keep_float: frozenset[str]) -> Placement:
        last, after_last = self.heads()
        kept = last | (keep_float - after_last)
        layers = {node.name for node in self.graph.node if self.is_layer(node) and node.name not in kept | after_last}
        quantised = layers | self.arithmetic(layers, after_last | self.descendants(last))
        wanted = {
            name
            for node in self.graph.node
            if node.name in quantised
            for name in (self.activations(node)[:1] if node.name in layers else self.activations(node))
        }
        if after_layers:
            wanted |= {self.result(node) for node in self.graph.node if node.name in quantised}
        wanted -= self.outputs
        return Placement(
            layers=frozenset(layers),
            float_layers=tuple(node.name for node in self.graph.node if node.name in kept),
            tensors=self.with_movers(wanted, after_last),
        )

    def is_layer(self, node: NodeProto) -> bool:
        return node.op_type in LAYERS and node.input[1] in self.constants and node.input[0] not in self.constants

    def activations(self, node: NodeProto) -> list[str]:
        return [name for name in node.input if name and name not in self.constants]

    def heads(self) -> tuple[set[str], set[str]]:
        """Names of the last layers, and of all nodes between them and the outputs."""
        last: set[str] = set()
        after: set[str] = set()
        waiting = [self.maker[name] for name in self.outputs if name in self.maker]
        while waiting:
            node = waiting.pop()
            if node.name in last or node.name in after:
                continue
            if self.is_layer(node):
                last.add(node.name)
            else:
                after.add(node.name)
                waiting += [self.maker[name] for name in self.activations(node) if name in self.maker]
        return last, after

    def descendants(self, last: set[str]) -> set[str]:
        """Names of the nodes that compute with a last layer's answer, up to the next layer."""
        found: set[str] = set()
        answers: set[str] = set()
        for node in self.graph.node:
            after = any(name in answers for name in node.input)
            if node.name in last or (after and not self.is_layer(node)):
                answers.update(node.output)
                found.add(node.name)
        return found - last

    def arithmetic(self, layers: set[str], after_last: set[str]) -> set[str]:
        """Names of the additions and their like that are worth quantising."""
        found: set[str] = set()
        from_layer: set[str] = set()  # tensors that descend from a quantised layer
        for node in self.graph.node:
            inputs = self.activations(node)
            descends = any(name in from_layer for name in inputs)
            if node.name in layers or descends:
                from_layer.update(node.output)
            eligible = node.op_type in ARITHMETIC and node.name not in after_last
            if eligible and descends and len(inputs) == len(node.input):
                found.add(node.name)
        return found

    def result(self, node: NodeProto) -> str:
        """Name the tensor to quantise behind an operation: its rectified output where only a rectifier reads it."""
        output: str = node.output[0]
        readers = self.readers.get(output, [])
        alone = len(readers) == 1 and output not in self.outputs
        return str(readers[0].output[0]) if alone and readers[0].op_type in RECTIFIERS else output

    def is_mover(self, node: NodeProto, after_last: set[str]) -> bool:
        cubic = any(attribute.name == "mode" and attribute.s == b"cubic" for attribute in node.attribute)  # overshoots
        inside = node.op_type in MOVERS and node.name not in after_last
        return inside and not cubic and node.input[0] not in self.constants

    def with_movers(self, wanted: Iterable[str], after_last: set[str]) -> dict[str, str]:
        """Carry quantisers back through operations that only move values; tensor -> the tensor that has its range."""
        tensors = {name: name for name in wanted}
        for node in reversed(self.graph.node):
            if node.output[0] in tensors and self.is_mover(node, after_last):
                tensors.setdefault(node.input[0], node.input[0])
        for node in self.graph.node:  # forward, so that chains share the first range
            if node.output[0] in tensors and self.is_mover(node, after_last):
                tensors[node.output[0]] = tensors[node.input[0]]
        return tensors
