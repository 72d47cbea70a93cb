"""Endpoints of embeddings: retrieval of a patient's own images, and what a probe reads from them.

- **pair_percentile**: mean over the images that have another one of their patient (`pair_retrieval.py`). An embedding
  that is forgotten for a patient finds by chance, at 0.5: so much may be lost unseen.
- **recall_at_1**: share of these whose nearest candidate is of the same patient; a tie with another's is no hit.
  Patients who are each other's nearest are found or not together, which widens the interval.
- **probe_auc**: area under the ROC curve of a cross-fitted logistic probe (`probe.py`), the mean over the conditions,
  and each; by the method of labels. The interval is that of the cases, not of the probes' fit.

An image without another one of its patient is a candidate for others and asks nothing itself.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.task import Task
from .cases import Array
from .label_endpoints import AUC_METHOD, RATE_METHOD, measure_labels
from .measured import Measured, Setting, too_few, with_spread
from .metrics import margin_of
from .pair_retrieval import Retrieved, retrieve
from .pairing import ABOVE, BELOW, Pair
from .probe import FOLDS, probe_scores
from .proportion import compare_proportions, needed_growth
from .protocol import Rule
from .tilted import METHOD, Hidden, effective, of_images, unseen

PAIR_METHOD = (
    f"mean over images, patients as clusters among those who ask and those who are in the way; {METHOD}; at least what "
    "an unseen loss may cost"
)
NEAREST_METHOD = f"{RATE_METHOD}; and by those who are nearest"
PROBE_METHOD = f"logistic probes, cross-fitted in {FOLDS} parts by patient; {AUC_METHOD}"
HIT = 0.5  # of the chance to be found first: at a tie with a rival nothing is found
FAR_SCORE = 1e6  # beyond every log odds


def measure_embeddings(pair: Pair, setting: Setting) -> tuple[list[Measured], list[str]]:
    """Measure what the rules name, and say who has no pair."""
    rows: list[Measured] = []
    notes: list[str] = []
    asked = setting.rules.endpoints
    if "pair_percentile" in asked or "recall_at_1" in asked:
        found = retrieved(pair, setting)
        if "pair_percentile" in asked:
            rows.append(_percentile(pair, found, setting))
        if "recall_at_1" in asked:
            rows.append(_recall(pair, found, setting))
        alone = int((pair.known[:, 0]).sum()) - (0 if found is None else int(found.queries.sum()))
        if alone:
            notes.append(f"{pair.task.name}: {alone} images have no other one of their patient and are candidates only")
    if "probe_auc" in asked:
        found_rows, said = _probes(pair, setting)
        rows += found_rows
        notes += said
    return rows, notes


def retrieved(pair: Pair, setting: Setting) -> Retrieved | None:
    """Both models' retrieval: those whose reference is not taken away ask, all that the teacher answered are found."""
    candidates = np.asarray(np.isfinite(pair.teacher).all(axis=1))
    return retrieve((pair.teacher, pair.student), setting.patients, candidates, pair.known[:, 0])


def probe_pair(pair: Pair, setting: Setting) -> Pair:
    """Give the probes' scores of both models as the answers to a multilabel task; a missing one is the worst."""
    task, truth = pair.task, pair.reference[:, 1:]
    margins = {"auc": margin_of("probe_auc", task.margins)}
    known = ~np.isnan(truth)
    teacher, student = (probe_scores(model, truth, setting.patients) for model in (pair.teacher, pair.student))
    missing = known & np.isnan(student)
    worst = np.where(truth > 0.5, BELOW, ABOVE) * FAR_SCORE
    return Pair(
        task=Task(name=task.name, kind="multilabel", classes=task.classes, margins=margins),
        reference=truth,
        teacher=teacher,
        student=np.where(missing, worst, student),
        teacher_limits=np.zeros(len(task.classes)),
        student_limits=np.zeros(len(task.classes)),
        identical=pair.identical,
        missing=missing,
        left_out=0,
    )


