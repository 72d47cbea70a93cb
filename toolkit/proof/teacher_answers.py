"""A teacher asked about every image: the one part of the field's road that needs torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from ...runtime.prediction import Prediction
from ..answers import answer_images
from ..data.arrays import prepare_arrays
from ..data.dataset import Dataset
from ..models.network import Teacher
from .kept_answers import StoredAnswers, store_answers
from .predictions import teacher_predictions
from .rows import Thresholds

AT_ONCE = 64  # images that are prepared and asked about together, so that memory stays small
Progress = Callable[[int, int], None]


def ask_teacher(
    teacher: Teacher, locked: Thresholds, dataset: Dataset, *, teacher_digest: str, progress: Progress
) -> StoredAnswers:
    """Ask a teacher in evaluation mode, with its locked thresholds; see `ask_step`."""
    return store_answers(
        teacher.tasks,
        [sample.sha256 for sample in dataset.samples],
        _predictions(teacher, locked, dataset, progress),
        thresholds=locked,
        teacher=teacher_digest,
    )


def _predictions(
    teacher: Teacher, locked: Thresholds, dataset: Dataset, progress: Progress
) -> Iterator[Prediction | None]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(teacher, torch.nn.Module):
        teacher.to(device)
    total = len(dataset)
    for start in range(0, total, AT_ONCE):
        some = dataset.take(range(start, min(start + AT_ONCE, total))).only((), labelled=False)
        arrays = prepare_arrays(some, teacher.input)
        answers = answer_images(teacher, arrays.images, device=device)
        yield from teacher_predictions(
            teacher.tasks, answers, arrays.geometries, teacher.input, teacher.target_scale, locked
        )
        progress(start + len(some), total)
