"""What the proof says, as types: the JSON of `parity.json` and all that the report shows.

Every difference is student minus teacher, turned so that positive means that the student is better (for errors such as
MAE the sign is reversed). A bound is the lower end of the two-sided 95 % interval, which is the one-sided 97.5 % bound;
an endpoint passes when the bound lies above minus the margin.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["pass", "fail", "underpowered"]
VERDICTS: tuple[Verdict, ...] = ("pass", "fail", "underpowered")


class Endpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One paired comparison: a metric of a task (or of one of its labels) on one engine."""

    engine: str
    task: str
    label: str = ""  # empty: the whole task
    metric: str  # auc, sensitivity, specificity, accuracy, kappa, mae, dice, map50
    primary: bool  # counts for the verdict; the others describe
    cases: int
    patients: int
    positives: int | None = None
    teacher: float | None = None
    student: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    margin: float
    verdict: Verdict
    needed_cases: int | None = None  # for 80 % power at the margin when the true difference is zero
    method: str
    reason: str  # one sentence: why this verdict


class Curve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Points of a ROC or calibration curve, for the report."""

    engine: str  # or "teacher"
    task: str
    label: str
    kind: Literal["roc", "calibration"]
    x: tuple[float, ...]  # false positive rate; mean predicted probability
    y: tuple[float, ...]  # sensitivity; observed frequency
    n: tuple[int, ...] = ()  # calibration: cases a bin


class Flip(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A case whose decision differs between teacher and student, or whose mask or boxes differ most."""

    engine: str
    task: str
    label: str
    case: str
    patient: str
    reference: str  # what the reference standard says; empty where it is not known
    teacher: float  # probability, Dice, value
    student: float
    kind: Literal["lost", "gained", "unknown", "disagree"]  # teacher right -> student wrong is lost
    severity: float  # larger is worse; orders the list


class Subgroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The primary metric's difference inside one subgroup; described, not judged."""

    engine: str
    task: str
    attribute: str
    value: str
    cases: int
    difference: float | None


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole proof of one bundle. No time, path, latency or pixel: equal inputs give equal bytes."""

    format: int = 1
    bundle: str  # name
    bundle_digest: str  # of the core members on which the proof was run
    teacher_digest: str
    data_digest: str
    split: str
    cases: int
    patients: int
    alpha: float  # one-sided
    resamples: int
    seed: int
    endpoints: tuple[Endpoint, ...]
    subgroups: tuple[Subgroup, ...] = ()
    flips: tuple[Flip, ...] = ()
    flip_counts: dict[str, int] = {}  # "engine/task/label/kind" -> cases
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()
    verdict: Verdict


def encode_evidence(evidence: Evidence) -> bytes:
    """Canonical JSON; `decode_evidence` gives the same object back."""
    return msgspec.json.format(msgspec.json.encode(evidence, order="sorted"), indent=1) + b"\n"


def decode_evidence(data: bytes) -> Evidence:
    """Bytes of `parity.json` to a checked object; raises `msgspec.DecodeError`."""
    return msgspec.json.decode(data, type=Evidence)
