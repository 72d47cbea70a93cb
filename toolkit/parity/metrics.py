"""Every metric that an endpoint can have: of which kinds of task, which way is better, and what is usual for it.

The margins are ours, meant for a model against its own compressed form; nobody prescribes them. A protocol or a task
gives others. Where a metric has the unit of the measure, no number suits all: its default is a share of the error that
a constant (the median of the reference) makes on the same cases.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ...runtime.task import Kind


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a metric before anything is measured.

    Args:
        kinds: of the tasks that have it.
        primary: whether it counts for the verdict where no protocol says so.
        margin: the usual one, positive; None where it is `share` of the constant's error.
        share: of the constant's error.
        larger_is_better: otherwise the difference is turned round.
        share_like: its values lie between 0 and 1, so that a difference lies between -1 and 1.
        says: what it is, in a few words, for tables and `--help`.
    """

    kinds: tuple[Kind, ...]
    primary: bool = False
    margin: float | None = None
    share: float | None = None
    larger_is_better: bool = True
    share_like: bool = False
    says: str


LABELS: tuple[Kind, ...] = ("binary", "multilabel")
METRICS: dict[str, Metric] = {
    "auc": Metric(kinds=LABELS, primary=True, margin=0.01, share_like=True, says="area under the ROC curve"),
    "sensitivity": Metric(
        kinds=LABELS, primary=True, margin=0.02, share_like=True, says="sensitivity at the locked threshold"
    ),
    "specificity": Metric(
        kinds=LABELS, primary=True, margin=0.02, share_like=True, says="specificity at the locked threshold"
    ),
    "accuracy": Metric(
        kinds=("multiclass",), primary=True, margin=0.02, share_like=True, says="share of right classes"
    ),
    "kappa": Metric(kinds=("ordinal",), primary=True, margin=0.02, says="kappa with quadratic weights"),
    "mae": Metric(
        kinds=("regression",), primary=True, share=0.05, larger_is_better=False, says="mean absolute error, in the unit"
    ),
    "dice": Metric(kinds=("segmentation",), primary=True, margin=0.01, share_like=True, says="Dice coefficient"),
    "map50": Metric(
        kinds=("detection",), primary=True, margin=0.02, share_like=True, says="mean average precision at IoU 0.5"
    ),
    "pair_percentile": Metric(
        kinds=("embedding",),
        primary=True,
        margin=0.02,
        share_like=True,
        says="share of other patients' images that lie farther than the patient's own",
    ),
    "recall_at_1": Metric(
        kinds=("embedding",),
        margin=0.02,
        share_like=True,
        says="share of images whose nearest one is of the same patient",
    ),
    "probe_auc": Metric(
        kinds=("embedding",),
        margin=0.01,
        share_like=True,
        says="area under the ROC curve of a logistic probe of the embedding",
    ),
    "brier": Metric(kinds=(*LABELS, "multiclass"), margin=0.01, larger_is_better=False, says="Brier score"),
    "logloss": Metric(
        kinds=(*LABELS, "multiclass"), margin=0.05, larger_is_better=False, says="logarithmic loss, in nats"
    ),
    "critical_loss": Metric(
        kinds=(*LABELS, "multiclass", "ordinal"),
        margin=0.005,
        larger_is_better=False,
        says="share of critical positives that the teacher finds and the student loses",
    ),
    "bias": Metric(
        kinds=("regression",),
        share=0.05,
        larger_is_better=False,
        says="mean of student minus teacher, two one-sided tests, in the unit",
    ),
    "nsd": Metric(
        kinds=("segmentation",), margin=0.02, share_like=True, says="normalised surface Dice at the tolerance"
    ),
    "hd95": Metric(
        kinds=("segmentation",),
        margin=1.0,
        larger_is_better=False,
        says="95th percentile of the surface distance, in pixels or mm",
    ),
    "sensitivity_at_fp": Metric(
        kinds=("detection",),
        margin=0.03,
        share_like=True,
        says="sensitivity at a fixed number of false positives an image",
    ),
    "froc": Metric(
        kinds=("detection",),
        margin=0.03,
        share_like=True,
        says="mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives",
    ),
}


def metrics_of(kind: Kind) -> tuple[str, ...]:
    """Name the metrics that a kind of task can have, the primary ones first."""
    own = [name for name, metric in METRICS.items() if kind in metric.kinds]
    return tuple(sorted(own, key=lambda name: not METRICS[name].primary))


def margin_of(name: str, margins: Mapping[str, float], constant: float = float("nan")) -> float:
    """Give the margin of a metric: the one that is named, else the usual one; `constant` is the constant's error."""
    metric = METRICS[name]
    if name in margins:
        return margins[name]
    return metric.margin if metric.margin is not None else (metric.share or 0.0) * constant
