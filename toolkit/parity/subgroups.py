"""The main metric's difference inside each subgroup and label: screened for harm, never judged.

- A group is a value of an attribute. Ages become bands, other numbers with many values tertiles; an attribute with many
  values that are no numbers is a name and makes no groups.
- Each group has the interval of its endpoint's own method, from its own cases only; the margin is the whole task's.
- Screening asks whether a group is WORSE than the margin: `p` is that of "no loss beyond the margin", so a small one is
  harm. It is the p of the Student's t whose interval is the one shown. Labels are screened with the same question.
- All groups and labels of an engine are one family (Holm 1979). Flagged is what is worse than the margin beyond chance,
  or seen to be worse by twice the margin, however few patients.
- Small groups (`few`) are shown and marked; their intervals are not trusted, so they have no p and take none away from
  the others.

    groups = subgroups("onnxruntime", pair, cases, setting, measured)
    adjusted(groups, alpha=0.025)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from scipy.stats import t as student_t

from .bands import groups_of
from .cases import Cases
from .detection import ClassMatches
from .endpoints import measure
from .evidence import Endpoint, Evidence, Subgroup
from .measured import MIN_PATIENTS, Measured, Setting
from .metrics import metrics_of
from .pairing import Pair

LABEL = "label"  # the attribute under which a task's labels are screened
TWICE = 2.0  # margins: a loss seen to be so large is flagged whatever chance says
RESAMPLES = 1000  # at most, of a group's bootstrap: there are many groups, and none decides
LEAST_LABELS = 5  # for a rank correlation


class Forgetting(msgspec.Struct, frozen=True, kw_only=True):
    """One task's change by label on one engine, the rarest label first.

    Args:
        engine: on which the student ran.
        task: with several labels.
        metric: what is compared.
        rows: one endpoint a label, by rising number of positives.
        correlation: Spearman's, of difference and frequency; positive: the rarer, the more was lost. None where there
            are fewer than `LEAST_LABELS` labels or nothing varies.
    """

    engine: str
    task: str
    metric: str
    rows: tuple[Endpoint, ...]
    correlation: float | None


def subgroups(
    engine: str, pair: Pair, cases: Cases, setting: Setting, measured: Sequence[Measured]
) -> Iterator[Subgroup]:
    """Yield one row for each group and label of a task, not yet adjusted for their number.

    Args:
        engine: on which the student ran.
        pair: the task's answers, N cases.
        cases: the same cases, with their attributes.
        setting: as for the endpoints.
        measured: the task's endpoints on all cases; they give the margins, and the labels' rows.
    """
    metric = screened_metric(pair, setting)
    if not metric:
        return
    margins = {row.label: row.margin for row in measured if row.metric == metric and row.primary}
    inside = msgspec.structs.replace(
        setting,
        resamples=min(setting.resamples, RESAMPLES),
        rules=msgspec.structs.replace(setting.rules, endpoints={metric: setting.rules.endpoints[metric]}),
    )
    known = pair.known.any(axis=1)
    for attribute, values in sorted(cases.attributes.items()):
        for value, members in groups_of(attribute, values):
            rows = known & members
            if rows.any():
                part = restricted(pair, rows)
                for row in measure(part, inside)[0]:
                    if row.primary:
                        yield _screened(engine, part, inside, row, margins.get(row.label, row.margin), attribute, value)
    for row in measured:
        if row.metric == metric and row.label and not row.primary:
            yield _screened(engine, pair, inside, row, row.margin, LABEL, row.label)


def screened_metric(pair: Pair, setting: Setting) -> str:
    """Name the metric by which groups are compared: the task's own, or the first that the protocol has, if any."""
    asked = setting.rules.endpoints
    return next((name for name in (pair.task.metric, *metrics_of(pair.task.kind)) if name in asked), "")


def restricted(pair: Pair, rows: NDArray[np.bool_]) -> Pair:
    """Take the reference away from all other cases, `rows` (N,): what has no reference is in no endpoint."""
    return msgspec.structs.replace(
        pair,
        reference=np.where(rows[:, None], pair.reference, np.nan),
        missing=pair.missing & rows[:, None],
        left_out=0,
        teacher_boxes=tuple(_only(matches, rows) for matches in pair.teacher_boxes),
        student_boxes=tuple(_only(matches, rows) for matches in pair.student_boxes),
    )


