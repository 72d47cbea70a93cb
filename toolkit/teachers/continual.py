"""Multitask continual learning (MTPret, Liao et al., IEEE TAI 2024, sec. II-C, algorithm 2).

- A round visits every task once, in an order that is drawn anew for each round; a visit trains the backbone and that
  task's head on that task's images alone. Heads of the other tasks do not change. Nothing is replayed.
- The rate follows eq. 4 (`schedule.cyclic_rate`): it falls from its largest to the task's smallest value in the middle
  of a visit and rises again. At a visit's end it is therefore high: what is judged and kept are the weights at the
  cycle's minimum.
- L2-SP pulls the backbone's weights to an anchor that is taken anew (`l2sp.py`); the optimiser itself decays nothing.
- The optimiser forgets its momentum between visits: it belongs to another task's loss.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import FoveolaError
from ..course import Report
from ..data.dataset import Dataset
from ..finished import finish
from ..fit import fit
from ..fresh import new_network
from ..knobs import Plan, Shape
from ..models.network import Network
from ..supervision import check_splits, training_data, validation
from .recalibrate import recalibrated
from .start import start_backbone, start_from_step
from .visits import ContinualCourse, Rounds, Visited


def learn_continually(
    dataset: Dataset,
    shape: Shape,
    plan: Plan,
    rounds: Rounds,
    *,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    weights: Path | None = None,
    start: Path | None = None,
    log: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Network:
    """Train one network on the tasks of a data set, one after another, round by round.

    Writes what `train_teacher` writes; `history.json` has one line a visit.

    Args:
        dataset: train and val cases; each task has labelled train images.
        shape: the network.
        plan: batch, eta_max, optimiser, clipping, augmentation.
        rounds: the knobs of continual learning.
        folder: where the results go.
        cache: where decoded images are kept.
        seed: of everything random, the order of the tasks included.
        report: progress.
        weights: a safetensors checkpoint of the backbone to start from.
        start: an earlier step's folder, whose backbone is the start; it goes before `weights`.
        log: CSV of the curve.
        say: told in a line what was loaded.

    Raises:
        FoveolaError: a task without labelled images, a pull that overshoots, a checkpoint that does not fit.
    """
    check_splits(dataset)
    check_pull(plan, rounds)
    network = new_network("teacher", dataset, shape, seed)
    if start is not None:
        started = start_from_step(network, start)
    else:
        started = "random weights" if weights is None else start_backbone(network.backbone, weights, shape.backbone)
    if say is not None:
        say(f"starts with {started}")
    data, names = training_data(network, dataset, cache, report)
    places = labelled_places(dataset)
    validate = validation(dataset, network, cache, report)
    if rounds.recalibrate:
        validate = recalibrated(validate, network.tasks, data, places, rounds.recalibrate)
    course = ContinualCourse(data, validate, plan, rounds, places, seed=seed, names=names)
    history = fit(Visited(network, rounds), course, seed=seed, folder=folder, report=report, log=log)
    finish(network, dataset, history, folder, cache)
    return network


def labelled_places(dataset: Dataset) -> dict[str, NDArray[np.int64]]:
    """By task, in order: the places of its labelled images in the train split.

    Raises:
        FoveolaError: a task has none.
    """
    train = dataset.subset("train")
    places = {task.name: np.flatnonzero(train.known(task.name)) for task in dataset.tasks}
    empty = [name for name, found in places.items() if len(found) == 0]
    if empty:
        raise FoveolaError(str(dataset.root), f"no train image has a target for {', '.join(empty)}", "drop the task")
    return places


def check_pull(plan: Plan, rounds: Rounds) -> None:
    """Refuse a pull that overshoots: with plain gradient steps the rate times alpha must stay below 2.

    Raises:
        FoveolaError: it does not.
    """
    if rounds.cycle == "fixed" and rounds.period < 2:
        raise FoveolaError("period", f"a cycle of {rounds.period} steps", "give at least 2, or another cycle")
    if plan.optimizer == "sgd" and plan.learning_rate * max(rounds.alpha, rounds.beta) >= 2:
        fault = f"rate {plan.learning_rate:g} times alpha {rounds.alpha:g} is 2 or more: every step would overshoot"
        raise FoveolaError("alpha", fault, f"at this rate keep alpha below {2 / plan.learning_rate:g}")
