"""An exported ONNX graph as a torch module: what is trained here is the very graph that ships.

- Every value keeps the name that it has in the graph, so that quantisers can be placed by name.
- The weights that are trained are parameters; all else (normalisation, shapes) stays as it was written.
- Answers are those of ONNX Runtime but for rounding; a batch is answered image by image.

    graph = TorchGraph(onnx.load("float.onnx"))
    graph(images)["findings"]  # (B, T)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor, nn

from .torch_operators import Function, build_operator


class Step(msgspec.Struct, frozen=True, eq=False):
    """One node: its function, and the names of what it reads and gives."""

    name: str
    run: Function
    reads: tuple[str, ...]
    gives: str
    done: tuple[str, ...]  # values that no later node reads


class TorchGraph(nn.Module):
    """The graph as a module; see the file's law.

    Args:
        model: opset 18 or newer, static shapes of batch 1, one input.
        trained: says by its name whether a stored float tensor is a parameter; scalars never are.
        units: in which parameters are held, by name (see `weight_units`); 1 where absent.

    Raises:
        FoveolaError: an operator that is not known (see `torch_operators`).
    """

    def __init__(
        self,
        model: ModelProto,
        trained: Callable[[str], bool] = lambda name: True,
        units: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        super().__init__()
        units = units or {}
        graph = model.graph
        stored: dict[str, NDArray[np.generic]] = {x.name: numpy_helper.to_array(x) for x in graph.initializer}
        self.input_name = graph.input[0].name
        self.output_names = tuple(value.name for value in graph.output)
        self.parameters_of: dict[str, str] = {}  # name in the graph -> name in the module
        self.constants_of: dict[str, str] = {}
        for name, values in stored.items():
            if values.dtype != np.float32:
                continue
            tensor = torch.from_numpy(np.array(values))
            if values.ndim > 0 and trained(name):
                self.parameters_of[name] = _plain(name)
                unit = torch.from_numpy(np.array(units.get(name, np.ones(1)), np.float32))
                self.register_parameter(_plain(name), nn.Parameter(tensor / unit))
                self.register_buffer(_unit(name), unit, persistent=False)
            else:
                self.constants_of[name] = _plain(name)
                self.register_buffer(_plain(name), tensor, persistent=False)
        self.steps = _steps(list(graph.node), stored, self.output_names)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Raw outputs by name, for images (B, C, H, W)."""
        values: dict[str, Tensor] = {self.input_name: self.see(self.input_name, image)}
        outputs: dict[str, Tensor] = {}
        for step in self.steps:
            given = [values[name] if name in values else self.stored(step, name) for name in step.reads]
            value = step.run(given)
            if step.gives in self.output_names:
                outputs[step.gives] = value
            values[step.gives] = self.see(step.gives, value)
            for name in step.done:
                values.pop(name, None)
        return {name: outputs[name] for name in self.output_names}

    def see(self, name: str, value: Tensor) -> Tensor:
        """What readers of a value get; a quantised graph rounds it here."""
        return value

    def stored(self, step: Step, name: str) -> Tensor | None:
        """A weight or constant as a node reads it; None where there is none."""
        if name in self.parameters_of:
            return self.weight(name)
        return self.get_buffer(self.constants_of[name]) if name in self.constants_of else None

    def weight(self, name: str) -> Tensor:
        """A trained weight, in the graph's own units."""
        return self.get_parameter(self.parameters_of[name]) * self.get_buffer(_unit(name))

    def weights(self) -> dict[str, Tensor]:
        """The trained weights by their names in the graph, detached."""
        return {name: self.weight(name).detach() for name in self.parameters_of}


def _plain(name: str) -> str:
    """The name that torch allows for a parameter; a graph's names have no slash."""
    return name.replace(".", "/")


def _unit(name: str) -> str:
    return f"{_plain(name)}/unit"


def _steps(
    nodes: list[NodeProto], stored: dict[str, NDArray[np.generic]], outputs: Collection[str]
) -> tuple[Step, ...]:
    last: dict[str, int] = {name: index for index, node in enumerate(nodes) for name in node.input}
    done: dict[int, list[str]] = {}
    for name, index in last.items():
        if name not in stored:
            done.setdefault(index, []).append(name)
    return tuple(
        Step(
            name=node.name,
            run=build_operator(node, [stored.get(name) for name in node.input]),
            reads=tuple(node.input),
            gives=node.output[0],
            done=tuple(done.get(index, ())),
        )
        for index, node in enumerate(nodes)
    )
