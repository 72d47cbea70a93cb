"""Train a teacher, or distil a student, from a data set: plain functions behind the stages of these names.

Both write the same files: `model.json`, `model.safetensors`, `history.json` and `locked.json` (thresholds locked on the
validation split). Whoever writes no YAML calls these functions directly.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..runtime.errors import FoveolaError
from ..runtime.manifest import InputSpec
from .answers import RawAnswers, Scale, answer_images, rescaled
from .batches import TrainingData
from .checkpoint import Epoch, Objective
from .compress.distill import Distilled
from .compress.embedding_lessons import check_embeddings
from .course import Course, Report, Scores
from .data.arrays import Arrays, prepare_arrays
from .data.dataset import Dataset
from .fit import Supervised, fit, forget
from .knobs import Lessons, Plan, Shape
from .models.network import Architecture, Network, Teacher, save_network
from .score import lock_thresholds, score_answers, with_agreement
from .teachers.built import BuiltTeacher, save_teacher
from .teachers.start import start_backbone, start_from_step
from .workers import leads

HISTORY, LOCKED = "history.json", "locked.json"


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


def new_network(
    role: Literal["teacher", "student"], dataset: Dataset, shape: Shape, seed: int, scale: Scale | None = None
) -> Network:
    """A network for the tasks of a data set, with random weights from the seed.

    Args:
        role: which heads it has.
        dataset: with train cases, whose measures say the scale.
        shape: the network.
        seed: of the weights.
        scale: of the regression tasks that it names, in place of the train split's own.
    """
    mean, std = target_scale(dataset.subset("train"))
    given = {name: pair for name, pair in (scale or {}).items() if name in mean}
    mean |= {name: pair[0] for name, pair in given.items()}
    std |= {name: pair[1] for name, pair in given.items()}
    torch.manual_seed(seed)
    return Network(
        Architecture(
            role=role,
            backbone=shape.backbone,
            input=shape.input,
            tasks=dataset.tasks,
            width=shape.width,
            mask_stride=shape.mask_stride,
            box_stride=shape.box_stride,
            output_stride=shape.output_stride,
            target_mean=mean,
            target_std=std,
        )
    )


def target_scale(train: Dataset) -> tuple[dict[str, tuple[float, ...]], dict[str, tuple[float, ...]]]:
    """Mean and standard deviation of every regression target over the known train cases."""
    means, stds = {}, {}
    for task in train.tasks:
        if task.kind != "regression":
            continue
        values = train.scalars[task.name].astype(np.float64)
        known = [column[~np.isnan(column)] for column in values.T]
        if any(len(column) == 0 for column in known):
            raise FoveolaError(f"task {task.name!r}", "no train case has a value", "fill its column, or drop the task")
        flat = [name for name, column in zip(task.classes, known, strict=True) if column.min() == column.max()]
        if flat:
            fault = f"{flat[0]} has one value only in all {len(train)} train cases"
            raise FoveolaError(
                f"task {task.name!r}", fault, "a constant cannot be learned: look at its column, or drop it"
            )
        means[task.name] = tuple(float(column.mean()) for column in known)
        stds[task.name] = tuple(float(column.std()) for column in known)
    return means, stds


def check_splits(dataset: Dataset) -> None:
    """Refuse a data set without training or validation cases."""
    for name in ("train", "val"):
        count = len(dataset.subset(name))
        if count < 2:
            raise FoveolaError(str(dataset.root), f"{count} case(s) in split {name!r}", "at least two are needed")


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


def labelled(dataset: Dataset) -> NDArray[np.int64]:
    """Places of the images that have a target for any task."""
    return np.flatnonzero(np.any([dataset.known(task.name) for task in dataset.tasks], axis=0))


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


def preparing(report: Report) -> Callable[[int, int], None]:
    """Progress of decoding, in the words of a training's progress."""
    return lambda done, total: report(done, total, "decoding images")


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


def _answers(network: Network, arrays: Arrays) -> RawAnswers:
    device = next(network.parameters()).device
    return answer_images(network.eval(), arrays.images, device=device)


def write_json(path: Path, value: object) -> None:
    """Write canonical JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=1) + b"\n")


def read_history(folder: Path) -> list[Epoch]:
    """The history of a finished training."""
    return msgspec.json.decode((folder / HISTORY).read_bytes(), type=list[Epoch])


def read_locked(folder: Path) -> dict[str, tuple[float, ...]]:
    """The thresholds that a training locked on its validation split, by task."""
    return msgspec.json.decode((folder / LOCKED).read_bytes(), type=dict[str, tuple[float, ...]])
