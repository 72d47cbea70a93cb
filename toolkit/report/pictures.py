"""One case as a picture: what the reference, the teacher and the student see.

- The result is PNG bytes, at most `WIDTH` pixels wide, without text, time or any other metadata: equal inputs give
  equal bytes. Words belong in the caption beside it.
- Where there are masks or boxes: two panels, teacher left and student right. The reference is a dashed white line in
  both, a model's answer a solid coloured line, masks also tinted: nothing is told by colour alone.
- Where there are none, the image is shown once.

    png = flip_picture(image, None, None, None, reference_boxes, teacher_boxes, student_boxes)
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH = 512  # pixels, both panels and the gap
SINGLE = 320  # pixels, an image shown once
GAP = 4  # pixels between the panels
TALLEST = 384  # pixels; a long limb radiograph is narrowed rather than cut
BAR = 4  # pixels of the coloured bar over each panel
DASH = 5  # pixels on, pixels off
TINT = 0.28  # share of the colour inside a mask
FINE = 0.6  # share of a mask's pixels on its edge above which it is drawn as a fine structure

TEACHER = (255, 193, 7)  # amber
STUDENT = (60, 190, 255)  # sky blue; the two differ in lightness as well
REFERENCE = (255, 255, 255)

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Boxes = NDArray[np.floating]


def flip_picture(
    image: NDArray[np.uint8] | NDArray[np.uint16],
    reference_mask: Mask | None = None,
    teacher_mask: Mask | None = None,
    student_mask: Mask | None = None,
    reference_boxes: Boxes | None = None,
    teacher_boxes: Boxes | None = None,
    student_boxes: Boxes | None = None,
) -> bytes:
    """Draw one case.

    Args:
        image: (H, W) or (H, W, 3); 16-bit images are windowed to their 0.5 and 99.5 percentiles.
        reference_mask: (H, W), what the reference standard says; None where it is not known.
        teacher_mask: (H, W).
        student_mask: (H, W).
        reference_boxes: (M, at least 4), x1 y1 x2 y2 first, in image pixels.
        teacher_boxes: likewise.
        student_boxes: likewise.

    Returns:
        PNG bytes.
    """
    answers = (teacher_mask, student_mask, teacher_boxes, student_boxes)
    if all(answer is None for answer in answers):
        panel = _panel(image, SINGLE, reference_mask, None, reference_boxes, None, REFERENCE)
        return _png(panel)
    width = (WIDTH - GAP) // 2
    left = _panel(image, width, reference_mask, teacher_mask, reference_boxes, teacher_boxes, TEACHER)
    right = _panel(image, width, reference_mask, student_mask, reference_boxes, student_boxes, STUDENT)
    gap = np.full((left.shape[0], GAP, 3), 255, np.uint8)
    return _png(np.concatenate([left, gap, right], axis=1))


def _panel(
    image: NDArray[np.uint8] | NDArray[np.uint16],
    width: int,
    reference_mask: Mask | None,
    mask: Mask | None,
    reference_boxes: Boxes | None,
    boxes: Boxes | None,
    colour: tuple[int, int, int],
) -> Pixels:
    """One view of the case: image, then the model's answer, then the reference on top."""
    scale = min(width / image.shape[1], TALLEST / image.shape[0])
    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    canvas = np.asarray(Image.fromarray(display(image)).resize(size, Image.Resampling.BILINEAR)).copy()
    _draw_masks(canvas, _shrink(reference_mask, size), _shrink(mask, size), colour)
    if boxes is not None:
        _stroke(canvas, _frames(boxes, scale, size), colour)
    if reference_boxes is not None:
        _stroke(canvas, _frames(reference_boxes, scale, size) & _dashes(size), REFERENCE)
    return _framed(canvas, colour, answered=mask is not None or boxes is not None, width=width)


