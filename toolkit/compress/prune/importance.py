"""How much each channel of a group matters; the least are taken away first.

| importance | score of a channel |
|---|---|
| `magnitude` | norm of its weights, over all layers of the group (Li et al., ICLR 2017; Fang et al., CVPR 2023) |
| `taylor` | first-order change of the loss, |weight x gradient| (Molchanov et al., CVPR 2019) |
| `hessian` | second-order change, weight^2 x mean of the squared gradients (LeCun et al., NeurIPS 1989) |

Gradients come from a few training images through the objective that the network is trained by. A group's scores are
divided by their mean, so that groups can be ranked together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch_pruning
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...batches import TrainingData
from ...checkpoint import Objective
from .groups import Group

Importance = Literal["magnitude", "taylor", "hessian"]
BATCH = 8  # images a gradient of `taylor`


def scores(groups: Sequence[Group], importance: Importance) -> list[Tensor]:
    """Score of each channel of each group; for `taylor` and `hessian` the gradients must be there."""
    judge: Any = {
        "magnitude": torch_pruning.importance.GroupMagnitudeImportance,
        "taylor": torch_pruning.importance.GroupTaylorImportance,
        "hessian": torch_pruning.importance.GroupHessianImportance,
    }[importance]()
    found: list[Tensor] = []
    for group in groups:
        one: Tensor | None = judge(group.items)
        # Nothing is known of a group whose layers have no weights that are scored, or no gradient at all.
        one = torch.ones(group.width) if one is None else one.detach().cpu().float()
        found.append(one.nan_to_num(nan=1.0))
    return found


def fill_gradients(objective: Objective, data: TrainingData, places: NDArray[np.int64], importance: Importance) -> None:
    """Put into every parameter's `grad` what its importance asks for; normalisation keeps its statistics.

    Args:
        objective: the network and its losses.
        data: training images, taken as they are.
        places: which of them.
        importance: `taylor` sums gradients over batches; `hessian` takes the mean of the squares, image by image.
    """
    network = objective.network
    parameters = list(network.parameters())
    total = [torch.zeros_like(parameter) for parameter in parameters]
    parts = np.array_split(places, len(places) if importance == "hessian" else max(1, len(places) // BATCH))
    objective.train()
    for module in objective.modules():
        if isinstance(module, _BatchNorm | nn.Dropout):
            module.eval()
    for part in parts:
        for own, gradient in zip(total, _gradients(objective, data, part, parameters), strict=True):
            # torch-pruning's own sum of squares keeps the last image only (1.6.1), thus it is done here.
            own += gradient.pow(2) / len(parts) if importance == "hessian" else gradient
    objective.eval()
    for parameter, own in zip(parameters, total, strict=True):
        parameter.grad = own


def _gradients(
    objective: Objective, data: TrainingData, part: NDArray[np.int64], parameters: Sequence[nn.Parameter]
) -> list[Tensor]:
    objective.zero_grad(set_to_none=True)
    losses: dict[str, Tensor] = objective(data.batch(part))
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    return [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
