"""Labels and classes drawn with a true difference that is asked for; what `gate_coverage.py` and others simulate with.

The true difference is exact, and where it comes from:

- scores are unit normals whose mean shifts with the truth, seen through an int8 grid of `levels` steps: AUC and the
  rates are sums over the grid's cells, and the student's shift is solved from them;
- grades are the same normals cut at the halves: kappa comes from the table of truth by grade, the spread is solved;
- the teacher's probabilities are calibrated: Brier score and logarithmic loss are integrals over its logit, the
  student's error of the logit (or its share of blunders) is solved;
- lost decisions come with the probability that is asked for.

Patients have 1 to 8 images (`most`); all that is random in an image is shared inside a patient with the intra-class
correlation `icc` by a normal copula, which leaves the distribution of a single image, and so the truth, as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from foveola.bench.simulation import Array, Material
from foveola.runtime.task import Task
from foveola.toolkit.parity.cases import Answers, References

Rng = np.random.Generator
Patients = NDArray[np.intp]
REACH = 6.0  # of the int8 grid, in standard deviations
PROBABILITY_STEP = 1 / 255


def draw_patients(rng: Rng, patients: int, most: int) -> Patients:
    """Give each patient 1 to `most` images: the patients (N,)."""
    return np.repeat(np.arange(patients), rng.integers(1, most + 1, patients))


def draw_normals(rng: Rng, patient: Patients, icc: float, columns: int) -> Array:
    """Unit normals (N, columns) with the intra-class correlation `icc` inside a patient."""
    own = rng.standard_normal((int(patient.max()) + 1, columns))[patient]
    mixed: Array = icc**0.5 * own + (1 - icc) ** 0.5 * rng.standard_normal((len(patient), columns))
    return mixed


def draw_truth(rng: Rng, patient: Patients, prevalences: tuple[float, ...], icc: float) -> NDArray[np.bool_]:
    """Labels (N, C); with `icc` 1 all images of a patient agree and the number of positive patients is fixed."""
    if icc == 1.0:
        count = int(patient.max()) + 1
        ranks = np.stack([rng.permutation(count) for _ in prevalences], axis=1)
        return np.asarray((ranks < np.round(np.array(prevalences) * count))[patient])
    return np.asarray(draw_normals(rng, patient, icc, len(prevalences)) < norm.ppf(prevalences))


def to_grid(x: Array, levels: int) -> Array:
    """Round as an int8 output does: `levels` cells, 0 between two of them; 0 levels leaves x as it is."""
    if not levels:
        return x
    step = 2 * REACH / levels
    rounded: Array = (np.clip(np.floor(x / step), -(levels // 2), levels // 2 - 1) + 0.5) * step
    return rounded


def probability(x: Array) -> Array:
    """The logistic function."""
    y: Array = 1 / (1 + np.exp(-x))
    return y


def solve(function: Callable[[float], float], low: float, high: float) -> float:
    """Find the zero of a continuous function between low and high."""
    return float(brentq(function, low, high, xtol=1e-12))  # pyright: ignore[reportArgumentType]


@cache
def area_of_shift(shift: float, levels: int) -> float:
    """AUC of N(shift, 1) against N(0, 1) on the grid; ties count half."""
    if not levels:
        return float(norm.cdf(shift / 2**0.5))
    edges = np.concatenate([[-np.inf], np.arange(-(levels // 2) + 1, levels // 2) * 2 * REACH / levels, [np.inf]])
    positive, negative = np.diff(norm.cdf(edges - shift)), np.diff(norm.cdf(edges))
    return float(positive @ (np.cumsum(negative) - negative / 2))


@cache
def shift_of_area(area: float, levels: int) -> float:
    """The inverse."""
    return solve(lambda shift: area_of_shift(shift, levels) - area, -1.0, 6.0)


def labels_task(count: int) -> Task:
    """A binary task, or one of several labels."""
    if count == 1:
        return Task(name="finding", kind="binary", classes=("no", "yes"))
    return Task(name="findings", kind="multilabel", classes=tuple(f"label{k}" for k in range(count)))


def scored(task: Task, truth: NDArray[Any], teacher: Array, student: Array, patient: Patients) -> Material:
    """Put a task with scores together."""
    return Material(
        task=task,
        references=References(scores={task.name: truth.astype(np.float64)}),
        teacher=Answers(scores={task.name: teacher}),
        student=Answers(scores={task.name: student}),
        patients=patient,
    )


def draw_auc(
    rng: Rng,
    patients: int,
    loss: float,
    *,
    area: float = 0.9,
    prevalences: tuple[float, ...] = (0.2,),
    icc: float = 0.4,
    truth_icc: float = 1.0,
    most: int = 8,
    likeness: float = 0.95,
    levels: int = 100,
    rarest: bool = False,
    teacher_levels: int = 0,
) -> Material:
    """Both models see the truth through noise, `likeness` of its variance common; `rarest`: label 0 loses it all."""
    patient = draw_patients(rng, patients, most)
    count = len(prevalences)
    truth = draw_truth(rng, patient, prevalences, truth_icc)
    losses = [loss * count * (k == 0) if rarest else loss for k in range(count)]
    teacher_shift = shift_of_area(area, teacher_levels)
    student_shift = np.array([shift_of_area(area - each, levels) for each in losses])
    common, own, other = (draw_normals(rng, patient, icc, count) for _ in range(3))
    teacher = teacher_shift * truth + likeness**0.5 * common + (1 - likeness) ** 0.5 * own
    student = student_shift * truth + likeness**0.5 * common + (1 - likeness) ** 0.5 * other
    answers = (probability(to_grid(teacher, teacher_levels)), probability(to_grid(student, levels)))
    return scored(labels_task(count), truth, *answers, patient)


def draw_forgotten_auc(
    rng: Rng,
    patients: int,
    loss: float,
    *,
    area: float = 0.9,
    prevalence: float = 0.2,
    icc: float = 0.4,
    lost_icc: float = 0.8,
    most: int = 8,
    levels: int = 100,
    likeness: float = 0.99,
) -> Material:
    """Some positives are forgotten wholly: they get a negative's score, so that their AUC is a half."""
    patient = draw_patients(rng, patients, most)
    truth = draw_truth(rng, patient, (prevalence,), 1.0)
    share = loss / (area - 0.5)
    common, own, other = (draw_normals(rng, patient, icc, 1) for _ in range(3))
    forgotten = draw_normals(rng, patient, lost_icc, 1) < norm.ppf(share)
    shift = shift_of_area(area, levels)
    teacher = shift * truth + likeness**0.5 * common + (1 - likeness) ** 0.5 * own
    student = shift * (truth & ~forgotten) + likeness**0.5 * common + (1 - likeness) ** 0.5 * other
    answers = (probability(to_grid(teacher, levels)), probability(to_grid(student, levels)))
    return scored(labels_task(1), truth, *answers, patient)


