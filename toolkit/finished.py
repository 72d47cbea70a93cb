"""What every training leaves behind, and how it is read again.

A finished step has its network (`model.json`, `model.safetensors`), its history (`history.json`), and the thresholds
that were locked on the validation split (`locked.json`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import torch

from .answers import RawAnswers, answer_images
from .checkpoint import Epoch
from .data.arrays import prepare_arrays
from .data.dataset import Dataset
from .fit import forget
from .json_files import write_json
from .models.network import Network, Teacher, save_network
from .score import lock_thresholds
from .teachers.built import BuiltTeacher, save_teacher
from .workers import leads

HISTORY, LOCKED = "history.json", "locked.json"


def teacher_answers(
    teacher: Teacher,
    dataset: Dataset,
    *,
    cache: Path | None = None,
    hint: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> RawAnswers:
    """A teacher's answers to all cases of a data set, through its own preprocessing."""
    arrays = prepare_arrays(dataset, teacher.input, cache=cache)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(teacher, torch.nn.Module):
        teacher.to(device).eval()
    return answer_images(teacher, arrays.images, hint=hint, device=device, progress=progress)


def lock_teacher(teacher: Teacher, dataset: Dataset, *, cache: Path | None = None) -> dict[str, tuple[float, ...]]:
    """A teacher's decision thresholds by task, locked on the validation split by each task's operating point."""
    val = dataset.subset("val")
    return lock_thresholds(
        teacher.tasks,
        teacher_answers(teacher, val, cache=cache, hint=False),
        prepare_arrays(val, teacher.input, cache=cache),
    )


def finish(network: Network | BuiltTeacher, dataset: Dataset, history: list[Epoch], folder: Path, cache: Path) -> None:
    """Save a trained network or teacher with its history and its thresholds, locked on the validation split."""
    network.cpu()
    if not leads():
        return
    if isinstance(network, BuiltTeacher):
        save_teacher(network, folder)
    else:
        save_network(network, folder)
    write_json(folder / HISTORY, history)
    write_json(folder / LOCKED, lock_teacher(network.eval(), dataset, cache=cache))
    forget(folder)


def read_history(folder: Path) -> list[Epoch]:
    """The history of a finished training."""
    return msgspec.json.decode((folder / HISTORY).read_bytes(), type=list[Epoch])


def read_locked(folder: Path) -> dict[str, tuple[float, ...]]:
    """The thresholds that a training locked on its validation split, by task."""
    return msgspec.json.decode((folder / LOCKED).read_bytes(), type=dict[str, tuple[float, ...]])
