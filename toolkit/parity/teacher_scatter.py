"""The scatter of each endpoint, from the teacher's answers beside themselves: what `scatter.py` starts from.

Which labels and classes enter a mean, and what counts as a loss, is decided by the endpoints' own functions.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from .calibration_endpoints import Loss, class_loss, label_loss
from .cases import Answers, Array, ratio, renumbered, sum_by_patient
from .delong import Components, components, spread
from .detection import replicate_precision
from .embedding_endpoints import HIT, probe_pair, retrieved
from .endpoints import measure
from .label_endpoints import count_labels, macro_labels
from .measured import MIN_PATIENTS, Measured, Setting
from .pairing import Pair
from .proportion import clustered_se
from .scatter import AreaScatter, LossScatter, MeanScatter, RateScatter, Scatter
from .subgroups import restricted
from .tilted import Spread, effective, spread_of

RESAMPLES = 300  # of the teacher's own bootstrap; its standard error is then known to 4 %
GROUPS = 25  # of patients, each left out once
FEWEST_RESAMPLES = 10

Builder = Callable[[Pair, Measured, Setting, Answers], Scatter]


def scatter_of(compared: Pair, one: Measured, setting: Setting, answers: Answers) -> Scatter | None:
    """Foresee one endpoint; None where the teacher's answers alone cannot tell.

    Args:
        compared: the teacher beside itself.
        one: the endpoint, measured so.
        setting: of the proof.
        answers: the teacher's.
    """
    build = SCATTERS.get(one.metric)
    return None if build is None or not one.cases or one.teacher is None else build(compared, one, setting, answers)


# --- areas and shares ---


def _area(compared: Pair, one: Measured, setting: Setting, answers: Answers) -> Scatter:
    columns = macro_labels(count_labels(compared.reference, setting.patients))
    known = compared.known[:, columns].any(axis=1)
    alone = np.arange(len(setting.patients), dtype=np.intp)
    parts, single = (
        tuple(_components(compared, k, patients) for k in columns) for patients in (setting.patients, alone)
    )
    weights = np.tile([1.0 / len(parts), 0.0], (len(parts), 1))
    return AreaScatter(
        spread=spread(parts, weights),
        independent=spread(single, weights).variance ** 0.5,
        images=_images(setting.patients[known]),
        areas=tuple(float(part.auc[0]) for part in parts),
        parts=parts,
    )


def _components(compared: Pair, column: int, patients: NDArray[np.intp]) -> Components:
    known = compared.known[:, column]
    truth, scores = compared.reference[known, column] > 0.5, compared.teacher[known, column]
    return components(truth, np.stack([scores, scores], axis=1), patients[known], int(patients.max()) + 1)


def _sensitivity(compared: Pair, one: Measured, setting: Setting, answers: Answers) -> Scatter:
    return _rate(compared, setting, positive=True)


def _specificity(compared: Pair, one: Measured, setting: Setting, answers: Answers) -> Scatter:
    return _rate(compared, setting, positive=False)


def _rate(compared: Pair, setting: Setting, *, positive: bool) -> Scatter:
    counts = count_labels(compared.reference, setting.patients)
    of_class = counts.positives if positive else counts.negatives
    columns = [k for k in macro_labels(counts) if of_class[k]]
    truth = compared.reference[:, columns] > 0.5
    right = (compared.teacher[:, columns] >= compared.teacher_limits[columns]) == truth
    return _shares(right, compared.known[:, columns] & (truth == positive), setting.patients)


def _accuracy(compared: Pair, one: Measured, setting: Setting, answers: Answers) -> Scatter:
    return _shares(compared.teacher == compared.reference, compared.known, setting.patients)


def _shares(right: NDArray[np.bool_], cells: NDArray[np.bool_], patients: NDArray[np.intp]) -> RateScatter:
    """Foresee the mean over columns of the share of `right` (N, c) in `cells` (N, c)."""
    counts = cells.sum(axis=0)
    weights = cells / counts / cells.shape[1]
    rates = (right & cells).sum(axis=0) / counts
    rows, _ = np.nonzero(cells)
    weight, centred = weights[cells], (weights * (right - rates))[cells]
    square = float(weight @ weight)
    alone = float(np.sum(centred**2))
    seen = clustered_se(centred, patients[rows]) ** 2 / alone if alone > 0 else 1.0
    largest = float(np.sum(np.bincount(patients[rows], weights=weight) ** 2)) / square
    return RateScatter(
        # All right is not certain: half a decision of either kind is added to what was seen.
        right=tuple(float(x) for x in (rates * counts + 0.5) / (counts + 1.0)),
        pairs=1.0 / square,
        design=max(1.0, min(seen, largest)) if np.isfinite(seen) else largest,
        largest=largest,
        images=_images(patients[rows]),
        patients=len(np.unique(patients[rows])),
    )


def _critical(compared: Pair, one: Measured, setting: Setting, answers: Answers) -> Scatter:
    task = compared.task
    names = task.classes[1:] if task.kind == "binary" else task.classes
    chosen = [k for k, name in enumerate(names) if name in task.critical]
    if task.kind in ("binary", "multilabel"):
        cells = compared.known[:, chosen] & (compared.reference[:, chosen] > 0.5)
        right = compared.teacher[:, chosen] >= compared.teacher_limits[chosen]
    else:
        cells = np.isin(compared.reference, chosen)
        right = compared.teacher == compared.reference
    rows, _ = np.nonzero(cells)
    whole = _shares(right[cells][:, None], np.ones((len(rows), 1), dtype=bool), setting.patients[rows])
    return LossScatter(
        right=whole.right,
        pairs=float(one.cases),
        design=whole.design,
        largest=whole.largest,
        images=whole.images,
        patients=one.patients,
    )


# --- means ---


def _errors(compared: Pair, one: Measured, setting: Setting, answers: Answers) -> Scatter:
    column = compared.task.classes.index(one.label) if one.label else 0
    error = compared.teacher[:, [column]] - compared.reference[:, [column]]
    return _means(np.abs(error) if one.metric == "mae" else error, setting.patients)


def _masks(compared: Pair, one: Measured, setting: Setting, answers: Answers) -> Scatter:
    tables = {"dice": answers.dice, "nsd": answers.nsd, "hd95": answers.hd95}
    return _means(np.asarray(tables[one.metric][compared.task.name], dtype=np.float64), setting.patients)


def _probabilities(compared: Pair, one: Measured, setting: Setting, answers: Answers) -> Scatter:
    """Brier score and logarithmic loss."""
    metric: Loss = "brier" if one.metric == "brier" else "logloss"
    if compared.chance is None:
        columns = macro_labels(count_labels(compared.reference, setting.patients))
        known = compared.known[:, columns]
        truth = np.where(known, compared.reference[:, columns], 0.0)
        losses = label_loss(metric, truth, np.where(known, compared.teacher[:, columns], 0.0))
    else:
        known = compared.known[:, :1]
        index = np.where(known[:, 0], compared.reference[:, 0], 0).astype(np.intp)
        losses = class_loss(metric, index, np.where(known, compared.chance, 0.0))[:, None]
    return _means(np.where(known, losses, np.nan), setting.patients)


def _means(values: Array, patients: NDArray[np.intp]) -> MeanScatter:
    """Foresee the mean over columns of the means of `values` (N, C); NaN is not known."""
    known = np.isfinite(values)
    with_class = [len(np.unique(patients[column])) for column in known.T]
    columns = [k for k, n in enumerate(with_class) if n >= MIN_PATIENTS] or [k for k, n in enumerate(with_class) if n]
    known, values = known[:, columns], np.where(known, values, 0.0)[:, columns]
    counts = known.sum(axis=0)
    means = ratio(values.sum(axis=0), counts)
    share = np.where(known, values - means, 0.0) / counts / len(columns)
    return _by_influence(share.sum(axis=1)[known.any(axis=1)], patients[known.any(axis=1)])


def _kappa(compared: Pair, one: Measured, setting: Setting, answers: Answers) -> Scatter:
    """Kappa with quadratic weights, linearised: what each case adds to it."""
    known = compared.known[:, 0]
    r, d = compared.reference[known, 0], compared.teacher[known, 0]
    apart = (r - d) ** 2
    expected = r**2 + d**2 - 2.0 * (r * d.mean() + d * r.mean() - r.mean() * d.mean())
    whole = float(expected.sum())
    influence = (expected * (apart.sum() / whole) - apart) / whole if whole > 0 else np.zeros(len(r))
    return _by_influence(influence, setting.patients[known])


def _by_influence(influence: Array, patients: NDArray[np.intp]) -> MeanScatter:
    """Foresee a statistic from what each case (n,) adds to it; the sum is zero."""
    numbers, count = renumbered(patients)
    contributions = sum_by_patient(influence[:, None], numbers, count)[:, 0]
    n, images = len(influence), np.bincount(numbers, minlength=count).astype(np.float64)
    correct = (count / (count - 1)) ** 0.5 if count > 1 else float("nan")
    return MeanScatter(
        spread=spread_of(contributions * correct, 0.0, effective(images) - 1.0),
        independent=float(np.sqrt(np.sum(influence**2) * n / (n - 1))) if n > 1 else float("nan"),
        images=_images(patients),
    )


def _retrieval(compared: Pair, one: Measured, setting: Setting, answers: Answers) -> Scatter:
    """Mean pair percentile: the patients' contributions, as those who ask and as those who are in the way."""
    found = retrieved(compared, setting)
    assert found is not None, "a percentile that was measured has queries"
    (own,) = found.spread((1.0, 0.0))
    return MeanScatter(spread=own, independent=0.0, images=_images(setting.patients[found.queries]))


