"""How often images are refused as unfit, and whether two makings of a bundle refuse the same share.

A smaller student must not look better by refusing more. The measures of a picture are the same for every student; the
novelty is not, so that it is compared as decisions are: paired, with Tango's interval.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..parity.proportion import tango_interval, wilson_bound

ALPHA = 0.05  # of two-sided intervals


class Ungradable(msgspec.Struct, frozen=True, kw_only=True):
    """The share of images refused, with its 95 % interval (Wilson 1927, of as many images as there are patients)."""

    images: int
    patients: int
    refused: int
    share: float
    low: float
    high: float


class UngradableParity(msgspec.Struct, frozen=True, kw_only=True):
    """Two shares on the same images; `difference` is after minus before, with its 95 % interval (Tango 1998)."""

    before: float
    after: float
    difference: float
    low: float
    high: float


def ungradable(refused: NDArray[np.bool_], patients: Sequence[str]) -> Ungradable:
    """Count images that were refused, (N,); images of one patient tell no more than one."""
    people = len(set(patients))
    share = float(refused.mean()) if len(refused) else 0.0
    size = 1 / max(people, 1)
    return Ungradable(
        images=len(refused),
        patients=people,
        refused=int(refused.sum()),
        share=round(share, 6),
        low=round(wilson_bound(share, size, ALPHA / 2), 6),
        high=round(1 - wilson_bound(1 - share, size, ALPHA / 2), 6),
    )


def ungradable_parity(before: NDArray[np.bool_], after: NDArray[np.bool_], patients: Sequence[str]) -> UngradableParity:
    """Compare what two makings refuse of the same N images, as many pairs as there are patients."""
    people, images = len(set(patients)), len(before)
    gains, losses = ((after & ~before).sum() / images, (before & ~after).sum() / images)
    low, high = tango_interval(float(gains) * people, float(losses) * people, people, ALPHA / 2)
    return UngradableParity(
        before=float(before.mean()),
        after=float(after.mean()),
        difference=float(gains - losses),
        low=float(low),
        high=float(high),
    )
