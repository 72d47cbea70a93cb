"""One frame's bytes as samples, by decoders whose licences let a device maker ship them; see `docs/adr/0018`.

Laws:
- Each transfer syntax has one decoder, named here: what else is installed decodes nothing.
- Samples are what the file stores: no look-up table, no rescale, no colour transform, but for lossy JPEG's and JPEG
  2000's colour, which their decoders give as RGB.
- A codestream that does not agree with the data set is refused before it is decoded, a value beyond the stored bits
  after it; a lossy one may overshoot and is clipped.

Shapes: (rows, columns) grey or palette, (rows, columns, 3) colour; uint8 or uint16. A signed sample is its two's
complement in `stored` bits, so that each one is an index into a table of 2 ** stored entries.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from ..errors import FoveolaError, MissingPartError
from .codestream import Codestream, broken, pinned, read_jpeg, read_jpeg_2000
from .header import Header, frame_bytes
from .jpeg import decode_extended, decode_lossless
from .rle import decode_rle

Samples = NDArray[np.uint8] | NDArray[np.uint16]
PROCESSES = {  # JPEG: which start-of-frame markers a transfer syntax allows (PS3.5 8.2.1)
    "1.2.840.10008.1.2.4.50": (0,),
    "1.2.840.10008.1.2.4.51": (0, 1),
    "1.2.840.10008.1.2.4.57": (3,),
    "1.2.840.10008.1.2.4.70": (3,),
    "1.2.840.10008.1.2.4.80": (55,),
    "1.2.840.10008.1.2.4.81": (55,),
}
MOST_GROWTH = 2  # noise grows when it is compressed, by a few per cent
FIRST_ORDER = "1.2.840.10008.1.2.4.70"
LOSSLESS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90")
# What the decoders raise on broken codestreams, by fuzzing and by their sources.
_BROKEN = (OSError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AttributeError, RuntimeError)
_BROKEN_TOO = (struct.error, zlib.error, UserWarning, SyntaxError)


def decode_frame(data: bytes, header: Header, place: str) -> tuple[Samples, Codestream | None]:
    """Decode one frame.

    Args:
        data: its encoded bytes, from `frames.first_frame`.
        header: what the data set says about them.
        place: how to name the object in an error.

    Raises:
        FoveolaError: broken, or the codestream says something else than the header.
        MissingPartError: the decoder is not installed.
    """
    if header.encoding == "native":
        return _words(_native(data, header, place), header), None
    if header.encoding == "rle":
        return _words(_rle(data, header, place), header), None
    if len(data) > MOST_GROWTH * frame_bytes(header) + 2**20:
        raise broken(place, f"{len(data)} bytes for a frame of {frame_bytes(header)}")
    stream = read_jpeg_2000(data, place) if header.encoding == "jpeg-2000" else read_jpeg(data, place)
    _agree(stream, header, place)
    with _refusing(place):
        samples = _decoder(stream, header)(data, stream, header, place)
    shape = (header.rows, header.columns, *((3,) if header.samples == 3 else ()))
    if samples.shape != shape:
        raise broken(place, f"the decoder gave {samples.shape}, not {shape}")
    return _fitted(samples, stream, header, place), stream


def _agree(stream: Codestream, header: Header, place: str) -> None:
    """Hold a codestream's headers against the data set's (PS3.5 8.2)."""
    said = [
        ("rows", stream.rows, header.rows),
        ("columns", stream.columns, header.columns),
        ("components", stream.components, header.samples),
    ]
    if header.encoding == "jpeg-2000":
        said.append(("signed", stream.signed, header.signed))
    faults = [f"{what} {found} in the codestream, {told} in the header" for what, found, told in said if found != told]
    if not header.stored <= stream.precision <= header.allocated:
        faults.append(f"{stream.precision} bits in the codestream, {header.stored} stored in the header")
    allowed = PROCESSES.get(header.syntax)
    if (allowed and stream.process not in allowed) or (header.syntax == FIRST_ORDER and stream.predictor != 1):
        faults.append(f"JPEG process SOF{stream.process}, not that of transfer syntax {header.syntax}")
    if header.syntax in LOSSLESS and stream.lossy:
        faults.append(f"a lossy codestream under the lossless transfer syntax {header.syntax}")
    if header.signed and stream.lossy_jpeg:
        faults.append("signed samples, which lossy JPEG does not have")
    faults += _colour_faults(stream, header)
    if faults:
        fault = f"header and codestream disagree: {', '.join(faults)}"
        raise FoveolaError(place, fault, "have the sender correct the object")


def _colour_faults(stream: Codestream, header: Header) -> list[str]:
    if header.samples == 1 or (not stream.colour and header.encoding != "jpeg-2000"):
        return []
    if header.encoding == "jpeg-2000":
        # A picture of RGB that the encoder transformed says RGB in many files; either way the decoder gives RGB.
        transformed = header.photometric in ("YBR_ICT", "YBR_RCT")
        wrong = (transformed and not stream.colour) or (
            header.photometric.startswith("YBR_FULL") and bool(stream.colour)
        )
        return [f"a {'transformed' if stream.colour else 'plain'} codestream, {header.photometric}"] if wrong else []
    told = "RGB" if header.photometric == "RGB" else "YCbCr"
    return [] if stream.colour == told else [f"{stream.colour} in the codestream, {header.photometric} in the header"]


Decoder = Callable[[bytes, Codestream, Header, str], NDArray[Any]]


def _decoder(stream: Codestream, header: Header) -> Decoder:
    if header.encoding == "jpeg":
        return _jpeg if stream.precision == 8 and stream.process in (0, 1) else _deep_jpeg
    return _jpeg_ls if header.encoding == "jpeg-ls" else _jpeg_2000


def _native(data: bytes, header: Header, place: str) -> NDArray[Any]:
    words = np.frombuffer(data, f"{'<' if header.little else '>'}u{header.allocated // 8}")
    rows, columns = header.rows, header.columns
    if header.photometric == "YBR_FULL_422":
        if columns % 2 or header.planar:
            raise FoveolaError(place, "YBR_FULL_422 of an odd width or in planes", "send it as RGB")
        pairs = words.reshape(rows, columns // 2, 4)  # Y1 Y2 Cb Cr: two pixels share one colour (PS3.3 C.7.6.3.1.2)
        full = np.empty((rows, columns, 3), words.dtype)
        full[..., 0] = pairs[..., :2].reshape(rows, columns)
        full[..., 1:] = np.repeat(pairs[..., 2:], 2, axis=1)
        return full
    if header.samples == 1:
        return words.reshape(rows, columns)
    return words.reshape(3, rows, columns).transpose(1, 2, 0) if header.planar else words.reshape(rows, columns, 3)


def _rle(data: bytes, header: Header, place: str) -> NDArray[Any]:
    """Put the bytes of each sample together; colour comes in planes."""
    size = header.allocated // 8
    bytes_each = decode_rle(data, header.samples * size, header.rows * header.columns, place)
    pairs = bytes_each.reshape(header.samples, size, header.rows, header.columns)
    words = pairs[:, 0] if size == 1 else pairs[:, 0].astype(np.uint16) << 8 | pairs[:, 1]
    return words[0] if header.samples == 1 else words.transpose(1, 2, 0)


def _jpeg(data: bytes, stream: Codestream, header: Header, place: str) -> NDArray[Any]:
    """8 bits: Pillow's libjpeg-turbo, told by one marker what the components are; colour becomes RGB."""
    told = "YCbCr" if header.samples == 3 and header.photometric != "RGB" else "RGB"
    image = JpegImageFile(BytesIO(pinned(data, told, place)))
    if image.size != (header.columns, header.rows):
        raise broken(place, "its frame header is ambiguous")
    image.load()
    return np.asarray(image)


