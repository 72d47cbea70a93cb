"""The words and numbers of a proof, the same on the terminal and in the report.

- A number is shown with as many decimals as its metric deserves, and with more where rounding would hide which side of
  the margin a bound lies on: what is printed never contradicts the verdict.
- A verdict is one plain sentence and what follows from it. "Underpowered" is never worded like a pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from ...runtime.task import Kind, Task
from ..parity.evidence import Endpoint, Evidence

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"  # stands where there is no number
MOST_DIGITS = 6
MOST_NAMED = 4  # endpoints named in the headline

METRIC_NAMES = {
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
    "kappa": "quadratic kappa",
    "mae": "mean absolute error",
    "dice": "Dice",
    "map50": "AP at IoU 0.5",
    "brier": "Brier score",
    "logloss": "log loss",
    "critical_loss": "critical positives lost",
    "bias": "bias",
    "nsd": "surface Dice (NSD)",
    "hd95": "surface distance (HD95)",
    "sensitivity_at_fp": "sensitivity at fixed false positives",
    "froc": "FROC score",
    "pair_percentile": "pair percentile",
    "recall_at_1": "nearest image of the same patient",
    "probe_auc": "AUC of a probe",
}
AVERAGED: dict[Kind, tuple[str, ...]] = {  # metrics whose whole-task value is a mean over labels
    "multilabel": ("auc", "sensitivity", "specificity", "brier", "logloss"),
    "segmentation": ("dice", "nsd", "hd95"),
    "detection": ("map50", "sensitivity_at_fp", "froc"),
    "embedding": ("probe_auc",),
}
IN_UNITS = ("mae", "bias", "hd95")  # metrics whose numbers may be of any size

AGREEMENTS = {
    "decisions": "equal decisions",
    "dice": "mean Dice of the two masks",
    "value": "values alike",
    "boxes": "boxes alike",
    "cosine": "mean cosine of the two embeddings",
}

# What is done about each gap; the keys are those of `Evidence.policies`, docs/proof.md has the whole list.
POLICIES = {
    "copies of an image left out": "An image that is there twice counts once; the first by its key stays.",
    "answers of the student missing, counted as the worst": "Ranked and decided wrongly, the farthest grade, the "
    "largest error, Dice 0, a false box, an embedding that finds nothing: a student gains nothing by refusing a case. "
    "So are NaN and infinity.",
    "answers left out because the teacher gave none": "The case leaves the endpoint: counting it as wrong would help "
    "the student.",
    "masks of the student without anything right, counted as Dice 0": "A structure that is missed, or found where "
    "there is none, has Dice 0 and surface Dice 0, and HD95 the image's diagonal; it never leaves the mean. Two empty "
    "masks agree.",
    "tasks and engines whose answers equal the teacher's bit for bit": "The difference is 0 and its "
    "interval [0, 0]; nothing is extrapolated to answers that were not seen.",
    "subgroups and labels too small to be trusted, or of one class": "Fewer than 10 patients, or of either class: "
    "shown and marked, without a p value, never dropped. In an endpoint they are named; nothing is proved about them.",
    "images of the patient who has most": "All images of a patient are one piece of evidence, however many; a patient "
    "with a tenth of the cases is named in the notes.",
}

ANSWER_NAMES: dict[Kind, str] = {
    "binary": "probability",
    "multilabel": "probability",
    "multiclass": "probability of the teacher's class",
    "ordinal": "grade",
    "segmentation": "Dice",
    "detection": "F1",
    "embedding": "pair percentile",
}


class Headline(msgspec.Struct, frozen=True):
    """The verdict in one sentence, and what it means for someone who has to act on it."""

    sentence: str
    meaning: str


def metric_name(metric: str, kind: Kind | None, label: str = "") -> str:
    """Name a metric as the field does; averages over labels say that they are averages."""
    name = METRIC_NAMES.get(metric, metric)
    if label or kind is None or metric not in AVERAGED.get(kind, ()):
        return name
    return f"mean {name}" if metric != "map50" else "mAP at IoU 0.5"


def title(name: str) -> str:
    """Begin a metric's name with a capital, but for one that is written otherwise."""
    return name if name.startswith("mAP") else name[:1].upper() + name[1:]


