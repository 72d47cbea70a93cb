"""Attempts to crash, hang or swell the DICOM front: a picture of the size that was checked, or one line of refusal."""

from __future__ import annotations

import io
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from foveola.runtime.dicom import dataset as parsing
from foveola.runtime.dicom.rule import SourceRule
from foveola.runtime.errors import FoveolaError
from foveola.runtime.image import ImageLimits
from foveola.runtime.manifest import InputSpec
from foveola.runtime.source import Source, open_source

SPEC = InputSpec(height=8, width=8, channels=1)
RULE = SourceRule(colour="either", frames="first", body_parts=("CHEST",))
DEFLATED = "1.2.840.10008.1.2.1.99"
META = 128 + 4  # bytes before the meta information


def radiograph(syntax: str = ExplicitVRLittleEndian, **said: Any) -> bytes:
    """A tiny valid object with all that the front looks at."""
    pixels = np.arange(48 * 48, dtype=np.uint16).reshape(48, 48)
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [4, 0, 8], [0, 80, 160, 240]
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = UID(syntax) if syntax == DEFLATED else ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = "1.2.840.10008.5.1.4.1.1.1", "1.2.3", "CR"
    made.BodyPartExamined, made.ViewPosition, made.PatientName = "CHEST", "PA", "Nobody^Here"
    made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = 48, 48, 1, "MONOCHROME1"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.RescaleSlope, made.RescaleIntercept, made.PixelPaddingValue = 1, 0, 7
    made.WindowCenter, made.WindowWidth, made.VOILUTSequence = [900, 1], [1800, 1], [item]
    made.PixelData = pixels.tobytes()
    made["PixelData"].VR = "OW"
    for keyword, value in said.items():
        setattr(made, keyword, value)
    if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        made.compress(syntax, generate_instance_uid=False)
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def photograph() -> bytes:
    """A tiny colour JPEG in an object."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((48, 48, 3), np.uint8) + np.arange(48, dtype=np.uint8)[:, None]).save(stream, "JPEG")
    said: dict[str, Any] = {
        "SamplesPerPixel": 3,
        "PlanarConfiguration": 0,
        "PhotometricInterpretation": "YBR_FULL_422",
        "HighBit": 7,
    }
    plain = radiograph(**said, BitsAllocated=8, BitsStored=8, PixelData=encapsulate([stream.getvalue()]))
    made = dcmread(io.BytesIO(plain))
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def attempt(data: bytes) -> Source | None:
    """The picture, or None where it is refused in one line."""
    try:
        return open_source(data, SPEC, RULE, "study.dcm")
    except FoveolaError as error:
        told = str(error)
    assert "\n" not in told
    assert "Nobody" not in told
    return None


@pytest.fixture
def swell() -> Iterator[list[float]]:
    """MiB that the attempts of a test may take at their peak, besides what is there."""
    most = [32.0]
    tracemalloc.start()
    yield most
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert peak < most[0], f"{peak:.1f} MiB"


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """An element of explicit VR, little endian, with a length of four bytes."""
    head = group.to_bytes(2, "little") + number.to_bytes(2, "little") + vr + bytes(2)
    return head + len(value).to_bytes(4, "little") + value


def test_the_objects_of_these_attempts_are_good_ones() -> None:
    for data in every_object():
        assert attempt(data) is not None


def every_object() -> list[bytes]:
    syntaxes = (ExplicitVRLittleEndian, DEFLATED, RLELossless, JPEGLSLossless, JPEG2000Lossless)
    return [*(radiograph(syntax) for syntax in syntaxes), photograph(), lossless(), extended()]


def lossless() -> bytes:
    """JPEG lossless with two codes of one bit each: 0 is no difference, 1 is one bit more."""
    plain = b"\xff\xd8\xff\xc4\0\x15\0" + bytes([2, *[0] * 15]) + b"\0\1" + b"\xff\xc3\0\x0b\x0c\0\x30\0\x30\1\1\x11\0"
    return around(plain + b"\xff\xda\0\x08\1\1\0\1\0\0" + bytes(48 * 48 // 8) + b"\xff\xd9", JPEGLosslessSV1)


def extended() -> bytes:
    """JPEG of 12 bits, 36 blocks: one bit that the level stays, one that the block ends."""
    tables = [b"\xff\xc4\0\x15" + bytes([kind, 2, *[0] * 15]) + b"\0\1" for kind in (0, 0x10)]
    plain = b"\xff\xd8" + b"".join(tables) + b"\xff\xdb\0\x43\0" + bytes([16] * 64)
    plain += b"\xff\xc1\0\x0b\x0c\0\x30\0\x30\1\1\x11\0" + b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    return around(plain + bytes(36 * 2 // 8) + b"\xff\xd9", JPEGExtended12Bit)


def around(file: bytes, syntax: UID) -> bytes:
    """An object around a codestream."""
    made = dcmread(io.BytesIO(radiograph()))
    made.file_meta.TransferSyntaxUID = syntax
    made.PixelData = encapsulate([file])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


SIDE = (48).to_bytes(2, "little")
ROWS, COLUMNS = b"\x28\0\x10\0US\2\0", b"\x28\0\x11\0US\2\0"


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_a_picture_of_65535_by_65535_pixels_is_refused_before_it_is_allocated(syntax: str, swell: list[float]) -> None:
    data = radiograph(syntax)
    lying = data.replace(ROWS + SIDE, ROWS + b"\xff\xff").replace(COLUMNS + SIDE, COLUMNS + b"\xff\xff")

    assert lying != data
    assert attempt(lying) is None
    assert attempt(data.replace(ROWS + SIDE, ROWS + b"\xff\x7f")) is None  # 32,767 x 48: within the limits, and a lie


def test_a_codestream_of_65535_by_65535_pixels_is_refused_before_it_is_decoded(swell: list[float]) -> None:
    whole = lossless()
    lying = whole.replace(b"\0\x30\0\x30", b"\xff\xff\xff\xff")

    assert lying != whole
    assert attempt(lying) is None
    assert (
        attempt(lying.replace(ROWS + SIDE, ROWS + b"\xff\xff").replace(COLUMNS + SIDE, COLUMNS + b"\xff\xff")) is None
    )


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, 0x10000000, 1, 0])
def test_a_length_that_lies_is_refused(length: int, swell: list[float]) -> None:
    data = radiograph()
    for tag in (b"\xe0\x7f\x10\0OW\0\0", b"\x28\0\x10\x30SQ\0\0"):
        at = data.index(tag) + len(tag)
        lying = data[:at] + length.to_bytes(4, "little") + data[at + 4 :]

        found = attempt(lying)

        assert found is None or found.picture.size == (48, 48)
        assert tag[:1] != b"\xe0" or found is None


def test_sequences_in_sequences_without_end_are_refused(swell: list[float]) -> None:
    level = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    head, start = radiograph(), time.monotonic()
    at = head.index(b"\x08\0\x16\0")

    for depth in (10, 1_000, 100_000):
        attempt(head[:at] + level * depth + head[at:])

    assert attempt(head[:at] + level * 100_000) is None
    assert time.monotonic() - start < 30


def test_a_file_of_a_million_elements_is_refused_after_a_bounded_time() -> None:
    many = element(0x0009, 0x0010, b"UN", b"") * 1_000_000
    head = radiograph()[: radiograph().index(b"\x08\0\x16\0")]
    start = time.monotonic()

    assert attempt(head + many) is None
    assert time.monotonic() - start < 60


def test_a_look_up_table_of_a_hundred_megabytes_is_not_read() -> None:
    data = radiograph()
    at = data.index(b"\x28\0\x10\x30SQ")
    item = b"\xfe\xff\0\xe0\0\0\0\0" * 2_000_000

    assert attempt(data[:at] + element(0x0028, 0x3010, b"SQ", item) + data[data.index(b"\xe0\x7f\x10\0") :]) is None


def test_a_deflate_bomb_is_not_blown_up(monkeypatch: pytest.MonkeyPatch, swell: list[float]) -> None:
    monkeypatch.setattr(parsing, "LIMITS", ImageLimits(max_file_bytes=4 * 2**20))
    data = radiograph(DEFLATED)
    end = META + 12 + int.from_bytes(data[META + 8 : META + 12], "little")
    machine = zlib.compressobj(9, wbits=-15)
    bomb = machine.compress(bytes(2**26)) + machine.flush()
    swell[0] += 64  # the bomb's own making

    assert attempt(data) is not None
    assert attempt(data[:end] + bomb) is None


@pytest.mark.parametrize("keyword", ["Rows", "BitsStored", "PixelRepresentation", "WindowCenter", "VOILUTSequence"])
@pytest.mark.parametrize("vr", [b"LO", b"DS", b"FD", b"SQ", b"UN", b"AT", b"OB", b"ZZ"])
def test_a_wrong_value_representation_is_read_right_or_refused(keyword: str, vr: bytes) -> None:
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword)
    assert tag is not None
    data = radiograph()
    at = data.index((tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little"))

    found = attempt(data[: at + 4] + vr + data[at + 6 :])

    assert found is None or found.picture.size == (48, 48)


def test_every_truncation_is_refused() -> None:
    data = lossless()

    assert {attempt(data[:end]) for end in range(0, len(data) - 12, 7)} == {None}


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["put", "insert", "cut", "copy", "end"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 60),
        st.one_of(
            st.binary(max_size=12),
            st.sampled_from([b"\0\0", b"\xff\xff", b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\xff\x7f", b"\1\0"]),
        ),
    ),
    min_size=1,
    max_size=4,
)
OBJECTS = every_object()


def changed(data: bytes, changes: list[tuple[str, float, int, bytes]]) -> bytes:
    for how, where, size, put in changes:
        # Headers are short and pixels long: half of the changes hit what is before the pixels.
        at = int(where * 2 * min(1200, len(data))) if where < 0.5 else int(where * len(data))
        if how == "put":
            data = data[:at] + put + data[at + len(put) :]
        elif how == "insert":
            data = data[:at] + put + data[at:]
        elif how == "cut":
            data = data[:at] + data[at + size :]
        elif how == "copy":
            data = data[:at] + data[at : at + size] + data[at:]
        else:
            data = data[:at]
    return data


def never_more_than_a_picture(index: int, changes: list[tuple[str, float, int, bytes]]) -> None:
    start = time.monotonic()

    source = attempt(changed(OBJECTS[index], changes))

    assert source is None or source.picture.mode in ("L", "I;16", "RGB")
    assert time.monotonic() - start < 20


WHOLE = {"derandomize": True, "database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=1500, **WHOLE)  # type: ignore[arg-type]
@given(st.integers(0, len(OBJECTS) - 1), CHANGES)
def test_a_changed_object_is_a_picture_or_refused(index: int, changes: list[tuple[str, float, int, bytes]]) -> None:
    never_more_than_a_picture(index, changes)


@pytest.mark.slow
@settings(max_examples=10_000, **WHOLE)  # type: ignore[arg-type]
@given(st.integers(0, len(OBJECTS) - 1), CHANGES)
def test_ten_thousand_changed_objects(index: int, changes: list[tuple[str, float, int, bytes]]) -> None:
    never_more_than_a_picture(index, changes)
