"""How a trained SePL uses its experts, and what a wrong simple factor costs the complex ones.

A wrong sex at inference propagates into everything that follows; so each complex factor's error is told apart for
pictures whose prior was right and for those where it was wrong. On the validation split: the test split stays unseen.

N pictures, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from ....runtime.answer import probabilities
from ....runtime.task import Task
from ...data.arrays import prepare_arrays
from ...data.dataset import Dataset
from ...finished import read_locked
from ...json_files import write_json
from .page import render_usage
from .teacher import SeplTeacher, entropy

USAGE, PAGE = "sepl.json", "sepl.html"
BATCH = 32

Locked = Mapping[str, tuple[float, ...]]
Float = NDArray[np.floating[Any]]


class Gate(msgspec.Struct, frozen=True):
    """How one complex factor uses the experts."""

    task: str
    shares: tuple[float, ...]  # mean over the pictures, of sum 1
    entropy: float  # mean, in nats; 0: one expert alone


class Stratum(msgspec.Struct, frozen=True):
    """The error of one measure or factor where a binary prior was right, and where it was wrong."""

    prior: str
    task: str
    label: str  # the measure, where the factor has several
    unit: str  # empty: a share of wrong answers
    right: float | None  # error where the prior was right; None: no such picture
    wrong: float | None
    right_images: int
    wrong_images: int


class UsageReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    split: str
    images: int
    simple: tuple[str, ...]
    prior: str
    experts: int
    most_entropy: float  # log E
    gates: tuple[Gate, ...]
    strata: tuple[Stratum, ...]


def write_usage(teacher: SeplTeacher, dataset: Dataset, folder: Path, cache: Path | None = None) -> UsageReport:
    """Ask the teacher about the validation split and write `sepl.json` and `sepl.html`.

    Args:
        teacher: as it was saved in `folder`, beside its locked thresholds.
        dataset: holds a validation split.
        folder: of the finished training.
        cache: where decoded images are kept.
    """
    val = dataset.subset("val")
    arrays = prepare_arrays(val, teacher.input, cache=cache)
    raw, shares = _ask(teacher.eval(), arrays.images)
    plan = teacher.sepl
    report = UsageReport(
        split="val",
        images=len(arrays.images),
        simple=tuple(task.name for task in plan.simple),
        prior=plan.prior,
        experts=plan.experts,
        most_entropy=float(np.log(max(plan.experts, 1))),
        gates=tuple(_gate(name, x) for name, x in shares.items()),
        strata=strata(teacher, raw, arrays.scalars, read_locked(folder)),
    )
    write_json(folder / USAGE, report)
    (folder / PAGE).write_text(render_usage(report), encoding="utf-8")
    return report


def strata(
    teacher: SeplTeacher, raw: Mapping[str, Float], targets: Mapping[str, NDArray[np.float32]], locked: Locked
) -> tuple[Stratum, ...]:
    """One line a binary prior and measure (or factor of classes).

    Args:
        teacher: for its factors and scalers.
        raw: raw outputs by task, (N, channels).
        targets: by task, (N, columns) in the unit; NaN where not known.
        locked: thresholds by task.
    """
    found = []
    for prior in (task for task in teacher.sepl.simple if task.kind == "binary" and task.name in targets):
        known = ~np.isnan(targets[prior.name][:, 0])
        missed = _wrong(prior, raw[prior.name], targets[prior.name], locked)[:, 0] > 0.5
        for task in teacher.sepl.complex:
            mean, std = teacher.target_scale.get(task.name, ((0.0,), (1.0,)))
            errors = (
                np.abs(raw[task.name] * np.array(std) + np.array(mean) - targets[task.name])
                if task.kind == "regression"
                else _wrong(task, raw[task.name], targets[task.name], locked)
            )
            for number, column in enumerate(errors.T):
                several = errors.shape[1] > 1
                found.append(_stratum(prior, task, task.classes[number] if several else "", column, known, missed))
    return tuple(found)


def _stratum(
    prior: Task, task: Task, label: str, errors: Float, known: NDArray[np.bool_], missed: NDArray[np.bool_]
) -> Stratum:
    judged = known & ~np.isnan(errors)
    right, wrong = errors[judged & ~missed], errors[judged & missed]
    return Stratum(
        prior=prior.name,
        task=task.name,
        label=label,
        unit=(task.unit or "as in the data") if task.kind == "regression" else "",
        right=float(right.mean()) if len(right) else None,
        wrong=float(wrong.mean()) if len(wrong) else None,
        right_images=len(right),
        wrong_images=len(wrong),
    )


def _wrong(task: Task, raw: Float, target: NDArray[np.float32], locked: Locked) -> Float:
    """1 where the answer is wrong, 0 where it is right, NaN where the target is not known; one column a decision."""
    probability = np.asarray(probabilities(task, np.asarray(raw, np.float32)))
    if task.kind in ("binary", "multilabel"):
        said = (probability >= np.array(locked[task.name])).astype(np.float64)
    else:
        said = probability.argmax(1)[:, None].astype(np.float64)
    return np.where(np.isnan(target), np.nan, said != target)


def _gate(name: str, shares_NE: Float) -> Gate:
    spread = float(entropy(torch.from_numpy(np.asarray(shares_NE, np.float64))).mean())
    return Gate(name, tuple(float(x) for x in shares_NE.mean(0)), spread)


def _ask(teacher: SeplTeacher, images: NDArray[np.float32]) -> tuple[dict[str, Float], dict[str, Float]]:
    """Raw outputs of all factors and shares of the experts, (N, channels) and (N, E) by task."""
    device = next(teacher.parameters()).device
    raw: dict[str, list[Float]] = {}
    shares: dict[str, list[Float]] = {}
    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            found = teacher.propagate(torch.from_numpy(np.array(images[start : start + BATCH])).to(device))
            for into, given in ((raw, found.raw), (shares, found.shares)):
                for name, x in given.items():
                    into.setdefault(name, []).append(x.float().cpu().numpy())
    return _joined(raw), _joined(shares)


def _joined(parts: Mapping[str, list[Float]]) -> dict[str, Float]:
    return {name: np.concatenate(many) for name, many in parts.items()}
