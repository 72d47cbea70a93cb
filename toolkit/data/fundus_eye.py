"""An eye of the fundus phantom and the camera that photographs it.

Coordinates: the middle of the field of view is (0, 0), its radius 1, x to the right and y down. An eye is drawn as a
right one (disc on the right) and mirrored when it is a left one; what the camera does is not mirrored.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from .fundus_lesions import draw_lesions
from .fundus_vessels import draw_vessels, grow_vessels
from .phantom import F32, Mask, blurred, smooth_noise, soft_step

F64 = NDArray[np.float64]
Colour = tuple[float, float, float]


class Camera(msgspec.Struct, frozen=True, kw_only=True):
    """A camera and how it frames and colours."""

    name: str
    share: float  # of the patients
    aspect: float  # width over height of the picture
    radius: float  # of the field of view, in halves of the height; above 1 it is cut off above and below
    tint: Colour
    gain: float
    noise: float
    blur: float  # in 1/256 of the height
    vignette: float
    notch: bool  # a tab at the rim


CAMERAS = (
    Camera(
        name="oculus", share=0.40, aspect=1.0, radius=0.95, tint=(1.0, 0.98, 0.95), gain=1.0, noise=0.010, blur=0.5,
        vignette=0.30, notch=False,
    ),
    Camera(
        name="kestrel", share=0.35, aspect=1.30, radius=1.10, tint=(1.05, 0.92, 0.80), gain=0.92, noise=0.014, blur=0.6,
        vignette=0.42, notch=True,
    ),
    Camera(
        name="handheld", share=0.25, aspect=1.15, radius=0.90, tint=(0.95, 1.0, 1.08), gain=0.85, noise=0.028, blur=1.0,
        vignette=0.55, notch=False,
    ),
)  # fmt: skip


class Eye(msgspec.Struct, frozen=True, kw_only=True):
    """One eye: what stays the same from picture to picture."""

    left: bool
    grade: int
    cup: float  # vertical cup-disc ratio
    disc_at: tuple[float, float]
    disc_size: tuple[float, float]  # half axes
    fovea_at: tuple[float, float]
    colour: Colour  # of the background
    streaks: float  # how marked the choroid's vessels are
    macula: float
    calibre: float  # of the vessels


class FundusPicture(msgspec.Struct, frozen=True, kw_only=True):
    """One picture and all that is known about it."""

    pixels: NDArray[np.uint8]  # (H, W, 3)
    field: Mask  # (H, W)
    disc: NDArray[np.uint8]  # (H, W): 1 rim, 2 cup
    vessels: F32  # coverage 0..1
    lesions: dict[str, F32]  # coverage 0..1
    disc_at: tuple[float, float]  # pixels
    fovea_at: tuple[float, float]
    poor: bool


def draw_eye(rng: np.random.Generator, *, left: bool, grade: int, like: Eye | None = None) -> Eye:
    """Draw an eye of a grade; `like` is the fellow eye, whose colours and vessels it shares."""
    disc = np.array([0.50 + rng.normal(0, 0.05), rng.normal(-0.02, 0.05)])
    size = float(np.clip(rng.normal(0.160, 0.013), 0.13, 0.20))
    fovea = disc + np.array([-0.80 * size / 0.16 + rng.normal(0, 0.03), 0.07 + rng.normal(0, 0.025)])
    cup = float(rng.beta(2.0, 2.6) * 0.70 + 0.18) if like is None else float(like.cup + rng.normal(0, 0.05))
    dark = float(rng.uniform(0, 1))
    own: Colour = (
        float(0.80 - 0.20 * dark + rng.normal(0, 0.03)),
        float(0.40 - 0.10 * dark + rng.normal(0, 0.03)),
        float(0.20 - 0.07 * dark + rng.normal(0, 0.025)),
    )
    return Eye(
        left=left,
        grade=grade,
        cup=float(np.clip(cup, 0.2, 0.85)),
        disc_at=(float(disc[0]), float(disc[1])),
        disc_size=(size * float(rng.normal(0.92, 0.03)), size),
        fovea_at=(float(fovea[0]), float(fovea[1])),
        colour=own if like is None else like.colour,
        streaks=float(np.clip(rng.normal(0.5, 0.4), 0, 1.5)) if like is None else like.streaks,
        macula=float(np.clip(rng.normal(0.34, 0.08), 0.15, 0.5)),
        calibre=float(np.clip(rng.normal(1.0, 0.1), 0.75, 1.3)) if like is None else like.calibre,
    )


def photograph(eye: Eye, camera: Camera, size: int, rng: np.random.Generator) -> FundusPicture:
    """Take a picture `size` rows high."""
    shape = (size, round(size * camera.aspect))
    pixel = camera.radius * size / 2
    middle = (shape[1] / 2 + float(rng.normal(0, 0.01)) * size, size / 2 + float(rng.normal(0, 0.01)) * size)
    x = np.broadcast_to(((np.arange(shape[1], dtype=np.float32) + 0.5 - middle[0]) / pixel)[None, :], shape)
    y = np.broadcast_to(((np.arange(size, dtype=np.float32) + 0.5 - middle[1]) / pixel)[:, None], shape)
    side = -1.0 if eye.left else 1.0
    u = np.asarray(x * np.float32(side), np.float32)  # as if it were a right eye

    disc, fovea = np.array(eye.disc_at), np.array(eye.fovea_at)
    turned = np.array([side, 1.0])
    tree = grow_vessels(disc, fovea, eye.calibre, rng)
    lesions = draw_lesions(eye.grade, x, y, pixel, disc * turned, fovea * turned, rng)
    tree = msgspec.structs.replace(tree, start=tree.start * turned, end=tree.end * turned)
    arteries, veins = draw_vessels(tree, pixel, middle, shape)
    tufts = None
    if lesions.tufts is not None:
        tufts = draw_vessels(lesions.tufts, pixel, middle, shape)[1]

    colour_HW3, label = _retina(eye, u, y, rng)
    over_disc = np.where(label > 0, np.float32(0.6), np.float32(1))  # before the bright disc they look lighter
    _add_vessels(colour_HW3, np.asarray(arteries * over_disc), np.asarray(veins * over_disc), tufts)
    _add_lesions(colour_HW3, lesions.cover)
    poor = bool(rng.random() < 0.15)
    field = np.asarray(_field(x, y, camera), bool)
    pixels = _develop(colour_HW3, x, y, field, camera, poor, rng)
    inside = field.astype(np.float32)
    points = [((at[0] * side) * pixel + middle[0], at[1] * pixel + middle[1]) for at in (eye.disc_at, eye.fovea_at)]
    return FundusPicture(
        pixels=pixels,
        field=field,
        disc=np.where(field, label, 0).astype(np.uint8),
        vessels=np.maximum(arteries, veins) * inside,
        lesions={kind: cover * inside for kind, cover in lesions.cover.items()},
        disc_at=points[0],
        fovea_at=points[1],
        poor=poor,
    )


def _retina(eye: Eye, u: F32, y: F32, rng: np.random.Generator) -> tuple[F32, NDArray[np.uint8]]:
    """Paint background, macula and disc; also the disc's label map."""
    shape = (u.shape[0], u.shape[1])
    to_fovea = (u - eye.fovea_at[0]) ** 2 + (y - eye.fovea_at[1]) ** 2
    to_disc = (u - eye.disc_at[0]) ** 2 + (y - eye.disc_at[1]) ** 2
    shade = 1 + 0.045 * smooth_noise(rng, shape, 5) + 0.012 * smooth_noise(rng, shape, 60)
    # The choroid's vessels: bands where a smooth field crosses zero.
    ridge = np.exp(-((smooth_noise(rng, shape, 11) / 0.35) ** 2)) - 0.5
    shade += 0.09 * eye.streaks * ridge * np.clip(to_fovea * 2.0, 0, 1)
    pit = np.exp(-to_fovea / 0.055)
    shade -= eye.macula * (0.55 * pit + 0.45 * np.exp(-to_fovea / 0.010))
    shade += 0.16 * np.exp(-to_disc / 0.10)
    back = np.stack([shade**power * level for power, level in zip((0.7, 1.15, 0.9), eye.colour, strict=True)], -1)
    back[..., 2] += 0.02 * pit  # the macular pigment

    wave = 1 + 0.02 * smooth_noise(rng, shape, 12)
    half_x, half_y = eye.disc_size
    r = np.hypot((u - eye.disc_at[0]) / half_x, (y - eye.disc_at[1]) / half_y) * wave
    # The cup is a little off the middle, towards the nose less than towards the temple.
    cup_x, cup_y = half_x * eye.cup * 0.95, half_y * eye.cup
    c = np.hypot((u - eye.disc_at[0] + 0.06 * half_x) / cup_x, (y - eye.disc_at[1]) / cup_y) * wave
    rim, cup = soft_step(1 - r, 0.07), soft_step(1 - c, 0.10)
    pale = float(rng.normal(0, 0.03))
    rim_colour = np.array([0.90 + pale, 0.60 + pale, 0.34 + pale], np.float32)
    cup_colour = np.array([0.95, 0.80 + pale, 0.60 + pale], np.float32)
    # Around the disc the fibres are pale, and at its temporal edge often lies a crescent.
    crescent = (
        np.exp(-(((r - 1.12) / 0.10) ** 2))
        * soft_step(eye.disc_at[0] - u, 0.06)
        * max(0.0, float(rng.normal(0.1, 0.15)))
    )
    back += crescent[..., None] * np.array([0.12, 0.16, 0.12], np.float32)
    back += rim[..., None] * (rim_colour - back)
    back += (rim * cup)[..., None] * (cup_colour - back)
    label = (r < 1).astype(np.uint8) + ((c < 1) & (r < 1)).astype(np.uint8)
    return np.asarray(back, np.float32), label


