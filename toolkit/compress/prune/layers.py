"""What each layer of a network is and does for one image: channels, parameters and multiply-adds."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import torch
from torch import Tensor, nn

from ...models.network import Network
from .graph import example, form
from .record import PrunedLayer


class Shape(msgspec.Struct, frozen=True):
    """What one layer is and does."""

    inputs: int
    outputs: int
    parameters: int
    macs: int


def layer_shapes(network: Network) -> dict[str, Shape]:
    """Channels, parameters and multiply-adds of every convolution and linear layer, for one image."""
    found: dict[str, Shape] = {}
    paths = {module: path for path, module in network.named_modules()}

    def note(module: nn.Module, _: object, output: Tensor) -> None:
        own = sum(one.numel() for one in module.parameters(recurse=False))
        if isinstance(module, nn.Conv2d):
            macs = output[0].numel() * len(output) * module.weight[0].numel()
            found[paths[module]] = _sum(found, paths[module], module.in_channels, module.out_channels, own, macs)
        elif isinstance(module, nn.Linear):
            macs = output.numel() * module.in_features
            found[paths[module]] = _sum(found, paths[module], module.in_features, module.out_features, own, macs)

    handles = [one.register_forward_hook(note) for one in network.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    whole = form(network.eval())
    found.clear()  # a teacher's dense form runs the backbone once while it is made
    try:
        with torch.no_grad():
            whole(example(network))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _sum(found: Mapping[str, Shape], path: str, inputs: int, outputs: int, parameters: int, macs: int) -> Shape:
    """A layer that is asked several times (a detector's on every level) counts all its sums."""
    return Shape(inputs, outputs, parameters, macs + (found[path].macs if path in found else 0))


def changed_layers(before: Mapping[str, Shape], after: Mapping[str, Shape]) -> tuple[PrunedLayer, ...]:
    """The layers whose channels differ, in the order of the network."""
    return tuple(
        PrunedLayer(
            path=path,
            inputs=(old.inputs, after[path].inputs),
            outputs=(old.outputs, after[path].outputs),
            parameters=(old.parameters, after[path].parameters),
            macs=(old.macs, after[path].macs),
        )
        for path, old in before.items()
        if (old.inputs, old.outputs) != (after[path].inputs, after[path].outputs)
    )
