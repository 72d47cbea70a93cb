"""What a training is fed, and what it is judged by, from the train and validation splits of a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..runtime.errors import FoveolaError
from .answers import RawAnswers, answer_images
from .batches import TrainingData
from .course import Report, Scores
from .data.arrays import Arrays, prepare_arrays
from .data.dataset import Dataset
from .models.network import Network
from .score import score_answers, with_agreement


def check_splits(dataset: Dataset) -> None:
    """Refuse a data set without training or validation cases."""
    for name in ("train", "val"):
        count = len(dataset.subset(name))
        if count < 2:
            raise FoveolaError(str(dataset.root), f"{count} case(s) in split {name!r}", "at least two are needed")


def labelled(dataset: Dataset) -> NDArray[np.int64]:
    """Places of the images that have a target for any task."""
    return np.flatnonzero(np.any([dataset.known(task.name) for task in dataset.tasks], axis=0))


def training_data(
    network: Network,
    dataset: Dataset,
    cache: Path,
    report: Report,
    answers: RawAnswers | None = None,
    scale: float = 1.0,
) -> tuple[TrainingData, list[str]]:
    """The train split as a network of these tasks needs it, and the images' names."""
    train, plan = dataset.subset("train"), network.architecture
    arrays = prepare_arrays(train, network.input, cache=cache, progress=preparing(report))
    data = TrainingData(arrays, network.tasks, plan.target_mean, plan.target_std, answers, scale)
    return data, [sample.key for sample in arrays.samples]


def validation(
    dataset: Dataset, network: Network, cache: Path, report: Report, taught: RawAnswers | None = None
) -> Callable[[nn.Module], Scores]:
    """A function that scores a network on the labelled images of the validation split.

    Args:
        dataset: the cases.
        network: how it is fed.
        cache: where decoded images are kept.
        report: progress.
        taught: a teacher's answers to all of the split, by which embeddings are judged too (`score.with_agreement`).
    """
    val = dataset.subset("val")
    places = labelled(val)
    val = val.take(places)
    taught = None if taught is None else taught.take(places.tolist())
    arrays = prepare_arrays(val, network.input, cache=cache, progress=preparing(report))

    def validate(candidate: nn.Module) -> Scores:
        assert isinstance(candidate, Network)
        answers = _answers(candidate, arrays)
        scores = score_answers(candidate.tasks, answers, arrays, candidate.target_scale)
        return scores if taught is None else with_agreement(scores, candidate.tasks, answers, taught)

    return validate


def _answers(network: Network, arrays: Arrays) -> RawAnswers:
    device = next(network.parameters()).device
    return answer_images(network.eval(), arrays.images, device=device)


def preparing(report: Report) -> Callable[[int, int], None]:
    """Progress of decoding, in the words of a training's progress."""
    return lambda done, total: report(done, total, "decoding images")
