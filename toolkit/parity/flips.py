"""Cases that the student decides otherwise than its teacher, the worst first.

| kind of task | a case is listed when | severity |
|---|---|---|
| binary, multilabel | the decisions at the locked thresholds differ | difference of the probabilities |
| multiclass | the classes differ | difference of the teacher's class's probability |
| ordinal | the grades differ | distance of the grades / (grades - 1) |
| regression | the errors differ by more than half of what a constant errs | difference / that error, at most 1 |
| segmentation | Dice differs by 0.05 or more | difference |
| detection | F1 at the locked thresholds differs by 0.25 or more | difference |
| embedding | the pair percentile differs by 0.05 or more | difference |

To the severity, which lies in 0..1, 1 is added when something was lost (teacher right, student wrong), 2 more when a
positive of a `critical` class was lost, so that those stand first.

How sure the teacher was (`certainty`, 0 to 1) tells a close call from a loss: for labels its distance from the
threshold as a share of the longer way to 0 or 1, for classes and grades its largest probability. Masks, boxes and
values have no decision to be sure of. `exemplars` orders by it: compression identified exemplars (Hooker et al. 2019
and 2020, arXiv 1911.05248 and 2010.03058) are the cases on which the models part, and the ones to look at first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .cases import Array, Cases, patient_codes
from .detection import ClassMatches
from .embedding_endpoints import percentiles
from .evidence import Flip
from .pairing import Pair

Kind = Literal["lost", "gained", "unknown", "disagree"]
DICE_STEP = 0.05
F1_STEP = 0.25
PERCENTILE_STEP = 0.05
VALUE_STEP = 0.5  # of the error of a constant


def find_flips(engine: str, pair: Pair, cases: Cases) -> list[Flip]:
    """List all flips of one task, unsorted."""
    match pair.task.kind:
        case "binary" | "multilabel":
            return list(_label_flips(engine, pair, cases))
        case "multiclass" | "ordinal":
            return list(_class_flips(engine, pair, cases))
        case "regression":
            return list(_value_flips(engine, pair, cases))
        case "segmentation":
            return list(_measure_flips(engine, pair, cases, pair.teacher, pair.student, DICE_STEP))
        case "detection":
            scores = [_f1(boxes, lim) for boxes, lim in _with_limits(pair)]
            return list(_measure_flips(engine, pair, cases, scores[0], scores[1], F1_STEP))
        case "embedding":
            return list(_retrieval_flips(engine, pair, cases))


def worst(flips: Iterable[Flip], most: int) -> tuple[Flip, ...]:
    """Keep at most `most` flips of each engine and task, by falling severity."""
    ordered = sorted(flips, key=lambda f: (-f.severity, f.engine, f.task, f.label, f.case))
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for flip in ordered:
        seen[flip.engine, flip.task] += 1
        if seen[flip.engine, flip.task] <= most:
            kept.append(flip)
    return tuple(kept)


def exemplars(flips: Iterable[Flip]) -> list[Flip]:
    """Order flips for the eye: lost critical positives, then decisions by how sure the teacher was, then the rest."""
    return sorted(
        flips,
        key=lambda f: (
            not f.critical,
            f.certainty is None,
            -(f.certainty or 0.0),
            -f.severity,
            f.engine,
            f.task,
            f.label,
            f.case,
        ),
    )


def count_flips(flips: Iterable[Flip]) -> dict[str, int]:
    """Count `engine/task/label/kind` -> cases, in the order of the names."""
    return dict(sorted(Counter(f"{f.engine}/{f.task}/{f.label}/{f.kind}" for f in flips).items()))


def _label_flips(engine: str, pair: Pair, cases: Cases) -> Iterator[Flip]:
    labels = pair.task.classes[1:] if pair.task.kind == "binary" else pair.task.classes
    says = [pair.teacher >= pair.teacher_limits, pair.student >= pair.student_limits]
    given = ~np.isnan(pair.teacher) & ~np.isnan(pair.student)
    for n, k in zip(*np.nonzero((says[0] != says[1]) & given), strict=True):
        truth = pair.reference[n, k]
        right = None if np.isnan(truth) else bool(says[0][n, k] == (truth > 0.5))
        kind: Kind = "unknown" if right is None else "lost" if right else "gained"
        teacher, student = float(pair.teacher[n, k]), float(np.clip(pair.student[n, k], 0.0, 1.0))
        critical = kind == "lost" and truth > 0.5 and labels[k] in pair.task.critical
        reference = "" if right is None else "positive" if truth > 0.5 else "negative"
        yield Flip(
            engine=engine,
            task=pair.task.name,
            label=labels[k],
            case=cases.keys[n],
            patient=cases.patients[n],
            reference=_said(reference, pair.missing[n, k]),
            teacher=teacher,
            student=student,
            kind=kind,
            severity=_severity(abs(teacher - student), kind, critical=bool(critical)),
            certainty=_distance(teacher, float(pair.teacher_limits[k])),
            critical=bool(critical),
        )


def _distance(probability: float, limit: float) -> float:
    """Say how far a probability lies from its threshold, as a share of the longer way to 0 or 1."""
    longest = max(limit, 1.0 - limit)
    return float(min(abs(probability - limit) / longest, 1.0))


def _class_flips(engine: str, pair: Pair, cases: Cases) -> Iterator[Flip]:
    names, ordinal = pair.task.classes, pair.task.kind == "ordinal"
    teacher, student, truth = pair.teacher[:, 0], pair.student[:, 0], pair.reference[:, 0]
    unanswered = np.isnan(teacher) | ((student < 0) & ~pair.missing[:, 0])
    for n in np.flatnonzero((teacher != student) & ~unanswered):
        kind = _class_kind(truth[n], teacher[n], student[n])
        shown = (teacher[n], student[n]) if ordinal else _chances(pair, int(n), int(teacher[n]))
        apart = abs(teacher[n] - student[n]) / (len(names) - 1) if ordinal else abs(shown[0] - shown[1])
        known = not np.isnan(truth[n])
        critical = kind == "lost" and known and names[int(truth[n])] in pair.task.critical
        yield Flip(
            engine=engine,
            task=pair.task.name,
            label="",
            case=cases.keys[n],
            patient=cases.patients[n],
            reference=_said(names[int(truth[n])] if known else "", pair.missing[n, 0]),
            teacher=float(shown[0]),
            student=float(shown[1]),
            kind=kind,
            severity=_severity(float(apart), kind, critical=critical),
            certainty=_top_chance(pair, int(n)),
            critical=critical,
        )


def _class_kind(truth: float, teacher: float, student: float) -> Kind:
    if np.isnan(truth):
        return "unknown"
    if truth in (teacher, student):
        return "lost" if teacher == truth else "gained"
    return "disagree"


def _chances(pair: Pair, case: int, index: int) -> tuple[float, float]:
    """Both models' probability of the teacher's class; 0 for an answer that was not given."""
    assert pair.chance is not None
    assert pair.student_chance is not None
    return float(pair.chance[case, index]), float(np.nan_to_num(pair.student_chance[case, index]))


def _top_chance(pair: Pair, case: int) -> float:
    """Give the teacher's largest probability; its answer is known, else there were no flip."""
    assert pair.chance is not None
    return float(np.clip(pair.chance[case].max(), 0.0, 1.0))


