"""Eleven organs of the trunk as a coronal CT slice shows them, each in a window of its own.

Coordinates of a window: x from -1 (left in the picture, the patient's right) to 1, y from -1 (top) to 1. A paired organ
is drawn as the patient's right one, its medial side at positive x, and mirrored for the left one. Brightness is that of
an abdominal window: air 0, fat about 0.3, soft tissue 0.5, cortical bone 1. Proportions are rough; no figure here is a
measurement.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from .phantom import F32, Grid, Mask, smooth_noise, soft_step

EDGE = 0.035  # half width of an edge, in windows
AIR, FAT, SOFT, BONE = 0.03, 0.30, 0.50, 0.98


class Organ(msgspec.Struct, frozen=True, kw_only=True):
    """One of the eleven labels.

    Args:
        name: as in OrganCMNIST.
        group: the organ without its side.
        side: left, right or unpaired.
        region: of the trunk.
        width_mm: of the window.
        level: its brightness without contrast medium.
        uptake: what contrast medium adds.
    """

    name: str
    group: str
    side: str
    region: str
    width_mm: float
    level: float
    uptake: float


def _pair(group: str, region: str, width_mm: float, level: float, uptake: float) -> tuple[Organ, Organ]:
    left, right = (
        Organ(
            name=f"{group}-{side}",
            group=group,
            side=side,
            region=region,
            width_mm=width_mm,
            level=level,
            uptake=uptake,
        )
        for side in ("left", "right")
    )
    return left, right


def _single(name: str, region: str, width_mm: float, level: float, uptake: float) -> Organ:
    return Organ(name=name, group=name, side="unpaired", region=region, width_mm=width_mm, level=level, uptake=uptake)


ORGANS = (
    _single("bladder", "pelvis", 130, 0.44, 0.02),
    *_pair("femur", "pelvis", 150, 0.58, 0.0),
    _single("heart", "thorax", 170, 0.53, 0.12),
    *_pair("kidney", "abdomen", 140, 0.50, 0.22),
    _single("liver", "abdomen", 230, 0.56, 0.08),
    *_pair("lung", "thorax", 220, 0.06, 0.0),
    _single("pancreas", "abdomen", 150, 0.50, 0.08),
    _single("spleen", "abdomen", 150, 0.54, 0.12),
)
GROUPS = tuple(dict.fromkeys(organ.group for organ in ORGANS))


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """A window before the scanner: brightness and the organ's pixels, (H, W)."""

    tissue: F32
    organ: Mask


