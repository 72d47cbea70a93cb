"""Metrics of embeddings: retrieval of a patient's other images, and what a probe reads; see `metrics.py`."""

from __future__ import annotations

import msgspec
import numpy as np

from ...runtime.task import Task
from ..parity.cases import Array
from ..parity.embedding_endpoints import HIT, PAIR_METHOD
from ..parity.measured import Setting, too_few
from ..parity.pair_retrieval import Retrieved, retrieve
from ..parity.probe import FOLDS, probe_scores
from .class_metrics import measure_auc
from .measure import BOOTSTRAP, DELONG, Measure, said, share, started


def measure_embedding(task: Task, reference: Array, embedding: Array, setting: Setting) -> list[Measure]:
    """Pair percentile, nearest image and probes, the main one first; the probes lead where no patient has two images.

    Args:
        task: an embedding.
        reference: (N, C) 0, 1 or NaN of each condition.
        embedding: (N, D) of length 1.
        setting: the patients and the bootstrap.
    """
    found = retrieve((embedding,), setting.patients, np.ones(len(embedding), dtype=bool))
    rows = [] if found is None else [_percentile(task, found, setting), _nearest(task, found, setting)]
    known = ~np.isnan(reference)
    if not known.any():
        return rows
    labels = Task(name=task.name, kind="multilabel", classes=task.classes)
    scores = probe_scores(embedding, reference, setting.patients)
    method = f"logistic probes, cross-fitted in {FOLDS} parts by patient; {DELONG}"
    base = started(task.name, "probe_auc", np.asarray(known.any(axis=1)), setting, method, main=found is None)
    rows.append(measure_auc(base, labels, reference, scores, setting))
    for column, label in enumerate(task.classes if len(task.classes) > 1 else ()):
        one = slice(column, column + 1)
        base = started(task.name, "probe_auc", known[:, column], setting, method, label=label)
        rows.append(measure_auc(base, labels, reference[:, one], scores[:, one], setting))
    return rows


def _percentile(task: Task, found: Retrieved, setting: Setting) -> Measure:
    base = started(task.name, "pair_percentile", found.queries, setting, PAIR_METHOD, main=True)
    (value,), (spread,) = found.means, found.spread((1.0,))
    below, above = spread.below(setting.alpha), spread.above(setting.alpha)
    known = bool(np.isfinite(below))
    chance = not known or value - below <= 0.5
    return msgspec.structs.replace(
        base,
        value=value,
        low=max(value - below, 0.0) if known else None,
        high=min(value + above, 1.0) if known else None,
        note=said(too_few(base.patients), "not shown to be better than chance (0.5)" if chance else ""),
    )


def _nearest(task: Task, found: Retrieved, setting: Setting) -> Measure:
    base = started(task.name, "recall_at_1", found.queries, setting, BOOTSTRAP)
    return share(base, found.nearest[:, 0] > HIT, found.queries, setting)