def draw_rate(
    rng: Rng,
    patients: int,
    loss: float,
    *,
    positive: bool,
    rate: float = 0.9,
    other_rate: float = 0.9,
    prevalences: tuple[float, ...] = (0.2,),
    icc: float = 0.4,
    truth_icc: float = 1.0,
    most: int = 8,
    likeness: float = 0.97,
    levels: int = 100,
    rarest: bool = False,
) -> Material:
    """Both models are right at threshold 0.5 with the probabilities asked for; most decisions are common."""
    patient = draw_patients(rng, patients, most)
    count = len(prevalences)
    truth = draw_truth(rng, patient, prevalences, truth_icc)
    losses = np.array([loss * count * (k == 0) if rarest else loss for k in range(count)])
    common, own, other = (draw_normals(rng, patient, icc, count) for _ in range(3))

    def answers(noise: Array, lost: Array) -> Array:
        right = norm.ppf(rate - lost) if positive else norm.ppf(other_rate + 0 * lost)
        wrong = -norm.ppf(rate - lost) if not positive else -norm.ppf(other_rate + 0 * lost)
        x = np.where(truth, right, wrong) + likeness**0.5 * common + (1 - likeness) ** 0.5 * noise
        return probability(to_grid(x, levels))

    return scored(labels_task(count), truth, answers(own, 0 * losses), answers(other, losses), patient)


