"""The vessel tree of the fundus phantom: four arcades of an artery and a vein each, growing out of the optic disc.

Coordinates: the middle of the field of view is (0, 0), its radius 1, x to the right and y down; a right eye, so that
the disc lies on the right (nasal) side and the fovea left of it. All tips grow at once, a step at a time.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .phantom import F32

F64 = NDArray[np.float64]
STEP = 0.030
STEPS = 62


class Segments(msgspec.Struct, frozen=True, kw_only=True):
    """Straight pieces of vessels."""

    start: F64  # (S, 2)
    end: F64  # (S, 2)
    width: F64  # (S,) in radii of the field of view
    vein: NDArray[np.bool_]  # (S,)


class _Tips(msgspec.Struct, kw_only=True):
    at: F64
    heading: F64
    width: F64
    vein: NDArray[np.bool_]
    arcade: F64  # +1 or -1: turns with or against the clock around the fovea; 0: straight on
    left: NDArray[np.intp]  # steps that remain


def grow_vessels(disc: F64, fovea: F64, calibre: float, rng: np.random.Generator) -> Segments:
    """Grow the tree.

    Args:
        disc: centre of the optic disc.
        fovea: centre of the fovea; vessels go around it and thin out near it.
        calibre: about 1; factor of all widths.
        rng: random numbers.
    """
    tips = _trunks(disc, calibre, rng)
    pieces: list[Segments] = []
    for _ in range(STEPS):
        if not len(tips.at):
            break
        ahead = tips.heading + rng.normal(0, 0.10, len(tips.at)) + 0.22 * _pull(tips, fovea)
        end = tips.at + STEP * np.stack([np.cos(ahead), np.sin(ahead)], 1)
        pieces.append(Segments(start=tips.at, end=end, width=tips.width, vein=tips.vein))
        tips = _next(tips, end, ahead, fovea, rng)
    return Segments(
        start=np.concatenate([piece.start for piece in pieces]),
        end=np.concatenate([piece.end for piece in pieces]),
        width=np.concatenate([piece.width for piece in pieces]),
        vein=np.concatenate([piece.vein for piece in pieces]),
    )


def draw_vessels(
    segments: Segments, pixel: float, middle: tuple[float, float], shape: tuple[int, int]
) -> tuple[F32, F32]:
    """Draw the tree with soft edges; returns arteries and veins as coverage 0..1, (H, W) each.

    Args:
        segments: the tree.
        pixel: pixels per radius of the field of view.
        middle: pixel of the middle of the field of view, x and y.
        shape: rows and columns.
    """
    fine = 2  # drawn larger and reduced, so that edges are soft
    a = (segments.start * pixel + middle) * fine
    b = (segments.end * pixel + middle) * fine
    wide = np.maximum(segments.width * pixel * fine, 1.0)
    covers: list[F32] = []
    for vein in (False, True):
        picture = Image.new("L", (shape[1] * fine, shape[0] * fine))
        draw = ImageDraw.Draw(picture)
        for i in np.flatnonzero(segments.vein == vein):
            # A line thinner than a pixel is drawn a pixel wide and fainter.
            shade = int(255 * min(1.0, 0.35 + float(segments.width[i]) * pixel * 0.8))
            draw.line([tuple(a[i]), tuple(b[i])], fill=shade, width=round(float(wide[i])))
        covers.append(np.asarray(picture.reduce(fine), np.float32) / np.float32(255))
    return covers[0], covers[1]


def _trunks(disc: F64, calibre: float, rng: np.random.Generator) -> _Tips:
    """Start an artery and a vein in each of four directions, and some small vessels."""
    # Angles in the picture (y down): upper temporal, lower temporal, upper nasal, lower nasal.
    base = np.repeat(np.array([-1.75, 1.75, -0.80, 0.80]), 2) + rng.normal(0, 0.13, 8)
    vein = np.tile([False, True], 4)
    base += np.where(vein, 0.14, -0.14)
    width = np.where(vein, 0.033, 0.024) * np.repeat([1.0, 1.0, 0.72, 0.72], 2) * calibre * rng.normal(1, 0.08, 8)
    arcade = np.repeat(np.array([-1.0, 1.0, 0.0, 0.0]), 2)
    extra = rng.uniform(2.5, 3.8, 3)  # towards the macula
    heading = np.concatenate([base, extra, rng.uniform(-0.5, 0.5, 2)])
    count = len(heading)
    # The vessels come out a little nasally of the disc's centre; the small ones at its rim.
    out = np.concatenate([np.zeros(8), np.full(5, 0.12)])
    start = disc + (0.015, 0.0) + 0.010 * rng.standard_normal((count, 2))
    start += out[:, None] * np.stack([np.cos(heading), np.sin(heading)], 1)
    return _Tips(
        at=start,
        heading=heading,
        width=np.concatenate([width, np.full(5, 0.011 * calibre)]),
        vein=np.concatenate([vein, rng.random(5) < 0.5]),
        arcade=np.concatenate([arcade, np.zeros(5)]),
        left=np.concatenate([np.full(8, STEPS), np.full(5, 18)]),
    )


def _pull(tips: _Tips, fovea: F64) -> F64:
    """Say how far each heading is to turn: the arcades circle the fovea, the others run on and keep off it."""
    away = tips.at - fovea
    distance = np.hypot(away[:, 0], away[:, 1])
    outward = np.arctan2(away[:, 1], away[:, 0])
    # Round the fovea at a distance of about 0.55, coming closer on the far side.
    goal = np.where(away[:, 0] < 0, 0.42, 0.62)
    around = outward + tips.arcade * (np.pi / 2 + np.clip((distance - goal) * 1.6, -0.9, 0.9))
    turn = _wrapped(around - tips.heading) * (tips.arcade != 0)
    avoid = np.clip(0.30 - distance, 0, 0.3) / 0.3 * np.sign(_wrapped(outward - tips.heading))
    return np.asarray(turn + 1.5 * avoid * (tips.arcade == 0))


def _next(tips: _Tips, end: F64, ahead: F64, fovea: F64, rng: np.random.Generator) -> _Tips:
    """Move the tips on, let some branch and end those that are thin, out of the field or too near the fovea."""
    count = len(end)
    width = tips.width * np.where(tips.arcade != 0, 0.983, 0.972)
    branching = rng.random(count) < np.where(tips.width > 0.012, 0.13, 0.08)
    away = end - fovea
    outward = np.arctan2(away[:, 1], away[:, 0])
    inner = rng.random(count) < 0.4
    side = np.where(
        tips.arcade != 0, np.sign(_wrapped(outward - ahead)) * np.where(inner, -1, 1), rng.choice((-1, 1), count)
    )
    split = branching & (width > 0.0045)
    grown = _Tips(
        at=np.concatenate([end, end[split]]),
        heading=np.concatenate([ahead - 0.10 * side * split, (ahead + side * rng.uniform(0.35, 0.9, count))[split]]),
        width=np.concatenate(
            [np.where(split, width * 0.93, width), width[split] * rng.uniform(0.50, 0.75, split.sum())]
        ),
        vein=np.concatenate([tips.vein, tips.vein[split]]),
        arcade=np.concatenate([tips.arcade, np.zeros(int(split.sum()))]),
        left=np.concatenate([tips.left - 1, rng.integers(8, 26, int(split.sum()))]),
    )
    near = np.hypot(*(grown.at - fovea).T) < 0.10
    alive = (grown.width > 0.0032) & (np.hypot(*grown.at.T) < 1.08) & (grown.left > 0) & ~near
    return _Tips(
        at=grown.at[alive],
        heading=grown.heading[alive],
        width=grown.width[alive],
        vein=grown.vein[alive],
        arcade=grown.arcade[alive],
        left=grown.left[alive],
    )


def _wrapped(angle: F64) -> F64:
    return np.asarray((angle + np.pi) % (2 * np.pi) - np.pi)
