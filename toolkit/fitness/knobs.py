"""What a recipe says of fitness."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ...runtime.fitness.manifest import FitnessKind

FITNESS = "fitness.json"  # how often good images are refused, and whose; beside the bundle's core


class FitnessKnobs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which images are to be called fit.

    Args:
        kind: which measures are made: of a `fundus` photograph or a `radiograph`.
        false_alarms: share of good images that may be refused. Less asks for more validation images: 0.05 takes 39 with
            the novelty and 19 without.
        novelty: give the graph a second output, and refuse images unlike those of the training too.
    """

    kind: FitnessKind
    false_alarms: Annotated[float, msgspec.Meta(gt=0, le=0.5)] = 0.05
    novelty: bool = True