def _value_flips(engine: str, pair: Pair, cases: Cases) -> Iterator[Flip]:
    for k, label in enumerate(pair.task.classes):
        known = pair.known[:, k]
        if not known.any():
            continue
        truth = pair.reference[known, k]
        constant = float(np.abs(truth - np.median(truth)).mean())
        excess = np.abs(pair.student[:, k] - pair.reference[:, k]) - np.abs(pair.teacher[:, k] - pair.reference[:, k])
        for n in np.flatnonzero(known & (np.abs(np.nan_to_num(excess)) > max(VALUE_STEP * constant, 1e-12))):
            kind: Kind = "lost" if excess[n] > 0 else "gained"
            yield Flip(
                engine=engine,
                task=pair.task.name,
                label=label if len(pair.task.classes) > 1 else "",
                case=cases.keys[n],
                patient=cases.patients[n],
                reference=_said(f"{pair.reference[n, k]:.4g} {pair.task.unit}".strip(), pair.missing[n, k]),
                teacher=float(pair.teacher[n, k]),
                student=float(pair.student[n, k]),
                kind=kind,
                severity=_severity(float(abs(excess[n])) / constant if constant else 1.0, kind),
            )


def _measure_flips(
    engine: str, pair: Pair, cases: Cases, teacher: Array, student: Array, step: float
) -> Iterator[Flip]:
    """Yield flips by a measure of each case and class, (N, C), larger is better."""
    labels = pair.task.classes
    apart = np.nan_to_num(student - teacher)
    for n, k in zip(*np.nonzero((np.abs(apart) >= step) & pair.known), strict=True):
        kind: Kind = "lost" if apart[n, k] < 0 else "gained"
        critical = kind == "lost" and labels[k] in pair.task.critical
        yield Flip(
            engine=engine,
            task=pair.task.name,
            label=labels[k],
            case=cases.keys[n],
            patient=cases.patients[n],
            reference=_said("", pair.missing[n].any()),
            teacher=float(teacher[n, k]),
            student=float(student[n, k]),
            kind=kind,
            severity=_severity(float(abs(apart[n, k])), kind, critical=critical),
            critical=critical,
        )


