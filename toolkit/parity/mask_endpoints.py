"""Endpoints of masks: Dice, normalised surface Dice and HD95, each the mean over classes of the means over cases.

Most structures are found well and a few are missed wholly: such values are skewed, and a sample may hold no miss at
all. So the interval is corrected for skewness (`tilted.py`) and reaches at least as far as a loss too rare to be seen
could cost: a structure that is missed costs the teacher's whole Dice. HD95 has no worst value that the answers know of;
there it is the largest distance that either model has in any case, and a rarer miss is what Dice is for.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from .by_class import hidden_cost, rows_by_class, shares_of
from .cases import Array, ratio, renumbered, sum_by_patient
from .measured import Measured, Setting, blank, with_spread
from .metrics import METRICS, margin_of
from .pairing import Pair
from .tilted import METHOD, Spread, linearised, tail_of

MASK_METHOD = f"mean over cases, patients as clusters; {METHOD}; at least what an unseen miss may cost"


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One metric by patient: sums over P patients, C classes.

    Args:
        images: (P, C) cases that count.
        teacher: (P, C).
        student: (P, C).
        largest: (P,) value of either model in any case.
    """

    images: Array
    teacher: Array
    student: Array
    largest: Array

    def mean(self, columns: list[int]) -> tuple[tuple[float, float], Spread, Spread, Spread]:
        """Give both models' mean over some classes, and the spreads: of the difference, the student, the teacher."""
        parts = [part[:, columns] for part in (self.images, self.teacher, self.student)]
        width = len(columns)

        def means(totals: Array) -> Array:
            """Turn sums (R, 3c) into means over classes (R, 2)."""
            seen, teacher, student = (totals[:, k * width : (k + 1) * width] for k in range(3))
            return np.stack([ratio(teacher, seen).mean(axis=1), ratio(student, seen).mean(axis=1)], axis=1)

        sums = np.concatenate(parts, axis=1)
        weights = shares_of(parts[0])[0]
        point = means(sums.sum(axis=0)[None])[0]
        turns = ((-1.0, 1.0), (0.0, 1.0), (1.0, 0.0))
        difference, student, teacher = (linearised(sums, means, turn, weights) for turn in turns)
        return (float(point[0]), float(point[1])), difference, student, teacher


def measure_masks(pair: Pair, setting: Setting) -> tuple[list[Measured], list[str]]:
    """Measure Dice and, where the models have them and the rules name them, the surface measures; and notes."""
    rows: list[Measured] = []
    notes: list[str] = []
    for metric in ("dice", "nsd", "hd95"):
        if metric in setting.rules.endpoints and (metric == "dice" or metric in pair.surfaces):
            found, said = _measure(metric, pair, setting)
            rows += found
            notes += [note for note in said if note not in notes]
        elif metric in setting.rules.endpoints and setting.rules.endpoints[metric].primary:
            rows.append(_absent(metric, pair, setting))
    return rows, notes


def _absent(metric: str, pair: Pair, setting: Setting) -> Measured:
    """A primary endpoint that was asked for and has no answers cannot be left out in silence."""
    nothing = np.zeros(len(pair.reference), dtype=bool)
    base = blank(pair, metric, nothing, setting, MASK_METHOD, margin_of(metric, pair.task.margins))
    return msgspec.structs.replace(base, hindrance=f"the answers hold no {metric}")


def _measure(metric: str, pair: Pair, setting: Setting) -> tuple[list[Measured], list[str]]:
    teacher, student = (pair.teacher, pair.student) if metric == "dice" else pair.surfaces[metric]
    known = pair.known & ~np.isnan(teacher)
    cases = np.asarray(known.any(axis=1))
    base = blank(pair, metric, cases, setting, MASK_METHOD, margin_of(metric, pair.task.margins))
    if base.hindrance:
        return [base], []
    table, dice = _table(known, teacher, student, setting), _table(pair.known, pair.teacher, pair.student, setting)
    same = pair.identical and bool(np.array_equal(teacher[known], student[known]))
    patients = [len(np.unique(setting.patients[column])) for column in known.T]

    def row(started: Measured, columns: list[int]) -> Measured:
        values, spread, own, _ = table.mean(columns)
        costs = ratio(table.teacher.sum(axis=0), table.images.sum(axis=0))[columns]
        swell = 0.0
        if not METRICS[metric].larger_is_better:
            spread, costs, swell = mirrored(spread), table.largest.max() - costs, _swell(table.largest)
        hidden = hidden_cost(shares_of(table.images[:, columns])[1], costs, setting.alpha, swell)
        measured = with_spread(started, values, spread, own, hidden, setting, same)
        return msgspec.structs.replace(measured, assay=_assay(dice, columns, setting))

    return rows_by_class(base, pair, patients, known, setting, row)


def _swell(distances: Array) -> float:
    """Distances differ by factors rather than by amounts, so their tail is that of the logarithms."""
    largest = float(distances.max())
    return largest * tail_of(np.log(np.maximum(distances, 1e-6 * largest))) if largest > 0 else 0.0


def _assay(dice: Table, columns: list[int], setting: Setting) -> str:
    """Any mask lies at some distance; what must exceed chance is the teacher's Dice."""
    (value, _), _, _, teacher = dice.mean(columns)
    shown = value - teacher.below(setting.alpha) > 0
    return "" if shown else "no assay sensitivity: the teacher's dice is not shown to exceed zero"


def _table(known: NDArray[np.bool_], teacher: Array, student: Array, setting: Setting) -> Table:
    rows = np.asarray(known.any(axis=1))
    patients, count = renumbered(setting.patients[rows])
    seen = known[rows]
    values = [np.where(seen, part[rows], 0.0) for part in (teacher, student)]
    largest = np.zeros(count)
    np.maximum.at(largest, patients, np.maximum(*values).max(axis=1))
    return Table(
        images=sum_by_patient(seen.astype(np.float64), patients, count),
        teacher=sum_by_patient(values[0], patients, count),
        student=sum_by_patient(values[1], patients, count),
        largest=largest,
    )


def mirrored(spread: Spread) -> Spread:
    """Give the spread of the estimate with its sign turned."""
    return msgspec.structs.replace(spread, third=-spread.third, lowest=-spread.highest, highest=-spread.lowest)
