"""Every transfer syntax gives the stored values; header and codestream that disagree are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dicom_objects import cr, jpeg, shown, written
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from foveola.runtime.errors import FoveolaError
from foveola.runtime.image import LIMITS

NOISE = np.random.default_rng(7)
LOSSLESS = [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless]


def noise(stored: int, *, signed: bool, shape: tuple[int, ...] = (33, 47)) -> NDArray[Any]:
    low, high = (-(1 << stored - 1), 1 << stored - 1) if signed else (0, 1 << stored)
    kind = (np.int8 if signed else np.uint8) if stored <= 8 else np.int16 if signed else np.uint16
    return NOISE.integers(low, high, shape).astype(kind)


def expected(pixels: NDArray[Any], stored: int) -> NDArray[np.int64]:
    """Without a window: the stored bits take black to white."""
    low = -(1 << stored - 1) if pixels.dtype.kind == "i" else 0
    white = 255 if stored <= 8 else 65535
    return np.floor((pixels.astype(np.float64) - low) / ((1 << stored) - 1) * white + 0.5).astype(np.int64)


def coded(pixels: NDArray[Any], codestream: bytes, syntax: str, **said: Any) -> Dataset:
    """An object around a codestream."""
    dataset: Dataset = cr(pixels, syntax=syntax, **said)
    dataset.PixelData = encapsulate([codestream])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


@pytest.mark.parametrize("syntax", LOSSLESS, ids=[uid.name.split()[0] + uid[-3:] for uid in LOSSLESS])
@pytest.mark.parametrize(("stored", "signed"), [(8, False), (10, False), (12, True), (16, False), (16, True)])
def test_a_lossless_syntax_gives_the_stored_values(syntax: UID, stored: int, signed: bool) -> None:
    pixels = noise(stored, signed=signed)
    dataset = cr(pixels, stored=stored)

    if UID(syntax).is_compressed and syntax != DeflatedExplicitVRLittleEndian:
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax

    np.testing.assert_array_equal(shown(dataset), expected(pixels, stored))


@pytest.mark.parametrize(("stored", "signed"), [(8, False), (12, True), (16, False)])
def test_big_endian_gives_the_stored_values(stored: int, signed: bool) -> None:
    pixels = noise(stored, signed=signed)
    dataset = cr(pixels, stored=stored, syntax=ExplicitVRBigEndian)
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes() + bytes(pixels.nbytes % 2)

    np.testing.assert_array_equal(shown(dataset), expected(pixels, stored))


def test_a_value_in_the_upper_bits_is_found_by_its_high_bit() -> None:
    pixels = noise(12, signed=False)
    dataset = cr(pixels << 4, stored=12, HighBit=15)

    np.testing.assert_array_equal(shown(dataset), expected(pixels, 12))


@pytest.mark.parametrize("signed", [False, True])
def test_an_overlay_in_the_unused_bits_is_ignored(signed: bool) -> None:
    pixels = noise(12, signed=signed)
    words = (pixels.view(np.uint16) & 0x0FFF) | 0xA000
    dataset = cr(words, stored=12, PixelRepresentation=int(signed))

    np.testing.assert_array_equal(shown(dataset), expected(pixels, 12))


def test_a_file_without_preamble_and_meta_information_is_read() -> None:
    whole = written(cr(noise(10, signed=False), stored=10, syntax=ImplicitVRLittleEndian))
    start = whole.index(b"\x08\0\x16\0", 200)

    np.testing.assert_array_equal(shown(whole[start:]), shown(whole))


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit])
def test_grey_jpeg_is_what_pillow_decodes(syntax: str) -> None:
    from io import BytesIO

    from PIL import Image

    smooth = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)
    file = jpeg(smooth, quality=80)

    found = shown(coded(smooth, file, syntax))

    np.testing.assert_array_equal(found, np.asarray(Image.open(BytesIO(file))))


@pytest.mark.parametrize(("syntax", "how"), [(JPEGLSNearLossless, {"jls_error": 3}), (JPEG2000, {"j2k_cr": [2]})])
def test_lossy_syntaxes_stay_near(syntax: UID, how: dict[str, Any]) -> None:
    pixels = (np.add.outer(np.arange(64), np.arange(64)) * 16).astype(np.uint16)
    dataset = cr(pixels, stored=12)
    dataset.compress(syntax, generate_instance_uid=False, **how)

    assert np.abs(shown(dataset).astype(int) - expected(pixels, 12)).max() <= 5 * 65535 / 4095


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "rows": ({"Rows": 32}, "33 in the codestream, 32 in the header"),
    "columns": ({"Columns": 48}, "47 in the codestream, 48 in the header"),
    "sign": ({"PixelRepresentation": 1}, "signed False in the codestream"),
    "bits": ({"BitsStored": 12, "HighBit": 11}, "10 bits in the codestream, 12 stored"),
    "samples": ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "components 1 in the codestream"),
}


@pytest.mark.parametrize(("said", "words"), WRONG.values(), ids=WRONG.keys())
def test_header_and_codestream_that_disagree_are_refused(said: dict[str, Any], words: str) -> None:
    dataset = cr(noise(10, signed=False), stored=10, PlanarConfiguration=0)
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    for keyword, value in said.items():
        setattr(dataset, keyword, value)

    with pytest.raises(FoveolaError, match="header and codestream disagree") as told:
        shown(dataset)

    assert words in str(told.value)


def test_values_beyond_the_stored_bits_of_a_lossless_codestream_are_refused() -> None:
    dataset = cr(noise(12, signed=False), stored=12)
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    dataset.BitsStored, dataset.HighBit = 10, 9

    with pytest.raises(FoveolaError, match="beyond the 10 stored bits"):
        shown(dataset)


def test_a_lossy_codestream_under_a_lossless_syntax_is_refused() -> None:
    dataset = cr(noise(12, signed=False), stored=12)
    dataset.compress(JPEG2000, j2k_cr=[4], generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless

    with pytest.raises(FoveolaError, match="a lossy codestream under the lossless transfer syntax"):
        shown(dataset)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_a_codestream_that_is_cut_off_is_refused(syntax: UID) -> None:
    dataset = cr(noise(12, signed=False, shape=(90, 90)), stored=12)
    dataset.compress(syntax, generate_instance_uid=False)
    frame = dataset.PixelData[16:]  # behind the empty offset table and the item's tag and length
    dataset.PixelData = encapsulate([frame[: len(frame) * 2 // 3 // 2 * 2]])

    with pytest.raises(FoveolaError, match="truncated or broken"):
        shown(dataset)


def test_rle_of_every_kind_of_run_is_read() -> None:
    """PS3.5 G.3.1: literals, runs, the code that means nothing, and a byte of padding at the end."""
    segment = bytes([2, 5, 6, 7, 0x80, 0xFE, 9, 0, 1, 0xFF, 3]) + b"\0"
    frame = b"".join(number.to_bytes(4, "little") for number in (1, 64, *[0] * 14)) + segment
    pixels = np.zeros((3, 3), np.uint8)

    assert shown(coded(pixels, frame, RLELossless)).ravel().tolist() == [5, 6, 7, 9, 9, 9, 1, 3, 3]


@pytest.mark.parametrize("header", [(2, 64, 70), (1, 60), (1, 900), (0,)])
def test_rle_of_other_segments_than_the_header_says_is_refused(header: tuple[int, ...]) -> None:
    numbers = (*header, *[0] * (16 - len(header)))
    frame = b"".join(number.to_bytes(4, "little") for number in numbers) + bytes([0xF8, 1] * 4)

    with pytest.raises(FoveolaError, match="does not tell of 1 segments"):
        shown(coded(np.zeros((3, 3), np.uint8), frame, RLELossless))


def test_a_codestream_much_longer_than_its_picture_is_refused() -> None:
    small = np.zeros((8, 8), np.uint8)

    with pytest.raises(FoveolaError, match="bytes for a frame of 64"):
        shown(coded(small, jpeg(small)[:-2] + bytes(2**21) + b"\xff\xd9", JPEGBaseline8Bit))


@pytest.mark.parametrize("change", [-2, 2, 47 * 2])
def test_pixel_data_of_another_length_than_the_header_says_is_refused(change: int) -> None:
    dataset = cr(noise(12, signed=False), stored=12)
    data = dataset.PixelData
    dataset.PixelData = data[:change] if change < 0 else data + bytes(change)

    with pytest.raises(FoveolaError, match=f"has {len(data) + change} bytes, its header speaks of {len(data)}"):
        shown(dataset)


HEADERS = {
    "no rows": ({"Rows": None}, "Rows .0028,0010. is absent"),
    "rows of nought": ({"Rows": 0}, "6 x 0 pixels"),
    "absurd": ({"Rows": 65535, "Columns": 65535}, "absurd size of 65535 x 65535"),
    "32 bits": ({"BitsAllocated": 32}, "32 bits allocated"),
    "1 bit": ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, "1 bits allocated"),
    "stored above allocated": ({"BitsStored": 17, "HighBit": 16}, "contradicts itself"),
    "high below stored": ({"BitsStored": 12, "HighBit": 10}, "contradicts itself"),
    "sign of 2": ({"PixelRepresentation": 2}, "PixelRepresentation .0028,0103. is not valid"),
    "no photometric": ({"PhotometricInterpretation": None}, "photometric interpretation absent"),
    "unknown photometric": ({"PhotometricInterpretation": "HSV"}, "photometric interpretation HSV is not read"),
    "grey of 3 samples": ({"SamplesPerPixel": 3}, "MONOCHROME2 has 1"),
    "frames of nought": ({"NumberOfFrames": 0}, "NumberOfFrames .0028,0008. is not valid"),
}


@pytest.mark.parametrize(("said", "words"), HEADERS.values(), ids=HEADERS.keys())
def test_a_header_that_cannot_be_is_refused(said: dict[str, Any], words: str) -> None:
    with pytest.raises(FoveolaError, match=words):
        shown(cr(**said))


def test_a_syntax_that_is_not_read_is_refused_by_its_name() -> None:
    dataset = coded(noise(8, signed=False), bytes(100), "1.2.840.10008.1.2.4.102")  # MPEG-4

    with pytest.raises(FoveolaError, match=r"transfer syntax 1\.2\.840\.10008\.1\.2\.4\.102 is not read"):
        shown(dataset)


def test_a_deflated_object_is_inflated_up_to_the_limit_only(monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(cr(np.zeros((500, 500), np.uint16), syntax=DeflatedExplicitVRLittleEndian))
    assert shown(data).max() == 0

    from foveola.runtime.dicom import dataset
    from foveola.runtime.image import ImageLimits

    monkeypatch.setattr(dataset, "LIMITS", ImageLimits(max_file_bytes=100_000))
    with pytest.raises(FoveolaError, match="has more than 100000 bytes"):
        shown(data)
    assert LIMITS.max_file_bytes > 100_000
