"""A DICOM object as the picture that a reader would see, or a refusal by name.

    picture, dataset = read_dicom(Path("study.dcm").read_bytes(), manifest.input, SourceRule(), "study.dcm")

The order is that of doubt: is it an object, is it a picture, is it one of those that the bundle was validated on, does
its header agree with its pixels; only then is it decoded, and only then looked at through its window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from ..errors import MissingPartError
from ..manifest import InputSpec
from .rule import SourceRule

try:
    import pydicom  # noqa: F401  (the first thing that needs it says what to install)
except ImportError:
    raise MissingPartError("pydicom", "is not installed", "pip install 'foveola[dicom]'") from None

from .check import check_kind, check_loss, check_pixels, check_rule
from .codestream import Codestream
from .colour import colour_picture
from .dataset import parse
from .frames import first_frame
from .grey import grey_table
from .header import Header, frame_bytes, read_header
from .pixels import decode_frame
from .tags import Tags, quiet

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def read_dicom(data: bytes, spec: InputSpec, rule: SourceRule, place: str) -> tuple[Image.Image, Dataset]:
    """Read a picture and its header.

    Args:
        data: the whole file.
        spec: the network's input: grey or colour.
        rule: which objects are answered about.
        place: how to name the object in an error.

    Returns:
        A Pillow image of mode L (at most 8 stored bits), I;16 (more) or RGB, and the data set as pydicom reads it.

    Raises:
        FoveolaError: not a valid object, not a picture, not one that the rule allows, or not readable without doubt.
        MissingPartError: a decoder is not installed.
    """
    with quiet():
        dataset = parse(data, place)
        tags = Tags(dataset, place)
        check_kind(tags)
        check_rule(tags, rule)
        header = read_header(tags)
        check_pixels(header, rule, spec, place)
        table = grey_table(tags, header) if header.grey else None
        frame = first_frame(tags, header)
    samples, stream = decode_frame(frame, header, place)
    with quiet():
        check_loss(tags, rule, lossy=stream is not None and stream.lossy, ratio=_ratio(header, stream, len(frame)))
        if table is None:
            return colour_picture(samples, stream, tags, header), dataset
    return Image.fromarray(table.take(samples, mode="clip")), dataset


def _ratio(header: Header, stream: Codestream | None, encoded: int) -> float:
    """By how much the encoded frame is smaller than its stored bits."""
    return frame_bytes(header) * header.stored / header.allocated / encoded if stream is not None else 1.0