def _blank(metric: str, found: Retrieved | None, pair: Pair, setting: Setting, method: str) -> Measured:
    queries = np.zeros(len(setting.patients), dtype=bool) if found is None else found.queries
    patients = len(np.unique(setting.patients[queries]))
    return Measured(
        metric=metric,
        primary=True,
        cases=int(queries.sum()),
        patients=patients,
        margin=margin_of(metric, pair.task.margins),
        method=method,
        hindrance="no patient has two images that the teacher answered" if found is None else too_few(patients),
    )


def _percentile(pair: Pair, found: Retrieved | None, setting: Setting) -> Measured:
    base = _blank("pair_percentile", found, pair, setting, PAIR_METHOD)
    if found is None:
        return base
    teacher, student = found.means
    difference, own, of_teacher = found.spread((-1.0, 1.0), (0.0, 1.0), (1.0, 0.0))
    patients = effective(found.images)
    lost = unseen(patients, setting.alpha)
    hidden = Hidden(cost=lost * max(teacher - 0.5, student - 0.5, 0.0), share=lost, scatter=of_images(found.images))
    measured = with_spread(base, (teacher, student), difference, own, hidden, setting, pair.identical)
    return msgspec.structs.replace(measured, assay=_assay(teacher - of_teacher.below(setting.alpha)))


def _recall(pair: Pair, found: Retrieved | None, setting: Setting) -> Measured:
    base = _blank("recall_at_1", found, pair, setting, RATE_METHOD)
    if found is None:
        return base
    teacher, student = (found.nearest[found.queries, k] > HIT for k in range(2))
    weights = np.full(len(teacher), 1.0 / len(teacher))
    # Neighbours are found or not together, so that fewer pairs are worth as much as these.
    wide = found.widening(student.astype(np.float64) - teacher), found.widening(student.astype(np.float64))
    patients = setting.patients[found.queries]
    compared = compare_proportions(teacher, student, weights, patients, setting.alpha, widening=wide)
    grow = needed_growth(compared.events, compared.discordance, base.margin, setting.alpha, setting.power)
    (of_teacher,) = found.spread((1.0, 0.0))
    return msgspec.structs.replace(
        base,
        teacher=compared.teacher,
        student=compared.student,
        difference=compared.difference,
        low=0.0 if pair.identical else compared.low,
        high=0.0 if pair.identical else compared.high,
        assay=_assay(found.means[0] - of_teacher.below(setting.alpha)),
        grow=grow * wide[0],
        student_low=compared.student_low,
        events=compared.events,
    )


def _assay(low: float) -> str:
    if np.isnan(low) or low > 0.5:  # a single patient is hindered anyway
        return ""
    return f"no assay sensitivity: the teacher's retrieval may be chance (its bound is {low:.3f})"


def _probes(pair: Pair, setting: Setting) -> tuple[list[Measured], list[str]]:
    rule = setting.rules.endpoints["probe_auc"]
    rules = msgspec.structs.replace(setting.rules, endpoints={"auc": Rule(margin=rule.margin)}, critical=())
    rows, notes = measure_labels(probe_pair(pair, setting), msgspec.structs.replace(setting, rules=rules))
    return [msgspec.structs.replace(row, metric="probe_auc", method=PROBE_METHOD) for row in rows], notes


def percentiles(pair: Pair, patients: NDArray[np.intp]) -> tuple[Array, Array] | None:
    """Pair percentile of each case (N,) by the teacher and by the student, NaN where it does not ask; None: nobody.

    Args:
        pair: the task's answers.
        patients: (N,) numbers.
    """
    candidates = np.asarray(np.isfinite(pair.teacher).all(axis=1))
    found = retrieve((pair.teacher, pair.student), patients, candidates, pair.known[:, 0])
    return None if found is None else (found.percentile[:, 0], found.percentile[:, 1])