def draw_lost_rate(
    rng: Rng,
    patients: int,
    loss: float,
    *,
    rate: float = 0.9,
    prevalences: tuple[float, ...] = (0.2,),
    lost_icc: float = 0.8,
    icc: float = 0.4,
    most: int = 8,
    likeness: float = 1.0,
) -> Material:
    """The student answers nearly as its teacher does and forgets some positives of label 0, mostly whole patients."""
    patient = draw_patients(rng, patients, most)
    count = len(prevalences)
    truth = draw_truth(rng, patient, prevalences, 1.0)
    shift = np.where(truth, norm.ppf(rate), -norm.ppf(0.9))
    common, own, other = (draw_normals(rng, patient, icc, count) for _ in range(3))
    teacher, student = (
        probability(to_grid(shift + likeness**0.5 * common + (1 - likeness) ** 0.5 * noise, 100))
        for noise in (own, other)
    )
    share = np.where(np.arange(count) == 0, loss * count / rate, 0.0)
    lost = (draw_normals(rng, patient, lost_icc, count) < norm.ppf(share)) & truth
    return scored(labels_task(count), truth, teacher, np.where(lost, 0.1 * student, student + 1e-6), patient)


def draw_accuracy(
    rng: Rng,
    patients: int,
    loss: float,
    *,
    rate: float = 0.85,
    shares: tuple[float, ...] = (0.5, 0.3, 0.2),
    icc: float = 0.4,
    most: int = 8,
    likeness: float = 0.97,
) -> Material:
    """Right with the probability asked for, else the next class."""
    patient = draw_patients(rng, patients, most)
    cuts = norm.ppf(np.cumsum(shares)[:-1])
    truth = np.searchsorted(cuts, draw_normals(rng, patient, icc, 1)[:, 0])
    common, own, other = (draw_normals(rng, patient, icc, 1)[:, 0] for _ in range(3))

    def answers(noise: Array, right: float) -> Array:
        is_right = likeness**0.5 * common + (1 - likeness) ** 0.5 * noise < norm.ppf(right)
        decided = np.where(is_right, truth, (truth + 1) % len(shares))
        return np.asarray(0.1 + 0.7 * np.eye(len(shares))[decided] + 1e-6 * noise[:, None])

    task = Task(name="view", kind="multiclass", classes=tuple(f"class{k}" for k in range(len(shares))))
    return scored(task, truth[:, None], answers(own, rate), answers(other, rate - loss), patient)


@cache
def spread_of_kappa(kappa: float, shares: tuple[float, ...]) -> float:
    """The spread of the normal error for which decided grades have this kappa with quadratic weights."""
    return solve(lambda spread: kappa_of_spread(spread, shares) - kappa, 0.05, 5.0)


def kappa_of_spread(spread: float, shares: tuple[float, ...]) -> float:
    """Kappa of the table of truth by grade, the grade being the truth plus normal error, rounded."""
    grades = np.arange(len(shares))
    edges = np.concatenate([[-np.inf], grades[:-1] + 0.5, [np.inf]])
    given = np.diff(norm.cdf((edges - grades[:, None]) / spread), axis=1)
    table = np.array(shares)[:, None] * given
    weights = (grades[:, None] - grades) ** 2
    return float(1 - (table * weights).sum() / (np.outer(shares, table.sum(axis=0)) * weights).sum())


def draw_kappa(
    rng: Rng,
    patients: int,
    loss: float,
    *,
    kappa: float = 0.85,
    shares: tuple[float, ...] = (0.6, 0.15, 0.15, 0.06, 0.04),
    icc: float = 0.4,
    truth_icc: float = 0.8,
    most: int = 8,
    likeness: float = 0.97,
) -> Material:
    """Grades decided from the truth plus noise; the student's noise is wider."""
    patient = draw_patients(rng, patients, most)
    truth = np.searchsorted(norm.ppf(np.cumsum(shares)[:-1]), draw_normals(rng, patient, truth_icc, 1)[:, 0])
    common, own, other = (draw_normals(rng, patient, icc, 1)[:, 0] for _ in range(3))

    def answers(noise: Array, spread: float) -> Array:
        error = likeness**0.5 * common + (1 - likeness) ** 0.5 * noise
        decided = np.clip(np.floor(truth + spread * error + 0.5), 0, len(shares) - 1).astype(np.intp)
        return np.asarray(0.1 + 0.5 * np.eye(len(shares))[decided] + 1e-6 * noise[:, None])

    task = Task(name="grade", kind="ordinal", classes=tuple(f"grade{k}" for k in range(len(shares))))
    spreads = spread_of_kappa(kappa, shares), spread_of_kappa(kappa - loss, shares)
    return scored(task, truth[:, None], answers(own, spreads[0]), answers(other, spreads[1]), patient)


