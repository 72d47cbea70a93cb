"""One tiny valid proof that each test breaks in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from foveola.runtime.task import Task
from foveola.toolkit.parity.cases import Answers, Cases, References
from foveola.toolkit.parity.evidence import Endpoint, Evidence
from foveola.toolkit.parity.protocol import usual_protocol
from foveola.toolkit.parity.prove import prove

Array = NDArray[np.float64]
BINARY = Task(name="finding", kind="binary", classes=("no", "yes"))
HEADER = {
    "bundle": "tiny",
    "bundle_digest": "a" * 64,
    "teacher_digest": "b" * 64,
    "data_digest": "c" * 64,
    "split": "test",
}
Prover = Callable[..., Evidence]


def make_cases(count: int, patients: int | None = None, **attributes: tuple[str, ...]) -> Cases:
    """`count` cases spread over the patients in turn."""
    return Cases(
        keys=tuple(f"case{n:05d}" for n in range(count)),
        patients=tuple(f"patient{n % (patients or count):05d}" for n in range(count)),
        attributes=attributes,
    )


def compare(
    task: Task,
    reference: Array | None,
    teacher: Any,
    student: Any,
    *,
    cases: Cases | None = None,
    boxes: tuple[Any, ...] = (),
    thresholds: tuple[float, ...] = (),
    student_thresholds: tuple[float, ...] | None = None,
    **options: Any,
) -> Evidence:
    """Prove one task on one engine from plain arrays (or lists of boxes)."""
    field = {"segmentation": "dice", "detection": "boxes"}.get(task.kind, "scores")
    limits = {task.name: thresholds}
    numbers = {name: options.pop(name) for name in ("resamples", "seed", "alpha", "power") if name in options}
    if "protocol" not in options:
        options["protocol"] = msgspec.structs.replace(usual_protocol([task]), **{"resamples": 200, **numbers})
    student_limits = {task.name: thresholds if student_thresholds is None else student_thresholds}
    return prove(
        [task],
        cases or make_cases(len(teacher)),
        References(scores={} if reference is None else {task.name: reference}, boxes={task.name: boxes}),
        Answers(**{field: {task.name: teacher}, "thresholds": limits}),
        {"onnxruntime": Answers(**{field: {task.name: student}, "thresholds": student_limits})},
        **{**HEADER, **options},
    ).evidence


def by_metric(evidence: Evidence, label: str = "") -> Mapping[str, Endpoint]:
    return {endpoint.metric: endpoint for endpoint in evidence.endpoints if endpoint.label == label}


def binary_scores(count: int, seed: int = 0, noise: float = 0.02) -> tuple[Array, Array, Array]:
    """Reference, a good teacher and a student that differs a little, each (count, 1)."""
    rng = np.random.default_rng(seed)
    truth = (np.arange(count) % 2).astype(np.float64)[:, None]
    teacher = np.clip(0.3 + 0.4 * truth + 0.15 * rng.standard_normal((count, 1)), 0.0, 1.0)
    return truth, teacher, np.clip(teacher + noise * rng.standard_normal((count, 1)), 0.0, 1.0)


@pytest.fixture
def binary() -> tuple[Array, Array, Array]:
    return binary_scores(400)
