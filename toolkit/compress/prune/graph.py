"""Which channels of a network belong together, traced from its own graph; and how some of them are taken away.

The tracing is torch-pruning's (Fang et al., CVPR 2023): layers whose channels must go together form a group, named by
its first layer.

- A teacher is traced in its dense form, so that the second stage of its detector is reached.
- All parameters ask for gradients while the graph is traced, since a frozen one would hide its layer; their flags are
  put back afterwards.
- The last layers of the heads are found by walking back from the outputs to the nearest layers with weights.

    traced = trace(network)
    remove(network, {"backbone.blocks.0.conv": [3, 5]})
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import torch
import torch_pruning
from torch import Tensor, nn

from ...models.dense_teacher import DenseTeacher
from ...models.network import Network
from ...models.structure import refresh_blocks

Removals = Mapping[str, Sequence[int]]  # first layer of a group -> outputs of it that go, with all that hangs on them
ROOTS = (nn.Conv2d, nn.Linear)


class Traced(msgspec.Struct, frozen=True, eq=False):
    """A network's dependency graph, valid until the network changes."""

    graph: Any  # torch_pruning.DependencyGraph
    paths: dict[nn.Module, str]  # path of every module in the network
    last: frozenset[str]  # the layers that give the graph's outputs

    def groups(self) -> list[Any]:
        """All groups but those of the last layers, each with all of its channels (torch_pruning.Group)."""
        # Behind the last layers channels and cells are mixed; to follow an index there takes all memory.
        ignored = [layer for layer, path in self.paths.items() if path in self.last]
        with _no_warnings():
            return list(self.graph.get_all_groups(ignored_layers=ignored, root_module_types=list(ROOTS)))

    def group(self, root: str, channels: Sequence[int]) -> Any:
        """Some channels of the group that a layer begins, in every layer that they touch."""
        modules = {path: module for module, path in self.paths.items()}
        layer = modules[root]
        handler = self.graph.get_pruner_of_module(layer).prune_out_channels
        with _no_warnings():
            return self.graph.get_pruning_group(layer, handler, list(channels))

    def widens(self, handler: Any) -> bool:
        """Whether a handler takes outputs of its layer away, not inputs."""
        return bool(self.graph.is_out_channel_pruning_fn(handler))


def form(network: Network) -> nn.Module:
    """The module whose `forward` reaches every layer; it shares the network's modules."""
    return DenseTeacher(network) if network.architecture.role == "teacher" else network


def example(network: Network) -> Tensor:
    """One image (1, C, H, W) on which a network is traced, the same at every call."""
    spec = network.input
    return torch.rand(1, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(0))


def trace(network: Network) -> Traced:
    """Trace a network; it is left in evaluation mode, and its parameters as frozen as they were."""
    outputs: list[Tensor] = []

    def listed(found: dict[str, Tensor]) -> list[Tensor]:
        outputs.extend(found.values())
        return outputs

    with _thawed(network), torch.enable_grad(), _no_warnings():
        graph: Any = torch_pruning.DependencyGraph().build_dependency(
            form(network.eval()), example(network), output_transform=listed, verbose=False
        )
    paths: dict[nn.Module, str] = {module: path for path, module in network.named_modules()}
    return Traced(graph, paths, frozenset(paths[layer] for layer in _last_layers(graph, outputs)))


def remove(network: Network, removals: Removals) -> None:
    """Take channels away, in place; `network.architecture` is the caller's to change."""
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    traced = trace(network)
    for root, channels in removals.items():
        if channels:
            group = traced.group(root, channels)
            if not traced.graph.check_pruning_group(group):
                raise RuntimeError(f"every channel of {root} would go")
            with _no_warnings():
                group.prune(record_history=False)
    refresh_blocks(network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
        parameter.grad = None


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a layer filters each channel by itself."""
    return isinstance(layer, nn.Conv2d) and layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels


def _last_layers(graph: Any, outputs: Sequence[Tensor]) -> set[nn.Module]:
    """Walk back from the outputs; a convolution that filters each channel by itself is passed."""
    makers = {tensor.grad_fn for tensor in outputs}
    waiting = [node for node in graph.module2node.values() if node.grad_fn in makers]
    seen = set(waiting)
    found: set[nn.Module] = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node.module, ROOTS) and not is_depthwise(node.module):
            found.add(node.module)
            continue
        fresh = [one for one in node.inputs if one not in seen]
        seen.update(fresh)
        waiting += fresh
    return found


@contextmanager
def _no_warnings() -> Iterator[None]:
    """torch-pruning warns of deep graphs and of parameters outside of layers; what it made of them is tried out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _thawed(network: nn.Module) -> Iterator[None]:
    flags = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    network.requires_grad_(True)
    try:
        yield
    finally:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(flags[name])
