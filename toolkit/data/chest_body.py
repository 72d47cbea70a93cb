"""The body of the chest phantom: its shadow as a sum of attenuations.

Coordinates are those of the picture: x from -1 (left, the patient's right) to 1, y from -1 (top) to 1. Attenuation is
in arbitrary units in which the middle of the trunk has about 3. Everything is a smooth function of x and y, evaluated
once on the whole grid. Proportions follow what radiographs show; no figure here is a measurement.
"""

from __future__ import annotations

import msgspec
import numpy as np

from .chest_patient import Body, Pose
from .phantom import F32, Grid, Mask, along, resized, smooth_noise, soft_step

_T = np.linspace(0, 1.2, 120)  # from the spine (0) to the side of the rib cage (1)


WIDER = 1.116  # the silhouette below is 0.896 of `half` wide on each side; measured


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """The grid and the parts that findings need; all (H, W)."""

    x: F32
    y: F32
    soft: F32  # attenuation of soft tissue without lungs
    bone: F32
    air: F32  # what the air of the lungs takes away
    right: Mask  # lung fields, behind neither heart nor mediastinum
    left: Mask
    right_depth: F32  # inside-ness of each lung, 0..1
    left_depth: F32
    heart: Mask
    base_right: float  # y of the tops of the diaphragm
    base_left: float
    heart_ratio: float  # heart's width over the rib cage's, as drawn


def cast(body: Body, pose: Pose, size: int) -> Shadow:
    """Lay the parts of the body over each other.

    Args:
        body: the patient.
        pose: the picture.
        size: pixels a side.
    """
    rng = np.random.default_rng(body.shape_seed)
    x, y = _grid(rng, pose, size)
    base_right = 0.30 + 0.10 * pose.breath + float(rng.normal(0, 0.015))
    base_left = base_right + 0.045 + float(rng.normal(0, 0.012))
    middle = np.asarray(pose.twist * 2 + body.spine_bend * np.sin(2.2 * y), np.float32)
    right_depth, right = _lung(-(x - middle), y, body, base_right, rng)
    left_depth, left = _lung(x - middle, y, body, base_left, rng)
    heart, silhouette, ratio = _heart(x - middle, y, body, pose, base_left)
    great, great_mask = _mediastinum(x - middle, y, body, pose)
    covered = silhouette | great_mask
    soft, girdle = _coarse(x, y, body, pose, base_right, rng)
    soft = soft + heart + great
    # The heart and the great vessels take the lungs' place; a rest of lung lies before and behind them.
    displaced = 1 - 0.80 * np.clip(np.maximum(heart / 0.9, great / 0.75), 0, 1)
    air = 1.75 * np.maximum(right_depth, left_depth) * displaced * (1 + 0.10 * pose.breath)
    air += _airways(x - middle, y, body) + _stomach(x, y, base_left, rng)
    bone = _ribs(x - middle, y, body, base_left, rng) + _spine(x - middle, y, rng)
    bone *= soft_step(1.05 - np.abs(x), 0.1)
    return Shadow(
        x=x,
        y=y,
        soft=np.asarray(soft, np.float32),
        bone=np.asarray(body.bone * (bone + girdle), np.float32),
        air=np.asarray(air, np.float32),
        right=right & ~covered,
        left=left & ~covered,
        right_depth=right_depth,
        left_depth=left_depth,
        heart=silhouette,
        base_right=base_right,
        base_left=base_left,
        heart_ratio=ratio,
    )


