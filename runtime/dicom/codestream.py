"""The headers of JPEG, JPEG-LS and JPEG 2000 codestreams, read before a decoder sees one.

Laws:
- A decoder is handed only what these headers and the data set agree upon: size, components, bits, sign, process and
  colour.
- Whether three components are RGB or YCbCr is read from the codestream's own marker, never guessed by a decoder from a
  JFIF marker or a component's number; `pinned` rewrites the markers so that every decoder understands the same.

Sources: ITU-T T.81 annex B (JPEG), T.87 annex C (JPEG-LS), T.800 annex A (JPEG 2000); PS3.5 section 8.2.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ..errors import FoveolaError

EOI, SOS, APP0, APP14 = 0xD9, 0xDA, 0xE0, 0xEE
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # start of frame: SOF0..15 without DHT, JPG and DAC; SOF55
SOC, SIZ, COD, SOT = 0xFF4F, 0xFF51, 0xFF52, 0xFF90
MOST_SEGMENTS = 10_000


class Codestream(msgspec.Struct, frozen=True, kw_only=True):
    """What a codestream says about itself."""

    rows: int
    columns: int
    components: int
    precision: int  # bits of a sample
    process: int  # JPEG: number of the start-of-frame marker, 0 baseline, 1 extended, 3 lossless, 55 JPEG-LS
    signed: bool = False
    lossy: bool = False
    colour: Literal["RGB", "YCbCr", ""] = ""  # of three components; JPEG 2000: of what the decoder gives
    predictor: int = 0  # JPEG lossless: the selection value
    wavelets: bool = False  # JPEG 2000

    @property
    def lossy_jpeg(self) -> bool:
        """Whether it is of the JPEG processes that transform by cosines."""
        return not self.wavelets and self.process in (0, 1)


def read_jpeg(data: bytes, place: str) -> Codestream:
    """Read the headers of a JPEG or JPEG-LS codestream up to its first scan.

    Raises:
        FoveolaError: not one, cut off, several frames, or lines that are counted later.
    """
    frame: bytes | None = None
    process, colour, scan = 0, "", b""
    for marker, segment in segments(data, place)[0]:
        if marker in FRAMES:
            if frame is not None:
                raise broken(place, "several frame headers")
            frame, process = segment, 55 if marker == 0xF7 else marker - 0xC0
        elif marker == APP0 and segment.startswith(b"JFIF\0"):
            colour = colour or "YCbCr"
        elif marker == APP14 and segment.startswith(b"Adobe") and len(segment) >= 12:
            colour = {0: "RGB", 1: "YCbCr"}.get(segment[11], colour)
        elif marker == SOS:
            scan = segment
    if frame is None or len(frame) < 6 or len(frame) != 6 + 3 * frame[5] or len(scan) != 4 + 2 * scan[0]:
        raise broken(place, "no valid frame and scan header")
    _check_end(data, place)
    near = scan[-3] if process == 55 else 0
    return Codestream(
        rows=int.from_bytes(frame[1:3], "big"),
        columns=int.from_bytes(frame[3:5], "big"),
        components=frame[5],
        precision=frame[0],
        process=process,
        lossy=process not in (3, 55) or near > 0,
        colour="RGB" if not colour and frame[6::3] == b"RGB" else colour,  # type: ignore[arg-type]
        predictor=scan[-3] if process == 3 else 0,
    )


def pinned(data: bytes, colour: str, place: str) -> bytes:
    """Rewrite a JPEG's application markers: one of Adobe's, which says whether the components are YCbCr."""
    transform = b"\1" if colour == "YCbCr" else b"\0"
    parts = [b"\xff\xd8\xff\xee\0\x0eAdobe\0\x64\0\0\0\0", transform]
    found, end = segments(data, place)
    parts += [
        bytes((0xFF, marker)) + (len(segment) + 2).to_bytes(2, "big") + segment
        for marker, segment in found
        if not 0xE0 <= marker <= 0xEF
    ]
    return b"".join((*parts, data[end:]))


def segments(data: bytes, place: str) -> tuple[list[tuple[int, bytes]], int]:
    """List the marker segments up to the first scan's header, which is the last, and tell where its pixels begin.

    Raises:
        FoveolaError: no JPEG, cut off, or a segment longer than the file.
    """
    if data[:2] != b"\xff\xd8":
        raise broken(place, "no start of image")
    found: list[tuple[int, bytes]] = []
    at = 2
    while not found or found[-1][0] != SOS:
        while data[at : at + 2] == b"\xff\xff":  # fill bytes (T.81 B.1.1.2)
            at += 1
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at : at + 1] != b"\xff" or length < 2 or at + 2 + length > len(data) or len(found) > MOST_SEGMENTS:
            raise broken(place, "its segments are not whole")
        if 0xD0 <= data[at + 1] <= EOI:
            raise broken(place, "it ends before a scan")
        found.append((data[at + 1], data[at + 4 : at + 2 + length]))
        at += 2 + length
    return found, at


def _check_end(data: bytes, place: str) -> None:
    """Ask for the end of image: a decoder fills what is missing with grey and says nothing.

    JPEG 2000 ends by the same two bytes (T.800 A.4.4). Padding to an even length may follow, as zero or as ones.
    """
    if not data[-4:].rstrip(b"\0\xff").endswith(b"\xd9") or data.rfind(b"\xff\xd9", -6) < 0:
        raise broken(place, "it is cut off before its end")


def read_jpeg_2000(data: bytes, place: str) -> Codestream:
    """Read the main header of a JPEG 2000 codestream.

    Raises:
        FoveolaError: not one, cut off, components of several sizes or depths, or a JP2 file around it.
    """
    if data[:2] != SOC.to_bytes(2, "big") or data[2:4] != SIZ.to_bytes(2, "big"):
        raise broken(place, "no start of codestream and size")
    main = dict(_main_header(data, place))
    size, style = main.get(SIZ, b""), main.get(COD, b"")
    components = int.from_bytes(size[34:36], "big")
    if len(size) != 36 + 3 * components or not components or len(style) < 10:
        raise broken(place, "no valid size and coding style")
    if len({size[36 + 3 * k : 39 + 3 * k] for k in range(components)}) != 1 or size[37:39] != b"\1\1":
        raise broken(place, "components of several sizes or depths")
    xsize, ysize, x0, y0, tile_x, tile_y, at_x, at_y = (
        int.from_bytes(size[2 + 4 * k : 6 + 4 * k], "big") for k in range(8)
    )
    if not tile_x or not tile_y or at_x > x0 or at_y > y0:
        raise broken(place, "its tiles are not valid")
    if -(-(xsize - at_x) // tile_x) * -(-(ysize - at_y) // tile_y) > 65535:  # T.800 A.4.2: Isot
        raise broken(place, "too many tiles")
    _check_end(data, place)
    return Codestream(
        rows=ysize - y0,
        columns=xsize - x0,
        components=components,
        precision=(size[36] & 0x7F) + 1,
        process=0,
        wavelets=True,
        signed=bool(size[36] & 0x80),
        lossy=style[9] == 0,  # the wavelet 9-7; 5-3 loses only where its layers are cut off
        colour="RGB" if style[4] else "",
    )


def _main_header(data: bytes, place: str) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    at = 2
    while (marker := int.from_bytes(data[at : at + 2], "big")) != SOT:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker < 0xFF00 or length < 2 or at + 2 + length > len(data) or len(found) > MOST_SEGMENTS:
            raise broken(place, "its segments are not whole")
        found.append((marker, data[at + 4 : at + 2 + length]))
        at += 2 + length
    return found


def broken(place: str, what: str) -> FoveolaError:
    """Make the refusal of a codestream."""
    return FoveolaError(place, f"its compressed pixels are truncated or broken ({what})", "copy or send the file again")
