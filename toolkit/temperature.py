"""A temperature for each task, fitted again after quantisation: one number that makes probabilities say what they mean.

Guo, Pleiss, Sun and Weinberger (ICML 2017): raw outputs are divided by T before they become probabilities, and T is the
one with the least negative log-likelihood on images that the network was not trained on. It changes no order and no
AUC of a label, and no class of a multiclass task; it moves probabilities, thus also thresholds, which are locked after
it, and now and then the most probable grade of an ordinal task. It is fitted on the artefact that ships.

The loss is convex in 1 / T, since the logarithms of all these probabilities are concave in the raw outputs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, log_softmax

from ..runtime.engine import open_session
from ..runtime.errors import FoveolaError, UsageError
from ..runtime.manifest import TEMPERED, OnnxRuntimeOptions, TemperatureFit
from ..runtime.task import Task
from .answers import RawAnswers
from .compress.quantise import INT8_GRAPH
from .data.arrays import prepare_arrays
from .data.dataset import Dataset
from .json_files import write_json
from .models.network import load_network

TEMPERATURES = "temperature.json"
COLDEST, WARMEST = 0.05, 20.0
MIN_IMAGES = 20  # with a target; fewer say nothing about a probability
FROZEN = 1e-6  # a loss that is lower at this temperature falls for ever
TINY = 1e-7  # least share that a grade has between its two neighbours, in the logarithm


def calibrate_student(
    of: Path,
    dataset: Dataset,
    *,
    split: str,
    tasks: Sequence[str],
    folder: Path,
    cache: Path,
    progress: Callable[[float, float, str], None],
) -> tuple[TemperatureFit, ...]:
    """Fit the temperatures of a quantised student and leave it, with them, in `folder`.

    Args:
        of: folder of the quantised student.
        dataset: its `split` is looked at.
        split: of images that the student was not trained on.
        tasks: by name; empty takes all that have probabilities.
        folder: where the student's files and `temperature.json` go.
        cache: where decoded images are kept.
        progress: called with (done, total, text).

    Raises:
        FoveolaError: no images, images of training or proof, or too few with a target.
        UsageError: a task that is not there or has no probabilities.
    """
    network = load_network(of)
    chosen = choose_tasks(network.tasks, tasks)
    cases = fitting_set(dataset, split, chosen)
    arrays = prepare_arrays(cases, network.input, cache=cache)
    session = open_session(OnnxRuntimeOptions(), {"model.onnx": (of / INT8_GRAPH).read_bytes()})
    raw: dict[str, list[NDArray[np.float32]]] = {task.name: [] for task in chosen}
    for i in range(len(cases)):
        answered = session.run(np.ascontiguousarray(arrays.images[i : i + 1]))
        for name, rows in raw.items():
            rows.append(answered[name])
        progress(i + 1, len(cases), "the artefact answers")
    fits = tuple(
        fit_temperature(task, np.concatenate(raw[task.name]), arrays.scalars[task.name], split) for task in chosen
    )
    for file in sorted(of.iterdir()):
        if file.is_file() and file.name != "step.json":
            shutil.copy2(file, folder / file.name)
    write_json(folder / TEMPERATURES, fits)
    return fits


def fitting_set(dataset: Dataset, split: str, tasks: Sequence[Task]) -> Dataset:
    """Choose the images that temperatures are fitted on.

    Raises:
        FoveolaError: there are none, training or the proof uses one of them (by its sha256) too, or a task has too few
            targets.
    """
    cases = dataset.subset(split)
    place = f"{dataset.root}: split {split!r}"
    if not len(cases):
        raise FoveolaError(place, "no images to fit a temperature on", "name another split, or add some")
    used = {sample.sha256 for sample in dataset.subset("train", "test").samples}
    shared = [sample.key for sample in cases.samples if sample.sha256 in used]
    if shared:
        fault = f"{len(shared)} image(s) are used in training or proof too, first {shared[0]}"
        raise FoveolaError(place, fault, "keep the splits apart by patient and by image")
    faults = [fault for task in tasks if (fault := _too_little(task, cases.scalars[task.name]))]
    if faults:
        raise FoveolaError(place, "; ".join(faults), "leave these tasks out, or name a larger split")
    return cases


def choose_tasks(tasks: Sequence[Task], wanted: Sequence[str]) -> list[Task]:
    """Choose the tasks that are fitted.

    Raises:
        UsageError: a name that is not there, or a task without probabilities.
    """
    able = [task for task in tasks if task.kind in TEMPERED]
    wrong = [name for name in wanted if name not in {task.name for task in able}]
    if wrong:
        known = ", ".join(task.name for task in able) or "none"
        raise UsageError("tasks", f"{', '.join(wrong)} has no probabilities to calibrate", f"those that have: {known}")
    return [task for task in able if not wanted or task.name in wanted]


def fit_temperature(task: Task, raw: NDArray[np.float32], target: NDArray[np.float32], split: str) -> TemperatureFit:
    """Find the temperature with the least negative log-likelihood.

    Where every answer is right the loss falls for ever towards temperature 0, which would make each answer a certainty:
    such a task keeps 1, and `after` is `before`.

    Args:
        task: with probabilities.
        raw: (N, channels) outputs.
        target: (N, C) or (N, 1), NaN where not known.
        split: whose images they are.

    Raises:
        FoveolaError: fewer than `MIN_IMAGES` images with a target, or one class only.
    """
    fault = _too_little(task, target)
    if fault:
        raise FoveolaError(f"split {split!r}", fault, "leave the task out, or name a larger split")
    found = minimize_scalar(
        lambda power: loss_at(task, raw, target, float(np.exp(power))),
        bounds=(float(np.log(COLDEST)), float(np.log(WARMEST))),
        method="bounded",
    )
    temperature = round(float(np.exp(found.x)), 6)
    if loss_at(task, raw, target, FROZEN) < loss_at(task, raw, target, temperature):
        temperature = 1.0
    return TemperatureFit(
        task=task.name,
        split=split,
        images=_known_images(target),
        temperature=temperature,
        before=round(loss_at(task, raw, target, 1.0), 9),
        after=round(loss_at(task, raw, target, temperature), 9),
    )


def _known_images(target: NDArray[np.float32]) -> int:
    return int((~np.isnan(target)).any(axis=1).sum())


def _too_little(task: Task, target: NDArray[np.float32]) -> str:
    """Say why these targets tell no temperature; empty when they do."""
    images = _known_images(target)
    if images < MIN_IMAGES:
        return f"task {task.name!r} has {images} images with a target, {MIN_IMAGES} are needed"
    if len(np.unique(target[~np.isnan(target)])) < 2:
        return f"task {task.name!r} has one class only"
    return ""


def loss_at(task: Task, raw: NDArray[np.float32], target: NDArray[np.float32], temperature: float) -> float:
    """Give the mean negative log-likelihood, in nats, over all known targets.

    That of `runtime.answer.probabilities`, but in logarithms from end to end: a probability that is rounded to 0 or 1
    would end the loss's convexity.
    """
    logits = np.asarray(raw, np.float64) / temperature
    known = ~np.isnan(target)
    if task.kind in ("binary", "multilabel"):
        sign = np.where(target[known] > 0.5, 1.0, -1.0)
        return float(-np.mean(log_expit(sign * logits[known])))
    rows = known[:, 0]
    right = target[rows, :1].astype(np.intp)
    chances = _log_grades(logits[rows]) if task.kind == "ordinal" else log_softmax(logits[rows], axis=1)
    return float(-np.mean(np.take_along_axis(chances, right, axis=1)))


def _log_grades(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the logarithms of the grades' probabilities (N, C): s(a) - s(b) = s(a) s(-b) (1 - exp(b - a))."""
    falling = np.minimum.accumulate(logits, axis=1)
    end = np.full((len(falling), 1), np.inf)
    above, below = np.hstack([end, falling]), np.hstack([falling, -end])
    between = np.maximum(-np.expm1(below - above), TINY)
    return np.asarray(log_expit(above) + log_expit(-below) + np.log(between), np.float64)


def read_temperatures(folder: Path) -> tuple[TemperatureFit, ...]:
    """Read what `calibrate_student` fitted; nothing where the student was not calibrated."""
    path = folder / TEMPERATURES
    return msgspec.json.decode(path.read_bytes(), type=tuple[TemperatureFit, ...]) if path.exists() else ()


def warmed(answers: RawAnswers, warmth: Mapping[str, float]) -> RawAnswers:
    """Divide raw answers by the temperatures of their tasks."""
    raw = {name: values / np.float32(warmth.get(name, 1.0)) for name, values in answers.raw.items()}
    return RawAnswers(raw, answers.boxes, answers.hint)