def _add_vessels(colour_HW3: F32, arteries: F32, veins: F32, tufts: F32 | None) -> None:
    """Darken by blood, which takes most of the green."""
    colour_HW3 *= 1 - arteries[..., None] * np.array([0.16, 0.46, 0.42], np.float32)
    colour_HW3 *= 1 - veins[..., None] * np.array([0.30, 0.60, 0.50], np.float32)
    if tufts is not None:
        colour_HW3 *= 1 - tufts[..., None] * np.array([0.14, 0.52, 0.46], np.float32)


def _add_lesions(colour_HW3: F32, cover: dict[str, F32]) -> None:
    for kind, depth in (("ma", (0.26, 0.58, 0.50)), ("he", (0.36, 0.68, 0.58))):
        if cover[kind].any():
            colour_HW3 *= 1 - cover[kind][..., None] * np.array(depth, np.float32)
    for kind, strength, tone in (("ex", 0.85, (0.98, 0.86, 0.45)), ("se", 0.55, (0.92, 0.80, 0.62))):
        if cover[kind].any():
            colour_HW3 += np.float32(strength) * cover[kind][..., None] * (np.array(tone, np.float32) - colour_HW3)


def _field(x: F32, y: F32, camera: Camera) -> Mask:
    field = x * x + y * y < 1
    if camera.notch:
        field |= ((x - 0.76) ** 2 + (y + 0.68) ** 2) < 0.06**2
    return np.asarray(field, bool)


