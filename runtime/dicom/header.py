"""What a data set says about its pixels (PS3.3 C.7.6.3), checked before anything is allocated."""

from __future__ import annotations

import msgspec

from ..errors import FoveolaError
from ..picture import LIMITS
from .tags import Tags

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
ENCODINGS = {  # uncompressed and RLE (PS3.5 A.1, A.2, A.4.2), and those that have a codestream (A.4.1, A.4.3, A.4.4)
    "1.2.840.10008.1.2": "native",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.1": "native",  # Explicit VR Little Endian
    "1.2.840.10008.1.2.1.99": "native",  # Deflated Explicit VR Little Endian
    "1.2.840.10008.1.2.2": "native",  # Explicit VR Big Endian
    "1.2.840.10008.1.2.5": "rle",
    "1.2.840.10008.1.2.4.50": "jpeg",  # Baseline (Process 1)
    "1.2.840.10008.1.2.4.51": "jpeg",  # Extended (Process 2 and 4)
    "1.2.840.10008.1.2.4.57": "jpeg",  # Lossless (Process 14)
    "1.2.840.10008.1.2.4.70": "jpeg",  # Lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": "jpeg-ls",  # Lossless
    "1.2.840.10008.1.2.4.81": "jpeg-ls",  # Near-lossless
    "1.2.840.10008.1.2.4.90": "jpeg-2000",  # Lossless only
    "1.2.840.10008.1.2.4.91": "jpeg-2000",
}
BIG_ENDIAN = "1.2.840.10008.1.2.2"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The pixels as the data set describes them."""

    rows: int
    columns: int
    samples: int  # a pixel
    photometric: str
    allocated: int  # bits of a sample in the file
    stored: int  # bits of it that are the value
    high: int  # the value's highest bit
    signed: bool
    planar: bool  # native: red, green and blue as planes
    frames: int
    syntax: str  # UID
    little: bool

    @property
    def encoding(self) -> str:
        """How the pixels are written: native, rle, jpeg, jpeg-ls or jpeg-2000."""
        return ENCODINGS[self.syntax]

    @property
    def grey(self) -> bool:
        """Whether it is a grey picture."""
        return self.photometric in GREY


def read_header(tags: Tags) -> Header:
    """Read and check the description of the pixels.

    Raises:
        FoveolaError: an element is absent, not valid, contradicts another, or is beyond what is read here.
    """
    header = Header(
        rows=tags.needed("Rows"),
        columns=tags.needed("Columns"),
        samples=tags.needed("SamplesPerPixel"),
        photometric=tags.text("PhotometricInterpretation"),
        allocated=tags.needed("BitsAllocated"),
        stored=tags.needed("BitsStored"),
        high=tags.needed("HighBit"),
        signed=_flag(tags, "PixelRepresentation", tags.needed("PixelRepresentation")),
        planar=_flag(tags, "PlanarConfiguration", tags.whole("PlanarConfiguration") or 0),
        frames=_frames(tags),
        syntax=_syntax(tags),
        little=_syntax(tags) != BIG_ENDIAN,
    )
    _check_size(header, tags.place)
    _check_bits(header, tags.place)
    _check_colours(header, tags.place)
    return header


def frame_bytes(header: Header) -> int:
    """Count the bytes of an uncompressed frame; YBR_FULL_422 has two samples a pixel (PS3.3 C.7.6.3.1.2)."""
    samples = 2 if header.photometric == "YBR_FULL_422" else header.samples
    return header.rows * header.columns * samples * header.allocated // 8


def _flag(tags: Tags, keyword: str, value: int) -> bool:
    if value not in (0, 1):
        raise tags.invalid(keyword)
    return value == 1


def _frames(tags: Tags) -> int:
    frames = tags.whole("NumberOfFrames")
    if frames is not None and frames < 1:
        raise tags.invalid("NumberOfFrames")
    return frames or 1


def _syntax(tags: Tags) -> str:
    """Name the transfer syntax; where the file has no meta information, the one in which it could be read."""
    meta = getattr(tags.dataset, "file_meta", None)
    given = Tags(meta, tags.place).text("TransferSyntaxUID") if meta is not None else ""
    if not given:
        implicit, little = tags.dataset.original_encoding
        given = "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1" if little else BIG_ENDIAN
    if given not in ENCODINGS:
        fault = f"transfer syntax {given} is not read"
        raise FoveolaError(tags.place, fault, "send it uncompressed, as JPEG, JPEG-LS, JPEG 2000 or RLE")
    return given


def _check_size(header: Header, place: str) -> None:
    width, height = header.columns, header.rows
    if width < 1 or height < 1:
        raise FoveolaError(place, f"the picture has {width} x {height} pixels")
    if max(width, height) > LIMITS.max_side or width * height > LIMITS.max_pixels:
        most = f"at most {LIMITS.max_side} a side and {LIMITS.max_pixels} in all are read"
        raise FoveolaError(place, f"absurd size of {width} x {height} pixels", most)


def _check_bits(header: Header, place: str) -> None:
    if header.allocated not in (8, 16):
        raise FoveolaError(place, f"{header.allocated} bits allocated a sample", "only 8 and 16 are read")
    if not 1 < header.stored <= header.allocated or not header.stored - 1 <= header.high < header.allocated:
        fault = f"bit {header.high} as the highest of {header.stored} stored in {header.allocated} allocated bits"
        raise FoveolaError(place, f"its header contradicts itself: {fault}", "have the sender correct the header")


def _check_colours(header: Header, place: str) -> None:
    known = (*GREY, PALETTE, *COLOURS)
    if header.photometric not in known:
        fault = f"photometric interpretation {header.photometric or 'absent'} is not read"
        raise FoveolaError(place, fault, f"send it as one of {', '.join(known)}")
    samples = 3 if header.photometric in COLOURS else 1
    if header.samples != samples:
        fault = f"{header.samples} samples a pixel, {header.photometric} has {samples}"
        raise FoveolaError(place, f"its header contradicts itself: {fault}", "have the sender correct the header")
    if header.signed and not header.grey:
        raise FoveolaError(place, f"signed samples, which {header.photometric} cannot have", "correct the header")
