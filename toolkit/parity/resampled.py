"""A second opinion on the difference: the plain patient bootstrap's percentiles, shown beside the judged interval.

ICH E9 asks for sensitivity analyses: does the claim hang on the method? Whole patients are drawn with replacement, both
models see the same draw, and the interval is the percentiles of the replicates (Efron and Tibshirani 1993; Field and
Welsh, JRSS B 2007). It is never judged: with few patients or rare losses it is too short (see `tilted.py`). It should
lie inside the judged interval; where it does not, the reader should ask why.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .bootstrap import replicate_sums
from .by_class import macro_classes
from .cases import Array, ratio, renumbered, sum_by_patient
from .class_endpoints import grade_moments, kappas
from .label_endpoints import count_labels, macro_labels
from .measured import Setting
from .metrics import METRICS
from .pairing import Pair
from .ranked import replicate_macro_auc

Drawn = Callable[[Pair, Setting], Array]  # (R, 2) teacher and student


def second_opinion(metric: str, pair: Pair, setting: Setting) -> tuple[float, float] | None:
    """Give the percentile interval of the whole task's difference; None for other metrics, and where nothing is drawn.

    Args:
        metric: of the endpoint.
        pair: teacher and student.
        setting: patients, resamples, seed and alpha.
    """
    if metric not in DRAWN or not pair.known.any():
        return None
    drawn = DRAWN[metric](pair, setting)
    sign = 1.0 if METRICS[metric].larger_is_better else -1.0
    differences = sign * (drawn[:, 1] - drawn[:, 0])
    differences = differences[np.isfinite(differences)]
    if len(differences) < setting.resamples / 2:
        return None
    low, high = np.quantile(differences, [setting.alpha, 1.0 - setting.alpha])
    return float(low), float(high)


def _areas(pair: Pair, setting: Setting) -> Array:
    counts = count_labels(pair.reference, setting.patients)
    columns = [k for k in macro_labels(counts) if counts.positives[k] and counts.negatives[k]]
    models = (pair.teacher[:, columns], pair.student[:, columns])
    return replicate_macro_auc(pair.reference[:, columns], models, setting.patients, setting.resamples, setting.seed)


def _kappas(pair: Pair, setting: Setting) -> Array:
    known = pair.known[:, 0]
    patients, count = renumbered(setting.patients[known])
    truth, *sides = (side[known, 0] for side in (pair.reference, pair.teacher, pair.student))
    moments = np.concatenate([grade_moments(truth, side) for side in sides], axis=1)
    return kappas(replicate_sums(sum_by_patient(moments, patients, count), setting.resamples, setting.seed))


def _means(metric: str) -> Drawn:
    def draw(pair: Pair, setting: Setting) -> Array:
        teacher, student = pair.surfaces.get(metric, (pair.teacher, pair.student))
        if metric == "mae":
            teacher, student = (np.abs(side - pair.reference) for side in (teacher, student))
        known = pair.known & ~np.isnan(teacher)
        columns = macro_classes([len(np.unique(setting.patients[column])) for column in known.T])
        known, teacher, student = known[:, columns], teacher[:, columns], student[:, columns]
        rows = known.any(axis=1)
        patients, count = renumbered(setting.patients[rows])
        parts = [known[rows].astype(np.float64), *(np.where(known, side, 0.0)[rows] for side in (teacher, student))]
        sums = sum_by_patient(np.concatenate(parts, axis=1), patients, count)
        drawn = replicate_sums(sums, setting.resamples, setting.seed)
        seen, *sides = np.split(drawn, 3, axis=1)
        return np.stack([ratio(side, seen).mean(axis=1) for side in sides], axis=1)

    return draw


DRAWN: dict[str, Drawn] = {
    "auc": _areas,
    "kappa": _kappas,
    **{metric: _means(metric) for metric in ("dice", "nsd", "hd95", "mae")},
}
