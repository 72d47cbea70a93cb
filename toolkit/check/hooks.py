"""What torch computes inside a network, at the tensors of the graph that was exported from it.

A module's output is the one tensor of its operations that others read. Torch is watched as it runs, module by module,
so that the exporter is under test as well.

Left out are modules with several outputs or called more than once, and a layer into which the exporter folded the
normalisation behind it: there is no such tensor in torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...export.bisect import Step
from ...export.placement import LAYERS


def module_tensors(network: nn.Module, steps: Sequence[Step], model: ModelProto) -> dict[str, str]:
    """Give the module that gives each tensor, the outermost one; by the tensor's name.

    Args:
        network: in torch.
        steps: of the graph, with their modules.
        model: the float graph that was exported from it.
    """
    modules = dict(network.named_modules())
    folded = _folded(modules, steps, model)
    ends = {value.name for value in model.graph.output}
    found: dict[str, str] = {}
    for path, module in modules.items():  # from the outside to the inside
        tensor = _output(path, steps, ends) if path else ""
        normalises = any(isinstance(one, _BatchNorm) for one in module.modules())
        if tensor and (normalises or tensor not in folded):
            found.setdefault(tensor, path)
    return found


def watch(network: nn.Module, tensors: dict[str, str], x_1CHW: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Run torch once and give the values of tensors.

    Args:
        network: in evaluation mode.
        tensors: module by tensor, from `module_tensors`.
        x_1CHW: the input.

    Returns:
        By tensor; those whose module gave no single tensor, or not once, are missing. The network's outputs are there.
    """
    seen: dict[str, list[NDArray[Any]]] = {path: [] for path in tensors.values()}
    modules = dict(network.named_modules())

    def keep(path: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # A copy: what follows may work in place.
            seen[path].append(output.detach().clone().numpy() if isinstance(output, torch.Tensor) else np.empty(0))

        return hook

    handles = [modules[path].register_forward_hook(keep(path)) for path in seen]
    try:
        with torch.inference_mode():
            raw: dict[str, torch.Tensor] = network(torch.from_numpy(x_1CHW))
    finally:
        for handle in handles:
            handle.remove()
    values = {name: seen[path][0] for name, path in tensors.items() if len(seen[path]) == 1 and seen[path][0].size}
    return values | {name: tensor.numpy() for name, tensor in raw.items()}


def _output(path: str, steps: Sequence[Step], ends: set[str]) -> str:
    """Name the only tensor of a module that is read outside it; empty where there is none or more than one."""
    inner = [step for step in steps if step.module == path or step.module.startswith(f"{path}.")]
    made = {step.output for step in inner}
    nodes = {step.node for step in inner}
    read = {name for step in steps if step.node not in nodes for name in step.inputs}
    given = made & (read | ends)
    return given.pop() if len(given) == 1 else ""


def _folded(modules: dict[str, nn.Module], steps: Sequence[Step], model: ModelProto) -> set[str]:
    """Name the outputs of layers whose weight in the graph is not the module's own."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    found = set()
    for step in steps:
        own = getattr(modules.get(step.module), "weight", None)
        stored = weights.get(nodes[step.node].input[1]) if step.operator in LAYERS else None
        if stored is None or not isinstance(own, torch.Tensor):
            continue
        exported = numpy_helper.to_array(stored)
        plain = own.detach().numpy()
        if not np.array_equal(exported, plain) and not np.array_equal(exported, plain.T):
            found.add(step.output)
    return found