def display(image: NDArray[np.uint8] | NDArray[np.uint16]) -> Pixels:
    """Any image as 8-bit RGB (H, W, 3) for the eye; the network never sees this one."""
    if image.dtype == np.uint8:
        grey = image.astype(np.uint8)
    else:
        low, high = np.percentile(image, (0.5, 99.5))
        grey = np.clip((image - low) * (255 / max(high - low, 1)), 0, 255).astype(np.uint8)
    return grey if grey.ndim == 3 else np.repeat(grey[:, :, None], 3, axis=2)


def _draw_masks(canvas: Pixels, reference: Mask, mask: Mask, colour: tuple[int, int, int]) -> None:
    """Draw the model's mask and the reference's, in place; either may be empty."""
    if _is_fine(reference) or _is_fine(mask):
        # Outlines of vessels would cover them: the model's pixels are coloured, those that it missed are white.
        _tint(canvas, mask, colour, 0.85)
        _tint(canvas, reference & ~mask, REFERENCE, 0.85)
        return
    _tint(canvas, mask, colour, TINT)
    _stroke(canvas, _outline(mask), colour)
    _stroke(canvas, _outline(reference) & _dashes((mask.shape[1], mask.shape[0])), REFERENCE)


def _tint(canvas: Pixels, mask: Mask, colour: tuple[int, int, int], share: float) -> None:
    canvas[mask] = np.round((1 - share) * canvas[mask] + share * np.array(colour)).astype(np.uint8)


def _is_fine(mask: Mask) -> bool:
    """Whether most of a mask is edge."""
    return bool(_outline(mask).sum() > FINE * mask.sum())


def _shrink(mask: Mask | None, size: tuple[int, int]) -> Mask:
    """Reduce a mask: a pixel is set where half of it is, so that thin structures do not break up at random."""
    if mask is None:
        return np.zeros((size[1], size[0]), bool)
    area = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    return np.asarray(area, np.uint8) >= np.uint8(128)


def _outline(mask: Mask) -> Mask:
    """Pixels of the mask with a neighbour outside."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def _frames(boxes: Boxes, scale: float, size: tuple[int, int]) -> Mask:
    """Mark the edges of boxes (M, at least 4) on a canvas of `size` (width, height)."""
    width, height = size
    frame = np.zeros((height, width), bool)
    corners = np.round(boxes[:, :4] * scale).astype(int) if len(boxes) else np.zeros((0, 4), int)
    for x1, y1, x2, y2 in corners:
        left, right = np.clip((x1, x2 - 1), 0, width - 1)
        top, bottom = np.clip((y1, y2 - 1), 0, height - 1)
        frame[top, left : right + 1] = frame[bottom, left : right + 1] = True
        frame[top : bottom + 1, left] = frame[top : bottom + 1, right] = True
    return frame


def _dashes(size: tuple[int, int]) -> Mask:
    """Diagonal stripes; a line of any direction cut by them is dashed (save one along the stripes)."""
    width, height = size
    stripes = np.add.outer(np.arange(height), np.arange(width)) // DASH % 2
    return np.asarray(stripes == 0, bool)


def _stroke(canvas: Pixels, line: Mask, colour: tuple[int, int, int]) -> None:
    """Draw a line of two pixels with a dark edge, in place."""
    thick = line.copy()
    thick[1:] |= line[:-1]
    thick[:, 1:] |= line[:, :-1]
    padded = np.pad(thick, 1)
    edge = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    canvas[edge & ~thick] = (canvas[edge & ~thick] * 0.35).astype(np.uint8)
    canvas[thick] = colour


def _framed(canvas: Pixels, colour: tuple[int, int, int], *, answered: bool, width: int) -> Pixels:
    """Centre the panel in its width; under a bar of its model's colour where a model answered."""
    height, own, _ = canvas.shape
    framed = np.zeros((height + BAR if answered else height, width, 3), np.uint8)
    left = (width - own) // 2
    framed[framed.shape[0] - height :, left : left + own] = canvas
    if answered:
        framed[:BAR] = colour
    return framed


def _png(canvas: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(canvas).save(stream, "PNG", optimize=True)
    return stream.getvalue()
