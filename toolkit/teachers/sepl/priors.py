"""The prior vector: what the simple factors say, as the experts and the gates see it.

Values stand in scaled units, classes as logits (the released code) or as probabilities. Where the reference standard
takes the network's place (the oracle of the ablation), a class that is known stands as a sure logit.

B batch, A priors: the channels of all simple factors, in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ....runtime.task import Task
from ...losses import above_grades

ClassesAs = Literal["logit", "sigmoid"]
SURE = 4.0  # logit of a class that is known: 98 %


def prior_vector(
    tasks: Sequence[Task],
    raw: Mapping[str, Tensor],
    classes_as: ClassesAs = "logit",
    reference: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """The priors (B, A).

    Args:
        tasks: the simple factors.
        raw: their raw outputs, (B, channels) each.
        classes_as: how a factor of classes stands: raw `logit`, or probability (`sigmoid`; softmax where exclusive).
        reference: scaled targets that take the outputs' place where they are known (NaN: not known).
    """
    parts = []
    for task in tasks:
        said = raw[task.name]
        if reference is not None:
            known = as_logits(task, reference[task.name])
            said = torch.where(known.isnan(), said, known)
        if classes_as == "sigmoid" and task.kind != "regression":
            said = torch.softmax(said, 1) if task.kind == "multiclass" else torch.sigmoid(said)
        parts.append(said)
    return torch.cat(parts, 1)


def as_logits(task: Task, target: Tensor) -> Tensor:
    """Scaled targets as the raw outputs that would say them for sure, (B, channels); NaN stays NaN."""
    if task.kind == "regression":
        return target
    if task.kind == "ordinal":
        target = above_grades(target, len(task.classes))
    elif task.kind == "multiclass":
        chosen = functional.one_hot(target[:, 0].nan_to_num().long(), len(task.classes)).to(target.dtype)
        target = torch.where(target.isnan(), target, chosen)
    return (2 * target - 1) * SURE