def adjusted(groups: Sequence[Subgroup], alpha: float) -> tuple[Subgroup, ...]:
    """Put to each group its Holm-adjusted p over its engine's family, and the flag.

    The family's error is 2 alpha: screening is one-sided, and a missed harm costs more than a second look.
    """
    found: dict[int, float] = {}
    for engine in dict.fromkeys(group.engine for group in groups):
        family = {n: group.p for n, group in enumerate(groups) if group.engine == engine and group.p is not None}
        found |= dict(zip(family, holm(list(family.values())), strict=True))
    return tuple(
        msgspec.structs.replace(group, holm=found.get(n), flagged=_is_large(group) or found.get(n, 1.0) < 2.0 * alpha)
        for n, group in enumerate(groups)
    )


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p for their number, step by step from the smallest (Holm, Scandinavian Journal of Statistics 1979)."""
    result = [0.0] * len(p)
    so_far = 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda n: (p[n], n))):
        so_far = max(so_far, min(1.0, (len(p) - rank) * p[place]))
        result[place] = so_far
    return result


def p_of_harm(measured: Measured, margin: float, freedom: int, alpha: float) -> float | None:
    """Give the one-sided p of "not worse than the margin", None where there is no interval that can be trusted.

    It is below alpha exactly when the whole 1 - 2 alpha interval lies below minus the margin; beyond that, the tails
    are those of Student's t.

    Args:
        measured: the group's endpoint, with its interval.
        margin: of the whole task.
        freedom: degrees of freedom.
        alpha: one-sided error of the interval.
    """
    m = measured
    if m.difference is None or m.high is None or m.hindrance or freedom < 1 or not margin > 0:
        return None
    excess, reach = m.difference + margin, m.high - m.difference
    if reach <= 0:
        return 0.0 if excess < 0 else 1.0
    return float(student_t.cdf(excess / reach * student_t.ppf(1.0 - alpha, freedom), freedom))


def forgetting(evidence: Evidence) -> tuple[Forgetting, ...]:
    """Give the change by label frequency, of each engine and each task with several labels (Holste et al. 2023)."""
    found: dict[tuple[str, str], list[Endpoint]] = {}
    metrics = {(group.engine, group.task): group.metric for group in evidence.subgroups if group.attribute == LABEL}
    for row in evidence.endpoints:
        if row.label and row.metric == metrics.get((row.engine, row.task)):
            found.setdefault((row.engine, row.task), []).append(row)
    return tuple(
        Forgetting(
            engine=engine,
            task=task,
            metric=metrics[engine, task],
            rows=tuple(sorted(rows, key=lambda row: (frequency(row), row.label))),
            correlation=_rank_correlation(rows),
        )
        for (engine, task), rows in found.items()
    )


def frequency(row: Endpoint) -> int:
    """Positive cases of a label; where they are not counted (masks), the cases that have it."""
    return row.cases if row.positives is None else row.positives


def _rank_correlation(rows: Sequence[Endpoint]) -> float | None:
    """Spearman's, of difference and frequency; their logarithms have the same ranks."""
    pairs = [(frequency(row), row.difference) for row in rows if row.difference is not None]
    if len(pairs) < LEAST_LABELS:
        return None
    ranks = [rankdata(column) for column in zip(*pairs, strict=True)]
    if any(np.ptp(column) == 0 for column in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _screened(
    engine: str, pair: Pair, setting: Setting, row: Measured, margin: float, attribute: str, value: str
) -> Subgroup:
    columns = range(pair.reference.shape[1])
    if attribute == LABEL and pair.task.kind == "multilabel":
        columns = range(start := pair.task.classes.index(value), start + 1)
    return Subgroup(
        engine=engine,
        task=pair.task.name,
        label=row.label if attribute != LABEL else "",
        metric=row.metric,
        attribute=attribute,
        value=value,
        cases=row.cases,
        patients=row.patients,
        difference=row.difference,
        low=row.low,
        high=row.high,
        margin=margin if margin > 0 else 0.0,
        p=p_of_harm(row, margin, _freedom(pair, setting, columns), setting.alpha),
        few=bool(row.hindrance),
    )


def _freedom(pair: Pair, setting: Setting, columns: Iterable[int]) -> int:
    """One fewer than the patients; for labels, than those of the rarer class of the label that has the fewest."""
    if pair.task.kind not in ("binary", "multilabel"):
        return len(np.unique(setting.patients[pair.known.any(axis=1)])) - 1
    fewest = [
        min(len(np.unique(setting.patients[side])) for side in (column > 0.5, column <= 0.5))
        for column in (pair.reference[:, k] for k in columns)
    ]
    return min((count for count in fewest if count >= MIN_PATIENTS), default=0) - 1


def _is_large(group: Subgroup) -> bool:
    return group.difference is not None and group.margin > 0 and group.difference <= -TWICE * group.margin


def _only(matches: ClassMatches, rows: NDArray[np.bool_]) -> ClassMatches:
    """Keep one class's answers and boxes of some images."""
    kept = rows[matches.image]
    return msgspec.structs.replace(
        matches,
        scores=matches.scores[kept],
        hit=matches.hit[kept],
        image=matches.image[kept],
        truths=np.where(rows, matches.truths, 0.0),
    )