def digits(endpoint: Endpoint) -> int:
    """Decimals for an endpoint's numbers."""
    return digits_of(endpoint.metric, endpoint.margin)


def digits_of(metric: str, margin: float) -> int:
    """Decimals for a metric's numbers: three, or three figures of the margin where the metric has a unit."""
    if metric not in IN_UNITS or margin <= 0:  # the default margin of a constant reference is 0
        return 3
    return min(max(2 - math.floor(math.log10(margin)), 1), MOST_DIGITS)


def bound_digits(endpoint: Endpoint) -> int:
    """Decimals for the bound and the margin: as many as it takes to see on which side the bound lies."""
    count, low = digits(endpoint), endpoint.low
    if low is None:
        return count
    while count < MOST_DIGITS and round(low, count) == round(-endpoint.margin, count) and low != -endpoint.margin:
        count += 1
    return count


def number(value: float | None, decimals: int = 3) -> str:
    """Write a value with a true minus sign; a dash where there is none."""
    if value is None or math.isnan(value):
        return NOTHING
    text = f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", MINUS)


def signed(value: float | None, decimals: int = 3) -> str:
    """Write a difference with its sign; zero has none."""
    text = number(value, decimals)
    if value is None or math.isnan(value) or text.startswith(MINUS) or float(text) == 0:
        return text
    return f"+{text}"


def span(low: float | None, high: float | None, decimals: int = 3, low_decimals: int | None = None) -> str:
    """Write an interval of differences; empty where an end is not known."""
    if low is None or high is None:
        return ""
    return f"{signed(low, decimals if low_decimals is None else low_decimals)} to {signed(high, decimals)}"


def p_value(p: float | None) -> str:
    """Write a p as far as anybody reads it."""
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else number(p)


def share(value: float | None) -> str:
    """Write a share in percent, whole."""
    return NOTHING if value is None else f"{100 * value:.0f} %"


def compact(value: float) -> str:
    """Write a small number for a table of details: three significant figures."""
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.1e}".replace("-", MINUS)
    return f"{value:.3g}".replace("-", MINUS)


def amount(value: float) -> str:
    """Write a probability, a Dice or a measured value; all of one kind have the same decimals."""
    return number(value, 3 if abs(value) < 10 else 1)


def answer_name(task: Task | None) -> str:
    """Name what the two numbers of a flip are (`toolkit.parity.flips`)."""
    if task is None:
        return "answer"
    if task.kind == "regression":
        return task.unit or "value"
    return ANSWER_NAMES[task.kind]


def answer(value: float, task: Task | None) -> str:
    """Write a model's answer in a flip: a grade by its name, all else as a number."""
    if task is None or task.kind != "ordinal":
        return amount(value)
    return task.classes[int(value)] if 0 <= value < len(task.classes) else "no answer"


def milliseconds(value: float) -> str:
    """Three significant figures, as far as a clock deserves."""
    if value >= 100:
        return f"{value:.0f} ms"
    return f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"


def size(count: int) -> str:
    """Bytes in decimal units, as flash memory is sold."""
    if count < 1000:
        return f"{count} B"
    for unit, factor in (("kB", 1e3), ("MB", 1e6)):
        if count < 999.5 * factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count / 1e9:.3g} GB"


def speed_up(ratio: float) -> str:
    """How many times faster than the teacher."""
    return f"{ratio:.1f}×" if ratio < 20 else f"{ratio:.0f}×"


def confidence(alpha: float) -> str:
    """Level of the two-sided interval that belongs to a one-sided `alpha`, in percent."""
    return f"{100 * (1 - 2 * alpha):g}"


