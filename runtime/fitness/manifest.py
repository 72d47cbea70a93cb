"""The manifest's rule of which images are fit to be answered about.

Laws:
- A measure is within its bounds or the image is unfit; a measure that is NaN is never within.
- Arrays travel as little-endian float32 (base64 in JSON), with exactly the length that the counts beside them ask for.
- The trials say how well the rule was seen to work; they are for readers, a device does not need them.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec

FitnessKind = Literal["fundus", "radiograph"]
MeasureName = Literal[
    "brightness",
    "contrast",
    "midtone",
    "shadow",
    "white",
    "black",
    "focus",
    "field",
    "polarity",
    "upright",
    "whole",
    "surround",
    "evenness",
    "red_green",
    "blue",
    "disc",
    "macula",
]
MOST_CHANNELS, MOST_COMPONENTS = 4096, 64
MOST_FLOATS = 2**17  # of the components: 512 KiB, 683 KiB in JSON; a manifest has 1 MiB
TEMPLATE_SIDE = 16  # pixels
FLOAT = 4  # bytes

Count = Annotated[int, msgspec.Meta(ge=0, le=2**40)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Bound(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a measure must lie in, both ends included; None: no limit on that side."""

    measure: MeasureName
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        """Refuse a bound that nothing, or everything, would pass.

        Raises:
            ValueError: no limit at all, a limit that is no number, or the lower above the upper.
        """
        limits = [limit for limit in (self.low, self.high) if limit is not None]
        if not limits or not all(math.isfinite(limit) for limit in limits) or limits != sorted(limits):
            raise ValueError(f"{self.measure}: {self.low} to {self.high} is no range")


class Novelty(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far the student's features lie from those of its training images (see `runtime.fitness.novelty`).

    F features of the graph's output `tensor`, (1, F); K principal components.

    Args:
        tensor: name of the output.
        channels: F.
        mean: (F,), subtracted.
        scale: (F,), divided by; all positive.
        components: (K, F), orthonormal rows.
        variances: (K,) of the scaled features along each component.
        noise: variance along every other direction.
        limits: engine -> the largest distance of a fit image; one for each engine, since each rounds in its own way.
    """

    tensor: Name
    channels: Annotated[int, msgspec.Meta(gt=0, le=MOST_CHANNELS)]
    mean: bytes
    scale: bytes
    components: bytes
    variances: Annotated[tuple[float, ...], msgspec.Meta(max_length=MOST_COMPONENTS)]
    noise: Annotated[float, msgspec.Meta(gt=0, le=1e12)]
    limits: Annotated[dict[Name, float], msgspec.Meta(min_length=1, max_length=8)]

    def __post_init__(self) -> None:
        """Refuse arrays of other lengths than the counts say, and numbers that no distance follows from.

        Raises:
            ValueError: one of these.
        """
        wanted = {"mean": 1, "scale": 1, "components": len(self.variances)}
        for name, rows in wanted.items():
            bytes_wanted, found = FLOAT * rows * self.channels, len(getattr(self, name))
            if found != bytes_wanted or bytes_wanted > FLOAT * MOST_FLOATS:
                raise ValueError(f"{name} has {found} bytes, not {bytes_wanted} (at most {FLOAT * MOST_FLOATS})")
        if not all(0 < one < math.inf for one in (*self.variances, *self.limits.values())):
            raise ValueError("a variance or a limit is not a positive number")


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One kind of unfit image, tried on the validation images.

    Args:
        fault: what was done to them, or what they show instead.
        images: how many were judged.
        caught: how many were found unfit, by bounds that none of their own patients had set.
        auc: chance that such an image is further outside than a good one.
        auc_low: of its 95 % interval.
        auc_high: likewise.
    """

    fault: Name
    images: Count
    caught: Count
    auc: Share
    auc_low: Share
    auc_high: Share


class Fitness(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which images are answered about. An image outside any bound gets its reasons and no score.

    Args:
        kind: which measures are made (see `runtime.fitness.radiograph` and `fundus`).
        bounds: what they must lie in; a measure without one is told and not judged.
        template: average training image, (16, 16), mean 0 and length 1; `radiograph` alone.
        novelty: of the student's features; None: not looked at.
        false_alarms: share of fit images that may be refused, chosen before the fit.
        typical: number of training images from which the spread of each measure was taken.
        images: number of validation images that set the limits.
        alarms: how many of these were refused by limits that none of their own patients had set.
        trials: what the rule caught.
    """

    kind: FitnessKind
    bounds: Annotated[tuple[Bound, ...], msgspec.Meta(max_length=32)]
    template: bytes = b""
    novelty: Novelty | None = None
    false_alarms: Share = 0.0
    typical: Count = 0
    images: Count = 0
    alarms: Count = 0
    trials: Annotated[tuple[Trial, ...], msgspec.Meta(max_length=64)] = ()

    def __post_init__(self) -> None:
        """Refuse bounds named twice, and a template of another size, or where none is used.

        Raises:
            ValueError: one of these.
        """
        names = [bound.measure for bound in self.bounds]
        if len(set(names)) != len(names):
            raise ValueError("a measure has two bounds")
        wanted = FLOAT * TEMPLATE_SIDE**2 if self.kind == "radiograph" else 0
        if len(self.template) != wanted:
            raise ValueError(f"the template of kind {self.kind} has {len(self.template)} bytes, not {wanted}")
