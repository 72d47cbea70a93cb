"""The people of the twin phantom: a hidden state that ages, what is measured of it and what becomes of them.

A person's state is eight numbers, standard normal among people. One of them, wear, grows with the years at a rate of
the person's own; the others wander a little. Everything else follows from the state:

- each picture shows eight factors: a fixed orthogonal mixture of the state, another one for each kind of picture, so
  that both show all of the person and neither shows it plainly;
- measures are linear and non-linear functions of the state with the error of measuring;
- who is ill is drawn by logistic functions of the state, who falls ill later also by the rate of wear.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from .phantom import random_of

F64 = NDArray[np.float64]

STATES = 8
MODALITIES = ("fundus", "carotid")
RATE = 0.15  # of wear in deviations a year, the median person's
RATE_SPREAD = 0.5  # deviation of its logarithm
WANDER = 0.03  # a year, of each number of the state
YEARS = (1.5, 4.5)  # between two visits
OWN = 0.25  # deviation of an eye or side from its person's factors, the same in all of its pictures
EACH = 0.12  # deviation of a picture


def _direction(*numbers: float) -> F64:
    """Scale to length 1."""
    vector = np.zeros(STATES)
    vector[: len(numbers)] = numbers
    return np.asarray(vector / np.linalg.norm(vector))


# The first number is wear.
WALL = _direction(0.6, 0.6, 0.4, 0.0, 0.0, 0.3)
VESSELS = _direction(-0.5, 0.2, 0.0, 0.7, 0.4, 0.0, 0.2)
AGE = _direction(0.8, 0.0, 0.2, -0.3, 0.0, 0.0, 0.0, 0.4)
PRESSURE = _direction(0.4, 0.5, -0.2, -0.4, 0.5, 0.0, 0.3)
BEND = _direction(0.0, 0.0, 0.7, 0.0, 0.0, 0.7)  # in which blood pressure is not linear
STROKE = _direction(0.5, 0.5, 0.2, -0.3, 0.0, 0.4, 0.0, -0.3)


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """What is true of a person on one day; an outcome that is None cannot be."""

    years: float  # since the first visit
    state: F64  # (8,)
    age: float  # years
    imt: float  # mm
    vessel_density: float  # share of the retina
    blood_pressure: float  # mmHg
    prevalent_hypertension: bool
    prevalent_stroke: bool
    incident_stroke: bool | None


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """One person."""

    rate: float  # of wear in deviations a year
    visits: tuple[Visit, ...]


def draw_person(seed: int, number: int, visits: int, *, stranger: bool = False) -> Person:
    """Draw a person; `stranger` is somebody else with the same number, who comes on the same days."""
    days = random_of(seed, 11, number)
    years = np.round(np.cumsum([0.0, *days.uniform(*YEARS, visits - 1)]), 2)
    rng = random_of(seed, 12, number, int(stranger))
    first, rate = rng.standard_normal(STATES), RATE * float(np.exp(RATE_SPREAD * rng.standard_normal()))
    slope = WANDER * rng.standard_normal(STATES)
    slope[0] = rate
    states_VS = first + years[:, None] * slope
    age = float(np.clip(54 + 9 * AGE @ first + 3 * rng.standard_normal(), 35, 80))
    chances = rng.random(3)
    speed = float(np.log(rate / RATE) / RATE_SPREAD)
    had_stroke = bool(chances[0] < _logistic(-2.0 + 2.2 * STROKE @ first))
    will_have = bool(chances[1] < _logistic(-0.8 + 2.2 * STROKE @ first + 1.2 * speed))
    # High blood pressure does not go away again.
    risk = np.maximum.accumulate(_logistic(-0.5 + 2.2 * states_VS @ PRESSURE))
    made = []
    for v, state in enumerate(states_VS):
        error = rng.standard_normal(3)
        made.append(
            Visit(
                years=float(years[v]),
                state=state,
                age=round(age + float(years[v]), 1),
                imt=max(0.35, wall_mm(float(WALL @ state)) + 0.03 * error[0]),
                vessel_density=0.11 * float(np.exp(0.18 * VESSELS @ state)) + 0.006 * error[1],
                blood_pressure=128 + 13 * float(PRESSURE @ state) + 4 * (float(BEND @ state) ** 2 - 1) + 5 * error[2],
                prevalent_hypertension=bool(chances[2] < risk[v]),
                prevalent_stroke=had_stroke,
                incident_stroke=None if had_stroke else will_have,
            )
        )
    return Person(rate=rate, visits=tuple(made))


def wall_mm(factor: float) -> float:
    """Thickness of the carotid's wall (IMT) for the picture's first factor."""
    return max(0.35, 0.80 + 0.16 * factor)


def factors_of(modality: str, state: F64, own: F64, rng: np.random.Generator) -> F64:
    """What one picture shows of a state (8,): mixed, with what is the side's own and the picture's.

    Args:
        modality: one of `MODALITIES`.
        state: (8,).
        own: (8,) standard normal, of the side.
        rng: of the picture.
    """
    factors = MIXTURES[modality] @ state + OWN * own + EACH * rng.standard_normal(STATES)
    return np.asarray(np.clip(factors, -2.6, 2.6))


def _logistic(x: F64 | float) -> F64:
    return np.asarray(1 / (1 + np.exp(-np.asarray(x))))


def _mixture(number: int, first: F64) -> F64:
    """Make an orthogonal matrix (8, 8) from a fixed seed; its first row is given."""
    rows = np.random.default_rng(number).standard_normal((STATES, STATES))
    rows[0] = first
    for i in range(STATES):  # Gram and Schmidt by hand: a library's signs are its own affair
        rows[i] -= rows[:i].T @ (rows[:i] @ rows[i])
        rows[i] /= np.linalg.norm(rows[i])
    return rows


MIXTURES = {"fundus": _mixture(81, VESSELS), "carotid": _mixture(82, WALL)}