def _develop(
    colour_HW3: F32, x: F32, y: F32, field: Mask, camera: Camera, poor: bool, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Light, blur, haze, noise and the black around the field of view."""
    pixel = x.shape[0] / 256
    off = rng.normal(0, 0.12, 2)
    far = (x - np.float32(off[0])) ** 2 + (y - np.float32(off[1])) ** 2
    exposure = camera.gain * float(np.exp(rng.normal(0, 0.10)))
    light = np.float32(exposure) * (1 - np.float32(camera.vignette) * np.clip(far, 0, 1.6) / 1.3)
    sigma = camera.blur * pixel * (2.6 if poor else 1.0)
    haze = float(rng.uniform(0.10, 0.25)) if poor else 0.0
    tint = np.array(camera.tint) * rng.normal(1, 0.03, 3)
    edge = blurred(field.astype(np.float32), 0.7 * pixel)
    out = np.empty((*x.shape, 3), np.uint8)
    for channel in range(3):
        plane = blurred(np.ascontiguousarray(colour_HW3[..., channel]), sigma)
        plane = plane * light * np.float32(tint[channel])
        plane += np.float32(haze) * (np.float32(0.55) - plane)
        plane += np.float32(camera.noise) * rng.standard_normal(plane.shape, np.float32)
        # The brightest parts saturate softly.
        plane = np.where(plane > 0.75, 0.75 + 0.22 * np.tanh((plane - 0.75) / 0.22), plane)
        out[..., channel] = np.clip(np.round(plane * edge * 255), 0, 255).astype(np.uint8)
    return out
