"""Does the proof keep its error? Masks, measures and boxes: simulated students at minus the margin, and at zero.

    python bench/gate_dense.py --runs 4000 --power-runs 1000 --jobs 2 > table.md
    python bench/gate_dense.py --only dice

What is simulated and how it is judged stands in `simulation.py`. The true difference is exact, and where it comes from:

- Dice and NSD follow Kumaraswamy's distribution, most near 1, whose mean is known; a structure that is missed has 0;
- HD95 is lognormal; a structure that is missed has the image's diagonal;
- errors of measures are normal, now and then many times as large; the student's shift is the bias;
- boxes are found with a known probability, scores of hits and of false positives are unit normals with means apart:
  average precision and FROC follow from the two distribution functions, and the probability is solved.

Patients have 1 to 8 images; what is random in an image is shared inside a patient as in `label_draws.py`.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import beta as beta_function
from scipy.stats import norm

from foveola.bench.label_draws import Patients, Rng, draw_normals, draw_patients, probability, solve
from foveola.bench.simulation import Array, Material, Scenario, main
from foveola.runtime.task import Task
from foveola.toolkit.parity.cases import Answers, References
from foveola.toolkit.parity.detection import RECALLS
from foveola.toolkit.parity.protocol import TaskRules

SHAPE = 1.5  # Kumaraswamy's second parameter: how seldom a Dice is nearly 1
DIAGONAL = 200.0  # of the simulated images, in pixels
FROC_RATES = 2.0 ** np.arange(-3, 4)


# --- masks ---


@cache
def first_parameter(mean: float) -> float:
    """Kumaraswamy's first parameter for a mean."""
    return solve(lambda a: SHAPE * float(beta_function(1.0 + 1.0 / a, SHAPE)) - mean, 1e-2, 1e4)


def share_alike(z: Array, mean: float) -> Array:
    """Turn unit normals into shares between 0 and 1, most of them near 1."""
    found: Array = (1.0 - norm.sf(z) ** (1.0 / SHAPE)) ** (1.0 / first_parameter(mean))
    return found


