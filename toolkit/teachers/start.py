"""Where a network starts: a checkpoint of its backbone, or the backbone of an earlier step.

A step leaves either `backbone.safetensors` (pretraining) or a whole network's `model.safetensors`, whose tensors under
`backbone.` are taken. From a step every tensor must fit; a checkpoint from elsewhere may lack a few.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor, nn

from ...runtime.errors import FoveolaError
from ..models.network import Network, load_weights, read_weights

BACKBONE = "backbone.safetensors"
PREFIX = "backbone."
ENOUGH = 0.9  # share of the backbone's tensors that a checkpoint from elsewhere must hold


def start_backbone(backbone: nn.Module, path: Path, name: str) -> str:
    """Load a checkpoint: timm's names, a classifier's last layer ignored, RGB kernels summed for grey input.

    Args:
        backbone: changed in place.
        path: safetensors.
        name: of the architecture, for errors.

    Returns:
        What was loaded, in words.

    Raises:
        FoveolaError: no safetensors file, or under nine tenths of the backbone's tensors are in it.
    """
    given, own = read_weights(path), backbone.state_dict()
    found = {key: _fitting(_named(given, key), x) for key, x in own.items()}
    fitting = {key: x for key, x in found.items() if x is not None}
    if len(fitting) < ENOUGH * len(own):
        missing = ", ".join(sorted(own.keys() - fitting.keys())[:3])
        fault = f"only {len(fitting)} of {len(own)} tensors fit {name} (not {missing})"
        raise FoveolaError(str(path), fault, "use a checkpoint of the same timm architecture")
    backbone.load_state_dict(own | fitting)
    return f"{len(fitting)} of {len(own)} tensors of the backbone"


def _named(given: dict[str, Tensor], key: str) -> Tensor | None:
    """A tensor by its own name, by that within a network, or by that within the whole classifier.

    A feature extractor of timm that takes a network apart calls its part `stages.0` `stages_0` (ConvNeXt and others).
    """
    names = (key, PREFIX + key, re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", key))
    return next((given[name] for name in names if name in given), None)


def _fitting(given: Tensor | None, own: Tensor) -> Tensor | None:
    if given is None or given.shape == own.shape:
        return given
    if given.dim() == 4 and own.dim() == 4 and own.shape[1] == 1 and given.shape[1] == 3:
        given = given.sum(1, keepdim=True)
    return given if given.shape == own.shape else None


def start_from_step(network: Network, folder: Path, *, heads: bool = False) -> str:
    """Load the backbone that an earlier step left; every tensor must be there and fit.

    Args:
        network: changed in place.
        folder: the finished step.
        heads: take the heads of tasks that both have too.

    Returns:
        What was loaded, in words.

    Raises:
        FoveolaError: a backbone of another architecture (the first keys are named).
    """
    count = len(network.backbone.state_dict())
    words = f"{count} of {count} tensors of the backbone"
    if (folder / BACKBONE).is_file():
        load_weights(network.backbone, folder / BACKBONE)
        return words
    path = folder / "model.safetensors"
    load_weights(network.backbone, path, PREFIX)
    taken = _take_heads(network, read_weights(path)) if heads else []
    return words + (f" and the heads of {', '.join(taken)}" if taken else "")


def _take_heads(network: Network, given: dict[str, Tensor]) -> list[str]:
    taken = []
    for name, head in network.heads.items():
        own = head.state_dict()
        found = {key: given.get(f"heads.{name}.{key}") for key in own}
        fitting = {key: x for key, x in found.items() if x is not None and x.shape == own[key].shape}
        if len(fitting) == len(own):
            head.load_state_dict(fitting)
            taken.append(name)
    return taken
