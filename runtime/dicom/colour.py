"""A colour picture as RGB of 8 bits (PS3.3 C.7.6.3.1.2); windows and look-up tables of grey do not apply to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import FoveolaError
from .codestream import Codestream
from .header import PALETTE, Header
from .lookup import read_lookup
from .pixels import Samples
from .tags import Tags


def colour_picture(samples: Samples, stream: Codestream | None, tags: Tags, header: Header) -> Image.Image:
    """Turn samples, as `pixels.decode_frame` gives them, into a Pillow image of mode RGB.

    More than 8 bits a channel keep their upper 8, as in every other file (`image.read_image`).

    Raises:
        FoveolaError: a palette that is not valid, or segmented.
    """
    if header.photometric == PALETTE:
        return Image.fromarray(_palette(tags, header).take(samples, axis=0, mode="clip"))
    if header.stored < 8:
        raise FoveolaError(tags.place, f"colour of {header.stored} bits a channel", "send it with 8 or 16")
    plain = np.ascontiguousarray((samples >> (header.stored - 8)).astype(np.uint8, copy=False))
    # Lossy JPEG comes from its decoder as RGB; elsewhere YBR_FULL is JFIF's YCbCr, as Pillow has it.
    if header.photometric.startswith("YBR_FULL") and (stream is None or not stream.lossy_jpeg):
        size = (header.columns, header.rows)
        return Image.frombuffer("YCbCr", size, plain.tobytes(), "raw", "YCbCr", 0, 1).convert("RGB")
    return Image.fromarray(plain)


def _palette(tags: Tags, header: Header) -> NDArray[np.uint8]:
    """Red, green and blue of each stored value (PS3.3 C.7.9)."""
    if any(f"Segmented{colour}PaletteColorLookupTableData" in tags for colour in ("Red", "Green", "Blue")):
        raise FoveolaError(tags.place, "a segmented palette, which is not read", "send it as RGB")
    values = np.arange(1 << header.stored)
    columns = []
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        table = read_lookup(tags, f"{name}Descriptor", f"{name}Data", little=header.little, negative=False)
        columns.append((table.of(values) >> (table.bits - 8)).astype(np.uint8))
    return np.stack(columns, axis=1)
