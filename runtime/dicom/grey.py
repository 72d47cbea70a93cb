"""A grey picture as an eye would see it: modality, values of interest, presentation, in this order (PS3.4 N.2).

Laws:
- Every step is a function of the stored value alone, so the whole chain is one table of 2 ** stored entries, worked out
  in float64, rounded once, and indexed once: exact, and as fast as reading memory.
- Modality: the look-up table where there is one, else slope and intercept, else the stored values.
- Values of interest: the first item of VOI LUT Sequence, else the first window, else the full range, which is that of
  the modality's values for all that the stored bits can hold.
- Presentation: MONOCHROME1 and Presentation LUT Shape INVERSE say the same thing, and invert once, at the end.
- Pixel padding is no part of the picture: it becomes black after all else.
- Overlays, display shutters and burned-in words are left as they are; nothing is guessed about them.

The table has 8 bits where the picture has at most 8 stored, else 16 bits, 0 black to 65535 white.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import FoveolaError
from .header import Header
from .lookup import read_lookup
from .pixels import Samples
from .tags import Tags
from .window import WINDOWS

MEND = "have the sender correct the header"
Floats = NDArray[np.float64]


def grey_table(tags: Tags, header: Header) -> Samples:
    """Make the table from the stored value's bits to what is shown.

    Raises:
        FoveolaError: an element of the chain is not valid, contradicts another, or is not read here.
    """
    _check_chain(tags)
    stored = stored_values(header)
    shown = _of_interest(_modality(stored, tags, header), tags, header)
    if _inverted(tags, header):
        shown = 1 - shown
    shown[_padding(stored, tags)] = 0
    if header.stored <= 8:
        return np.floor(shown * 255 + 0.5).astype(np.uint8)
    return np.floor(shown * 65535 + 0.5).astype(np.uint16)


def stored_values(header: Header) -> Floats:
    """Give the value of each bit pattern, in the patterns' order: 0, 1, ... and, signed, the negative ones behind."""
    values = np.arange(1 << header.stored, dtype=np.float64)
    if header.signed:
        values[1 << header.stored - 1 :] -= 1 << header.stored
    return values


def _check_chain(tags: Tags) -> None:
    """Refuse what would change the grey values and is not carried out here."""
    groups = (*tags.items("SharedFunctionalGroupsSequence"), *tags.items("PerFrameFunctionalGroupsSequence")[:1])
    macros = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
    for macro in macros:
        if any(macro in group for group in groups):
            fault = f"its grey values are described by {tags.named(macro)} of an enhanced object, which is not read"
            raise FoveolaError(tags.place, fault, "send the frame as an image of its own")
    for absent in ("PresentationLUTSequence", "SoftcopyVOILUTSequence"):
        if absent in tags:
            raise FoveolaError(tags.place, f"{tags.named(absent)} is not carried out", "send the image without it")


def _modality(stored: Floats, tags: Tags, header: Header) -> Floats:
    items = tags.items("ModalityLUTSequence")
    slope, intercept = _one(tags, "RescaleSlope"), _one(tags, "RescaleIntercept")
    if items:
        if (slope or 1.0, intercept or 0.0) != (1.0, 0.0):
            fault = "it has both a modality look-up table and a rescale (PS3.3 C.11.1)"
            raise FoveolaError(tags.place, fault, MEND)
        table = read_lookup(items[0], "LUTDescriptor", "LUTData", little=header.little, negative=header.signed)
        return table.of(stored).astype(np.float64)
    if (slope is None) != (intercept is None):
        raise FoveolaError(tags.place, "it has one of rescale slope and intercept (PS3.3 C.11.1)", MEND)
    if slope is None or intercept is None:
        return stored
    if slope == 0:
        raise tags.invalid("RescaleSlope")
    return stored * slope + intercept


def _of_interest(values: Floats, tags: Tags, header: Header) -> Floats:
    items = tags.items("VOILUTSequence")
    if items:
        negative = bool(values.min() < 0)
        table = read_lookup(items[0], "LUTDescriptor", "LUTData", little=header.little, negative=negative)
        return table.of(values) / ((1 << table.bits) - 1)
    centres, widths = tags.numbers("WindowCenter"), tags.numbers("WindowWidth")
    if bool(centres) != bool(widths):
        raise FoveolaError(tags.place, "it has one of window centre and width (PS3.3 C.11.2)", MEND)
    if not centres:
        low, high = float(values.min()), float(values.max())
        if low == high:
            raise FoveolaError(tags.place, "its modality look-up table makes all values the same", MEND)
        return (values - low) / (high - low)
    name = tags.text("VOILUTFunction") or "LINEAR"
    if name not in WINDOWS:
        raise FoveolaError(tags.place, f"VOI LUT Function {name[:16]} is not read", f"one of {', '.join(WINDOWS)} is")
    function, least = WINDOWS[name]
    if widths[0] < least or widths[0] <= 0:
        raise FoveolaError(tags.place, f"a window {widths[0]:g} wide, which {name} does not allow", MEND)
    return function(values, centres[0], widths[0])


def _inverted(tags: Tags, header: Header) -> bool:
    shape = tags.text("PresentationLUTShape")
    first = header.photometric == "MONOCHROME1"
    if shape and shape != ("INVERSE" if first else "IDENTITY"):
        # PS3.3 C.7.6.1 ties each to one photometric interpretation: here one of the two lies.
        fault = f"its header contradicts itself: {header.photometric} and Presentation LUT Shape {shape[:16]}"
        raise FoveolaError(tags.place, fault, MEND)
    return first


def _padding(stored: Floats, tags: Tags) -> NDArray[np.bool_]:
    """Mark the stored values that mean no pixel, one or from one to the other (PS3.3 C.7.5.1.1.2)."""
    value, limit = tags.whole("PixelPaddingValue"), tags.whole("PixelPaddingRangeLimit")
    if value is None:
        return np.zeros(stored.shape, np.bool_)
    ends = sorted((_signed(value, stored), _signed(value if limit is None else limit, stored)))
    return (stored >= ends[0]) & (stored <= ends[1])


def _signed(value: int, stored: Floats) -> int:
    """Read a padding value of a signed picture that was written as US."""
    return value - 65536 if value > 32767 and stored.min() < 0 else value


def _one(tags: Tags, keyword: str) -> float | None:
    numbers = tags.numbers(keyword)
    if len(numbers) > 1:
        raise tags.invalid(keyword)
    return numbers[0] if numbers else None