def thousands(count: int) -> str:
    """Write a count with thin spaces between thousands, read alike everywhere."""
    return f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def sentence(text: str) -> str:
    """Make a sentence of a reason: a capital in front, a full stop behind."""
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) or not text else ".")


def listed(names: Sequence[str]) -> str:
    """Join names: `a`, `a and b`, `a, b and c`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def engines(evidence: Evidence) -> tuple[str, ...]:
    """Engines of a proof, in the order in which they first appear; without endpoints, those that were compared."""
    proved, compared = evidence.endpoints, evidence.agreements
    return tuple(dict.fromkeys([*(row.engine for row in proved), *(row.engine for row in compared)]))


def in_reading_order(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """Task by task, endpoint by endpoint, the engines of one endpoint beneath each other; each by first appearance."""
    tasks = list(dict.fromkeys(e.task for e in endpoints))
    keys = list(dict.fromkeys((e.task, e.label, e.metric) for e in endpoints))
    order = {key: (tasks.index(key[0]), place) for place, key in enumerate(keys)}
    return sorted(endpoints, key=lambda e: order[e.task, e.label, e.metric])


def headline(evidence: Evidence) -> Headline:
    """Say the overall verdict in one plain sentence, and what it means."""
    primary = [endpoint for endpoint in evidence.endpoints if endpoint.primary]
    if not primary and evidence.agreements:
        return Headline(
            "Undecided: without a reference standard nothing can be proved.",
            "Only the agreement of the student with its teacher is described below; who is right where they differ, "
            "nobody knows.",
        )
    if not primary:
        return Headline("Undecided: the proof has no primary endpoint.", "Nothing was compared, so nothing is claimed.")
    match evidence.verdict:
        case "pass":
            return _passed(evidence, len(primary))
        case "fail":
            return _failed(evidence, primary)
        case "underpowered":
            return _underpowered(evidence, primary)


def _passed(evidence: Evidence, count: int) -> Headline:
    return Headline(
        "Passed: on every primary endpoint the compressed model is not worse than its teacher by more than the margin.",
        f"All {count} primary endpoints on {listed(engines(evidence))} hold: the lower end of each "
        f"{confidence(evidence.alpha)} % interval lies above minus the margin that was fixed before the run. The claim "
        f"covers this bundle alone, and patients like those tested here.",
    )


def _failed(evidence: Evidence, primary: Sequence[Endpoint]) -> Headline:
    failed = [endpoint for endpoint in primary if endpoint.verdict == "fail"]
    return Headline(
        f"Failed: the compressed model is worse than its teacher on {len(failed)} of {len(primary)} primary endpoints.",
        f"Worse by the margin or more, and not by chance: {_named(failed)}. The bundle should not take its teacher's "
        f"place; one failed endpoint is enough, whatever the others say.",
    )


def _underpowered(evidence: Evidence, primary: Sequence[Endpoint]) -> Headline:
    open_ones = [endpoint for endpoint in primary if endpoint.verdict == "underpowered"]
    needs = [endpoint.needed_cases for endpoint in open_ones if endpoint.needed_cases is not None]
    more = f" The most demanding would need about {thousands(max(needs))} cases." if needs else ""
    return Headline(
        f"Undecided: nothing failed, but {len(open_ones)} of {len(primary)} primary endpoints cannot be decided.",
        f"This is not a pass. Open: {_named(open_ones)}. There the {thousands(evidence.cases)} cases of "
        f"{thousands(evidence.patients)} patients are too few or too alike, or do not show that the teacher itself is "
        f"better than chance.{more}",
    )


def _named(endpoints: Sequence[Endpoint]) -> str:
    names = list(
        dict.fromkeys(
            f"{' '.join(filter(None, (e.task, e.label)))} ({METRIC_NAMES.get(e.metric, e.metric)})" for e in endpoints
        )
    )
    if len(names) > MOST_NAMED:
        names = [*names[: MOST_NAMED - 1], f"{len(names) - MOST_NAMED + 1} more"]
    return listed(names)
