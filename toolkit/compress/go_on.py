"""Train a finished student further: the same network, its own heads, on the reference standard or with a teacher.

- The network is taken as it is: pruned channels, merged branches and folded normalisation stay so.
- Without a teacher the images with a target take part; with one all of the train split do.
- `draws` says how often each image is seen; an epoch keeps its length, and equal draws are an ordinary epoch.

N images of the train split.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...runtime.manifest import InputSpec
from ..answers import RawAnswers, Scale
from ..batches import TrainingData
from ..checkpoint import Objective
from ..course import Course, Report, Scores
from ..data.dataset import Dataset
from ..finished import finish
from ..fit import Supervised, fit
from ..knobs import Lessons, Plan
from ..models.network import Network, load_network
from ..supervision import check_splits, labelled, training_data, validation
from ..teachers.load import read_input, read_scale
from ..train import guided
from ..workers import leads
from .lessons import TAUGHT, cached_answers, write_taught

RECORDS = ("pruned.json",)  # what a step tells of its network, and the network's next step goes on telling


class Guide(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A teacher's part in a training.

    Args:
        answers: the teacher's, one for each train case in order.
        input: how the teacher is fed.
        scale: its mean and standard deviation of each regression task.
        lessons: how its answers enter the loss.
    """

    answers: RawAnswers
    input: InputSpec
    scale: Scale
    lessons: Lessons


class DrawnCourse(Course):
    """A training that sees some images more often than others.

    Args:
        data: training images and targets.
        validate: score of a network on the validation images.
        plan: the knobs of the loop.
        names: a name an image, for errors.
        places: the images that take part; None: all.
        draws: (N,) how often each image is seen, relative to the others.
    """

    def __init__(
        self,
        data: TrainingData,
        validate: Callable[[nn.Module], Scores],
        plan: Plan,
        *,
        names: Sequence[str] = (),
        places: NDArray[np.int64] | None = None,
        draws: NDArray[np.float64] | None = None,
    ) -> None:
        super().__init__(data, validate, plan, names=names, places=places)
        self.draws = np.ones(len(data)) if draws is None else draws

    def order(self, epoch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """As many images as take part, each about as often as its share of the draws says."""
        own = self.draws[self.places]
        if bool((own == own[0]).all()):
            return super().order(epoch, rng)
        return draw(self.places, own, rng)


def draw(places: NDArray[np.int64], weights: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many places as there are, in proportion to their weights, and mix them.

    Systematic resampling (Kitagawa 1996): a place whose share is 2.3 comes twice or three times, never else.

    Args:
        places: n of them.
        weights: (n,) above zero.
        rng: random numbers.
    """
    mixed = rng.permutation(len(places))
    ends = np.cumsum(weights[mixed])
    ends *= len(places) / ends[-1]
    ends[-1] = len(places)
    counts = np.diff(np.ceil(ends - rng.random()), prepend=0).astype(np.int64)
    return np.asarray(rng.permutation(np.repeat(places[mixed], counts)))


def go_on(
    network: Network,
    dataset: Dataset,
    plan: Plan,
    *,
    guide: Guide | None = None,
    draws: NDArray[np.float64] | None = None,
    mask_entropy: bool = True,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    log: Path | None = None,
) -> Network:
    """Train a network further and save it as a finished step.

    Args:
        network: changed in place.
        dataset: with at least train and val cases.
        plan: the training.
        guide: the teacher's part; None: the reference standard alone.
        draws: (N,) how often each train image is seen, relative to the others; None: all alike.
        mask_entropy: without a guide: cross entropy beside soft Dice for masks.
        folder: where the results go.
        cache: where decoded images are kept.
        seed: of everything random.
        report: progress.
        log: CSV of the curve.

    Raises:
        FoveolaError: no training or validation cases, or the teacher sees another part of the picture.
    """
    check_splits(dataset)
    objective, answers, scale = _objective(network, guide, seed, mask_entropy=mask_entropy)
    data, names = training_data(network, dataset, cache, report, answers, scale)
    every = guide is not None and guide.lessons.unlabelled
    places = None if every else labelled(dataset.subset("train"))
    course = DrawnCourse(
        data, validation(dataset, network, cache, report), plan, names=names, places=places, draws=draws
    )
    history = fit(objective, course, seed=seed, folder=folder, report=report, log=log)
    finish(network, dataset, history, folder, cache)
    return network


def finetune_student(
    student: Path,
    dataset: Dataset,
    plan: Plan,
    *,
    teacher: Path | None = None,
    teacher_digest: str = "",
    lessons: Lessons | None = None,
    mask_entropy: bool = True,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    log: Path | None = None,
) -> Network:
    """Train a finished student further, guided where a teacher is given.

    Args:
        student: its folder.
        dataset: with at least train and val cases.
        plan: the training.
        teacher: folder of a finished teacher; None: the reference standard alone.
        teacher_digest: identity of the teacher's step.
        lessons: how its answers enter the loss.
        mask_entropy: without a teacher: cross entropy beside soft Dice for masks.
        folder: where the results go.
        cache: where decoded images and answers are kept.
        seed: of everything random.
        report: progress.
        log: CSV of the curve.

    Raises:
        FoveolaError: no training or validation cases, or the teacher sees another part of the picture.
    """
    guide = None
    if teacher is not None:
        answers = cached_answers(teacher, teacher_digest, dataset.subset("train"), cache, report)
        guide = Guide(
            answers=answers, input=read_input(teacher), scale=read_scale(teacher), lessons=lessons or Lessons()
        )
    network = go_on(
        load_network(student), dataset, plan, guide=guide, mask_entropy=mask_entropy,
        folder=folder, cache=cache, seed=seed, report=report, log=log,
    )  # fmt: skip
    if leads():
        keep_records(student, folder, (*RECORDS, TAUGHT) if teacher is None else RECORDS)
        if teacher is not None:
            write_taught(folder, teacher_digest)
    return network


def keep_records(of: Path, folder: Path, names: Sequence[str] = RECORDS) -> None:
    """Copy what the step before told of the same network."""
    for name in names:
        if (of / name).exists():
            shutil.copyfile(of / name, folder / name)


def _objective(
    network: Network, guide: Guide | None, seed: int, *, mask_entropy: bool
) -> tuple[Objective, RawAnswers | None, float]:
    if guide is None:
        torch.manual_seed(seed + 1)
        return Supervised(network, mask_entropy=mask_entropy), None, 1.0
    return guided(network, guide.answers, guide.lessons, guide.input, guide.scale, seed)