def _retrieval_flips(engine: str, pair: Pair, cases: Cases) -> Iterator[Flip]:
    """Yield images that the student's embedding puts elsewhere among those of other patients than the teacher's."""
    found = percentiles(pair, patient_codes(cases.patients))
    if found is None:
        return
    apart = np.nan_to_num(found[1] - found[0])
    for n in np.flatnonzero(np.abs(apart) >= PERCENTILE_STEP):
        kind: Kind = "lost" if apart[n] < 0 else "gained"
        yield Flip(
            engine=engine,
            task=pair.task.name,
            label="",
            case=cases.keys[n],
            patient=cases.patients[n],
            reference=_said("", pair.missing[n, 0]),
            teacher=float(found[0][n]),
            student=float(found[1][n]),
            kind=kind,
            severity=_severity(float(abs(apart[n])), kind),
        )


def _with_limits(pair: Pair) -> tuple[tuple[Sequence[ClassMatches], Array], tuple[Sequence[ClassMatches], Array]]:
    return (pair.teacher_boxes, pair.teacher_limits), (pair.student_boxes, pair.student_limits)


def _f1(model: Sequence[ClassMatches], limits: Array) -> Array:
    """Give the F1 of each case and class (N, C) with boxes at or above the locked threshold; 1 for rightly nothing."""
    columns = []
    for matches, limit in zip(model, limits, strict=True):
        shown = matches.scores >= limit
        count = len(matches.truths)
        # Matched in falling score, so that leaving out the weak boxes does not change the match of a strong one.
        right = np.bincount(matches.image[shown & matches.hit], minlength=count)
        answered = np.bincount(matches.image[shown], minlength=count)
        both = answered + matches.truths
        columns.append(np.divide(2.0 * right, both, out=np.ones(count), where=both > 0))
    return np.stack(columns, axis=1)


def _said(reference: str, missing: bool | NDArray[np.bool_] | np.bool_) -> str:
    return f"{reference} (the student gave no answer)".strip() if missing else reference


def _severity(size: float, kind: Kind, *, critical: bool = False) -> float:
    return float(min(size, 1.0)) + (1.0 if kind == "lost" else 0.0) + (2.0 if critical else 0.0)