def draw_masks(
    rng: Rng,
    patients: int,
    loss: float,
    *,
    field: str = "dice",
    mean: float = 0.92,
    misses: float = 0.01,
    missed: float = 0.0,
    icc: float = 0.4,
    miss_icc: float = 0.8,
    most: int = 8,
    likeness: float = 0.9,
    seen: tuple[float, ...] = (1.0,),
    rarest: bool = False,
    large: bool = False,
) -> Material:
    """Masks by class; `missed`: the share of the loss that comes from structures missed wholly, the rest is a shift.

    Args:
        rng: random state.
        patients: how many.
        loss: of the mean over classes.
        field: of the answers: `dice`, `nsd` or `hd95`.
        mean: where nothing is missed, pixels for `hd95`.
        misses: share of structures that both models miss.
        missed: see above.
        icc: of how good a mask is.
        miss_icc: of what is missed.
        most: images a patient.
        likeness: share of the variance that both models have in common.
        seen: share of the patients for whom a class is annotated.
        rarest: class 0 loses it all.
        large: only patients with more than half of the most images miss more.
    """
    patient = draw_patients(rng, patients, most)
    count = len(seen)
    losses = np.array([loss * count * (k == 0) if rarest else loss for k in range(count)])
    common, own, other = (draw_normals(rng, patient, icc, count) for _ in range(3))
    hidden = norm.cdf(draw_normals(rng, patient, miss_icc, count))
    annotated = draw_normals(rng, patient, 1.0, count) < norm.ppf(seen)
    empty = DIAGONAL if field == "hd95" else 0.0
    more = missed * losses / abs(mean - empty)
    if large:
        sizes = np.arange(1, most + 1)
        is_large = np.bincount(patient)[patient] > most // 2
        more = np.where(is_large[:, None], more * sizes.sum() / sizes[sizes > most // 2].sum(), 0.0)
    shift = (1.0 - missed) * losses / (1.0 - misses)

    def answers(noise: Array, means: Array, share: Array) -> Array:
        z = likeness**0.5 * common + (1.0 - likeness) ** 0.5 * noise
        if field == "hd95":
            good = means * np.exp(0.8 * z - 0.32)
        else:
            good = np.stack([share_alike(z[:, k], float(m)) for k, m in enumerate(means)], axis=1)
        return np.where(annotated, np.where(hidden < share, empty, good), np.nan)

    student_mean = mean + shift if field == "hd95" else mean - shift
    tables = answers(own, np.full(count, mean), np.array(misses)), answers(other, student_mean, misses + more)
    teacher, student = (_masks(field, table) for table in tables)
    task = Task(name="organ", kind="segmentation", classes=tuple(f"part{k}" for k in range(count)))
    return Material(task=task, references=References(), teacher=teacher, student=student, patients=patient)


def _masks(field: str, table: Array) -> Answers:
    dice: dict[str, NDArray[np.floating]] = {
        "organ": np.where(np.isnan(table), np.nan, 0.9) if field != "dice" else table
    }
    measured: dict[str, NDArray[np.floating]] = {"organ": table}
    match field:
        case "nsd":
            return Answers(dice=dice, nsd=measured)
        case "hd95":
            return Answers(dice=dice, hd95=measured)
        case _:
            return Answers(dice=dice)


# --- measures ---


def draw_errors(
    rng: Rng,
    patients: int,
    loss: float,
    *,
    error: float = 5.0,
    blunders: float = 0.0,
    times: float = 6.0,
    icc: float = 0.4,
    most: int = 8,
    likeness: float = 0.9,
) -> Material:
    """Normal errors, the student's wider, or as wide but in the share of `blunders` made many times as large."""
    patient = draw_patients(rng, patients, most)
    truth = 15.0 * draw_normals(rng, patient, 0.8, 1)
    common, own, other = (draw_normals(rng, patient, icc, 1) for _ in range(3))
    to_mean = (2.0 / np.pi) ** 0.5
    wide = np.full(truth.shape, error)
    if blunders:
        share = loss / (error * to_mean * (times - 1.0))
        wide = np.where(draw_normals(rng, patient, blunders, 1) < norm.ppf(share), times * error, error)
    else:
        wide = wide + loss / to_mean
    teacher, student = (
        truth + scale * (likeness**0.5 * common + (1.0 - likeness) ** 0.5 * noise)
        for scale, noise in ((error, own), (wide, other))
    )
    return measured(truth, teacher, student, patient)


def draw_bias(
    rng: Rng,
    patients: int,
    loss: float,
    *,
    spread: float = 2.0,
    rare: float = 0.0,
    sign: float = 1.0,
    icc: float = 0.4,
    most: int = 8,
) -> Material:
    """The student's answers are shifted; `rare`: only in this share of the cases, by as much more."""
    patient = draw_patients(rng, patients, most)
    truth = 15.0 * draw_normals(rng, patient, 0.8, 1)
    teacher = truth + 5.0 * draw_normals(rng, patient, icc, 1)
    apart = spread * draw_normals(rng, patient, icc, 1)
    shift = np.full(truth.shape, sign * loss)
    if rare:
        shift = np.where(draw_normals(rng, patient, 0.8, 1) < norm.ppf(rare), sign * loss / rare, 0.0)
    return measured(truth, teacher, teacher + apart + shift, patient)


def measured(truth: Array, teacher: Array, student: Array, patient: Patients) -> Material:
    """Put a regression together."""
    task = Task(name="age", kind="regression", classes=("age",), unit="years")
    return Material(
        task=task,
        references=References(scores={"age": truth}),
        teacher=Answers(scores={"age": teacher}),
        student=Answers(scores={"age": student}),
        patients=patient,
    )


# --- boxes ---


class Detector:
    """A population of boxes: `truths` an image are found with probability `found`, `false` an image are wrong.

    Scores of hits are N(apart, 1), of false positives N(0, 1). With t the threshold, recall is found * P(hit > t).
    """

    def __init__(self, truths: float, false: float, apart: float) -> None:
        self.truths, self.false, self.apart = truths, false, apart
        self.thresholds = np.linspace(apart + 6.0, -6.0, 20001)
        self.hits, self.wrong = norm.sf(self.thresholds - apart), norm.sf(self.thresholds)

    def precision(self, found: float) -> float:
        """Average precision at 101 recalls, the envelope made monotone."""
        right = self.truths * found * self.hits
        envelope = np.maximum.accumulate((right / (right + self.false * self.wrong))[::-1])[::-1]
        at = np.searchsorted(found * self.hits, RECALLS)
        return float(np.append(envelope, 0.0)[np.minimum(at, len(envelope))].mean())

    def sensitivity(self, found: float, rates: NDArray[np.floating]) -> float:
        """Mean sensitivity at the rates of false positives an image."""
        hits = np.interp(rates, self.false * self.wrong, self.hits, right=1.0)
        return float(found * hits.mean())


@cache
def found_for(metric: str, loss: float, found: float, truths: float, false: float, apart: float) -> float:
    """The probability with which a student finds a box whose metric is lower by `loss`."""
    detector = Detector(truths, false, apart)
    rates = {"froc": FROC_RATES, "sensitivity_at_fp": np.array([1.0])}.get(metric)

    def value(share: float) -> float:
        return detector.precision(share) if rates is None else detector.sensitivity(share, rates)

    return found if not loss else solve(lambda share: value(share) - value(found) + loss, 0.05, found)


def draw_boxes(
    rng: Rng,
    patients: int,
    loss: float,
    *,
    metric: str = "map50",
    found: float = 0.9,
    false: float = 2.0,
    apart: float = 2.0,
    prevalence: float = 0.5,
    icc: float = 0.4,
    most: int = 8,
    likeness: float = 0.9,
    levels: int = 0,
) -> Material:
    """In `prevalence` of the images there is one box, found or not; false positives come by themselves.

    Args:
        rng: random state.
        patients: how many.
        loss: of the metric.
        metric: for which the loss is solved.
        found: share of boxes that the teacher answers at any score.
        false: false positives an image.
        apart: how far the scores of hits and of false positives lie apart.
        prevalence: of images with a box.
        icc: of what is found, and of the scores.
        most: images a patient.
        likeness: share of the variance that both models have in common.
        levels: of the scores, as int8 makes them; 0: no ties.
    """
    patient = draw_patients(rng, patients, most)
    shares = found, found_for(metric, loss, found, prevalence, false, apart)
    has = draw_normals(rng, patient, icc, 1)[:, 0] < norm.ppf(prevalence)
    wrong = rng.poisson(false, len(patient))
    image = np.repeat(np.arange(len(patient)), wrong)
    place = np.arange(len(image)) - np.repeat(np.cumsum(wrong) - wrong, wrong)
    common, own, other = (draw_normals(rng, patient, icc, 2) for _ in range(3))
    false_common, false_own, false_other = (draw_normals(rng, patient[image], icc, 1)[:, 0] for _ in range(3))
    answers = []
    for share, noise, false_noise in ((shares[0], own, false_own), (shares[1], other, false_other)):
        mixed = likeness**0.5 * common + (1.0 - likeness) ** 0.5 * noise
        hit = has & (norm.cdf(mixed[:, 0]) < share)
        score = np.concatenate(
            [
                apart + mixed[hit, 1],
                likeness**0.5 * false_common + (1.0 - likeness) ** 0.5 * false_noise,
            ]
        )
        score = probability(score)
        if levels:
            score = np.round(score * levels) / levels
        at = np.concatenate([np.zeros(int(hit.sum())), 1.0 + place])
        answers.append(_rows(np.concatenate([np.flatnonzero(hit), image]), at, score, len(patient)))
    truth = [np.array([[0.0, 0.0, 10.0, 10.0, 0.0]])[: int(one)] for one in has]
    task = Task(name="nodules", kind="detection", classes=("nodule",))
    return Material(
        task=task,
        references=References(boxes={"nodules": tuple(truth)}),
        teacher=Answers(boxes={"nodules": answers[0]}),
        student=Answers(boxes={"nodules": answers[1]}),
        patients=patient,
    )


def _rows(image: NDArray[np.intp], place: NDArray[np.floating], score: Array, images: int) -> tuple[Array, ...]:
    """Boxes side by side, 10 wide, the first at 0: one array an image."""
    left = 20.0 * np.asarray(place, np.float64)
    top = np.zeros_like(left)
    rows = np.stack([left, top, left + 10.0, top + 10.0, score, top], axis=1)
    order = np.argsort(image, kind="stable")
    return tuple(np.split(rows[order], np.cumsum(np.bincount(image, minlength=images))[:-1]))


# --- scenarios ---


def masks(name: str, patients: int, margin: float, *, power: bool = True, field: str = "dice", **rest: Any) -> Scenario:
    """A scenario of `draw_masks`."""
    draw = partial(draw_masks, field=field, **rest)
    return Scenario(name=name, metric=field, margin=margin, patients=patients, draw=draw, power=power)


def boxes(name: str, metric: str, patients: int, margin: float, *, power: bool = True, **rest: Any) -> Scenario:
    """A scenario of `draw_boxes`."""
    draw = partial(draw_boxes, metric=metric, **rest)
    rules = TaskRules(endpoints={}, false_positives=1.0)
    return Scenario(name=name, metric=metric, margin=margin, patients=patients, draw=draw, power=power, rules=rules)


def measures(name: str, metric: str, patients: int, margin: float, *, power: bool = True, **rest: Any) -> Scenario:
    """A scenario of `draw_errors` or `draw_bias`."""
    draw = partial(draw_errors if metric == "mae" else draw_bias, **rest)
    return Scenario(name=name, metric=metric, margin=margin, patients=patients, draw=draw, power=power)


SCENARIOS: tuple[Scenario, ...] = (
    masks("10 patients, icc 0.4", 10, 0.05),
    masks("20 patients, icc 0.8", 20, 0.05, icc=0.8),
    masks("50 patients, icc 0.4", 50, 0.03),
    masks("200 patients, one image each", 200, 0.02, most=1),
    masks("200 patients, icc 0.8", 200, 0.02, icc=0.8),
    masks("10 patients, structures missed", 10, 0.05, power=False, missed=1.0),
    masks("20 patients, structures missed", 20, 0.1, power=False, missed=1.0),
    masks("50 patients, structures missed", 50, 0.1, power=False, missed=1.0),
    masks("200 patients, structures missed", 200, 0.03, missed=1.0),
    masks("200 patients, half of the loss missed", 200, 0.03, missed=0.5),
    masks("500 patients, one image each, structures missed", 500, 0.01, missed=1.0, most=1, likeness=0.999),
    masks("400 patients, only large patients miss", 400, 0.03, power=False, missed=1.0, large=True),
    masks("three classes, the rare one loses", 400, 0.02, seen=(0.1, 0.6, 1.0), rarest=True, missed=1.0),
    masks("200 patients, icc 0.4", 200, 0.03, field="nsd", mean=0.85),
    masks("200 patients, structures missed", 200, 0.04, field="nsd", mean=0.85, missed=1.0),
    masks("200 patients, icc 0.4", 200, 2.0, field="hd95", mean=4.0, misses=0.0),
    masks("200 patients, both miss some", 200, 5.0, field="hd95", mean=4.0, misses=0.02),
    masks("400 patients, structures missed", 400, 6.0, field="hd95", mean=4.0, misses=0.01, missed=1.0),
    measures("10 patients, icc 0.8", "mae", 10, 1.0, icc=0.8),
    measures("20 patients, icc 0.4", "mae", 20, 1.0),
    measures("200 patients, icc 0.8", "mae", 200, 0.5, icc=0.8),
    measures("50 patients, blunders", "mae", 50, 1.0, power=False, blunders=0.8, likeness=0.99),
    measures("200 patients, blunders", "mae", 200, 0.5, blunders=0.8, likeness=0.99),
    measures("10 patients, icc 0.8", "bias", 10, 1.5, icc=0.8),
    measures("50 patients, downwards", "bias", 50, 0.7, sign=-1.0),
    measures("200 patients, icc 0.8", "bias", 200, 0.5, icc=0.8),
    measures("200 patients, 5 % shifted much", "bias", 200, 0.5, rare=0.05),
    boxes("20 patients", "map50", 20, 0.15),
    boxes("50 patients, icc 0.8", "map50", 50, 0.1, icc=0.8),
    boxes("200 patients, icc 0.4", "map50", 200, 0.05),
    boxes("200 patients, models alike", "map50", 200, 0.05, likeness=0.995, icc=0.8),
    boxes("300 patients, 10 % have a box", "map50", 300, 0.1, prevalence=0.1),
    boxes("50 patients, icc 0.8", "sensitivity_at_fp", 50, 0.1, icc=0.8),
    boxes("200 patients, icc 0.4", "sensitivity_at_fp", 200, 0.05),
    boxes("200 patients, 60 levels", "sensitivity_at_fp", 200, 0.05, levels=60),
    boxes("200 patients, models alike", "sensitivity_at_fp", 200, 0.05, likeness=0.995, icc=0.8),
    boxes("300 patients, 10 % have a box", "sensitivity_at_fp", 300, 0.1, prevalence=0.1),
    boxes("20 patients", "froc", 20, 0.15),
    boxes("50 patients, icc 0.8", "froc", 50, 0.1, icc=0.8),
    boxes("200 patients, icc 0.4", "froc", 200, 0.05),
    boxes("200 patients, models alike", "froc", 200, 0.05, likeness=0.995, icc=0.8),
)


if __name__ == "__main__":
    main(SCENARIOS, __doc__)
