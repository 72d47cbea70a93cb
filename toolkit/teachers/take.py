"""Take over a teacher that was trained elsewhere: rebuild, load, lock its thresholds, save it as a finished step."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from ...runtime.errors import FoveolaError
from ...runtime.manifest import InputSpec
from ...runtime.task import Task
from ..data.dataset import Dataset
from ..finished import LOCKED, lock_teacher
from ..json_files import write_json
from .external import External, load_external


def take_teacher(
    dataset: Dataset,
    *,
    library: Literal["timm", "torchvision"],
    architecture: str,
    weights: Path,
    spec: InputSpec,
    names: Sequence[str],
    outputs: int,
    folder: Path,
    cache: Path,
) -> None:
    """Write `model.json`, `model.safetensors` and `locked.json` for a teacher of a known architecture.

    Args:
        dataset: whose validation split locks the thresholds.
        library: `timm` or `torchvision`.
        architecture: the library's name.
        weights: a safetensors checkpoint with the library's keys.
        spec: how the network is fed.
        names: the tasks that its channels answer, in order; empty means all of the data set.
        outputs: its number of output channels; 0 means exactly those of the tasks.
        folder: where the results go.
        cache: where decoded images are kept.

    Raises:
        FoveolaError: an unknown task, architecture or checkpoint.
    """
    tasks = tuple(dataset.task(name) for name in names) or dataset.tasks
    plan = External(library=library, architecture=architecture, input=spec, tasks=_answerable(tasks), outputs=outputs)
    teacher = load_external(plan, weights)
    write_json(folder / "model.json", plan)
    write_json(folder / LOCKED, lock_teacher(teacher, dataset, cache=cache))
    shutil.copyfile(weights, folder / "model.safetensors")


def _answerable(tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    boxes = [task.name for task in tasks if task.kind == "detection"]
    if boxes:
        mend = "list the tasks that it answers in `tasks`"
        raise FoveolaError("load", f"a loaded network cannot answer the detection task(s) {', '.join(boxes)}", mend)
    return tuple(msgspec.structs.replace(task, margins={}) for task in tasks)
