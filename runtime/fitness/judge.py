"""Whether an image is fit: its measures and the novelty of its features, held against the manifest's bounds.

Laws:
- An image outside any bound is unfit. It is told which bounds, in the order of the manifest, and gets no score.
- What cannot be measured is outside its bound; what has no bound is measured and not judged.
- The measures need no network: an image that they refuse costs no run of it, and has no novelty.

A reason is a phrase of the table below and the numbers in brackets: `out of focus (focus -4.31, at least -3.02)`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from PIL import Image

from ..prediction import Quality
from .copy import SIDE, Plane
from .fundus import WIDE, measure_fundus
from .manifest import TEMPLATE_SIDE, Bound, Fitness, FitnessKind, MeasureName
from .novelty import Distance, Raw
from .radiograph import measure_radiograph

# Below its bound, above it; an empty phrase: that side has no limit, since no fault lies there.
REASONS: dict[FitnessKind, dict[MeasureName, tuple[str, str]]] = {
    "radiograph": {
        "brightness": ("too dark", "too bright"),
        "contrast": ("too little contrast", "too much contrast"),
        "midtone": ("mid-tones too dark", "mid-tones too bright"),
        "shadow": ("shadows too dark", "shadows too bright"),
        "white": ("", "bright parts clipped"),
        "black": ("", "dark parts clipped"),
        "focus": ("out of focus", "too noisy"),
        "field": ("collimated too far", ""),
        "polarity": ("inverted, or not the expected view", ""),
        "upright": ("turned", ""),
        "whole": ("parts of the expected view cut off", ""),
    },
    "fundus": {
        "field": ("field of view incomplete", ""),
        "surround": ("no dark surround", "a dark surround where none is expected"),
        "brightness": ("too dark", "too bright"),
        "white": ("", "bright parts clipped"),
        "black": ("", "large dark parts"),
        "evenness": ("unevenly lit", ""),
        "contrast": ("too little contrast", "too much contrast"),
        "focus": ("out of focus", "too noisy"),
        "red_green": ("too green", "too red"),
        "blue": ("too little blue", "too blue"),
        "disc": ("no optic disc found", ""),
        "macula": ("no macula found", ""),
    },
}
SIDES: dict[FitnessKind, int] = {"radiograph": SIDE, "fundus": WIDE}  # of the copy that is measured, pixels
UNMEASURED = "nothing to measure"
NOVEL = "unlike the images that the network was made with"


class Gate:
    """A manifest's rule, ready to judge; several threads may share it.

    Args:
        fitness: of the manifest.
        engine: whose limit of the novelty counts; an engine that has none gets the largest of the others.

    Raises:
        FoveolaError: the statistics of the novelty are none.
    """

    def __init__(self, fitness: Fitness, engine: str) -> None:
        self.fitness = fitness
        self._template = np.frombuffer(fitness.template, "<f4").reshape(-1, TEMPLATE_SIDE)
        novelty = fitness.novelty
        self._distance = None if novelty is None else Distance(novelty)
        self._limit = 0.0 if novelty is None else novelty.limits.get(engine, max(novelty.limits.values()))

    def look(self, picture: Image.Image) -> Quality:
        """Judge a picture (mode L, I;16 or RGB) by its measures alone."""
        measures = measure(picture, self.fitness.kind, self._template)
        reasons = reasons_of(measures, self.fitness)
        return Quality(fit=not reasons, reasons=reasons, measures=measures)

    def weigh(self, quality: Quality, raw: Raw) -> Quality:
        """Judge a picture that was fit so far by the graph's outputs too.

        Raises:
            FoveolaError: the features are missing, of another shape, NaN or infinite.
        """
        if self._distance is None:
            return quality
        novelty = self._distance(raw)
        found = msgspec.structs.replace(quality, novelty=novelty)
        if novelty <= self._limit:
            return found
        reason = f"{NOVEL} (novelty {novelty:.3g}, at most {self._limit:.3g})"
        return msgspec.structs.replace(found, fit=False, reasons=(*quality.reasons, reason))


def measure(picture: Image.Image, kind: FitnessKind, template: Plane) -> dict[str, float]:
    """Measure a picture as its kind asks.

    Args:
        picture: the whole picture, mode L, I;16 or RGB.
        kind: of the manifest.
        template: (16, 16) for radiographs, see `radiograph.unit_thumbnail`.
    """
    return measure_fundus(picture) if kind == "fundus" else measure_radiograph(picture, template)


def reasons_of(measures: Mapping[str, float], fitness: Fitness) -> tuple[str, ...]:
    """Say which bounds the measures break, in words; nothing where all hold."""
    found = [reason for bound in fitness.bounds if (reason := _reason(bound, measures, fitness.kind))]
    absent = [bound.measure for bound in fitness.bounds if bound.measure not in measures]
    return (*found, f"{UNMEASURED} ({', '.join(absent)})") if absent else tuple(found)


def _reason(bound: Bound, measures: Mapping[str, float], kind: FitnessKind) -> str:
    if bound.measure not in measures:
        return ""
    value = measures[bound.measure]
    below, above = REASONS[kind].get(bound.measure, ("", ""))
    if bound.low is not None and not value >= bound.low:  # so that NaN is outside
        return f"{below or 'too little'} ({bound.measure} {value:.3g}, at least {bound.low:.3g})"
    if bound.high is not None and not value <= bound.high:
        return f"{above or 'too much'} ({bound.measure} {value:.3g}, at most {bound.high:.3g})"
    return ""
