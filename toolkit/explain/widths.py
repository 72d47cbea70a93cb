"""What pruning took from each layer: the channels that its architecture would have, beside those that are there."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from torch import nn

from ..models.network import Architecture, Network
from ..models.structure import Structure


def widths_before(architecture: Architecture) -> dict[str, int]:
    """Channels of the result of every layer that was resized, as its architecture has them, by module.

    Args:
        architecture: with its structure; without resized layers nothing is built.
    """
    structure = architecture.structure
    if not structure.resized:
        return {}
    plain = Structure(merged=structure.merged)
    modules: Mapping[str, nn.Module] = dict(
        Network(msgspec.structs.replace(architecture, structure=plain)).named_modules()
    )
    found = {}
    for path, layer in structure.resized.items():
        weight, before = layer.tensors.get("weight"), getattr(modules.get(path), "weight", None)
        if weight is not None and len(weight) > 1 and before is not None and before.shape[0] != weight[0]:
            found[path] = int(before.shape[0])
    return found
