"""What one answered image comes to in numbers, by the names of the watch's histograms."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..features import answer_features
from ..manifest import Manifest
from ..prediction import Prediction, Quality
from .seen import Seen as Seen


def observe(prediction: Prediction, manifest: Manifest, features: Mapping[str, float] | None = None) -> Seen:
    """Describe an answer; an image that is not fit has its measures and no answer.

    Args:
        prediction: the answer.
        manifest: of the bundle that gave it.
        features: of the prepared image (`input_features`).
    """
    values = {f"input/{name}": value for name, value in (features or {}).items()}
    quality = prediction.quality
    if quality is not None:
        values |= {f"quality/{name}": value for name, value in quality.measures.items()}
        if quality.novelty is not None:
            values["quality/novelty"] = quality.novelty
    fit = quality is None or quality.fit
    if fit:
        values |= _answer(prediction, manifest)
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    return Seen(values=finite, fit=fit, unfit=() if fit or quality is None else tuple(unfit_words(quality, manifest)))


def _answer(prediction: Prediction, manifest: Manifest) -> dict[str, float]:
    values = {f"score/{name}": value for name, value in answer_features(prediction).items()}
    values |= {f"positive/{one.task}/{one.label}": float(one.positive) for one in prediction.findings}
    values |= {f"mask/{one.task}/{one.label}": one.fraction for one in prediction.masks}
    for output in manifest.outputs:
        if output.task.kind == "detection":  # no box is an answer too
            name = output.task.name
            values[f"boxes/{name}"] = float(sum(box.positive for box in prediction.boxes if box.task == name))
    return values


def unfit_words(quality: Quality, manifest: Manifest) -> list[str]:
    """Say which bounds an unfit image broke: `focus-low`, `white-high`, `novelty`; `other` where none is known."""
    words = []
    for bound in manifest.fitness.bounds if manifest.fitness else ():
        value = quality.measures.get(bound.measure, math.nan)
        if bound.low is not None and not value >= bound.low:
            words.append(f"{bound.measure}-low")
        elif bound.high is not None and not value <= bound.high:
            words.append(f"{bound.measure}-high")
    if len(quality.reasons) > len(words):
        words.append("novelty" if quality.novelty is not None else "other")
    return words or ["other"]


def unfit_vocabulary(manifest: Manifest) -> frozenset[str]:
    """Give all words that `unfit_words` may say of a bundle."""
    bounds = manifest.fitness.bounds if manifest.fitness else ()
    return frozenset(("novelty", "other", *(f"{one.measure}-{side}" for one in bounds for side in ("low", "high"))))
