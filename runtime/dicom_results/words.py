"""What a result says on a picture: caption lines and colours; no DICOM here.

Law: an image that was not answered about says so, in the first line after the bundle's, so that a picture without marks
is never taken for one without findings. An embedding says nothing to a reader and is left out.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from ..prediction import Prediction
from .identity import BundleIdentity

Ink = tuple[int, int, int]  # red, green, blue, 0 to 255

MOST_LINES = 24
WIDEST = 72  # characters
# Okabe & Ito 2008, told apart by colour-blind readers as well; black left out.
COLOURS: tuple[Ink, ...] = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((0, 114, 178), (213, 94, 0), (204, 121, 167)),
)


class Line(msgspec.Struct, frozen=True):
    """A line of a caption, and the colour of what it is about where that is drawn."""

    text: str
    ink: Ink | None = None


def caption(prediction: Prediction, identity: BundleIdentity) -> tuple[Line, ...]:
    """Lines for a picture: who answered, then the reasons why not or all that was answered, the positive first."""
    head = Line(f"{identity.name} {identity.version}  sha256 {identity.digest[:12]}")
    lines = [head, *(_answers(prediction) if is_answered(prediction) else _reasons(prediction))]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], Line(f"and {len(lines) - MOST_LINES + 1} more, see the report")]
    return tuple(Line(_shortened(one.text), one.ink) for one in lines)


def is_answered(prediction: Prediction) -> bool:
    """Tell whether the image was fit to be answered about, or nobody asked."""
    return prediction.quality is None or prediction.quality.fit


def shown(label: str) -> str:
    """Write a label with blanks."""
    return label.replace("_", " ").strip()


def mask_ink(index: int) -> Ink:
    """Give the colour of the mask with this place in the answer."""
    return COLOURS[index % len(COLOURS)]


def box_ink(prediction: Prediction, label: str) -> Ink:
    """Give the colour of a label's boxes; those of the masks come first."""
    labels = list(dict.fromkeys(box.label for box in prediction.boxes))
    return COLOURS[(len(prediction.masks) + labels.index(label)) % len(COLOURS)]


def _shortened(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 3] + "..."


def _reasons(prediction: Prediction) -> list[Line]:
    reasons = prediction.quality.reasons if prediction.quality else ()
    return [Line("NOT ANSWERED: image not fit"), *(Line(f"- {reason}") for reason in reasons)]


def _answers(prediction: Prediction) -> list[Line]:
    findings = sorted(prediction.findings, key=lambda one: not one.positive)
    labels = Counter(one.task for one in findings)  # a label that stands alone needs its question: `sex: M`
    lines = [
        Line(
            f"{'POSITIVE' if f.positive else 'negative'}  "
            f"{shown(f.task) + ': ' if labels[f.task] == 1 else ''}{shown(f.label)}  {f.probability:.3f} "
            f"({'>=' if f.positive else '<'} {f.threshold:.3f})"
        )
        for f in findings
    ]
    lines += [
        Line(f"box {number}  {shown(box.label)}  {box.score:.3f}", box_ink(prediction, box.label))
        for number, box in enumerate((box for box in prediction.boxes if box.positive), 1)
    ]
    lines += [Line(f"{shown(c.task)}: {shown(c.label)}  {c.probabilities[c.index]:.3f}") for c in prediction.choices]
    lines += [Line(f"{shown(m.name)}  {m.value:.2f} {m.unit}".rstrip()) for m in prediction.measurements]
    lines += [
        Line(f"{shown(mask.label)}  {100 * mask.fraction:.1f} % of the image", mask_ink(index))
        for index, mask in enumerate(prediction.masks)
    ]
    return lines
