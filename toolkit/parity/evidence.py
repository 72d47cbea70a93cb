"""What the proof says, as types: the JSON of `evidence.json` and all that the report shows.

Every difference is student minus teacher, turned so that positive means that the student is better (for errors such as
MAE the sign is reversed). A bound is the lower end of the two-sided 95 % interval, which is the one-sided 97.5 % bound;
an endpoint passes when the bound lies above minus the margin.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ...runtime.errors import FoveolaError

Verdict = Literal["pass", "fail", "underpowered"]
VERDICTS: tuple[Verdict, ...] = ("pass", "fail", "underpowered")
FlipKind = Literal["lost", "gained", "unknown", "disagree"]
FORMAT = 2
EVIDENCE, FLIPS = "evidence.json", "flips.csv"  # what a proof leaves beside its report
PROOF = "parity.json"  # the evidence as a member of a bundle


class Endpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One paired comparison: a metric of a task (or of one of its labels) on one engine."""

    engine: str
    task: str
    label: str = ""  # empty: the whole task
    metric: str  # see `metrics.METRICS`
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
    floor: float | None = None  # what the student must reach by itself; None: nothing is asked
    student_low: float | None = None  # bound of the student's own value, where a floor asks for it
    verdict: Verdict
    resampled: tuple[float, float] | None = None  # percentiles of the plain patient bootstrap, beside; never judged
    provable_margin: float | None = None  # the smallest margin that these data could have proved
    needed_cases: int | None = None  # for the planned power at the margin when the true difference is zero
    limits: tuple[float, float] | None = None  # of agreement, for measures (Bland and Altman 1986)
    method: str
    reason: str  # one sentence: why this verdict


class Curve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Points of a ROC, calibration or FROC curve, for the report."""

    engine: str  # or "teacher"
    task: str
    label: str
    kind: Literal["roc", "calibration", "froc"]
    x: tuple[float, ...]  # false positive rate; mean predicted probability; false positives an image
    y: tuple[float, ...]  # sensitivity; observed frequency; sensitivity
    n: tuple[int, ...] = ()  # calibration: cases a bin


class Reliability(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Expected calibration error of one model on one label; a description that depends on the number of bins."""

    engine: str  # or "teacher"
    task: str
    label: str
    cases: int
    bins: int
    ece: float


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
    kind: FlipKind  # teacher right -> student wrong is lost
    severity: float  # larger is worse; orders the list
    certainty: float | None = None  # how sure the teacher was, 0 to 1: distance from its threshold; None: no decision
    critical: bool = False  # a lost positive of a class that must not be lost


class Subgroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The primary metric's difference inside one subgroup: screened, never judged; small groups are marked."""

    engine: str
    task: str
    label: str = ""  # of a measure, where the task has several
    metric: str = ""
    attribute: str  # or "label": the value is one of the task's labels
    value: str
    cases: int
    patients: int = 0
    difference: float | None
    low: float | None = None
    high: float | None = None
    margin: float = 0.0  # of the whole task; 0 where there is none
    p: float | None = None  # one-sided, of "not worse than the margin"
    holm: float | None = None  # the same, adjusted over all subgroups of the engine (Holm 1979)
    few: bool = False  # too few patients for an interval to be trusted
    flagged: bool = False  # worse than the margin beyond chance, or by twice the margin


class Transfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One label's operating point on the proof's cases: a locked threshold beside one fitted again for the student.

    The second one is fitted on other images (`fitted_on`); what it would gain is what the locked threshold costs.
    """

    engine: str
    task: str
    label: str
    whose: Literal["teacher", "bundle"] = "bundle"  # lock: the teacher's, carried over to the student, or the bundle's
    fitted_on: str  # split
    locked: float
    refitted: float
    sensitivity: tuple[float, float]  # at the locked and at the fitted threshold
    specificity: tuple[float, float]


class Agreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How often student and teacher say the same, whatever the truth; needs no reference standard."""

    engine: str
    task: str
    label: str
    measure: Literal["decisions", "dice", "value", "boxes", "cosine"]
    cases: int
    patients: int
    agreement: float  # share of equal decisions, values or boxes; mean Dice or cosine of the two answers
    low: float | None  # its one-sided bound, by patient
    flips: int


class Drift(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One histogram of these cases against the one that the bundle brings."""

    engine: str  # empty: of the images themselves
    what: str  # "input/brightness", "score/findings/Effusion"
    cases: int
    reference_cases: int
    psi: float  # population stability index
    ks: float  # largest distance of the two distribution functions, over the bins
    flagged: bool  # psi at least 0.25 and beyond chance


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing that the compression modified, for the change-control page."""

    what: str  # architecture, pruning, precision, calibration, thresholds
    teacher: str
    student: str


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the proof was made: what a reader needs to make it again. No name of a machine, person or path."""

    versions: dict[str, str] = {}  # package -> version
    hardware: dict[str, str] = {}  # processor, instruction sets, threads, system
    arithmetic: dict[str, str] = {}  # engine -> what was really computed: int8 kernels, f32, bf16


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole proof of one bundle. No time, path, latency or pixel: equal inputs give equal bytes."""

    format: int = FORMAT
    bundle: str  # name
    bundle_digest: str  # of the core members on which the proof was run
    teacher_digest: str
    data_digest: str
    protocol_digest: str = ""  # of the protocol under which it was made
    split: str
    cases: int
    patients: int
    alpha: float  # one-sided
    power: float = 0.8  # planned
    resamples: int
    seed: int
    endpoints: tuple[Endpoint, ...]
    subgroups: tuple[Subgroup, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    drifts: tuple[Drift, ...] = ()
    flips: tuple[Flip, ...] = ()
    flip_counts: dict[str, int] = {}  # "engine/task/label/kind" -> cases
    curves: tuple[Curve, ...] = ()
    reliability: tuple[Reliability, ...] = ()
    changes: tuple[Change, ...] = ()
    policies: dict[str, int] = {}  # what happened to gaps, duplicates and the like -> how often; see docs/proof.md
    notes: tuple[str, ...] = ()
    provenance: Provenance = Provenance()
    verdict: Verdict


def encode_evidence(evidence: Evidence) -> bytes:
    """Canonical JSON; `decode_evidence` gives the same object back."""
    return msgspec.json.format(msgspec.json.encode(evidence, order="sorted"), indent=1) + b"\n"


class _Format(msgspec.Struct):
    format: int = 1


def decode_evidence(data: bytes, place: str = EVIDENCE) -> Evidence:
    """Bytes of `evidence.json` to a checked object.

    Raises:
        FoveolaError: another format.
        msgspec.DecodeError: not JSON, or a field unknown, missing or of another type.
    """
    number = msgspec.json.decode(data, type=_Format).format
    if number != FORMAT:
        raise FoveolaError(place, f"format {number} is not read, only {FORMAT}", "make the proof again")
    return msgspec.json.decode(data, type=Evidence)
