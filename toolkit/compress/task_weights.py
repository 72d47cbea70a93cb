"""What is learned beside a student and thrown away after: weights between tasks, variances of measures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...runtime.task import Task
from ..knobs import Lessons

PACE = 10.0  # these few numbers must move within a short training at the network's own rate


class Learned(nn.Module):
    """Log variances that a training learns; all begin at zero, where they change nothing but constants.

    Args:
        tasks: of the network.
        lessons: `task_weights: learned` gives each task one, `value_lesson: uncertain` each measure two, one for the
            reference standard and one for the teacher, whose errors differ.
    """

    def __init__(self, tasks: Sequence[Task], lessons: Lessons) -> None:
        super().__init__()
        weighted = tasks if lessons.task_weights == "learned" else ()
        measured = [task for task in tasks if task.kind == "regression"] if lessons.value_lesson == "uncertain" else ()
        self.balance = nn.ParameterDict({task.name: nn.Parameter(torch.zeros(1)) for task in weighted})
        # One row of numbers, and not a matrix, so that weight decay leaves it alone.
        self.spread = nn.ParameterDict({task.name: nn.Parameter(torch.zeros(2 * task.channels)) for task in measured})

    def weighted(self, task: Task, loss: Tensor) -> Tensor:
        """exp(-s) loss + s / 2 with the learned s of the task (Kendall et al., CVPR 2018, eq. 10).

        A loss of exactly zero has no known target; it must not pull s down for ever.
        """
        if task.name not in self.balance:
            return loss
        s = PACE * self.balance[task.name][0]
        return torch.where(loss.detach() == 0, loss, torch.exp(-s) * loss + s / 2)

    def log_variance(self, task: Task, *, teacher: bool) -> Tensor | float:
        """That of each measure, about the teacher's values or the reference standard's; 0 where none is learned."""
        if task.name not in self.spread:
            return 0.0
        both: Tensor = PACE * self.spread[task.name]
        return both[task.channels :] if teacher else both[: task.channels]

    @torch.no_grad()
    def weights(self) -> dict[str, float]:
        """The learned weight of each task."""
        return {name: float(torch.exp(-PACE * s)) for name, s in self.balance.items()}
