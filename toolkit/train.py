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
from safetensors.torch import load_file

from ..runtime.errors import FoveolaError
from ..runtime.manifest import InputSpec
from .answers import RawAnswers, answer_images
from .batches import TrainingData
from .checkpoint import Epoch, Objective
from .compress.distill import Distilled
from .data.arrays import Arrays, prepare_arrays
from .data.dataset import Dataset
from .fit import Report, Scores, Supervised, fit, forget
from .knobs import Plan, Shape
from .models.network import Architecture, Network, Teacher, save_network
from .score import lock_thresholds, score_answers
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
) -> Network:
    """Train a full multitask network on the reference standard of the train split.

    Args:
        dataset: with at least train and val cases.
        shape: the network.
        plan: the training.
        folder: where the results go.
        cache: where decoded images are kept.
        seed: of everything random, the first weights included.
        report: progress.
        weights: a safetensors checkpoint of the backbone (timm's names) to start from.

    Raises:
        FoveolaError: no training or validation cases, a checkpoint that does not fit, a loss that is not finite.
    """
    network = _new_network("teacher", dataset, shape, seed)
    if weights is not None:
        start_backbone(network, weights)
    return _train(Supervised(network), dataset, plan, None, 1.0, folder=folder, cache=cache, seed=seed, report=report)


def distil_student(
    dataset: Dataset,
    shape: Shape,
    plan: Plan,
    answers: RawAnswers,
    *,
    taught_on: InputSpec,
    soft_weight: float,
    temperature: float,
    hint_weight: float,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    weights: Path | None = None,
) -> Network:
    """Train a student on a teacher's answers to the train split, and on the reference standard where it is known.

    Args:
        dataset: as for `train_teacher`.
        shape: the student.
        plan: the training.
        answers: the teacher's, one for each train case in order (`teacher_answers`).
        taught_on: the teacher's input; another size is fine, another part of the picture is not.
        soft_weight: share of the teacher's lesson in each task's loss, 0..1.
        temperature: by which logits are softened.
        hint_weight: weight of the feature hint; 0 for none.
        folder: where the results go.
        cache: where decoded images are kept.
        seed: of everything random.
        report: progress.
        weights: a safetensors checkpoint of the backbone to start from.

    Raises:
        FoveolaError: teacher and student see different parts of a picture.
    """
    scale = input_scale(taught_on, shape.input)
    network = _new_network("student", dataset, shape, seed)
    if weights is not None:
        start_backbone(network, weights)
    channels = 0 if answers.hint is None else answers.hint.shape[1]
    torch.manual_seed(seed + 1)  # the hint's projection is random too
    objective = Distilled(
        network, soft_weight=soft_weight, temperature=temperature, hint_weight=hint_weight, hint_channels=channels
    )
    return _train(objective, dataset, plan, answers, scale, folder=folder, cache=cache, seed=seed, report=report)


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


def start_backbone(network: Network, path: Path) -> None:
    """Load a backbone's checkpoint: timm's names, a classifier's last layer ignored, RGB kernels summed for grey input.

    Raises:
        FoveolaError: no safetensors file, or under nine tenths of the backbone's tensors are in it.
    """
    try:
        given = load_file(path)
    except (OSError, ValueError, RuntimeError) as error:
        raise FoveolaError(str(path), f"not a safetensors checkpoint: {error}") from None
    own = network.backbone.state_dict()
    fitting = {}
    for name, x in own.items():
        found = given.get(name, given.get(f"backbone.{name}"))
        if (
            found is not None
            and found.shape != x.shape
            and found.dim() == 4
            and x.shape[1] == 1
            and found.shape[1] == 3
        ):
            found = found.sum(1, keepdim=True)
        if found is not None and found.shape == x.shape:
            fitting[name] = found
    if len(fitting) < 0.9 * len(own):
        missing = sorted(own.keys() - fitting.keys())[:3]
        fault = (
            f"only {len(fitting)} of {len(own)} tensors fit {network.architecture.backbone} (not {', '.join(missing)})"
        )
        raise FoveolaError(str(path), fault, "use a checkpoint of the same timm architecture")
    network.backbone.load_state_dict(own | fitting)


def _new_network(role: Literal["teacher", "student"], dataset: Dataset, shape: Shape, seed: int) -> Network:
    mean, std = _target_scale(dataset.subset("train"))
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


def _target_scale(train: Dataset) -> tuple[dict[str, tuple[float, ...]], dict[str, tuple[float, ...]]]:
    """Mean and standard deviation of every regression target over the known train cases."""
    means, stds = {}, {}
    for task in train.tasks:
        if task.kind != "regression":
            continue
        values = train.scalars[task.name].astype(np.float64)
        known = [column[~np.isnan(column)] for column in values.T]
        if any(len(column) == 0 for column in known):
            raise FoveolaError(f"task {task.name!r}", "no train case has a value", "fill its column, or drop the task")
        means[task.name] = tuple(float(column.mean()) for column in known)
        stds[task.name] = tuple(float(column.std()) or 1.0 for column in known)
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
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
) -> Network:
    """Fit, save, lock thresholds."""
    network = objective.network
    spec, tasks, architecture = network.input, network.tasks, network.architecture
    check_splits(dataset)
    train, val = dataset.subset("train"), dataset.subset("val")
    arrays = prepare_arrays(train, spec, cache=cache)
    val_arrays = prepare_arrays(val, spec, cache=cache)
    data = TrainingData(arrays, tasks, architecture.target_mean, architecture.target_std, answers, scale)

    def validate(candidate: Network) -> Scores:
        return score_answers(tasks, _answers(candidate, val_arrays), val_arrays, network.target_scale)

    names = [sample.key for sample in arrays.samples]
    history = fit(objective, data, validate, plan, seed=seed, folder=folder, report=report, names=names)
    network.cpu()
    if not leads():
        return network
    save_network(network, folder)
    write_json(folder / HISTORY, history)
    write_json(folder / LOCKED, lock_teacher(network.eval(), dataset, cache=cache))
    forget(folder)
    return network


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
