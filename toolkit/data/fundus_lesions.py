"""Lesions of diabetic retinopathy in the fundus phantom, by grade, and what they look like.

Grades follow the international scale (Wilkinson et al. 2003): 0 none; 1 microaneurysms only; 2 more than that; 3 many
haemorrhages; 4 new vessels or a bleeding before the retina. The numbers of lesions are drawn from ranges that do not
contradict the grade.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from .fundus_vessels import Segments
from .phantom import F32, smooth_noise, soft_step

KINDS = ("ma", "he", "ex", "se")  # microaneurysms, haemorrhages, hard and soft exudates

# By grade: lowest and highest number of microaneurysms, haemorrhages, clusters of hard exudates, soft exudates.
COUNTS: tuple[tuple[tuple[int, int], ...], ...] = (
    ((0, 0), (0, 0), (0, 0), (0, 0)),
    ((2, 7), (0, 0), (0, 0), (0, 0)),
    ((4, 14), (2, 7), (0, 3), (0, 1)),
    ((8, 20), (14, 28), (0, 4), (1, 4)),
    ((5, 18), (6, 20), (0, 4), (0, 4)),
)


class Lesions(msgspec.Struct, frozen=True, kw_only=True):
    """Lesions as coverage 0..1 on the grid, (H, W) each, and the new vessels of grade 4."""

    cover: dict[str, F32]
    tufts: Segments | None


class _Painter:
    """Lays soft blobs on the grid, each within its own small window (most of the grid is not touched)."""

    def __init__(self, x: F32, y: F32, pixel: float, rng: np.random.Generator) -> None:
        self.x, self.y, self.pixel, self.rng = x, y, pixel, rng
        self.wobble = smooth_noise(rng, (x.shape[0], x.shape[1]), 64)

    def blob(
        self,
        cover: F32,
        at: NDArray[np.float64],
        radius: float,
        *,
        stretch: float = 1.0,
        angle: float = 0.0,
        rough: float = 0.0,
        edge: float = 0.3,
    ) -> None:
        height, width = self.x.shape
        reach = int(radius * max(stretch, 1 / stretch) * self.pixel * 1.6) + 3
        column = int((at[0] - float(self.x[0, 0])) * self.pixel)
        row = int((at[1] - float(self.y[0, 0])) * self.pixel)
        window = np.s_[
            max(0, row - reach) : min(height, row + reach), max(0, column - reach) : min(width, column + reach)
        ]
        dx, dy = self.x[window] - np.float32(at[0]), self.y[window] - np.float32(at[1])
        if dx.size == 0:
            return
        u, v = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
        r = np.sqrt((u / stretch) ** 2 + (v * stretch) ** 2) / np.float32(radius)
        blob = soft_step(1 - r + np.float32(rough) * self.wobble[window], max(edge, 0.7 / (radius * self.pixel)))
        np.maximum(cover[window], blob, out=cover[window])


def draw_lesions(
    grade: int,
    x: F32,
    y: F32,
    pixel: float,
    disc: NDArray[np.float64],
    fovea: NDArray[np.float64],
    rng: np.random.Generator,
) -> Lesions:
    """Draw the lesions of a grade; `pixel` is pixels per radius of the field of view."""
    paint = _Painter(x, y, pixel, rng)
    cover = {kind: np.zeros_like(x) for kind in KINDS}
    counts = [int(rng.integers(low, high + 1)) for low, high in COUNTS[grade]]
    finest = 1.15 / pixel  # nothing is smaller than a pixel and a bit
    for at in _places(counts[0], 0.85, disc, rng):
        paint.blob(cover["ma"], at, max(finest, float(rng.uniform(0.010, 0.016))))
    for at in _places(counts[1], 0.88, disc, rng):
        if rng.random() < 0.6:  # a blot
            paint.blob(cover["he"], at, float(rng.uniform(0.020, 0.050)), rough=0.30)
        else:  # a flame, along the nerve fibres
            along = float(np.arctan2(at[1] - disc[1], at[0] - disc[0]))
            paint.blob(cover["he"], at, float(rng.uniform(0.022, 0.040)), stretch=1.9, angle=along, rough=0.35)
    for centre in _places(counts[2], 0.6, disc, rng):
        spread = float(rng.uniform(0.04, 0.10))
        for _ in range(int(rng.integers(4, 15))):
            at = centre + spread * rng.standard_normal(2)
            paint.blob(cover["ex"], at, max(finest, float(rng.exponential(0.006) + 0.009)), rough=0.40, edge=0.22)
    for at in _places(counts[3], 0.75, disc, rng):
        angle = float(rng.uniform(0, np.pi))
        paint.blob(cover["se"], at, float(rng.uniform(0.035, 0.065)), stretch=1.25, angle=angle, rough=0.35, edge=0.55)
    tufts = _proliferation(paint, cover, disc, rng) if grade == 4 else None
    return Lesions(cover=cover, tufts=tufts)


def _proliferation(
    paint: _Painter, cover: dict[str, F32], disc: NDArray[np.float64], rng: np.random.Generator
) -> Segments:
    """Make tufts of new vessels and, in half of the eyes, a boat-shaped bleeding before the retina."""
    starts: list[NDArray[np.float64]] = []
    ends: list[NDArray[np.float64]] = []
    for number in range(int(rng.integers(1, 4))):
        centre = disc + 0.02 * rng.standard_normal(2) if number == 0 else _places(1, 0.7, disc, rng)[0]
        for heading in rng.uniform(-np.pi, np.pi, 9):
            turn, at, angle = float(rng.choice((-1, 1)) * rng.uniform(0.15, 0.55)), centre, float(heading)
            for _ in range(int(rng.integers(5, 10))):
                angle += turn + float(rng.normal(0, 0.25))
                to = at + 0.022 * np.array([np.cos(angle), np.sin(angle)])
                starts.append(at)
                ends.append(to)
                at = to
    if rng.random() < 0.5:
        at = _places(1, 0.6, disc, rng)[0]
        boat = np.zeros_like(paint.x)
        paint.blob(boat, at, float(rng.uniform(0.10, 0.18)), stretch=1.25, rough=0.08, edge=0.12)
        # The blood stands level at its top.
        boat *= soft_step(paint.y - np.float32(at[1] - 0.02), 0.012)
        np.maximum(cover["he"], boat, out=cover["he"])
    return Segments(
        start=np.array(starts),
        end=np.array(ends),
        width=np.full(len(starts), 0.0085),
        vein=np.ones(len(starts), bool),
    )


def _places(count: int, reach: float, disc: NDArray[np.float64], rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Choose places within the field of view and off the disc."""
    found: list[NDArray[np.float64]] = []
    while len(found) < count:
        at = np.asarray(rng.uniform(-reach, reach, 2))
        if np.hypot(*at) < reach and np.hypot(*(at - disc)) > 0.26:
            found.append(at)
    return found