def rounded_probability(p: Array) -> Array:
    """In steps of 1 / 255."""
    q: Array = np.round(p / PROBABILITY_STEP) * PROBABILITY_STEP
    return q


def loss_of(metric: str, p: Array, truth: float) -> Array:
    """Brier score or logarithmic loss (clipped as in the proof) of a probability when the truth is 0 or 1."""
    if metric == "brier":
        squared: Array = (p - truth) ** 2
        return squared
    kept = np.clip(p, 1e-7, 1 - 1e-7)
    logarithmic: Array = -np.log(kept if truth else 1 - kept)
    return logarithmic


@cache
def mean_excess(metric: str, center: float, slope: float, error: float, blunder: bool) -> float:
    """Expected loss of the student over the calibrated teacher's, over all logits center + slope * z.

    The student's logit errs by `error` up or down; or, `blunder`, its answer is turned into its contrary.
    """
    z = np.linspace(-8, 8, 40001)
    weight = norm.pdf(z) / norm.pdf(z).sum()
    p = probability(center + slope * z)
    if blunder:
        students = [rounded_probability(1 - p)]
    else:
        students = [rounded_probability(probability(center + slope * z + sign * error)) for sign in (-1, 1)]
    excess = [
        p * (loss_of(metric, s, 1) - loss_of(metric, p, 1)) + (1 - p) * (loss_of(metric, s, 0) - loss_of(metric, p, 0))
        for s in students
    ]
    return float(weight @ np.mean(excess, axis=0))


@cache
def error_of_loss(metric: str, center: float, slope: float, loss: float) -> float:
    """The error of the logit that costs `loss`."""
    return solve(lambda error: mean_excess(metric, center, slope, error, False) - loss, 1e-6, 12.0)


def draw_calibration(
    rng: Rng,
    patients: int,
    loss: float,
    *,
    metric: str,
    center: float = -2.0,
    slope: float = 2.0,
    icc: float = 0.4,
    most: int = 8,
    blunder: bool = False,
    noise: float = 0.6,
) -> Material:
    """A calibrated teacher; a student whose logits err, or which now and then says the contrary.

    At zero loss both err by `noise`, in directions of their own: the truth of both is the same by symmetry.
    """
    patient = draw_patients(rng, patients, most)
    logit = center + slope * draw_normals(rng, patient, icc, 1)
    p = probability(logit)
    truth = rng.random(p.shape) < p
    signs = np.where(draw_normals(rng, patient, icc, 2) < 0, -1.0, 1.0)
    if not loss:
        both = rounded_probability(probability(logit + noise * signs))
        return scored(labels_task(1), truth, both[:, :1], both[:, 1:], patient)
    if blunder:
        rest = mean_excess(metric, center, slope, 0.0, False)  # what rounding costs
        share = (loss - rest) / (mean_excess(metric, center, slope, 0.0, True) - rest)
        contrary = draw_normals(rng, patient, icc, 1) < norm.ppf(share)
        student = rounded_probability(np.where(contrary, 1 - p, p))
    else:
        student = rounded_probability(probability(logit + error_of_loss(metric, center, slope, loss) * signs[:, :1]))
    return scored(labels_task(1), truth, p, student, patient)


def draw_critical(
    rng: Rng,
    patients: int,
    loss: float,
    *,
    prevalence: float = 0.5,
    icc: float = 0.4,
    most: int = 8,
    found: float = 0.9,
    large: bool = False,
) -> Material:
    """Positives that the teacher finds are lost with the probability asked for; `large`: only by larger patients."""
    patient = draw_patients(rng, patients, most)
    truth = draw_truth(rng, patient, (prevalence,), 1.0)
    finds = truth & (rng.random(truth.shape) < found)
    share = np.full(len(patient), loss)
    if large:  # patients with more than half of the most images hold this share of all images
        sizes = np.arange(1, most + 1)
        is_large = np.bincount(patient)[patient] > most // 2
        share = np.where(is_large, loss * sizes.sum() / sizes[sizes > most // 2].sum(), 0.0)
    lost = finds & (draw_normals(rng, patient, icc, 1) < norm.ppf(share)[:, None])
    says = np.where(truth, finds, rng.random(truth.shape) < 0.1)
    teacher, student = np.where(says, 0.9, 0.1), np.where(says & ~lost, 0.89, 0.11)
    return scored(labels_task(1), truth, teacher, student, patient)
