"""A student as the graph that ships, with fake quantisers, in the place of a network in training and validation.

Its names are those of the student, since nothing is folded any more when it is exported: the weights that are learned
go back by name. See `qat.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from ...export.fake_quant import QuantisedGraph
from ...export.onnx_graph import Origins, export_onnx
from ...runtime.errors import FoveolaError
from ...runtime.manifest import InputSpec
from ...runtime.task import Task
from ..batches import Batch
from ..checkpoint import Objective
from ..knobs import Lessons
from ..models.dense_teacher import as_graph
from ..models.heads import Head
from ..models.network import Answered, Network
from ..models.outputs import graph_outputs
from ..models.structure import can_merge, fold_norms, foldable_norms, merged_copy
from ..models.student_heads import AnchorFreeHead
from .distill import answer_losses
from .task_weights import Learned


class GraphNetwork(nn.Module):
    """The quantised graph of a network, answering as the network itself does (`Teacher`).

    Args:
        network: as the graph was exported from; read only.
        graph: with fake quantisers.
    """

    def __init__(self, network: Network, graph: QuantisedGraph) -> None:
        super().__init__()
        self.graph = graph
        self.architecture = network.architecture
        self._heads = tuple(network.ordered_heads())  # a tuple, so that their own weights are not this module's

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that it answers."""
        return self.architecture.tasks

    @property
    def input(self) -> InputSpec:
        """How it is fed."""
        return self.architecture.input

    @property
    def target_scale(self) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
        """Mean and standard deviation of each regression task."""
        return self.architecture.target_scale

    def ordered_heads(self) -> list[Head]:
        """The network's heads, for their losses and their decoding; their weights play no part."""
        return list(self._heads)

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Raw outputs by tensor name."""
        raw: dict[str, Tensor] = self.graph(x_BCHW)
        return raw

    def answer(self, x_BCHW: Tensor) -> Answered:
        """Raw outputs and boxes of a batch."""
        raw, answered = self(x_BCHW), Answered()
        for head in self._heads:
            name = head.task.name
            if isinstance(head, AnchorFreeHead):
                answered.boxes[name] = head.boxes({}, raw, (x_BCHW.shape[-2], x_BCHW.shape[-1]))
            else:
                answered.raw[name] = raw[name]
        return answered


class Quantised(Objective):
    """The losses of a quantised graph: of a teacher's answers, and of the reference standard.

    Args:
        network: the graph.
        lessons: how the teacher's answers enter; None: the reference standard alone. Features take no part.
    """

    network: GraphNetwork

    def __init__(self, network: GraphNetwork, lessons: Lessons | None) -> None:
        super().__init__(network)
        self.lessons = lessons or Lessons(soft_weight=0.0)
        self.learned = Learned(network.tasks, self.lessons)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """One loss a task."""
        raw = self.network(batch.images)
        return answer_losses(self.network.ordered_heads(), raw, batch, self.lessons, learned=self.learned)


def folded_copy(network: Network) -> Network:
    """The same network with branches merged and batch normalisation folded, in evaluation mode, and a record of both.

    The answers are equal but for rounding.
    """
    plan = network.architecture
    own = copy.deepcopy(network).eval()
    merged = own if plan.structure.merged else merged_copy(own)
    assert isinstance(merged, Network)
    blank = torch.zeros(1, plan.input.channels, plan.input.height, plan.input.width)
    pairs = foldable_norms(merged, lambda: merged(blank))
    fold_norms(merged, pairs)
    structure = msgspec.structs.replace(
        plan.structure,
        merged=plan.structure.merged or can_merge(own),
        folded={**plan.structure.folded, **pairs},
    )
    merged.architecture = msgspec.structs.replace(plan, structure=structure)
    return merged.requires_grad_(True)


def export_float(network: Network, path: Path, opset: int) -> Origins:
    """Write a folded network as the float graph that `quantize` writes of it too; the module of each node."""
    return export_onnx(as_graph(network), network.input, graph_outputs(network), path, opset=opset)


def shared_weights(network: Network, model: ModelProto) -> frozenset[str]:
    """Names of the weights that graph and network have in common.

    Raises:
        FoveolaError: the exporter changed one, so that what is learned could not go back into the network.
    """
    own = dict(network.named_parameters())
    found = {one.name: one for one in model.graph.initializer if one.name in own}
    for name, stored in found.items():
        values = numpy_helper.to_array(stored)
        if not np.array_equal(values, own[name].detach().cpu().numpy()):
            fault = f"{name} of the graph is not that of the network, where something could not be folded"
            raise FoveolaError("qat", fault, "take another backbone, or leave out qat")
    return frozenset(found)


@torch.no_grad()
def put_weights(network: Network, weights: Mapping[str, Tensor]) -> None:
    """Give a network the weights that its graph has learned, by name."""
    own = dict(network.named_parameters())
    for name, values in weights.items():
        own[name].copy_(values.to(own[name].device))


def put_into_graph(model: ModelProto, weights: Mapping[str, Tensor]) -> ModelProto:
    """The graph with other weights."""
    new = ModelProto()
    new.CopyFrom(model)
    for stored in new.graph.initializer:
        if stored.name in weights:
            values = weights[stored.name].detach().cpu().contiguous().numpy()
            stored.CopyFrom(numpy_helper.from_array(values, stored.name))
    return new
