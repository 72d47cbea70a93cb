"""Six simple and nine complex factors, and a small teacher of them, that the tests of SePL share."""

from __future__ import annotations

from typing import Any

import torch

from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Task
from foveola.toolkit.teachers.sepl.teacher import SeplPlan, SeplTeacher

COLOUR = InputSpec(height=64, width=64, channels=3, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
MEASURES = ("age", "height", "weight", "bmi", "waist")
BLOOD = ("sbp", "dbp", "cholesterol", "glucose", "triglycerides", "hba1c", "bun", "creatinine", "uric_acid")
SIMPLE = (
    Task(name="sex", kind="binary", classes=("female", "male")),
    *(Task(name=name, kind="regression", classes=(name,)) for name in MEASURES),
)
COMPLEX = tuple(Task(name=name, kind="regression", classes=(name,)) for name in BLOOD)


def plan_of(**knobs: Any) -> SeplPlan:
    """A plan of all fifteen, small unless it is told otherwise."""
    tasks: tuple[Task, ...] = knobs.pop("tasks", (*SIMPLE, *COMPLEX))
    measures = [task for task in tasks if task.kind == "regression"]
    given: dict[str, Any] = {
        "backbone": "test_resnet",
        "input": COLOUR,
        "tasks": tasks,
        "simple": SIMPLE,
        "hidden": 16,
        "target_mean": {task.name: (0.0,) * task.channels for task in measures},
        "target_std": {task.name: (1.0,) * task.channels for task in measures},
    }
    return SeplPlan(**(given | knobs))


def teacher_of(seed: int = 0, **knobs: Any) -> SeplTeacher:
    """The teacher of such a plan, in evaluation mode."""
    torch.manual_seed(seed)
    return plan_of(**knobs).build().eval()


def pictures(count: int = 2, seed: int = 0) -> torch.Tensor:
    """Noise in colour, (B, 3, 64, 64)."""
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
