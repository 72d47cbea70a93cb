"""Draws the fundus of the twin phantom: small, quick and in colour, from eight factors.

| factor | shows as |
|---|---|
| 0 | vessels: how many and how wide |
| 1 | how far the arcades are apart |
| 2 | pigment of the background |
| 3 | darkness of the macula |
| 4 | size of the disc |
| 5 | size of its cup |
| 6 | height of the disc over the macula |
| 7 | vessels of the choroid |

The camera is the nuisance, four numbers a picture: exposure, warmth, zoom and blur. Coordinates are those of
`fundus_eye`: the field of view has radius 1, y points down, a right eye has its disc on the right.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .phantom import F32, blurred, smooth_noise, soft_step

F64 = NDArray[np.float64]
NUISANCES = 4
MOST_BRANCHES = 34
CANVAS = 128  # pixels a side at least, on which vessels are drawn before they are reduced
CURVE = np.linspace(0, 1, 9)[:, None]


class Anatomy(msgspec.Struct, frozen=True, kw_only=True):
    """What is an eye's own and the same in all of its pictures."""

    own: F64  # (8,): how its factors differ from its person's
    branches: F64  # (34, 5): trunk, place on it, side, length, bend
    seed: int  # of its choroid


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw an eye's own anatomy."""
    branches = np.stack(
        [
            rng.integers(0, 8, MOST_BRANCHES).astype(np.float64),
            rng.uniform(0.12, 0.85, MOST_BRANCHES),
            rng.choice((-1.0, 1.0), MOST_BRANCHES),
            rng.uniform(0.22, 0.50, MOST_BRANCHES),
            rng.uniform(-0.5, 0.5, MOST_BRANCHES),
        ],
        axis=1,
    )
    return Anatomy(own=rng.standard_normal(8), branches=branches, seed=int(rng.integers(2**31)))


def draw_fundus(
    factors: F64, anatomy: Anatomy, nuisance: F64, size: int, rng: np.random.Generator, *, left: bool
) -> NDArray[np.uint8]:
    """Draw a photograph (H, W, 3).

    Args:
        factors: (8,), about standard normal.
        anatomy: the eye's own.
        nuisance: (4,), about standard normal.
        size: pixels a side.
        rng: of the picture's noise.
        left: mirror it.
    """
    at = 0.5 + rng.normal(0, 0.008, 2)  # the middle of the field of view, in sides of the picture
    pixel = size * 0.47 * float(np.exp(0.04 * nuisance[2]))
    x = (np.arange(size, dtype=np.float32)[None, :] + np.float32(0.5 - at[0] * size)) / np.float32(pixel)
    y = (np.arange(size, dtype=np.float32)[:, None] + np.float32(0.5 - at[1] * size)) / np.float32(pixel)
    disc = np.array([0.46, -0.11 * factors[6] / 1.5])
    fovea = np.array([-0.30, 0.05])
    colour_HW3 = _retina(factors, anatomy, x, y, disc, fovea)
    arteries, veins = _vessels(factors, anatomy, disc, fovea, pixel, at * size, size)
    colour_HW3 *= 1 - arteries[..., None] * np.array([0.16, 0.50, 0.44], np.float32)
    colour_HW3 *= 1 - veins[..., None] * np.array([0.32, 0.66, 0.54], np.float32)
    pixels = _develop(colour_HW3, x, y, nuisance, pixel, rng)
    return np.ascontiguousarray(pixels[:, ::-1]) if left else pixels


def _retina(factors: F64, anatomy: Anatomy, x: F32, y: F32, disc: F64, fovea: F64) -> F32:
    """Paint background, macula and disc."""
    _, _, pigment, macula, large, cupped, _, streaked = (float(factor) for factor in factors)
    shape = (y.shape[0], x.shape[1])
    own = np.random.default_rng(anatomy.seed)
    shade = 1 + 0.04 * smooth_noise(own, shape, 5)
    ridge = np.exp(-((smooth_noise(own, shape, 9) / 0.35) ** 2)) - 0.5
    to_fovea = (x - fovea[0]) ** 2 + (y - fovea[1]) ** 2
    shade += np.clip(0.10 + 0.07 * streaked, 0, 0.3) * ridge * np.clip(to_fovea * 2.5, 0, 1)
    shade -= np.clip(0.36 + 0.12 * macula, 0.05, 0.7) * np.exp(-to_fovea / 0.05)
    dark = 0.5 + 0.22 * pigment
    levels = (0.80 - 0.17 * dark, 0.42 - 0.16 * dark, 0.20 - 0.06 * dark)
    back = np.stack([shade**power * level for power, level in zip((0.7, 1.15, 0.9), levels, strict=True)], -1)
    radius = 0.165 + 0.025 * large
    r = np.hypot(x - disc[0], y - disc[1]) / radius
    cup = float(np.clip(0.48 + 0.11 * cupped, 0.15, 0.85))
    rim_HW1, cup_HW1 = soft_step(1 - r, 0.10)[..., None], soft_step(cup - r, 0.10)[..., None]
    back += rim_HW1 * (np.array([0.90, 0.60, 0.34], np.float32) - back)
    back += rim_HW1 * cup_HW1 * (np.array([0.97, 0.86, 0.68], np.float32) - back)
    return np.asarray(back, np.float32)


