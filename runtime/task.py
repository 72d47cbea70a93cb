"""One description of a task, shared by data, training, export, bundle and proof.

Shapes: N cases, C classes, M measures. What a network's raw output and a data set's target mean, by kind:

| kind | classes | raw output | target | primary metric |
|---|---|---|---|---|
| binary | (negative, positive) | (N, 1) logit | (N, 1) 0 or 1 | auc |
| multilabel | C labels | (N, C) logits | (N, C) 0 or 1 | auc (macro) |
| multiclass | C labels | (N, C) logits | (N, 1) index | accuracy |
| ordinal | C grades, rising | (N, C-1) logits of "above grade k" | (N, 1) index | kappa (quadratic) |
| regression | M measures | (N, M) standardised values | (N, M) in the unit | mae |
| segmentation | C structures | (N, C+1, h, w) softmax, 0 none; or (N, C, h, w) sigmoid | label map or C masks | dice |
| detection | C labels | boxes and scores on a grid | boxes in pixels | map50 |
| embedding | C probed conditions, or none | (N, D) of any length, made 1 | (N, C) 0 or 1 | pair_percentile |

An embedding has no reference standard of its own: nothing but a teacher can teach it. Its classes are conditions that
the proof reads from it by a logistic probe; whose image is whose is told by the patients.

A gap (target not known) is NaN, or None for masks and boxes, and is masked in every loss and every metric.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from .errors import UsageError

Kind = Literal["binary", "multilabel", "multiclass", "ordinal", "regression", "segmentation", "detection", "embedding"]
Activation = Literal["sigmoid", "softmax", "identity"]
Metric = Literal["auc", "accuracy", "kappa", "mae", "dice", "map50", "pair_percentile"]

PRIMARY_METRIC: dict[Kind, Metric] = {
    "binary": "auc",
    "multilabel": "auc",
    "multiclass": "accuracy",
    "ordinal": "kappa",
    "regression": "mae",
    "segmentation": "dice",
    "detection": "map50",
    "embedding": "pair_percentile",
}
LONGEST_EMBEDDING = 4096  # numbers


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What is to be answered about an image, and how an answer is judged.

    Args:
        name: key of the task everywhere; letters, digits and underscores.
        kind: one of the eight kinds.
        classes: names in order (table above); binary has two, the negative first.
        size: embedding: how many numbers it has, 2 to 4096.
        columns: columns of the data manifest, in the order of `classes` where there is one a class; empty means that
            the column has the task's name.
        ignore_column: segmentation: column of masks whose non-zero pixels are to be ignored.
        exclusive: segmentation: one label map whose pixels hold 0..C (True), or one mask a class (False).
        exhaustive: detection: boxes of other labels only mean "none of ours" (True) or "not annotated" (False).
        unit: regression: unit of the measures, as printed.
        plausible: regression: the least and the largest value that can be, in the unit; data with another are refused.
        weight: weight of the task's loss.
        operating_point: rule by which the threshold is locked on validation data: `youden`, `fixed:0.5`,
            `sensitivity:0.9` or `specificity:0.9`.
        critical: classes whose lost positives are listed first.
        margins: non-inferiority margins by metric, positive, in the metric's own units; what is absent comes from
            `toolkit.parity.metrics.METRICS`.
    """

    name: str
    kind: Kind
    classes: tuple[str, ...] = ()
    size: int = 0
    columns: tuple[str, ...] = ()
    ignore_column: str = ""
    exclusive: bool = True
    exhaustive: bool = True
    unit: str = ""
    plausible: tuple[float, float] | None = None
    weight: float = 1.0
    operating_point: str = "youden"
    critical: tuple[str, ...] = ()
    margins: dict[str, float] = {}

    def __post_init__(self) -> None:
        where = f"task {self.name!r}"
        if not self.name.isidentifier():
            raise UsageError(where, "the name is not made of letters, digits and underscores")
        if self.name == "image":
            raise UsageError(where, "the name is that of the graph's input", "choose another")
        least = {"binary": 2, "multiclass": 2, "ordinal": 2, "embedding": 0}.get(self.kind, 1)
        if len(self.classes) < least:
            raise UsageError(where, f"{self.kind} needs at least {least} classes, has {len(self.classes)}")
        if self.kind == "binary" and len(self.classes) != 2:
            raise UsageError(where, "binary has exactly two classes", "name the negative one first")
        if self.kind == "embedding" and not 2 <= self.size <= LONGEST_EMBEDDING:
            raise UsageError(where, f"an embedding of {self.size} numbers", f"give its size, 2 to {LONGEST_EMBEDDING}")
        if self.kind != "embedding" and self.size:
            raise UsageError(where, f"{self.kind} has no size", "only an embedding has one")
        if len(set(self.classes)) != len(self.classes):
            raise UsageError(where, "two classes have the same name")
        if self.columns and len(self.columns) != self.column_count:
            raise UsageError(where, f"{self.column_count} column(s) expected, {len(self.columns)} given")
        if self.plausible is not None and (self.kind != "regression" or not self.plausible[0] < self.plausible[1]):
            raise UsageError(
                where, f"plausible is {self.plausible}", "of a regression: the least value, then the largest"
            )
        for metric, margin in self.margins.items():
            if not margin > 0:
                raise UsageError(where, f"margin of {metric} is {margin}", "a margin is a positive number")

    @property
    def column_count(self) -> int:
        """How many manifest columns hold the target."""
        one_each = self.kind in ("multilabel", "regression", "embedding")
        one_each = one_each or (self.kind == "segmentation" and not self.exclusive)
        return len(self.classes) if one_each else 1

    @property
    def manifest_columns(self) -> tuple[str, ...]:
        """The columns that hold the target, with the default filled in."""
        if self.columns:
            return self.columns
        return (self.name,) if self.column_count == 1 and self.kind != "embedding" else self.classes

    @property
    def channels(self) -> int:
        """Channels of the raw output (detection: score channels)."""
        match self.kind:
            case "binary":
                return 1
            case "ordinal":
                return len(self.classes) - 1
            case "segmentation":
                return len(self.classes) + 1 if self.exclusive else len(self.classes)
            case "embedding":
                return self.size
            case _:
                return len(self.classes)

    @property
    def activation(self) -> Activation:
        """The function that turns raw outputs into probabilities (or values)."""
        match self.kind:
            case "multiclass":
                return "softmax"
            case "segmentation":
                return "softmax" if self.exclusive else "sigmoid"
            case "regression" | "embedding":
                return "identity"
            case _:
                return "sigmoid"

    @property
    def metric(self) -> Metric:
        """The primary endpoint."""
        return PRIMARY_METRIC[self.kind]
