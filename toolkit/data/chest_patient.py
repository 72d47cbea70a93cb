"""Who is drawn by the chest phantom: the patient, and how the patient stands for one picture.

Lengths are in halves of the picture's width before the pose zooms it.
"""

from __future__ import annotations

import msgspec
import numpy as np


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """One patient: what stays the same from picture to picture."""

    female: bool
    age: float  # years
    bulk: float  # about 1; soft tissue around the chest
    chest_width: float  # half width of the rib cage at the base
    apex: float  # y of the lungs' tops
    heart: float  # cardiothoracic ratio that the heart is drawn for
    heart_tilt: float  # radians
    breast: float  # attenuation of the breasts
    knob: float  # radius of the aortic knob
    bone: float  # density of bone
    rib_gap: float  # distance of two ribs
    spine_bend: float
    vessels: float  # how marked the lungs' vessels are
    shape_seed: int  # of the small irregularities


class Pose(msgspec.Struct, frozen=True, kw_only=True):
    """One picture of a patient: what changes from picture to picture."""

    ap: bool  # portable, lying or sitting, from the front
    breath: float  # -1 (out) to 1 (deep in)
    turn: float  # radians in the picture's plane
    zoom: float
    shift_x: float
    shift_y: float
    twist: float  # turned about the long axis: shifts the mediastinum


def draw_body(rng: np.random.Generator, *, enlarged: bool) -> Body:
    """Draw a patient; `enlarged` says that the heart is too wide."""
    female = bool(rng.random() < 0.5)
    age = float(np.clip(rng.normal(54, 18), 18, 92))
    old = (age - 54) / 38  # -1 to 1
    # An enlarged heart is wider than half of the rib cage; seen from the front any heart looks wider than it is.
    ratio = max(0.505, rng.normal(0.565, 0.040)) if enlarged else min(0.495, rng.normal(0.445, 0.032) + 0.012 * old)
    return Body(
        female=female,
        age=age,
        bulk=float(np.clip(rng.normal(1.0, 0.10), 0.8, 1.3)),
        chest_width=float(np.clip(rng.normal(0.62 if female else 0.65, 0.030), 0.53, 0.74)),
        apex=float(rng.normal(-0.70, 0.03)),
        heart=float(np.clip(ratio, 0.36, 0.72)),
        heart_tilt=float(rng.normal(0.55, 0.10)),
        breast=float(max(0.0, rng.normal(0.42, 0.22))) if female else float(max(0.0, rng.normal(0.05, 0.10))),
        knob=float(np.clip(0.062 + 0.026 * old + rng.normal(0, 0.007), 0.03, 0.12)),
        bone=float(np.clip(1.0 - 0.28 * old + rng.normal(0, 0.08) - 0.06 * female, 0.5, 1.45)),
        rib_gap=float(rng.normal(0.122, 0.005)),
        spine_bend=float(rng.normal(0.0, 0.014) + rng.normal(0, 0.014) * max(old, 0.0)),
        vessels=float(np.clip(rng.normal(1.0, 0.2), 0.5, 1.6)),
        shape_seed=int(rng.integers(2**31)),
    )


def draw_pose(rng: np.random.Generator, *, ap: bool) -> Pose:
    """Draw how the patient is placed; portable pictures are less well placed and less deeply breathed."""
    loose = 1.8 if ap else 1.0
    return Pose(
        ap=ap,
        breath=float(rng.normal(-0.35 if ap else 0.25, 0.45)),
        turn=float(rng.normal(0, 0.018 * loose)),
        zoom=float(np.clip(rng.normal(1.20, 0.045 * loose), 1.0, 1.4)),
        shift_x=float(rng.normal(0, 0.02 * loose)),
        shift_y=float(rng.normal(0.02, 0.025 * loose)),
        twist=float(rng.normal(0, 0.010 * loose)),
    )
