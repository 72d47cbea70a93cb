"""SePL's losses: absolute error on scaled values, cross entropy on classes, the sum of all with weight one.

Gaps are masked: a factor that is not known of a picture gives neither loss nor gradient (Ko et al. drop such rows).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

from ....runtime.task import Task
from ...batches import Batch
from ...checkpoint import Objective
from ...compress.task_weights import Learned
from ...knobs import Lessons
from ...losses import masked_mean, scalar_loss
from .teacher import SeplTeacher


def factor_loss(task: Task, raw_BT: Tensor, target: Tensor, clip: float = 0.0) -> Tensor:
    """Loss of one factor over the known targets; zero, with a gradient, where there is none.

    Args:
        task: which kind.
        raw_BT: raw outputs.
        target: as `losses.scalar_loss` has it; values are scaled.
        clip: largest scaled target, both ways, as the loss sees it; 0 leaves outliers as they are.
    """
    if task.kind != "regression":
        return scalar_loss(task, raw_BT, target)
    wanted = target.clamp(-clip, clip) if clip else target
    return masked_mean(functional.l1_loss(raw_BT, wanted.nan_to_num(), reduction="none"), ~target.isnan())


class Propagating(Objective):
    """Losses of all factors at once; while `simple_only` is set, those of the simple ones alone.

    Args:
        network: the teacher.
        clip: as for `factor_loss`.
        weights: those of the tasks, or such as are learned beside them (Kendall et al., CVPR 2018).
    """

    network: SeplTeacher

    def __init__(
        self, network: SeplTeacher, *, clip: float = 0.0, weights: Literal["fixed", "learned"] = "fixed"
    ) -> None:
        super().__init__(network)
        self.clip = clip
        self.learned = Learned(network.tasks, Lessons(task_weights=weights))
        self.simple_only = False

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """One loss a factor."""
        simple = {task.name for task in self.network.sepl.simple}
        given = {name: batch.scalars[name] for name in simple}
        raw = self.network.propagate(batch.images, given).raw
        losses = {}
        for task in self.network.tasks:
            if self.simple_only and task.name not in simple:
                continue
            loss = factor_loss(task, raw[task.name], batch.scalars[task.name], self.clip)
            losses[task.name] = task.weight * self.learned.weighted(task, loss)
        return losses
