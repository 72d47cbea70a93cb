"""How the chest phantom's shadow becomes a picture: rays, scatter, noise, and what a site's machine makes of it."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .phantom import F32, Grid, blurred

ABSORPTION = 0.95  # per unit of attenuation


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """A site and its machine."""

    name: str
    share: float  # of the patients
    portable: float  # chance that a picture is taken from the front (AP)
    scatter: float  # scattered per direct ray behind the body
    quanta: float  # per pixel of 1/256 of the width behind nothing; fewer make more noise
    sharpness: float  # blur in 1/256 of the width
    enhance: float  # local contrast added by the machine
    gamma: float
    low: float  # attenuation shown black and white, as offsets from what is measured in the picture
    high: float
    full: int  # brightest pixel of the 16-bit file
    border: float  # chance of a black collimator border


SITES = (
    Site(
        name="north", share=0.34, portable=0.25, scatter=0.25, quanta=9000, sharpness=0.45, enhance=0.45, gamma=1.0,
        low=0.00, high=0.00, full=65535, border=0.1,
    ),
    Site(
        name="harbour", share=0.28, portable=0.35, scatter=0.45, quanta=5000, sharpness=0.7, enhance=0.15, gamma=0.85,
        low=-0.05, high=0.20, full=60000, border=0.4,
    ),
    Site(
        name="mobile", share=0.22, portable=0.75, scatter=0.8, quanta=500, sharpness=0.8, enhance=0.25, gamma=0.95,
        low=-0.10, high=0.10, full=52000, border=0.2,
    ),
    Site(
        name="hill", share=0.16, portable=0.3, scatter=0.35, quanta=7000, sharpness=0.6, enhance=0.6, gamma=1.2,
        low=0.05, high=-0.1, full=65535, border=0.2,
    ),
)  # fmt: skip


def expose(attenuation: F32, site: Site, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Take the picture, (H, W) uint16, dense parts bright.

    Args:
        attenuation: sum along each ray.
        site: the machine.
        rng: for noise and for how well the exposure was chosen.
    """
    size = attenuation.shape[0]
    pixel = size / 256
    direct = np.exp(np.float32(-ABSORPTION) * attenuation)
    scattered = blurred(np.minimum(direct, 0.25), 22 * pixel)
    rays = blurred(direct, site.sharpness * pixel) + np.float32(site.scatter) * scattered
    # Finer pixels catch fewer quanta each.
    exposure = site.quanta / pixel**2 * float(np.exp(rng.normal(0, 0.3)))
    noise = rng.standard_normal(rays.shape, np.float32)
    rays += np.sqrt(rays / np.float32(exposure) + np.float32(2e-8)) * noise
    shown = -np.log(np.maximum(rays, np.float32(1e-4))) / np.float32(ABSORPTION)
    shown += np.float32(site.enhance) * (shown - blurred(shown, 20 * pixel))
    return _developed(shown, site, rng)


def _developed(shown: Grid, site: Site, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Choose black and white by the picture's content, as machines do, and apply the tone curve."""
    sample = shown[::4, ::4]
    dark, light = (float(value) for value in np.percentile(sample, (3, 98.5)))
    low = dark - 0.42 + site.low + float(rng.normal(0, 0.07))
    high = light + 0.05 + site.high + float(rng.normal(0, 0.09))
    value = np.clip((shown - np.float32(low)) / np.float32(high - low), 0, 1)
    gamma = site.gamma * float(np.exp(rng.normal(0, 0.08)))
    value = value ** np.float32(gamma)
    value *= np.float32(1.28) - np.float32(0.28) * value  # the film's shoulder: dense parts are told apart less
    value = _marked(value, site, rng)
    return np.asarray(np.round(value * np.float32(site.full)), np.uint16)


def _marked(value: Grid, site: Site, rng: np.random.Generator) -> Grid:
    """Add a side marker in a corner and, at times, the collimator's border."""
    size = value.shape[0]
    if rng.random() < site.border:
        for side in range(4):
            wide = int(max(0.0, rng.normal(0.02, 0.02)) * size)
            edge = np.rot90(value, side)  # a view: the border is written into `value`
            edge[:wide] = 0.02
    if rng.random() < 0.7:
        tall = max(6, size // 22)
        tag = Image.new("L", (tall, tall))
        draw = ImageDraw.Draw(tag)
        draw.line([(1, 1), (1, tall - 2), (tall - 3, tall - 2)], fill=255, width=max(1, size // 128))
        glyph = np.asarray(tag, np.float32) / 255
        x = int(size * rng.uniform(0.88, 0.93))
        y = int(size * rng.uniform(0.05, 0.22))
        part = value[y : y + tall, x : x + tall]
        np.maximum(part, glyph[: part.shape[0], : part.shape[1]], out=part)
    return value