def _vessels(
    factors: F64, anatomy: Anatomy, disc: F64, fovea: F64, pixel: float, middle: F64, size: int
) -> tuple[F32, F32]:
    """Draw arteries and veins as coverage 0..1, (H, W) each."""
    fine = max(2, -(-CANVAS // size))
    width = 0.036 * (1 + 0.16 * float(factors[0]))
    spread = 0.50 + 0.11 * float(factors[1])
    pictures = [Image.new("L", (size * fine, size * fine)) for _ in range(2)]
    draws = [ImageDraw.Draw(picture) for picture in pictures]

    def line(points: F64, vein: bool, wide: float) -> None:
        places = ((points * pixel + middle) * fine).ravel().tolist()
        thick = wide * pixel * fine
        # A line thinner than a pixel is drawn a pixel wide and fainter.
        draws[int(vein)].line(places, fill=round(255 * min(1.0, thick)), width=max(1, round(thick)), joint="curve")

    trunks = _trunks(disc, fovea, spread)
    for number, trunk in enumerate(trunks):
        line(trunk, number > 3, width * (1.0 if number > 3 else 0.75) * (0.7 if number % 4 > 1 else 1.0))
    count = int(np.clip(round(17 + 6.5 * factors[0]), 2, MOST_BRANCHES))
    for which, place, side, length, bend in anatomy.branches[:count]:
        trunk = trunks[int(which)]
        at = trunk[int(place * 8)]
        ahead = trunk[int(place * 8) + 1] - at
        ahead = ahead / np.linalg.norm(ahead)
        across = np.array([-ahead[1], ahead[0]]) * side
        end = at + length * 0.75 * (ahead + across)
        line(_curve(at, at + length * (0.6 * ahead + bend * across), end), bool(which > 3), width * 0.5)
    covers = [np.asarray(picture.reduce(fine), np.float32) / np.float32(255) for picture in pictures]
    return covers[0], covers[1]


def _trunks(disc: F64, fovea: F64, spread: float) -> list[F64]:
    """Lay the arcades: four arteries, then four veins; upper and lower, temporal ones before nasal ones."""
    found = []
    for number in range(8):
        up, off = (-1.0, 1.0)[number % 2], 0.025 if number > 3 else -0.025
        if number % 4 > 1:
            bend, end = disc + np.array([0.15, up * (0.25 + off)]), disc + np.array([0.50, up * (0.30 + spread / 2)])
        else:
            bend = np.array([disc[0] - 0.30, up * (spread * 1.9 + off)])
            end = fovea + np.array([-0.55, up * (spread * 0.7 + off)])
        found.append(_curve(disc, bend, end))
    return found


def _curve(start: F64, bend: F64, end: F64) -> F64:
    """Points of a quadratic Bezier curve, (9, 2)."""
    return np.asarray((1 - CURVE) ** 2 * start + 2 * CURVE * (1 - CURVE) * bend + CURVE**2 * end)


def _develop(
    colour_HW3: F32, x: F32, y: F32, nuisance: F64, pixel: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Light, blur, noise and the black around the field of view."""
    exposure, warmth, _, soft = (float(number) for number in nuisance)
    far = x * x + y * y
    light = np.float32(np.exp(0.16 * exposure)) * (1 - np.float32(0.26) * np.clip(far, 0, 1.4))
    tint = np.exp(np.array([0.05, 0.0, -0.10]) * warmth)
    sigma = pixel / 60 * float(np.exp(0.5 * soft))
    edge = np.clip((1 - np.sqrt(far)) * np.float32(pixel) + np.float32(0.5), 0, 1)
    out = np.empty(colour_HW3.shape, np.uint8)
    for channel in range(3):
        plane = blurred(np.ascontiguousarray(colour_HW3[..., channel]), sigma) * light * np.float32(tint[channel])
        plane += np.float32(0.018) * rng.standard_normal(plane.shape, np.float32)
        plane = np.where(plane > 0.75, 0.75 + 0.22 * np.tanh((plane - 0.75) / 0.22), plane)  # saturates softly
        out[..., channel] = np.clip(np.round(plane * edge * 255), 0, 255).astype(np.uint8)
    return out
