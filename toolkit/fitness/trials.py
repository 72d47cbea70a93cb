"""The rule tried: good images, spoiled ones and pictures of something else, each judged by limits it had no part in.

The validation patients are halved; each half is judged by the limits that the other sets, so that an image's own excess
never moves the bound that it is held against. What ships are the limits of all of them together.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...runtime.fitness.judge import measure
from ...runtime.fitness.manifest import FitnessKind, MeasureName, Trial
from ...runtime.fitness.novelty import Distance
from ...runtime.image import decode_image, prepare
from ...runtime.manifest import InputSpec
from ..data.phantom_chest import make_chest
from ..data.phantom_fundus import make_fundus
from ..parity.cases import patient_codes
from ..parity.delong import compare_auc, lower_bound_of_perfect_auc
from .limits import Array, Spread, excess, limit_of
from .seen import Run, Template, working_copy
from .spoil import Fault, spoil

STRANGERS = 24  # pictures of something else
ALPHA = 0.05
NORMAL = 1.959964


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Those of the excess, and of one engine's novelty; infinite where there is none."""

    excess: float
    novelty: float = math.inf


class Judge(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """All that a picture is judged by but the limits."""

    kind: FitnessKind
    template: Template
    spreads: Mapping[MeasureName, Spread]
    spec: InputSpec
    distance: Distance | None
    run: Run | None  # of the engine that stands first

    def outside(self, picture: Image.Image, limits: Limits) -> float:
        """Say how far outside a picture is: above 1 it is unfit. As on the device, the network comes second."""
        measured = excess(measure(picture, self.kind, self.template), self.spreads, self.kind) / limits.excess
        if measured > 1 or self.distance is None or self.run is None:
            return measured
        raw = self.run(prepare(picture, self.spec)[0][None])
        return max(measured, self.distance(raw) / limits.novelty)


def halves_of(patients: Sequence[str]) -> NDArray[np.intp]:
    """Put each patient into half 0 or 1 by the order of their names' digests, (N,)."""
    names = sorted(set(patients), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    side = {name: place % 2 for place, name in enumerate(names)}
    return np.array([side[name] for name in patients], np.intp)


def crossed(values: Array, halves: NDArray[np.intp], share: float, place: str) -> Array:
    """Give for each image the limit that the other half sets, (N,); one half alone judges itself."""
    sides = [values[halves == 1 - side] for side in (0, 1)]
    limits = [limit_of(side if len(side) else values, share, place) for side in sides]
    return np.array(limits)[halves]


def run_trials(
    judge: Judge,
    faults: Mapping[str, Fault],
    copies: Sequence[Image.Image],
    patients: Sequence[str],
    limits: Sequence[Limits],
    good: Array,
    step: Callable[[], None],
) -> tuple[Trial, ...]:
    """Spoil pictures in every way, and show the rule pictures of something else.

    Args:
        judge: by which all are judged.
        faults: by name.
        copies: (M,) good pictures, which are spoiled.
        patients: (N,) of the good images, of which the first M are those of the pictures.
        limits: (M,) of each of them.
        good: (N,) how far outside the good images are.
        step: called after each picture.
    """
    found = []
    for name, fault in faults.items():
        scores = []
        for copy, limit in zip(copies, limits, strict=True):
            scores.append(judge.outside(spoil(copy, fault), limit))
            step()
        found.append(_trial(name, good, patients, np.array(scores), patients[: len(copies)]))
    strangers = [working_copy(one, judge.kind, judge.spec) for one in draw_strangers(judge.kind)]
    scores = []
    for number, stranger in enumerate(strangers):
        scores.append(judge.outside(stranger, limits[number % len(limits)]))
        step()
    names = [f"stranger {number}" for number in range(len(strangers))]
    found.append(_trial(SHOWS[judge.kind], good, patients, np.array(scores), names))
    return tuple(found)


SHOWS: Mapping[FitnessKind, str] = {"radiograph": "a phantom's fundus", "fundus": "a phantom's chest"}


def draw_strangers(kind: FitnessKind) -> list[Image.Image]:
    """Draw phantoms of another part of the body."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "phantom"
        make = make_fundus if kind == "radiograph" else make_chest
        make(folder, patients=STRANGERS, seed=0)
        paths = sorted((folder / "images").iterdir())[:STRANGERS]
        return [_loaded(decode_image(path)) for path in paths]


def _loaded(picture: Image.Image) -> Image.Image:
    picture.load()
    return picture


def _trial(name: str, good: Array, patients: Iterable[str], spoiled: Array, owners: Iterable[str]) -> Trial:
    scores = np.concatenate([good, spoiled])
    truth = np.arange(len(scores)) >= len(good)
    codes = patient_codes([*patients, *owners])
    area = compare_auc(truth, scores, scores, codes)
    low, high = area.teacher - NORMAL * area.teacher_se, area.teacher + NORMAL * area.teacher_se
    if not area.teacher_se > 0:  # nothing overlaps: what so few patients can tell
        positives, negatives = area.positive_patients, area.negative_patients
        low, high = lower_bound_of_perfect_auc(positives, negatives, ALPHA / 2), area.teacher
    return Trial(
        fault=name,
        images=len(spoiled),
        caught=int((spoiled > 1).sum()),
        auc=round(area.teacher, 6),
        auc_low=round(min(max(low, 0.0), area.teacher), 6),
        auc_high=round(max(min(high, 1.0), area.teacher), 6),
    )
