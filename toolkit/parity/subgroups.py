"""The primary metric's difference inside each subgroup: described, never judged, because subgroups are small."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .cases import Cases
from .class_endpoints import quadratic_kappa
from .delong import auc
from .detection import average_precision
from .endpoints import mean_known
from .evidence import Subgroup
from .pairing import Pair

MOST_VALUES = 20  # an attribute with more values is no subgroup but a measurement or a name


def subgroups(engine: str, pair: Pair, cases: Cases) -> Iterator[Subgroup]:
    """Yield one row for each value of each attribute that some compared case has."""
    known = pair.known.any(axis=1)
    for attribute, values in sorted(cases.attributes.items()):
        if too_many_values(values):
            continue
        column = np.asarray(values, dtype=str)
        for value in sorted(set(values) - {""}):
            rows = known & (column == value)
            if rows.any():
                difference = point_difference(pair, rows)
                yield Subgroup(
                    engine=engine,
                    task=pair.task.name,
                    attribute=attribute,
                    value=value,
                    cases=int(rows.sum()),
                    patients=len({cases.patients[n] for n in np.flatnonzero(rows)}),
                    difference=difference,
                )


def too_many_values(values: tuple[str, ...]) -> bool:
    """Tell whether an attribute makes no subgroups."""
    return len(set(values) - {""}) > MOST_VALUES


def point_difference(pair: Pair, rows: NDArray[np.bool_]) -> float | None:
    """Give the primary metric's difference on some cases, `rows` (N,); None where it is undefined.

    Positive is better: the difference of MAE (mean over measures) is turned round.
    """
    found: NDArray[np.float64]
    match pair.task.kind:
        case "binary" | "multilabel":
            found = _auc_differences(pair, rows)
        case "multiclass" | "ordinal":
            found = np.array([_class_difference(pair, rows & pair.known[:, 0])])
        case "regression":
            errors = [np.abs(model - pair.reference)[rows] for model in (pair.teacher, pair.student)]
            found = mean_known(errors[0] - errors[1], 0)
        case "segmentation":
            found = mean_known(np.where(pair.known, pair.student - pair.teacher, np.nan)[rows], 0)
        case "detection":
            both = [
                np.array([average_precision(m, rows) for m in model])
                for model in (pair.teacher_boxes, pair.student_boxes)
            ]
            found = both[1] - both[0]
    mean = float(mean_known(found, 0))
    return mean if np.isfinite(mean) else None


def _auc_differences(pair: Pair, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    found = []
    for k in range(pair.reference.shape[1]):
        given = rows & pair.known[:, k]
        truth = pair.reference[given, k] > 0.5
        found.append(auc(truth, pair.student[given, k]) - auc(truth, pair.teacher[given, k]) if len(truth) else np.nan)
    return np.array(found)


def _class_difference(pair: Pair, rows: NDArray[np.bool_]) -> float:
    if not rows.any():
        return float("nan")
    truth, teacher, student = (array[rows, 0] for array in (pair.reference, pair.teacher, pair.student))
    if pair.task.kind == "ordinal":
        return quadratic_kappa(truth, student) - quadratic_kappa(truth, teacher)
    return float(np.mean(student == truth) - np.mean(teacher == truth))
