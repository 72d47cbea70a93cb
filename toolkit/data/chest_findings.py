"""Findings of the chest phantom: each changes the shadow and says where it is.

Sizes and contrasts vary from hardly visible to plain; what is too faint to be seen does not exist (it is not drawn).
"""

from __future__ import annotations

import msgspec
import numpy as np
from PIL import Image, ImageDraw

from .chest_body import Shadow
from .chest_patient import Body, Pose
from .phantom import F32, BoxRow, Mask, extent, resized, smooth_noise, soft_step

FINDINGS = ("nodule", "effusion", "cardiomegaly", "opacity")


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a finding does to the shadow, and its boxes."""

    air: F32  # factor by which the lungs' air remains, 0..1
    soft: F32  # added attenuation
    boxes: tuple[BoxRow, ...]


def nodules(shadow: Shadow, rng: np.random.Generator) -> Change:
    """Put one to three round shadows into the lungs."""
    soft, boxes = np.zeros_like(shadow.x), list[BoxRow]()
    for _ in range(int(rng.choice((1, 2, 2, 3, 3)))):
        centre = _place(shadow, shadow.right_depth + shadow.left_depth, shadow.right | shadow.left, rng, least=0.5)
        radius = float(np.exp(rng.uniform(np.log(0.042), np.log(0.105))))
        dense = float(rng.uniform(0.8, 1.5)) * (0.055 / radius) ** 0.25
        stretch, angle = float(rng.uniform(0.85, 1.18)), float(rng.uniform(0, np.pi))
        dx, dy = shadow.x - centre[0], shadow.y - centre[1]
        u, v = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
        r = np.hypot(u * stretch, v / stretch) / radius
        soft += np.float32(dense) * (np.sqrt(np.clip(1 - r * r, 0, 1)) * 0.6 + 0.4 * soft_step(1 - r, 0.18))
        box = extent(np.asarray(r < 1), "nodule")
        if box is not None:
            boxes.append(box)
    return Change(air=np.ones_like(soft), soft=np.asarray(soft, np.float32), boxes=tuple(boxes))


def opacities(shadow: Shadow, rng: np.random.Generator) -> Change:
    """Fill parts of a lung, patchily (as pneumonia does); one or two places."""
    air, boxes = np.ones_like(shadow.x), list[BoxRow]()
    shape = (shadow.x.shape[0], shadow.x.shape[1])
    for _ in range(int(rng.choice((1, 1, 2)))):
        right = bool(rng.random() < 0.5)
        depth, field = (shadow.right_depth, shadow.right) if right else (shadow.left_depth, shadow.left)
        low = soft_step(shadow.y + 0.25, 0.3)  # the lower fields more often
        centre = _place(shadow, np.asarray(depth * (0.4 + low), np.float32), field, rng, least=0.3)
        radius_x, radius_y = (float(rng.uniform(0.13, 0.27)) for _ in range(2))
        r = ((shadow.x - centre[0]) / radius_x) ** 2 + ((shadow.y - centre[1]) / radius_y) ** 2
        cloud = np.exp(-0.9 * r) * 1.5 - 0.55 + 0.30 * smooth_noise(rng, shape, 9) * np.exp(-0.4 * r)
        texture = 0.86 + 0.12 * smooth_noise(rng, shape, 20)
        filled = soft_step(cloud, 0.30) * (depth > 0) * (r < 6)
        strength = float(rng.uniform(0.50, 0.90))
        air *= np.clip(1 - strength * filled * texture, 0.08, 1)
        box = extent(np.asarray((filled > 0.45) & field), "opacity")
        if box is not None:
            boxes.append(box)
    return Change(air=np.asarray(air, np.float32), soft=np.asarray(0.08 * (1 - air), np.float32), boxes=tuple(boxes))


def effusion(shadow: Shadow, rng: np.random.Generator) -> Change:
    """Let fluid stand in the lowest part of one lung or both, higher at the side (the meniscus)."""
    air, soft, boxes = np.ones_like(shadow.x), np.zeros_like(shadow.x), list[BoxRow]()
    sides = ((True,), (False,), (True, False))[int(rng.choice(3, p=(0.4, 0.35, 0.25)))]
    for right in sides:
        depth = shadow.right_depth if right else shadow.left_depth
        base = shadow.base_right if right else shadow.base_left
        s = np.abs(shadow.x)
        rise = float(np.exp(rng.uniform(np.log(0.02), np.log(0.40))))
        level = (
            base
            + 0.10
            - rise
            - (0.10 + 0.35 * rise) * np.clip((s - 0.30) / 0.35, 0, 1.3) ** 2
            - 0.03 * np.clip(0.25 - s, 0, 1)
        )
        wet = soft_step(shadow.y - level, 0.022) * (depth > 0)
        air *= 1 - 0.93 * wet
        soft += 0.42 * wet * soft_step(shadow.y - level, 0.15)
        box = extent(np.asarray((wet > 0.5) & (depth > 0)), "effusion")
        if box is not None:
            boxes.append(box)
    return Change(air=np.asarray(air, np.float32), soft=np.asarray(soft, np.float32), boxes=tuple(boxes))


def lung_vessels(body: Body, pose: Pose, shadow: Shadow, rng: np.random.Generator) -> F32:
    """Draw the vessels that spread from the hila, as attenuation inside the lungs."""
    size = shadow.x.shape[0]
    picture = Image.new("L", (2 * size, 2 * size))
    draw = ImageDraw.Draw(picture)
    cos, sin = np.cos(pose.turn), np.sin(pose.turn)

    def pixel(x: float, y: float) -> tuple[float, float]:
        across, down = cos * x - sin * y + pose.shift_x, sin * x + cos * y + pose.shift_y
        return (across * pose.zoom + 1) * size, (down * pose.zoom + 1) * size

    def grow(x: float, y: float, angle: float, width: float, left: int) -> None:
        while left > 0 and width > 0.0024:
            angle += float(rng.normal(0, 0.22))
            x2, y2 = x + 0.045 * np.cos(angle), y + 0.045 * np.sin(angle)
            shade = int(min(255, 40 + 9000 * width))
            draw.line([pixel(x, y), pixel(x2, y2)], fill=shade, width=max(1, round(width * 2 * size)))
            if rng.random() < 0.36:
                side = float(rng.choice((-1, 1)) * rng.uniform(0.4, 0.9))
                grow(x2, y2, angle + side, width * 0.68, left - 2)
            x, y, width, left = x2, y2, width * 0.87, left - 1

    for side in (-1, 1):
        hilum_x, hilum_y = side * 0.115 + 2 * pose.twist, -0.12 - 0.03 * (side > 0)
        for angle in (-1.2, -0.75, -0.3, 0.2, 0.55, 0.85, 1.15):
            turned = float(angle + rng.normal(0, 0.12))
            direction = turned if side > 0 else np.pi - turned
            width = float(rng.uniform(0.009, 0.017)) * (1.25 if turned > 0.3 else 0.9)
            grow(hilum_x, hilum_y + 0.05 * turned, direction, width, 11)
    half = np.asarray(picture.resize((size, size), Image.Resampling.BOX), np.float32) / 255
    root = np.exp(-(((np.abs(shadow.x) - 0.13) / 0.055) ** 2) - ((shadow.y + 0.12) / 0.13) ** 2)
    inside = np.maximum(shadow.right_depth, shadow.left_depth)
    return np.asarray(body.vessels * (0.44 * half * inside + 0.26 * root), np.float32)


def lung_texture(shadow: Shadow, rng: np.random.Generator) -> F32:
    """Make the fine unevenness of lungs, as a factor of their air."""
    size = shadow.x.shape[0]
    fine = resized(rng.standard_normal((size // 4, size // 4), np.float32), (size, size))
    return np.asarray(1 + 0.025 * smooth_noise(rng, (size, size), 6) + 0.022 * fine, np.float32)


def _place(shadow: Shadow, weight: F32, field: Mask, rng: np.random.Generator, *, least: float) -> tuple[float, float]:
    """Choose a point inside the field, by weight; returns its body coordinates."""
    chances = np.where(field & (weight > least), weight, 0).ravel()
    if not chances.any():
        chances = field.ravel().astype(np.float32)
    upto = np.cumsum(chances, dtype=np.float64)
    index = min(int(np.searchsorted(upto, rng.random() * upto[-1])), len(upto) - 1)
    return float(shadow.x.flat[index]), float(shadow.y.flat[index])
