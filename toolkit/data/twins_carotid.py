"""Draws the carotid artery of the twin phantom as B-mode ultrasound sees it, along its course, from eight factors.

| factor | shows as |
|---|---|
| 0 | thickness of the far wall (IMT): the distance of its two bright lines |
| 1 | diameter of the lumen |
| 2 | brightness of the walls' outer lines |
| 3 | height of a plaque on the far wall |
| 4 | how the artery bows |
| 5 | brightness of the tissue around |
| 6 | how fast the sound fades with depth |
| 7 | how the lumen widens towards one end |

The probe is the nuisance, four numbers a picture: gain, depth of the artery, tilt and focus. The picture shows
14 mm by 14 mm, the skin is above. Speckle is the length of a complex normal field filtered by the probe's beam, which
is Rayleigh's distribution; brightness is its logarithm.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .phantom import F32, smooth_noise, soft_step
from .twins_people import wall_mm

F64 = NDArray[np.float64]
FIELD_MM = 14.0
DYNAMIC_DB = 55.0
LUMEN_DB = -46.0


class Anatomy(msgspec.Struct, frozen=True, kw_only=True):
    """What is a side's own and the same in all of its pictures."""

    own: F64  # (8,): how its factors differ from its person's
    plaque_at: float  # mm along the artery
    plaque_length: float  # mm
    seed: int  # of the layers of its tissue


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a side's own anatomy."""
    return Anatomy(
        own=rng.standard_normal(8),
        plaque_at=float(rng.uniform(4.0, 10.0)),
        plaque_length=float(rng.uniform(1.3, 2.2)),
        seed=int(rng.integers(2**31)),
    )


def draw_carotid(
    factors: F64, anatomy: Anatomy, nuisance: F64, size: int, rng: np.random.Generator, *, left: bool
) -> NDArray[np.uint8]:
    """Draw a picture (H, W) of 8-bit grey.

    Args:
        factors: (8,), about standard normal.
        anatomy: the side's own.
        nuisance: (4,), about standard normal.
        size: pixels a side.
        rng: of the picture's noise.
        left: mirror it.
    """
    wall, lumen, lines, plaque, bow, tissue, fading, widening = (float(factor) for factor in factors)
    gain, depth, tilt, focus = (float(number) for number in nuisance)
    mm = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(FIELD_MM / size)
    x, y = mm[None, :], mm[:, None]
    along = x - FIELD_MM / 2
    middle = 6.2 + 0.35 * depth + 0.04 * tilt * along + 0.022 * bow * (along**2 - FIELD_MM**2 / 12) / 2
    half = np.clip(5.4 + 0.55 * lumen + 0.075 * widening * along, 3.0, 8.0) / 2
    thick = wall_mm(wall)
    bump = np.clip(0.5 + 0.40 * plaque, 0, None) * np.exp(-(((x - anatomy.plaque_at) / anatomy.plaque_length) ** 2))
    # y runs down: the near wall is above the lumen, the far wall below; both are `thick`.
    near, far = middle - half - y, y - middle - half  # mm into the wall; below 0 is inside of the lumen
    inside = np.maximum(near, far + bump)
    sharp = FIELD_MM / size * 0.8
    outside = soft_step(inside - thick, sharp)
    medium = soft_step(inside, sharp) * (1 - outside)
    level = LUMEN_DB + medium * 19.0 + outside * (28.0 + 3.0 * tissue - LUMEN_DB - 46.0)
    width = max(0.16, FIELD_MM / size * 0.55)
    bright = 12.0 + 3.0 * lines
    level += 21.0 * np.exp(-(((far + bump) / width) ** 2)) + (17.0 + bright) * np.exp(-(((far - thick) / width) ** 2))
    level += 9.0 * np.exp(-((near / width) ** 2)) + (10.0 + bright) * np.exp(-(((near - thick) / width) ** 2))
    layers = smooth_noise(np.random.default_rng(anatomy.seed), (size, max(4, size // 4)), 14)
    level += outside * 4.0 * ndimage.zoom(layers, (1, size / layers.shape[1]), order=1, grid_mode=True, mode="nearest")
    level += 3.0 * gain - (0.55 + 0.28 * fading) * (y - FIELD_MM / 2)
    grain = _speckle((size, size), rng, float(np.exp(0.25 * focus)))
    level += 20 * np.log10(grain + np.float32(0.08))
    pixels = np.clip(np.round((level + 50.0) * (255 / DYNAMIC_DB)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels[:, ::-1]) if left else pixels


def _speckle(shape: tuple[int, int], rng: np.random.Generator, wide: float) -> F32:
    """Speckle of mean square 1 (H, W): the beam is wider than its pulse is long."""
    scale = shape[0] / 64
    across, deep = max(0.6, 1.1 * scale) * wide, max(0.35, 0.5 * scale)
    parts = rng.standard_normal((2, *shape), np.float32)
    soft = ndimage.gaussian_filter(parts, (0, deep, across), mode="wrap", truncate=3.0)
    power = soft[0] ** 2 + soft[1] ** 2
    return np.asarray(np.sqrt(power / power.mean()), np.float32)