def _grid(rng: np.random.Generator, pose: Pose, size: int) -> tuple[F32, F32]:
    """Make body coordinates for every pixel: shifted, turned and slightly warped."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1) / np.float32(pose.zoom)
    across, down = np.meshgrid(line - np.float32(pose.shift_x), line - np.float32(pose.shift_y))
    cos, sin = np.float32(np.cos(pose.turn)), np.float32(np.sin(pose.turn))
    bend = np.float32(0.011)
    x = cos * across + sin * down + bend * smooth_noise(rng, (size, size), 4)
    y = cos * down - sin * across + bend * smooth_noise(rng, (size, size), 4)
    return np.asarray(x, np.float32), np.asarray(y, np.float32)


def _coarse(x: F32, y: F32, body: Body, pose: Pose, base: float, rng: np.random.Generator) -> tuple[F32, F32]:
    """Make what has no fine detail on every other pixel: soft tissue, and the bones of the shoulders."""
    shape = (x.shape[0], x.shape[1])
    x2, y2 = x[::2, ::2], y[::2, ::2]
    trunk = _trunk(x2, y2, body, pose)
    belly = soft_step(y2 - base - 0.16, 0.12)
    soft = trunk + _breasts(x2, y2, body, pose) + 1.30 * belly * np.minimum(trunk / 2.2, 1)
    girdle = _shoulder_girdle(x2, y2, pose, rng)
    return resized(np.asarray(soft, np.float32), shape), resized(girdle, shape)


def _lung(side: F32, y: F32, body: Body, base: float, rng: np.random.Generator) -> tuple[F32, Mask]:
    """Shape one lung; `side` is the distance from the midline towards its side.

    Returns:
        How deep the lung is at each pixel (0..1), and where it is.
    """
    apex, width = body.apex + float(rng.normal(0, 0.012)), body.chest_width * float(rng.normal(1, 0.015))
    peak, medial = 0.26 + float(rng.normal(0, 0.01)), 0.085
    line = np.linspace(-1.3, 1.3, 300)
    low = np.clip((line - apex) / (0.06 - apex), 0, 1)  # 0 at the top, 1 from the middle of the chest on
    near = np.clip((line - apex) / 0.26, 0, 1)
    lateral = peak + (width - peak) * np.sqrt(1 - (1 - low) ** 2.3) + 0.03 * np.clip(line, 0, 1)
    inner = peak - (peak - medial) * np.sqrt(1 - (1 - near) ** 2.2)
    top = 0.30 + float(rng.normal(0, 0.02))
    across = np.linspace(-1.6, 1.6, 400)
    rim = np.clip((across - top) / (width - top), 0, 1.02)
    dome = base + 0.13 * rim**2.2 + 0.07 * rim**8 + 0.35 * np.clip(top - across, 0, 1) ** 2

    outer, mid = along(y, line, lateral) - side, side - along(y, line, inner)
    below, high = along(side, across, dome) - y, y - np.float32(apex)
    inside = np.asarray((outer > 0) & (mid > 0) & (below > 0) & (high > 0), bool)

    def fill(distance: Grid, depth: float) -> F32:
        return np.asarray(1 - np.exp(np.maximum(distance, 0) * np.float32(-1 / depth)), np.float32)

    depth = np.sqrt(fill(outer, 0.16) * fill(mid, 0.05) * fill(high, 0.22)) * np.sqrt(fill(below, 0.055))
    depth *= 0.86 + 0.14 * np.clip(y + 0.8, 0, 1)
    return np.asarray(depth * inside, np.float32), inside


def _heart(x: F32, y: F32, body: Body, pose: Pose, base: float) -> tuple[F32, Mask, float]:
    # From the front the heart lies farther from the detector and looks wider.
    half = WIDER * body.heart * body.chest_width * (1.06 if pose.ap else 1.0) * (1 - 0.03 * pose.breath)
    centre_x, centre_y = half * 0.30, base - 0.12 - 0.10 * half
    cos, sin = np.cos(body.heart_tilt), np.sin(body.heart_tilt)
    long, across = cos * (x - centre_x) + sin * (y - centre_y), cos * (y - centre_y) - sin * (x - centre_x)
    left = (long / (half * 0.86)) ** 2 + (across / (half * 0.66)) ** 2
    right = ((x + half * 0.22) / (half * 0.48)) ** 2 + ((y - centre_y + 0.03) / (half * 0.72)) ** 2
    depth = np.maximum(np.sqrt(np.clip(1 - left, 0, 1)), 0.85 * np.sqrt(np.clip(1 - right, 0, 1)))
    silhouette = np.asarray((left < 1) | (right < 1), bool)
    columns = x[silhouette]
    ratio = float(columns.max() - columns.min()) / (2 * body.chest_width) if columns.size else 0.0
    under = soft_step(base + 0.05 - y, 0.04)  # below the dome it is one with the belly
    return np.asarray(0.95 * depth * under, np.float32), silhouette, ratio


def _mediastinum(x: F32, y: F32, body: Body, pose: Pose) -> tuple[F32, Mask]:
    wide = (0.100 if pose.ap else 0.086) * (1 - 0.25 * soft_step(-0.42 - y, 0.12) + 0.35 * soft_step(y + 0.02, 0.12))
    strip = soft_step(wide - np.abs(x), 0.02)
    knob_y = -0.27
    knob = 1 - ((x - 0.075) / (body.knob + 0.01)) ** 2 - ((y - knob_y) / body.knob) ** 2
    artery = 1 - ((x - 0.075) / 0.085) ** 2 - ((y + 0.06) / 0.16) ** 2
    cava = 1 - ((x + 0.070) / 0.065) ** 2 - ((y + 0.16) / 0.30) ** 2
    bulges = [(knob, 0.75), (artery, 0.70), (cava, 0.55)]
    shade = 0.60 * strip
    for bulge, weight in bulges:
        shade = np.maximum(shade, weight * np.sqrt(np.clip(bulge, 0, 1)))
    mask = (np.abs(x) < wide) | (knob > 0) | (artery > 0) | (cava > 0)
    aorta = soft_step(0.028 - np.abs(x - 0.085 - 0.02 * np.sin(3 * y)), 0.012) * soft_step(y - knob_y, 0.04)
    return np.asarray(shade + 0.12 * aorta, np.float32), np.asarray(mask, bool)


def _trunk(x: F32, y: F32, body: Body, pose: Pose) -> F32:
    """Make the trunk, neck and shoulders: an elliptic cross-section whose width changes with height."""
    line = np.linspace(-1.4, 1.4, 240)
    heights = [-1.4, -1.0, -0.90, -0.80, -0.70, -0.55, -0.35, 0.0, 0.5, 1.4]
    arms = 0.06 if pose.ap else 0.0
    widths = np.array([0.24, 0.25, 0.30, 0.50, 0.82, 0.98, 0.93 + arms, 0.86 + arms, 0.84, 0.88])
    widths[3:] *= body.bulk**0.6 * (body.chest_width / 0.64)
    widths[:3] *= 1.0 if body.female else 1.12
    window = np.hanning(25) / np.hanning(25).sum()
    smooth = np.asarray(np.convolve(np.interp(line, heights, widths), window, mode="same"), np.float64)
    half = along(y, line, smooth)
    inside = np.clip(1 - (x / half) ** 2, 0, 1)
    thick = np.interp(line, [-1.4, -0.9, -0.6, 0.0, 1.4], [1.35, 1.5, 2.1, 2.35, 2.5])
    return np.asarray(along(y, line, thick * body.bulk) * np.sqrt(inside), np.float32)


def _breasts(x: F32, y: F32, body: Body, pose: Pose) -> F32:
    if body.breast == 0.0:
        return np.zeros_like(x)
    high = 0.13 + (0.06 if pose.ap else 0.0)
    total = np.zeros_like(x)
    for side in (-1, 1):
        u, v = (side * x - 0.40) / 0.27, (y - high) / 0.25
        # Fuller below: the lower edge is the one that is seen.
        v = np.where(v > 0, v * 1.15, v * 0.75)
        total += np.sqrt(np.clip(1 - u * u - v * v, 0, 1))
    return np.asarray(np.float32(body.breast) * total, np.float32)


def _airways(x: F32, y: F32, body: Body) -> F32:
    carina = -0.22
    trachea = soft_step(0.030 - np.abs(x + 0.012), 0.010) * soft_step(carina - y, 0.03) * soft_step(y + 1.1, 0.1)
    down = np.clip(y - carina, 0, 0.16)
    for slope in (-0.75, 1.05):
        tube = soft_step(0.020 - np.abs(x + 0.012 - slope * down), 0.009)
        trachea = np.maximum(trachea, 0.7 * tube * (down > 0) * (down < 0.16))
    return np.asarray(0.42 * trachea, np.float32)


def _stomach(x: F32, y: F32, base: float, rng: np.random.Generator) -> F32:
    """Make the bubble of air under the left dome, which about half of us have."""
    strength = float(np.clip(rng.normal(0.25, 0.35), 0, 0.8))
    u, v = (x - 0.34 - rng.normal(0, 0.04)) / 0.13, (y - base - 0.13) / 0.07
    return np.asarray(strength * np.sqrt(np.clip(1 - u * u - v * v, 0, 1)), np.float32)


def _ribs(x: F32, y: F32, body: Body, base: float, rng: np.random.Generator) -> F32:
    """Make all ribs at once: lines where a slanted height, counted in rib distances, is a whole number."""
    s = np.abs(x)
    side = np.where(x < 0, np.float32(rng.normal(0, 0.04)), np.float32(rng.normal(0, 0.04)))
    width = body.chest_width * (0.55 + 0.48 * np.sqrt(np.clip((y - body.apex + 0.10) / 0.9, 0, 1))) + 0.015
    t = np.clip(s / width, 0, 1.2)
    cage = soft_step(width - s, 0.012)
    steep = 0.7 + 0.5 * np.clip(y + 0.7, 0, 1.2)
    back = (y - body.apex - steep * along(t, _T, 0.42 * _T**2.6 - 0.10 * np.sin(2.6 * _T))) / body.rib_gap + side
    front = (y - body.apex + steep * (0.36 * t - 0.42) - 0.20) / (body.rib_gap * 1.12) + side * 2
    back_band = _bands(back, first=-0.4, last=9.6, half=0.25)
    front_band = _bands(front, first=0.6, last=6.5, half=0.27) * np.clip((t - 0.28) / 0.25, 0, 1)
    # At the side of the chest the rays run along the ribs.
    tangent = 0.55 + 0.9 * np.minimum(t, 1) ** 4
    fade = soft_step(base + 0.36 - y, 0.16)
    hidden = np.clip((s - 0.05) / 0.05, 0, 1)
    return np.asarray(cage * fade * hidden * tangent * (0.27 * back_band + 0.11 * front_band), np.float32)


def _bands(count: Grid, *, first: float, last: float, half: float) -> F32:
    """Make a band around each whole number, with brighter borders (cortical bone)."""
    away = np.abs(count - np.round(count)) / np.float32(half)
    body = soft_step(1 - away, 0.22)
    rim = np.exp(-(((away - 0.82) / 0.2) ** 2))
    return np.asarray((0.62 * body + 0.42 * rim) * ((count > first) & (count < last)), np.float32)


def _spine(x: F32, y: F32, rng: np.random.Generator) -> F32:
    gap = np.float32(0.105 + rng.normal(0, 0.004))
    half = 0.050 + 0.012 * np.clip(y + 0.6, 0, 1.5)
    column = soft_step(half - np.abs(x), 0.012)
    disc = np.exp(-((np.abs(y / gap - np.round(y / gap)) / 0.12) ** 2))
    edge = np.exp(-(((np.abs(x) - half * 0.9) / 0.012) ** 2))
    process = np.exp(-((x / 0.012) ** 2)) * np.exp(-((np.abs(y / gap - np.floor(y / gap) - 0.5) / 0.2) ** 2))
    return np.asarray(column * (0.26 - 0.12 * disc) + 0.07 * edge + 0.08 * process * column, np.float32)


def _shoulder_girdle(x: F32, y: F32, pose: Pose, rng: np.random.Generator) -> F32:
    """Make collar bones, shoulder blades and upper arms."""
    total = np.zeros_like(x)
    lift = (-0.035 if pose.ap else 0.0) + float(rng.normal(0, 0.012))
    inward = 0.06 if pose.ap else 0.0  # from the front the shoulder blades lie over the lungs
    for side in (-1, 1):
        s = side * x + float(rng.normal(0, 0.008))
        u = np.clip((s - 0.07) / 0.58, 0, 1)
        height = -0.46 + lift - 0.16 * u - 0.045 * np.sin(5.2 * u) + float(rng.normal(0, 0.008))
        away = np.abs(y - height) / np.float32(0.030)
        collar = (0.55 * soft_step(1 - away, 0.25) + 0.4 * np.exp(-(((away - 0.8) / 0.25) ** 2))) * soft_step(
            s - 0.075, 0.02
        )
        total += 0.50 * collar * soft_step(0.68 - s, 0.03)
        lateral = 0.62 - inward + 0.16 * np.clip(y + 0.55, 0, 1)
        blade = soft_step(s - lateral, 0.03) * soft_step(lateral + 0.22 - s, 0.03)
        total += 0.26 * blade * soft_step(y + 0.58, 0.05) * soft_step(0.02 - y, 0.05)
        rim = np.exp(-(((s - lateral - 0.01) / 0.016) ** 2)) * soft_step(y + 0.5, 0.05) * soft_step(0.0 - y, 0.05)
        head = soft_step(0.105 - np.hypot(s - 0.86, y + 0.52), 0.015)
        shaft = soft_step(0.055 - np.abs(s - 0.90 - 0.10 * (y + 0.5)), 0.015) * soft_step(y + 0.5, 0.03)
        total += 0.22 * rim + 0.40 * np.maximum(head, 0.9 * shaft)
    return np.asarray(total, np.float32)
