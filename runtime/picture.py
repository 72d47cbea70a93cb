"""An image file as one picture: read whole and without doubt, or refused.

Laws:
- A picture that cannot be read whole and without doubt is refused with place, fault and mend; nothing is guessed.
- The picture is upright, as a viewer shows it: an EXIF rotation is carried out, a mirroring is refused, since it would
  swap a patient's left and right.
- Colour profiles, gamma chunks and resolution tags are ignored: the stored numbers are the picture.
- The first bytes choose the decoder, and limits are held before anything is decoded or allocated.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Lock

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import FoveolaError

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


class ImageLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What is refused before anything is decoded or allocated."""

    max_file_bytes: int = 256 * 2**20  # 256 MiB
    max_pixels: int = 64 * 2**20  # 67 million pixels; a 43 x 35 cm radiograph at 0.1 mm has 15 million
    max_side: int = 2**15  # pixels


LIMITS = ImageLimits()
MIRRORED = {2, 4, 5, 7}  # EXIF orientations with a reflection in them
TURNS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}
_ORIENTATION, _PHOTOMETRIC = 0x0112, 0x0106
# What Pillow raises on broken files, by fuzzing and by its source; MemoryError and our own mistakes are not among them.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AttributeError)
_BROKEN_TOO = (struct.error, zlib.error, UserWarning, NotImplementedError)
_TIFF = Lock()


def read_image(source: Path | bytes, place: str = "") -> Pixels:
    """Read the pixels of a file or of its bytes: (H, W) grey or (H, W, 3) RGB; uint8, or uint16 for deep grey.

    PNG, JPEG, TIFF (one page) and BMP. Palettes are resolved, an alpha channel is dropped where it is opaque
    everywhere. Colour of 16 bits a channel keeps its upper 8. The array is not writable.

    Raises:
        FoveolaError: no such file, too large, broken, truncated, several pages, CMYK, transparent, mirrored, ...
    """
    return np.asarray(decode_image(source, place))


def decode_image(source: Path | bytes, place: str = "") -> Image.Image:
    """As `read_image`, as a Pillow image of mode L, RGB or I;16: what `prepare` takes without a copy."""
    place = place or (str(source) if isinstance(source, Path) else "image")
    data = file_bytes(source, place) if isinstance(source, Path) else source
    with _no_doubt(data, place):
        image = _open(data, place)
        _check_size(image, place)
        try:
            if getattr(image, "n_frames", 1) != 1:
                raise FoveolaError(place, "holds more than one picture", "save the one to be read as a file of its own")
            turn = image.getexif().get(_ORIENTATION, 1)
            image.load()
        except _BROKEN + _BROKEN_TOO as error:
            raise _broken(place, error) from None
    if turn in MIRRORED:
        raise FoveolaError(place, f"EXIF orientation {turn} mirrors the picture", "save it upright and unmirrored")
    plain = _plain(image, place)
    # Pillow turns a TIFF itself while it loads.
    return plain.transpose(TURNS[turn]) if turn in TURNS and image.format != "TIFF" else plain


def read_mask(source: Path | bytes, place: str = "") -> NDArray[np.uint8]:
    """Read a label map (H, W) from a file: grey values or palette indices as they are stored; 1-bit files give 0 and 1.

    Raises:
        FoveolaError: as `read_image`; also colours, since a colour is no label, and labels above 255.
    """
    place = place or (str(source) if isinstance(source, Path) else "mask")
    data = file_bytes(source, place) if isinstance(source, Path) else source
    with _no_doubt(data, place):
        image = _open(data, place)
        _check_size(image, place)
        try:
            image.load()
            if image.mode in ("1", "L", "P"):
                return np.array(image).astype(np.uint8, copy=False)
            labels = np.array(image)
        except _BROKEN + _BROKEN_TOO as error:
            raise _broken(place, error) from None
    if labels.ndim == 3 and bool((labels[..., :3] == labels[..., :1]).all()) and image.mode in ("RGB", "RGBA"):
        return np.ascontiguousarray(labels[..., 0])
    if labels.ndim == 2 and labels.min() >= 0 and labels.max() <= 255:
        return labels.astype(np.uint8)
    raise FoveolaError(place, f"is no label map (mode {image.mode})", "save masks as 8-bit grey or palette PNG")