def _nearest(compared: Pair, one: Measured, setting: Setting, answers: Answers) -> Scatter:
    found = retrieved(compared, setting)
    assert found is not None, "a recall that was measured has queries"
    right = found.nearest[:, :1] > HIT
    alone = _shares(right, found.queries[:, None], setting.patients)
    wide = found.widening(right[found.queries, 0].astype(np.float64))
    return msgspec.structs.replace(alone, design=alone.design * wide, largest=alone.largest * wide)


def _probe(compared: Pair, one: Measured, setting: Setting, answers: Answers) -> Scatter:
    return _area(probe_pair(compared, setting), one, setting, answers)


def _boxes(compared: Pair, one: Measured, setting: Setting, answers: Answers) -> Scatter:
    """Mean average precision, by the bootstrap of the teacher alone."""
    cases = compared.known[:, 0]
    truths = np.stack([matches.truths for matches in compared.teacher_boxes], axis=1)
    with_class = [len(np.unique(setting.patients[column > 0])) for column in truths.T]
    columns = [k for k, n in enumerate(with_class) if n >= MIN_PATIENTS] or [k for k, n in enumerate(with_class) if n]
    errors = []
    for patients in (setting.patients, np.arange(len(cases), dtype=np.intp)):
        numbers = np.zeros(len(cases), dtype=np.intp)
        numbers[cases] = renumbered(patients[cases])[0]
        drawn = replicate_precision((compared.teacher_boxes,), numbers, RESAMPLES, setting.seed)[:, 0, columns]
        errors.append(float(np.nanstd(np.nanmean(drawn, axis=1), ddof=1)))
    patients = setting.patients[cases]
    freedom = len(np.unique(patients)) - 1.0
    own = Spread(variance=errors[0] ** 2, third=0.0, lowest=0.0, highest=0.0, freedom=freedom)
    return MeanScatter(spread=own, independent=errors[1], images=_images(patients))


