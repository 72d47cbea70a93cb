"""The mean over a task's classes, and one row a class: what masks and boxes share.

The mean over the classes that enough patients have is primary; where there are several classes each has a row that
describes. A class that few patients have is named in a note, because nothing is proved about it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from .cases import Array, ratio
from .measured import MIN_PATIENTS, Measured, Setting, too_few
from .pairing import Pair
from .tilted import Hidden, effective, of_images, unseen

Row = Callable[[Measured, list[int]], Measured]  # measures the mean over some classes


def rows_by_class(
    base: Measured, pair: Pair, patients: Sequence[int], cells: NDArray[np.bool_], setting: Setting, row: Row
) -> tuple[list[Measured], list[str]]:
    """Give the row of the mean over classes and, where there are several classes, one row a class; and notes.

    Args:
        base: with the counts of the whole task.
        pair: the task's answers.
        patients: (C,) that have something of the class.
        cells: (N, C) cases that count for the class.
        setting: as for all endpoints.
        row: measures the mean over some classes.
    """
    names = pair.task.classes
    chosen = macro_classes(patients)
    if not chosen:
        return [msgspec.structs.replace(base, hindrance="the reference holds nothing to find")], []
    rows = [row(msgspec.structs.replace(base, hindrance=too_few(min(patients[k] for k in chosen))), chosen)]
    for k, label in enumerate(names if len(names) > 1 else ()):
        one = msgspec.structs.replace(
            base,
            label=label,
            primary=False,
            cases=int(cells[:, k].sum()),
            patients=len(np.unique(setting.patients[cells[:, k]])),
            hindrance=too_few(patients[k]),
        )
        rows.append(row(one, [k]) if patients[k] else one)
    notes = [
        f"{pair.task.name}: {names[k]} is not in the mean ({count} patients have it, {MIN_PATIENTS} are needed); "
        "nothing is proved about it"
        for k, count in enumerate(patients)
        if k not in chosen
    ]
    return rows, notes


def macro_classes(patients: Sequence[int]) -> list[int]:
    """Choose the mean's classes: those that enough patients have; failing those, those that anybody has."""
    chosen = [k for k, count in enumerate(patients) if count >= MIN_PATIENTS]
    return chosen or [k for k, count in enumerate(patients) if count]


def shares_of(amounts: Array) -> tuple[Array, Array]:
    """Give the weight of each patient in the mean over classes (P,), all together 1, and in each class (P, c).

    Args:
        amounts: (P, c) how much each patient has of each class: cases, boxes.
    """
    held = np.nan_to_num(ratio(amounts, amounts.sum(axis=0)))
    return held.mean(axis=1), held


def hidden_cost(held: Array, costs: Array, alpha: float, swell: float = 0.0) -> Hidden:
    """Tell what a loss too rare to be seen may cost the mean over classes.

    In some patients all classes are lost at once, or one class is in those few that have it; the dearer counts.

    Args:
        held: (P, c) weight of each patient in each class.
        costs: (c,) what a lost case costs its class.
        alpha: one-sided error.
        swell: what e times the patients add to the costs, see `tilted.Hidden`.
    """
    share = 1.0 / len(costs)
    every = [(held.mean(axis=1), float(costs.mean()), swell)]
    every += [(one, float(cost) * share, swell * share) for one, cost in zip(held.T, costs, strict=True)]
    return max((_hidden(*one, alpha) for one in every), key=lambda one: one.cost)


def _hidden(weights: Array, cost: float, swell: float, alpha: float) -> Hidden:
    """How many patients have the class is chance, and what a lost case costs is a mean over them."""
    patients = effective(weights)
    lost = unseen(patients, alpha)
    return Hidden(
        cost=lost * cost,
        share=lost,
        scatter=of_images(weights) + 0.25 / max(patients, 1.0),
        swell=lost * swell,
    )


def mean_known(values: Array, axis: int) -> Array:
    """Take the mean over an axis of what is not NaN; NaN where nothing is known."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return ratio(total, known.sum(axis=axis))