def _deep_jpeg(data: bytes, stream: Codestream, header: Header, place: str) -> NDArray[Any]:
    """12 bits, and lossless: our own decoder; colour is not transformed by lossless JPEG (T.81 annex H)."""
    words = decode_lossless(data, place) if stream.process == 3 else decode_extended(data, place)
    return words[..., 0] if header.samples == 1 else words


def _jpeg_ls(data: bytes, stream: Codestream, header: Header, place: str) -> NDArray[Any]:
    """CharLS; no colour transform (T.87 has none)."""
    plain, about = _part("jpeg_ls", "pyjpegls").decode_pixel_data(data)
    words = np.frombuffer(plain, "<u2" if stream.precision > 8 else np.uint8)
    if header.samples == 1:
        return words.reshape(header.rows, header.columns)
    if about["interleave_mode"] == 0:  # planes
        return words.reshape(3, header.rows, header.columns).transpose(1, 2, 0)
    return words.reshape(header.rows, header.columns, 3)


def _jpeg_2000(data: bytes, stream: Codestream, header: Header, place: str) -> NDArray[Any]:
    """OpenJPEG, which undoes the colour transform of the codestream."""
    words: NDArray[Any] = _part("openjpeg", "pylibjpeg-openjpeg").decode(data, 0)
    return words


def _words(words: NDArray[Any], header: Header) -> Samples:
    """Cut the value's bits out of each word; the others may hold an overlay or anything (PS3.5 8.1.1)."""
    if header.stored != header.allocated:
        words = words >> (header.high + 1 - header.stored) & (1 << header.stored) - 1
    return _unsigned(words, header.allocated)


def _fitted(samples: NDArray[Any], stream: Codestream, header: Header, place: str) -> Samples:
    """Hold decoded values against the stored bits; signed ones become two's complement in them."""
    most = (1 << header.stored) - 1
    if header.signed:
        # JPEG 2000 gives signed values; the others bit patterns of `precision` bits, which are extended here.
        values = samples.astype(np.int32)
        if samples.dtype.kind == "u":
            values = (values ^ (1 << stream.precision - 1)) - (1 << stream.precision - 1)
        low, high = -(1 << header.stored - 1), (1 << header.stored - 1) - 1
    else:
        values, low, high = samples, 0, most
    if stream.precision > header.stored and (int(values.min()) < low or int(values.max()) > high):
        if not stream.lossy:
            fault = f"its codestream holds values beyond the {header.stored} stored bits of the header"
            raise FoveolaError(place, fault, "have the sender correct the object")
        values = np.clip(values, low, high)
    return _unsigned(values & most if header.signed else values, header.stored)


def _unsigned(values: NDArray[Any], bits: int) -> Samples:
    return values.astype(np.uint8, copy=False) if bits <= 8 else values.astype(np.uint16, copy=False)


@contextlib.contextmanager
def _refusing(place: str) -> Iterator[None]:
    """Turn what a decoder raises into a refusal."""
    try:
        yield
    except _BROKEN + _BROKEN_TOO as error:
        raise broken(place, type(error).__name__) from None


def _part(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise MissingPartError(package, "is not installed", "pip install 'foveola[dicom]'") from None