def _leaving_out(compared: Pair, one: Measured, setting: Setting, answers: Answers) -> Scatter:
    """Any metric: the grouped jackknife, leaving out a share of the patients at a time."""
    asked = msgspec.structs.replace(
        setting,
        resamples=FEWEST_RESAMPLES,  # of intervals that nobody looks at
        rules=msgspec.structs.replace(setting.rules, endpoints={one.metric: setting.rules.endpoints[one.metric]}),
    )
    known = np.asarray(compared.known.any(axis=1))
    numbers, count = renumbered(setting.patients[known])
    order = np.random.default_rng(setting.seed).permutation(count)
    group = np.zeros(len(known), dtype=np.intp)
    group[known] = order[numbers] % GROUPS
    groups = range(min(GROUPS, count))
    values = np.array([_value(restricted(compared, known & (group != g)), one, asked) for g in groups])
    variance = float(np.sum((values - values.mean()) ** 2)) * (len(values) - 1) / len(values)
    own = Spread(variance=variance, third=0.0, lowest=0.0, highest=0.0, freedom=count - 1.0)
    return MeanScatter(spread=own, independent=0.0, images=_images(setting.patients[known]))


def _value(part: Pair, one: Measured, setting: Setting) -> float:
    rows = measure(part, setting)[0]
    found = [row.teacher for row in rows if (row.metric, row.label) == (one.metric, one.label)]
    return float("nan") if not found or found[0] is None else found[0]


def _images(patients: NDArray[np.intp]) -> float:
    counts = np.unique(patients, return_counts=True)[1].astype(np.float64)
    return float(np.sum(counts**2) / np.sum(counts)) if len(counts) else 0.0


# The table of metrics; it stands at the end because it names the functions above.
SCATTERS: dict[str, Builder] = {
    "auc": _area,
    "sensitivity": _sensitivity,
    "specificity": _specificity,
    "accuracy": _accuracy,
    "kappa": _kappa,
    "mae": _errors,
    "bias": _errors,
    "dice": _masks,
    "nsd": _masks,
    "hd95": _masks,
    "critical_loss": _critical,
    "brier": _probabilities,
    "logloss": _probabilities,
    "pair_percentile": _retrieval,
    "recall_at_1": _nearest,
    "probe_auc": _probe,
    "map50": _boxes,
    "sensitivity_at_fp": _leaving_out,
    "froc": _leaving_out,
}
