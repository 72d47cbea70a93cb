"""A file of any kind that a device is handed, as one picture: PNG, JPEG, TIFF, BMP or DICOM.

Law: the first bytes decide, never the name; a DICOM object is read by `runtime/dicom`, which asks for `foveola[dicom]`.

    source = open_source(Path("study.dcm"), manifest.input, manifest.source)
    x_CHW, geometry = prepare(source.picture, manifest.input)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from PIL import Image

from .dicom.rule import SourceRule
from .manifest import InputSpec
from .picture import decode_image, file_bytes

if TYPE_CHECKING:
    from .dicom.dataset import Dataset

MAGIC = slice(128, 132), b"DICM"  # PS3.10 7.1: after a preamble of 128 bytes


class Source(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A picture and, of a DICOM object, its header."""

    picture: Image.Image  # of mode L, I;16 or RGB
    dataset: Dataset | None = None


def open_source(image: Path | bytes, spec: InputSpec, rule: SourceRule | None = None, place: str = "") -> Source:
    """Read a file or its bytes.

    Args:
        image: a file, or a file's bytes.
        spec: the network's input; a DICOM picture has to be grey or coloured as it is.
        rule: which DICOM objects are answered about; None asks only for a picture for presentation, of one frame.
        place: how to name the image in an error; by default the path.

    Raises:
        FoveolaError: the file cannot be read whole and without doubt, or the rule does not allow it.
        MissingPartError: a DICOM object, and `foveola[dicom]` is not installed.
    """
    place = place or (str(image) if isinstance(image, Path) else "image")
    data = file_bytes(image, place) if isinstance(image, Path) else image
    if not is_dicom(data):
        return Source(picture=decode_image(data, place))
    from .dicom.read import read_dicom

    picture, dataset = read_dicom(data, spec, rule or SourceRule(), place)
    return Source(picture=picture, dataset=dataset)


def is_dicom(data: bytes) -> bool:
    """Tell whether a file is a DICOM object: by its magic, or without preamble by a first element of group 8.

    Files without preamble are not of PS3.10, yet archives hold them. Their first element is one of group 0002, which is
    little endian, or 0008 (ascending tags, PS3.5 7.1), little or big endian.
    """
    where, magic = MAGIC
    return data[where] == magic or data[:2] in (b"\x08\0", b"\x02\0") or data[:3] == b"\0\x08\0"
