"""What a bundle says about one image, and how it is written down.

Laws:
- Masks and boxes are in pixels of the upright image, probabilities in 0..1, measurements in the task's unit.
- `positive` means probability >= threshold; the threshold is the manifest's.

    prediction = predictor.predict("eye.png")
    json.dumps(prediction_json(prediction))
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One label of a binary (its positive class) or multilabel task."""

    task: str
    label: str
    probability: float
    threshold: float
    positive: bool


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One class out of several: multiclass, or a grade. `index` has the highest probability, the first at a tie."""

    task: str
    label: str
    index: int
    probabilities: tuple[float, ...]
    classes: tuple[str, ...]


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One measure of a regression task."""

    task: str
    name: str
    value: float
    unit: str


class Mask(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One structure in the image."""

    task: str
    label: str
    pixels: NDArray[np.bool_]  # (H, W)
    area_px: int
    fraction: float  # of the image


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """One thing found; x2 and y2 are the far edges, in image pixels. Below its threshold it is not `positive`."""

    task: str
    label: str
    score: float
    x1: float
    y1: float
    x2: float
    y2: float
    positive: bool


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """What an embedding task says: a direction, D float32 numbers whose squares sum to 1; cosines compare two."""

    task: str
    values: tuple[float, ...]


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an image is fit to be answered about; see `runtime.fitness`.

    Args:
        fit: every measure is within the manifest's bounds.
        reasons: why it is not, in the order of the bounds: a phrase of `fitness.judge.REASONS`, then the numbers in
            brackets.
        measures: by name; see `fitness.radiograph` and `fitness.fundus`.
        novelty: distance of the student's features from those of its training images; None where it is not measured.
    """

    fit: bool
    reasons: tuple[str, ...] = ()
    measures: dict[str, float] = {}
    novelty: float | None = None


class Prediction(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """All that a bundle says about one image, in the order of its tasks and classes; boxes by falling score.

    An image that is not fit has a `quality` that says why, and nothing else. `quality` is None where the manifest has
    no rule for it.
    """

    findings: tuple[Finding, ...] = ()
    choices: tuple[Choice, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    masks: tuple[Mask, ...] = ()
    boxes: tuple[Box, ...] = ()
    embeddings: tuple[Embedding, ...] = ()
    quality: Quality | None = None


def prediction_json(prediction: Prediction, *, runs: bool = True) -> dict[str, Any]:
    """Write a prediction as plain lists, dicts, numbers and strings; `embeddings` only where there is one.

    Args:
        prediction: what to write down.
        runs: give each mask's pixels as COCO run lengths (`size` [H, W]; `counts`, column by column, zeros first).
    """
    plain: dict[str, Any] = {
        part: [msgspec.structs.asdict(one) for one in getattr(prediction, part)]
        for part in ("findings", "choices", "measurements", "boxes", "masks")
    }
    for mask in plain["masks"]:
        pixels = mask.pop("pixels")
        if runs:
            mask["runs"] = {"size": list(pixels.shape), "counts": run_lengths(pixels)}
    if prediction.embeddings:
        plain["embeddings"] = [msgspec.structs.asdict(one) for one in prediction.embeddings]
    if prediction.quality is not None:
        plain["quality"] = msgspec.structs.asdict(prediction.quality)
    return plain


def run_lengths(pixels: NDArray[np.bool_]) -> list[int]:
    """Run lengths of a mask (H, W), column by column, zeros first (the COCO data set's uncompressed RLE)."""
    flat = pixels.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    start = [0] if flat[:1].any() else []
    lengths: list[int] = np.diff(edges, prepend=0, append=flat.size).tolist()
    return start + lengths