def file_bytes(path: Path, place: str) -> bytes:
    """Read a file whose size is within the limits.

    Raises:
        FoveolaError: no such file, a folder, too large, or it cannot be read.
    """
    try:
        if not path.is_file():
            fault = "is a folder" if path.is_dir() else "no such file"
            raise FoveolaError(place, fault, "give the path of an image file")
        size = path.stat().st_size
        if size > LIMITS.max_file_bytes:
            raise FoveolaError(place, f"{size} bytes, more than the {LIMITS.max_file_bytes} allowed")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise FoveolaError(place, f"cannot be read ({error})", "check the path and its permissions") from None


def _open(data: bytes, place: str) -> Image.Image:
    """Read the header. The first bytes choose the plugin here, so that no other decoder ever sees the file."""
    if not data:
        raise FoveolaError(place, "the file is empty", "copy it again")
    if len(data) > LIMITS.max_file_bytes:
        raise FoveolaError(place, f"{len(data)} bytes, more than the {LIMITS.max_file_bytes} allowed")
    stream = BytesIO(data)
    try:
        if data.startswith(b"\xff\xd8\xff"):
            from PIL.JpegImagePlugin import JpegImageFile

            return JpegImageFile(stream)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            from PIL.PngImagePlugin import PngImageFile

            return PngImageFile(stream)
        if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
            from PIL.TiffImagePlugin import TiffImageFile

            return TiffImageFile(stream)
        if data.startswith(b"BM"):
            from PIL.BmpImagePlugin import BmpImageFile

            return BmpImageFile(stream)
    except _BROKEN + _BROKEN_TOO as error:
        raise _broken(place, error) from None
    what = "a DICOM file" if data[128:132] == b"DICM" else f"begins with {data[:12]!r}"
    raise FoveolaError(place, f"not a PNG, JPEG, TIFF or BMP file ({what})", "export it in one of these formats")


@contextmanager
def _no_doubt(data: bytes, place: str) -> Iterator[None]:
    """Refuse a TIFF of which Pillow only warns that its tags are damaged; it would read on with what is left of them.

    Python's list of warnings belongs to the whole process, so one TIFF is read at a time.
    """
    if data[:2] not in (b"II", b"MM"):
        yield
        return
    with _TIFF, warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always")
        yield
    if doubts:
        raise _broken(place, UserWarning(doubts[0].message))


def _broken(place: str, error: BaseException) -> FoveolaError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return FoveolaError(place, f"truncated or broken ({reason})", "copy or export the file again")


def _check_size(image: Image.Image, place: str) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise FoveolaError(place, f"the picture has {width} x {height} pixels")
    if max(width, height) > LIMITS.max_side or width * height > LIMITS.max_pixels:
        most = f"at most {LIMITS.max_side} a side and {LIMITS.max_pixels} in all are read"
        raise FoveolaError(place, f"absurd size of {width} x {height} pixels", most)


def _plain(image: Image.Image, place: str) -> Image.Image:
    """Turn a loaded image into L, RGB or I;16, or refuse it."""
    if image.has_transparency_data:
        image = _without_alpha(image, place)
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in ("1", "P", "YCbCr"):
        return image.convert("L" if image.mode == "1" else "RGB")
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        return _deep_grey(image, place)
    if image.mode == "CMYK":
        raise FoveolaError(place, "CMYK, the colours of print", "export it as RGB or grey")
    raise FoveolaError(place, f"pixels of mode {image.mode}", "export it as 8- or 16-bit grey or as RGB")


def _without_alpha(image: Image.Image, place: str) -> Image.Image:
    if image.mode.startswith("I"):
        raise FoveolaError(place, "16-bit grey with a transparent value", "export it without transparency")
    full = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
    if full.getchannel("A").getextrema() != (255, 255):
        # What lies behind a transparent pixel is anyone's guess: black, white and the hidden colour all occur.
        raise FoveolaError(place, "parts of the picture are transparent", "export it without an alpha channel")
    return full.convert(full.mode[:-1])


def _deep_grey(image: Image.Image, place: str) -> Image.Image:
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PHOTOMETRIC) == 0:
        # Pillow inverts WhiteIsZero for 8 bits and not for 16: a negative would pass for a positive.
        raise FoveolaError(place, "16-bit TIFF stored as a negative (WhiteIsZero)", "export it as a positive")
    pixels = np.asarray(image)
    if image.mode == "I" and (int(pixels.min()) < 0 or int(pixels.max()) > 65535):
        raise FoveolaError(place, "pixels beyond the 16-bit range 0..65535", "export it as 8- or 16-bit grey")
    return Image.fromarray(pixels.astype("<u2", copy=False))
