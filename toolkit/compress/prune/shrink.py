"""A network without some of its channels, its architecture saying so."""

from __future__ import annotations

import copy

import msgspec
import torch

from ...models.network import Network
from ...models.structure import resized_layers
from .graph import Removals, example, form, remove


def shrink(network: Network, removals: Removals) -> Network:
    """A copy without these channels, that `save_network` and `load_network` bring back.

    Raises:
        RuntimeError: it takes another input or gives other shapes than before.
    """
    thin = copy.deepcopy(network)
    remove(thin, removals)
    plain = msgspec.structs.replace(network.architecture.structure, resized={})
    fresh = Network(msgspec.structs.replace(network.architecture, structure=plain))
    structure = msgspec.structs.replace(plain, resized=resized_layers(fresh, thin))
    thin.architecture = msgspec.structs.replace(network.architecture, structure=structure)
    if _shapes(network) != _shapes(thin):
        raise RuntimeError(f"pruning changed the answers' shapes: {_shapes(network)} to {_shapes(thin)}")
    return thin


def _shapes(network: Network) -> dict[str, tuple[int, ...]]:
    with torch.no_grad():
        return {name: tuple(x.shape) for name, x in form(network.eval())(example(network)).items()}
