"""Train a teacher, or distil a student, from a data set: plain functions behind the stages of these names.

Both write the same files: `model.json`, `model.safetensors`, `history.json` and `locked.json` (thresholds locked on the
validation split). Whoever writes no YAML calls these functions directly.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ..runtime.errors import FoveolaError
from ..runtime.manifest import InputSpec
from .answers import RawAnswers, Scale, rescaled
from .checkpoint import Objective
from .compress.distill import Distilled
from .compress.embedding_lessons import check_embeddings
from .course import Course, Report
from .data.dataset import Dataset
from .finished import finish
from .fit import Supervised, fit
from .fresh import new_network
from .knobs import Lessons, Plan, Shape
from .models.network import Network
from .supervision import check_splits, labelled, training_data, validation
from .teachers.start import start_backbone, start_from_step


def train_teacher(
    dataset: Dataset,
    shape: Shape,
    plan: Plan,
    *,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    weights: Path | None = None,
    start: Path | None = None,
    keep_heads: bool = False,
    mask_entropy: bool = True,
    log: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Network:
    """Train a full network on the reference standard of the train split: all tasks of the data set jointly.

    Images without a target for any of the tasks take no part. For one task alone give `dataset.only([name])`.

    Args:
        dataset: with at least train and val cases.
        shape: the network.
        plan: the training.
        folder: where the results go.
        cache: where decoded images are kept.
        seed: of everything random, the first weights included.
        report: progress.
        weights: a safetensors checkpoint of the backbone (timm's names) to start from.
        start: an earlier step's folder, whose backbone is the start; it goes before `weights`.
        keep_heads: take that step's heads too, where the tasks are the same.
        mask_entropy: cross entropy beside soft Dice for masks; MTPret has soft Dice alone.
        log: CSV of the curve.
        say: told in a line what was loaded.

    Raises:
        FoveolaError: no training or validation cases, a checkpoint that does not fit, a loss that is not finite.
    """
    network = new_network("teacher", dataset, shape, seed)
    started = ""
    if start is not None:
        started = start_from_step(network, start, heads=keep_heads)
    elif weights is not None:
        started = start_backbone(network.backbone, weights, shape.backbone)
    if started and say is not None:
        say(f"starts with {started}")
    objective = Supervised(network, mask_entropy=mask_entropy)
    return _train(objective, dataset, plan, None, 1.0, folder=folder, cache=cache, seed=seed, report=report, log=log)


def distil_student(
    dataset: Dataset,
    shape: Shape,
    plan: Plan,
    answers: RawAnswers,
    *,
    taught_on: InputSpec,
    taught_scale: Scale | None = None,
    lessons: Lessons,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    weights: Path | None = None,
    log: Path | None = None,
    judged_by: RawAnswers | None = None,
    keep_scale: bool = False,
    look: Callable[[Network], None] | None = None,
) -> Network:
    """Train a student on a teacher's answers to the train split, and on the reference standard where it is known.

    Args:
        dataset: as for `train_teacher`.
        shape: the student.
        plan: the training.
        answers: the teacher's, one for each train case in order (`teacher_answers`).
        taught_on: the teacher's input; another size is fine, another part of the picture is not.
        taught_scale: the teacher's mean and standard deviation of each regression task; None: those of the train split.
        lessons: how the teacher's answers enter the loss.
        folder: where the results go.
        cache: where decoded images are kept.
        seed: of everything random.
        report: progress.
        weights: a safetensors checkpoint of the backbone to start from.
        log: CSV of the curve.
        judged_by: the teacher's answers to the val cases, by which embeddings are judged too; None: by retrieval alone.
        keep_scale: measures keep the teacher's scale, which the bundle then carries; else the train split's.
        look: called with the new student before it learns.

    Raises:
        FoveolaError: teacher and student see different parts of a picture.
    """
    input_scale(taught_on, shape.input)
    network = new_network("student", dataset, shape, seed, taught_scale if keep_scale else None)
    if look is not None:
        look(network)
    if weights is not None:
        start_backbone(network.backbone, weights, shape.backbone)
    return teach_network(
        network,
        dataset,
        plan,
        answers,
        taught_on=taught_on,
        taught_scale=taught_scale,
        lessons=lessons,
        folder=folder,
        cache=cache,
        seed=seed,
        report=report,
        log=log,
        judged_by=judged_by,
    )


def teach_network(
    network: Network,
    dataset: Dataset,
    plan: Plan,
    answers: RawAnswers,
    *,
    taught_on: InputSpec,
    taught_scale: Scale | None = None,
    lessons: Lessons,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    log: Path | None = None,
    judged_by: RawAnswers | None = None,
) -> Network:
    """Go on training a network, new or pruned, on a teacher's answers to the train split; saved as a finished step.

    Args:
        network: changed in place.
        dataset: as for `train_teacher`.
        plan: the training.
        answers: the teacher's, one for each train case in order.
        taught_on: the teacher's input.
        taught_scale: the teacher's mean and standard deviation of each regression task; None: the network's own.
        lessons: how the teacher's answers enter the loss.
        folder: where the results go.
        cache: where decoded images are kept.
        seed: of everything random.
        report: progress.
        log: CSV of the curve.
        judged_by: as for `distil_student`.

    Raises:
        FoveolaError: teacher and network see different parts of a picture.
    """
    objective, answers, scale = guided(network, answers, lessons, taught_on, taught_scale, seed)
    return _train(
        objective,
        dataset,
        plan,
        answers,
        scale,
        unlabelled=lessons.unlabelled,
        folder=folder,
        cache=cache,
        seed=seed,
        report=report,
        log=log,
        judged_by=judged_by,
    )


def guided(
    network: Network, answers: RawAnswers, lessons: Lessons, taught_on: InputSpec, taught_scale: Scale | None, seed: int
) -> tuple[Distilled, RawAnswers, float]:
    """The losses of a guided training, the answers as the network needs them, and its `input_scale`.

    Raises:
        FoveolaError: teacher and network see different parts of a picture.
    """
    scale = input_scale(taught_on, network.input)
    check_embeddings(network.tasks, {"the teacher": answers.raw})
    answers = rescaled(answers, taught_scale or {}, network.target_scale)
    if lessons.hint_weight == 0 and lessons.relation_weight == 0:
        answers = RawAnswers(answers.raw, answers.boxes)  # features that nobody compares need not be warped
    channels = 0 if answers.hint is None else answers.hint.shape[1]
    torch.manual_seed(seed + 1)  # the hint's projection is random too
    return Distilled(network, lessons, hint_channels=channels), answers, scale


def input_scale(teacher: InputSpec, student: InputSpec) -> float:
    """Student's input pixels per pixel of the teacher's input.

    Raises:
        FoveolaError: they crop or fit differently, so that masks and boxes of one are in other places for the other.
    """
    same = (teacher.crop, teacher.fit) == (student.crop, student.fit)
    if not same or teacher.height * student.width != teacher.width * student.height:
        fault = f"the student sees {_seen(student)}, its teacher {_seen(teacher)}"
        raise FoveolaError("input", fault, "give both the same crop, fit and aspect ratio")
    return student.width / teacher.width


def _seen(spec: InputSpec) -> str:
    return f"{spec.width} x {spec.height} (crop {spec.crop}, fit {spec.fit})"


def _train(
    objective: Objective,
    dataset: Dataset,
    plan: Plan,
    answers: RawAnswers | None,
    scale: float,
    *,
    unlabelled: bool = False,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    log: Path | None,
    judged_by: RawAnswers | None = None,
) -> Network:
    """Fit, save, lock thresholds; `unlabelled` images teach where a teacher answers them."""
    network = objective.network
    assert isinstance(network, Network)
    check_splits(dataset)
    data, names = training_data(network, dataset, cache, report, answers, scale)
    validate = validation(dataset, network, cache, report, judged_by)
    # A teacher's answers teach from every image, the reference standard where there is one.
    places = None if unlabelled else labelled(dataset.subset("train"))
    course = Course(data, validate, plan, names=names, places=places)
    history = fit(objective, course, seed=seed, folder=folder, report=report, log=log)
    finish(network, dataset, history, folder, cache)
    return network
