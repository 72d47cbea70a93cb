"""Trains a cooperation of sub-models on the reference standard, measures it and saves it as a finished step.

After MT-CooL (Wu et al., IEEE TMI 2025): a game in which each sub-model minimises its own loss given what the others
have learned, not a weighted sum. Where the paper is silent the choices are ours (docs/mtcool.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import nn

from ....runtime.errors import FoveolaError
from ....runtime.manifest import InputSpec
from ...answers import answer_images
from ...batches import TrainingData
from ...course import Report, Scores
from ...data.arrays import Arrays, prepare_arrays
from ...data.dataset import Dataset
from ...data.faults import did_you_mean
from ...finished import finish
from ...fit import fit
from ...fresh import target_scale
from ...json_files import write_json
from ...knobs import Plan
from ...score import score_answers
from ...supervision import check_splits, labelled, preparing
from ...workers import leads
from ..continual import labelled_places
from ..start import start_backbone
from .course import Play, TurnCourse, earlier_encoders
from .fusion import Kind
from .measure import CooperationReport, Costs, measure_costs, measure_flatness
from .objective import STEM, Cooperation, Flat
from .page import render_cooperation
from .teacher import KINDS, CoolPlan, Cooperative, Masks, Member

REPORT, PAGE = "cooperation.json", "cooperation.html"


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """The knobs of a cooperation's architecture; see `CoolPlan`.

    Args:
        backbone: of every encoder, but for those in `backbones`.
        input: how it is fed.
        backbones: by task.
        fusion: `concat`, `gate` or `attention`.
        masks: `light` or `deeplab`.
        width: of the light decoder.
        output_stride: of a segmentation's encoder under `deeplab`.
        stem: channels of a shared stem; 0 for none.
    """

    backbone: str
    input: InputSpec
    backbones: Mapping[str, str] = {}
    fusion: Kind = "concat"
    masks: Masks = "light"
    width: int = 64
    output_stride: Literal[8, 16, 32] = 32
    stem: int = 0


def learn_cooperatively(
    dataset: Dataset,
    build: Build,
    plan: Plan,
    play: Play,
    flat: Flat,
    *,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    weights: Path | None = None,
    log: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Cooperative:
    """Train one sub-model a task, in turns.

    Writes what `train_teacher` writes, and `cooperation.json` and `.html`: how flat it is, what it bears and costs.

    Args:
        dataset: train and val cases; each task has labelled train images, and they need not be the same images.
        build: the architecture.
        plan: epochs, batch, rate, optimiser, clipping, augmentation.
        play: how they take turns.
        flat: how flat minima are sought.
        folder: where the results go.
        cache: where decoded images are kept.
        seed: of everything random.
        report: progress.
        weights: a safetensors checkpoint that every encoder starts from.
        log: CSV of the curve.
        say: told in a line what was loaded and what the teacher costs.

    Raises:
        FoveolaError: a task that no sub-model can answer or that has no labelled image, turns that do not fit, a
            checkpoint that does not fit.
    """
    check_splits(dataset)
    check_game(dataset, build, plan, play)
    teacher = new_cooperative(dataset, build, seed)
    if weights is not None:
        told = [start_backbone(teacher.encoder(name).backbone, weights, build.backbone) for name in teacher.names]
        if say is not None:
            say(f"every encoder starts with {told[0]}")
    train, val = dataset.subset("train"), dataset.subset("val")
    arrays = prepare_arrays(train, teacher.input, cache=cache, progress=preparing(report))
    course = TurnCourse(
        tensors(teacher, arrays),
        scorer(seen := prepare_arrays(val.take(labelled(val)), teacher.input, cache=cache)),
        plan,
        play,
        labelled_places(dataset),
        seed=seed,
        stem=teacher.stem is not None,
        names=[sample.key for sample in arrays.samples],
    )
    history = fit(Cooperation(teacher, flat), course, seed=seed, folder=folder, report=report, log=log)
    if leads():
        described = describe(teacher.cpu().eval(), course, seen, seed)
        write_json(folder / REPORT, described)
        (folder / PAGE).write_text(render_cooperation(described), encoding="utf-8")
        if say is not None:
            say(costs_line(described.costs))
    finish(teacher, dataset, history, folder, cache)
    return teacher


def new_cooperative(dataset: Dataset, build: Build, seed: int) -> Cooperative:
    """A cooperation for the tasks of a data set, with random weights from the seed."""
    mean, std = target_scale(dataset.subset("train"))
    members = tuple(
        Member(
            name=task.name,
            backbone=build.backbones.get(task.name, build.backbone),
            dense=task.kind == "segmentation",
        )
        for task in dataset.tasks
    )
    torch.manual_seed(seed)
    return CoolPlan(
        input=build.input,
        tasks=dataset.tasks,
        target_mean=mean,
        target_std=std,
        members=members,
        fusion=build.fusion,
        masks=build.masks,
        width=build.width,
        output_stride=build.output_stride,
        stem=build.stem,
    ).build()


def check_game(dataset: Dataset, build: Build, plan: Plan, play: Play) -> None:
    """Refuse what cannot be trained in turns.

    Raises:
        FoveolaError: see `learn_cooperatively`.
    """
    names = [task.name for task in dataset.tasks]
    for task in dataset.tasks:
        if task.kind not in KINDS:
            fault = f"task {task.name!r} is one of {task.kind}, which no sub-model answers"
            raise FoveolaError("tasks", fault, "name the others under `tasks`, and train that one by `train`")
        if task.name == STEM:
            raise FoveolaError("tasks", f"a task is named {STEM!r}, as the shared stem is", "rename it")
    for name in build.backbones:
        if name not in names:
            raise FoveolaError("backbones", f"{name!r} is no task", did_you_mean(name, names))
    labelled_places(dataset)
    if play.alone >= plan.epochs:
        fault = f"{play.alone} of {plan.epochs} epochs are spent alone, so that nobody cooperates"
        raise FoveolaError("alone", fault, f"at most {plan.epochs - 1}")
    workers = int(os.environ.get("WORLD_SIZE", "1")) if torch.distributed.is_torchelastic_launched() else 1
    if plan.batch_size % workers:
        fault = f"{plan.batch_size} images cannot be shared out evenly to {workers} processes"
        raise FoveolaError("batch_size", fault, f"a multiple of {workers}")


def tensors(teacher: Cooperative, arrays: Arrays) -> TrainingData:
    """Images and standardised targets."""
    plan = teacher.plan
    return TrainingData(arrays, teacher.tasks, plan.target_mean, plan.target_std)


def scorer(arrays: Arrays) -> Callable[[nn.Module], Scores]:
    """A function that scores a cooperation on these images."""

    def validate(candidate: nn.Module) -> Scores:
        assert isinstance(candidate, Cooperative)
        device = next(candidate.parameters()).device
        answers = answer_images(candidate.eval(), arrays.images, device=device)
        return score_answers(candidate.tasks, answers, arrays, candidate.target_scale)

    return validate


def describe(teacher: Cooperative, course: TurnCourse, arrays: Arrays, seed: int) -> CooperationReport:
    """Measure a finished cooperation on the validation images."""
    earlier = earlier_encoders(teacher, course.earlier)
    return CooperationReport(
        costs=measure_costs(teacher),
        flatness=measure_flatness(teacher, tensors(teacher, arrays), arrays, earlier, seed=seed),
        earlier_epoch=course.earlier_epoch + 1 if earlier else 0,
        images=len(arrays),
    )


def costs_line(costs: Costs) -> str:
    """What K encoders cost, beside one, in a line."""
    whole, one, count = costs.teacher, costs.one_encoder, len(costs.encoders)
    said = f"{whole.parameters / 1e6:.1f} million parameters"
    said += f", {whole.multiply_adds / 1e6:.0f} million multiply-adds an image"
    if count == 1:
        return f"1 encoder: {said}"
    return (
        f"{count} encoders: {said}; one encoder of this size with all heads "
        f"would take {one.parameters / 1e6:.1f} and {one.multiply_adds / 1e6:.0f}: distil it"
    )
