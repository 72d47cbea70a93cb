"""Embeddings drawn with a true difference that is asked for; what `gate_embeddings.py` simulates with.

An embedding is a direction in the plane, so that everything about it can be written down. Where the true difference
comes from:

- a patient's angle is uniform, and an image's is the patient's plus normal noise. A query's own image differs from it
  by a wrapped normal, a rival's by anything: the pair percentile is `percentile_of_noise`, a series, and the student's
  noise is solved from it. Rivals crowd in patients, which moves the spread and not the mean;
- a forgotten patient's images are turned anywhere: they find their own at 0.5;
- recall at 1 hangs on how many candidates there are and how they crowd: its mean is simulated on the circle for a
  fixed set of noises (`CALIBRATION` draws each), and the student's noise is read from the curve;
- a probe's condition shifts the angle, which is normal and small: the AUC of a probe that has found the direction is
  `shift_of_area`'s.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from foveola.bench.label_draws import Patients, Rng, draw_normals, draw_patients, draw_truth, shift_of_area, solve
from foveola.bench.simulation import Array, Material
from foveola.runtime.task import Task
from foveola.toolkit.parity.cases import Answers, References

CALIBRATION = 400
NOISES = np.geomspace(0.003, 1.0, 60)  # in radians, where recall is simulated
SPREAD = 0.15  # of a probed angle, in radians


def percentile_of_noise(noise: float) -> float:
    """Pair percentile of angles with normal noise (standard deviation in radians) among uniform rivals.

    1 - E|d| / pi for the wrapped difference d, whose variance is twice the noise's, by the Fourier series of |d|.
    """
    odd = np.arange(1.0, 4001.0, 2.0)
    return 0.5 + 4 / np.pi**2 * float(np.sum(np.exp(-((odd * noise) ** 2)) / odd**2))


@cache
def noise_of_percentile(percentile: float) -> float:
    """The inverse."""
    return solve(lambda noise: percentile_of_noise(noise) - percentile, 1e-6, 6.0)


def directions_of(angle: Array) -> Array:
    """Unit vectors (N, 2)."""
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def draw_pairs(
    rng: Rng,
    patients: int,
    loss: float,
    *,
    percentile: float = 0.9,
    most: int = 4,
    icc: float = 0.0,
    likeness: float = 0.9,
) -> Material:
    """Both models' noise has `likeness` of its variance in common; `icc`: how much a patient's models err together.

    A patient has 2 to `most` images.
    """
    patient = _pairs_of(rng, patients, most)
    return _seen(rng, patient, noise_of_percentile(percentile), noise_of_percentile(percentile - loss), icc, likeness)


def draw_forgotten_pairs(rng: Rng, patients: int, loss: float, *, percentile: float = 0.9, most: int = 4) -> Material:
    """The student's embeddings are the teacher's, but some patients' images point anywhere."""
    patient = _pairs_of(rng, patients, most)
    angle = _angles(rng, patient) + noise_of_percentile(percentile) * rng.standard_normal(len(patient))
    forgotten = (rng.random(patients) < loss / (percentile - 0.5))[patient]
    lost = np.where(forgotten, rng.uniform(0, 2 * np.pi, len(patient)), angle)
    return _material(directions_of(angle), directions_of(lost), patient)


def draw_recall(
    rng: Rng, patients: int, loss: float, *, recall: float = 0.8, most: int = 4, likeness: float = 0.9
) -> Material:
    """As `draw_pairs`, with the noises that give these shares of hits among so many patients."""
    patient = _pairs_of(rng, patients, most)
    teacher, student = (noise_of_recall(each, patients, most) for each in (recall, recall - loss))
    return _seen(rng, patient, teacher, student, 0.0, likeness)


def draw_probe(
    rng: Rng,
    patients: int,
    loss: float,
    *,
    area: float = 0.85,
    prevalence: float = 0.3,
    most: int = 4,
    icc: float = 0.4,
    likeness: float = 0.9,
) -> Material:
    """A condition of the patient turns the angle by its shift; the rest of the angle is noise."""
    patient = draw_patients(rng, patients, most)
    truth = draw_truth(rng, patient, (prevalence,), 1.0)
    common, own, other = (draw_normals(rng, patient, icc, 1) for _ in range(3))
    noisy = [likeness**0.5 * common + (1 - likeness) ** 0.5 * each for each in (own, other)]
    shifts = [shift_of_area(area - each, 0) for each in (0.0, loss)]
    teacher, student = (
        directions_of(SPREAD * (noise + shift * (truth - 0.5)))[:, :, 0]
        for noise, shift in zip(noisy, shifts, strict=True)
    )
    return _material(teacher, student, patient, truth)


@cache
def _recalls(patients: int, most: int) -> Array:
    """Mean share of hits at each of `NOISES`; common random numbers make it fall smoothly."""
    found = np.zeros((CALIBRATION, len(NOISES)))
    for k in range(CALIBRATION):
        rng = np.random.default_rng([77, patients, most, k])
        patient = _pairs_of(rng, patients, most)
        middle, deviation = _angles(rng, patient), rng.standard_normal(len(patient))
        found[k] = [_hits(middle + noise * deviation, patient).mean() for noise in NOISES]
    falling: Array = np.minimum.accumulate(found.mean(axis=0))
    return falling


def noise_of_recall(recall: float, patients: int, most: int) -> float:
    """Noise at which this share of the images have one of their patient nearest."""
    shares = _recalls(patients, most)
    return float(np.exp(np.interp(-recall, -shares, np.log(NOISES))))


def _hits(angle: Array, patient: Patients) -> NDArray[np.bool_]:
    """Whether the nearest other image on the circle is of the same patient."""
    order = np.argsort(angle % (2 * np.pi))
    at, who = (angle % (2 * np.pi))[order], patient[order]
    gap = np.diff(at, append=at[0] + 2 * np.pi)  # to the next one
    after = np.roll(who, -1) == who
    nearer_after = gap < np.roll(gap, 1)
    hit = np.empty(len(angle), dtype=bool)
    hit[order] = np.where(nearer_after, after, np.roll(after, 1))
    return hit


def _pairs_of(rng: Rng, patients: int, most: int) -> Patients:
    return np.repeat(np.arange(patients), rng.integers(2, most + 1, patients))


def _angles(rng: Rng, patient: Patients) -> Array:
    return rng.uniform(0, 2 * np.pi, int(patient.max()) + 1)[patient]


def _seen(rng: Rng, patient: Patients, teacher: float, student: float, icc: float, likeness: float) -> Material:
    """Both models see the patients' angles through noise.

    A patient's own part of the noise would turn all of its images together and change nothing; so with `icc` patients
    differ in whether the two models err alike: in this share of them they err wholly apart.
    """
    middle = _angles(rng, patient)
    common, own, other = (rng.standard_normal(len(patient)) for _ in range(3))
    alike = np.where((rng.random(int(patient.max()) + 1) < icc)[patient], 0.0, likeness)
    one, two = (alike**0.5 * common + (1 - alike) ** 0.5 * each for each in (own, other))
    return _material(directions_of(middle + teacher * one), directions_of(middle + student * two), patient)


def _material(teacher: Array, student: Array, patient: Patients, truth: NDArray[np.bool_] | None = None) -> Material:
    conditions = np.zeros((len(patient), 0)) if truth is None else truth.astype(np.float64)
    task = Task(name="code", kind="embedding", size=2, classes=("condition",) * conditions.shape[1])
    return Material(
        task=task,
        references=References(scores={task.name: conditions}),
        teacher=Answers(scores={task.name: teacher}),
        student=Answers(scores={task.name: student}),
        patients=patient,
    )