class Canvas:
    """A window's grid and brushes; what is painted later lies on top."""

    def __init__(self, rng: np.random.Generator, size: int, *, mirrored: bool) -> None:
        line = (np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1
        x, y = np.meshgrid(line, line)
        turn, zoom = rng.normal(0, 0.22), np.exp(rng.normal(0.0, 0.20))
        shift = rng.normal(0, 0.16, 2)
        side = -1.0 if mirrored else 1.0
        across, down = (x - shift[0]) / zoom * side, (y - shift[1]) / zoom
        bend = 0.055
        cos, sin = np.cos(turn), np.sin(turn)
        self.x: F32 = np.asarray(cos * across + sin * down + bend * smooth_noise(rng, x.shape, 3), np.float32)
        self.y: F32 = np.asarray(cos * down - sin * across + bend * smooth_noise(rng, x.shape, 3), np.float32)
        self.rng, self.size = rng, size
        self.tissue: F32 = np.asarray(FAT + 0.03 * smooth_noise(rng, x.shape, 6), np.float32)

    def paint(self, inside: Grid, level: Grid | float) -> None:
        """Lay a part over what is there; `inside` is a signed distance, positive inside."""
        cover = soft_step(inside, EDGE)
        self.tissue = np.asarray(self.tissue * (1 - cover) + cover * level, np.float32)

    def oval(self, x: float, y: float, wide: float, high: float, turn: float = 0.0) -> Grid:
        """Distance inside an ellipse, roughly, in windows."""
        cos, sin = np.cos(turn), np.sin(turn)
        u, v = cos * (self.x - x) + sin * (self.y - y), cos * (self.y - y) - sin * (self.x - x)
        away = np.sqrt((u / wide) ** 2 + (v / high) ** 2)
        return np.asarray((1 - away) * min(wide, high))

    def bar(self, start: tuple[float, float], end: tuple[float, float], width: float) -> Grid:
        """Distance inside a bar with round ends."""
        (x1, y1), (x2, y2) = start, end
        long = np.array([x2 - x1, y2 - y1])
        at = ((self.x - x1) * long[0] + (self.y - y1) * long[1]) / float(long @ long)
        at = np.clip(at, 0, 1)
        return np.asarray(width - np.hypot(self.x - x1 - at * long[0], self.y - y1 - at * long[1]))

    def grain(self, level: float, spread: float, cells: int) -> Grid:
        """A level that is not even."""
        return level + spread * smooth_noise(self.rng, (self.size, self.size), cells)


def draw_organ(organ: Organ, contrast: float, size: int, rng: np.random.Generator) -> Slice:
    """Draw a window around an organ.

    Args:
        organ: which.
        contrast: share of the contrast medium's full effect, 0 to 1.
        size: pixels a side.
        rng: of this slice.
    """
    canvas = Canvas(rng, size, mirrored=organ.side == "left")
    inside = DRAWERS[organ.group](canvas, organ.level + contrast * organ.uptake, contrast)
    return Slice(tissue=np.clip(canvas.tissue, 0, 1), organ=np.asarray(inside > 0, bool))


def _bladder(c: Canvas, level: float, contrast: float) -> Grid:
    fill = float(c.rng.uniform(0.75, 1.1))
    for side in (-1, 1):  # the pelvic bones beside it
        c.paint(c.bar((side * 0.95, -0.5), (side * 0.72, 0.9), 0.16), BONE * 0.8)
    c.paint(c.oval(0, -0.72, 0.5, 0.2), SOFT)
    inside = c.oval(0, 0.05, 0.56 * fill, 0.46 * fill)
    c.paint(inside + 0.06, SOFT + 0.05)
    c.paint(inside, c.grain(level, 0.006, 4))
    return inside


def _femur(c: Canvas, level: float, contrast: float) -> Grid:
    c.paint(c.oval(-0.1, 0.3, 0.75, 1.3), c.grain(SOFT, 0.03, 8))
    c.paint(c.oval(0.98, -0.7, 0.42, 0.4), BONE * 0.85)  # the socket
    head, shaft = c.oval(0.42, -0.45, 0.30, 0.30), c.bar((-0.22, 0.0), (-0.12, 1.4), 0.20)
    neck, trochanter = c.bar((0.40, -0.42), (-0.2, 0.0), 0.17), c.oval(-0.34, -0.22, 0.18, 0.22)
    inside = np.maximum(np.maximum(head, shaft), np.maximum(neck, trochanter))
    c.paint(inside, BONE)
    c.paint(inside - 0.075, c.grain(level, 0.05, 14))
    return inside


def _heart(c: Canvas, level: float, contrast: float) -> Grid:
    for side in (-1, 1):  # the lungs beside it
        c.paint(c.oval(side * 1.0, -0.1, 0.62, 1.0), c.grain(AIR, 0.02, 16))
    c.paint(c.bar((-0.8, 0.98), (0.8, 0.98), 0.22), SOFT + 0.05)  # the diaphragm
    inside = np.maximum(c.oval(0.08, 0.18, 0.56, 0.50, -0.6), c.oval(0.32, 0.42, 0.36, 0.30, -0.7))
    c.paint(c.bar((-0.1, -0.2), (0.05, -1.1), 0.20), SOFT + 0.2 * contrast)
    c.paint(inside, c.grain(level - 0.04, 0.015, 5))
    for x, y in ((-0.16, 0.12), (0.26, 0.28)):  # the chambers
        c.paint(c.oval(x, y, 0.20, 0.15, -0.6), level + 0.10 * contrast)
    return inside


def _kidney(c: Canvas, level: float, contrast: float) -> Grid:
    c.paint(c.bar((0.98, -1.2), (0.98, 1.2), 0.16), BONE * 0.8)  # the spine
    c.paint(c.bar((0.62, -0.5), (0.45, 1.2), 0.20), c.grain(SOFT, 0.01, 6))  # psoas
    c.paint(c.oval(-0.2, -1.05, 0.8, 0.3), SOFT + 0.06)
    hilum = c.oval(0.30, 0.0, 0.24, 0.20)
    inside = np.minimum(c.oval(-0.12, 0.0, 0.42, 0.68, 0.14), -hilum + 0.02)
    c.paint(inside, c.grain(level, 0.015, 6))
    for y in (-0.30, 0.0, 0.30):  # the pyramids
        c.paint(c.oval(-0.05, y, 0.15, 0.10), level - 0.04 - 0.10 * contrast)
    return np.asarray(inside)


def _liver(c: Canvas, level: float, contrast: float) -> Grid:
    c.paint(c.bar((-1.1, -1.0), (1.1, -1.0), 0.42), AIR)  # the lung above
    c.paint(c.oval(0.85, 0.3, 0.32, 0.42), c.grain(SOFT - 0.05, 0.06, 8))  # the stomach
    right, left = c.oval(-0.30, 0.10, 0.66, 0.72), c.oval(0.32, -0.18, 0.56, 0.34, 0.25)
    inside = np.minimum(np.maximum(right, left), 0.62 - c.y - 0.55 * c.x)
    c.paint(inside, c.grain(level, 0.012, 8))
    for angle in c.rng.uniform(-0.9, 0.9, 4):
        end = (-0.2 + 0.5 * float(np.sin(angle)), -0.05 - 0.45 * float(np.cos(angle)))
        c.paint(np.minimum(c.bar((-0.1, 0.25), end, 0.035), inside), level - 0.05 + 0.16 * contrast)
    return inside


def _lung(c: Canvas, level: float, contrast: float) -> Grid:
    c.paint(c.bar((0.92, -1.2), (0.92, 1.2), 0.26), SOFT + 0.1 * contrast)  # the mediastinum
    c.paint(c.oval(0.1, 1.15, 1.1, 0.5), SOFT + 0.06)  # the diaphragm and what lies below
    inside = np.minimum(c.oval(0.0, 0.35, 0.66, 1.2), 0.68 - c.y + 0.25 * (c.x - 0.1) ** 2)
    inside = np.minimum(inside, 0.62 - c.x)
    for y in np.arange(-0.9, 0.9, 0.36):  # ribs, cut across
        c.paint(c.oval(-0.86 + 0.25 * max(-y - 0.2, 0), y, 0.07, 0.10), BONE)
    c.paint(inside, c.grain(level, 0.012, 20))
    for y in c.rng.uniform(-0.5, 0.5, 7):  # vessels from the hilum
        end = (float(c.rng.uniform(-0.45, 0.1)), float(y) * 1.2)
        c.paint(np.minimum(c.bar((0.55, 0.0), end, 0.02), inside), SOFT - 0.1)
    return np.asarray(inside)


def _pancreas(c: Canvas, level: float, contrast: float) -> Grid:
    for _ in range(5):  # bowel with gas
        x, y = c.rng.uniform(-0.9, 0.9), float(c.rng.choice((-0.75, 0.75))) + c.rng.normal(0, 0.1)
        c.paint(c.oval(float(x), float(y), 0.26, 0.22), c.grain(SOFT - 0.04, 0.04, 8))
        c.paint(c.oval(float(x), float(y) - 0.08, 0.10, 0.06), AIR)
    c.paint(c.bar((0.25, -1.2), (0.25, 1.2), 0.09), SOFT + 0.35 * contrast)  # a great vessel behind it
    body = np.maximum(c.bar((-0.45, 0.22), (0.05, -0.06), 0.15), c.bar((0.05, -0.06), (0.78, -0.26), 0.11))
    inside = np.maximum(body, c.oval(-0.50, 0.26, 0.24, 0.22)) + 0.04 * smooth_noise(c.rng, (c.size, c.size), 14)
    c.paint(inside, c.grain(level, 0.03, 16))
    return np.asarray(inside)


def _spleen(c: Canvas, level: float, contrast: float) -> Grid:
    c.paint(c.bar((-1.1, -1.0), (1.1, -1.0), 0.36), AIR)
    c.paint(c.oval(-0.6, -0.1, 0.42, 0.5), c.grain(SOFT - 0.05, 0.05, 8))  # the stomach
    c.paint(c.oval(-0.6, -0.3, 0.26, 0.16), AIR)
    for y in (-0.5, -0.1, 0.3):
        c.paint(c.oval(0.88, y, 0.06, 0.10), BONE)
    inside = np.minimum(c.oval(0.28, 0.08, 0.44, 0.62, -0.25), -c.oval(-0.32, 0.05, 0.42, 0.42))
    c.paint(inside, c.grain(level, 0.012, 8))
    return inside


DRAWERS: dict[str, Callable[[Canvas, float, float], Grid]] = {
    "bladder": _bladder,
    "femur": _femur,
    "heart": _heart,
    "kidney": _kidney,
    "liver": _liver,
    "lung": _lung,
    "pancreas": _pancreas,
    "spleen": _spleen,
}
