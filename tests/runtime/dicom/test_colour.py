"""Colour: planes, YCbCr, palettes, and JPEG whose markers say what its components are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dicom_objects import cr, jpeg, real, shown
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_color_lut, convert_color_space
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from foveola.runtime.dicom.codestream import pinned, read_jpeg
from foveola.runtime.errors import FoveolaError

PIXELS: NDArray[Any] = np.random.default_rng(3).integers(0, 256, (64, 66, 3)).astype(np.uint8)
SMOOTH = np.stack(np.meshgrid(np.arange(64) * 4, np.arange(48) * 5), axis=2).astype(np.uint8)
SMOOTH = np.concatenate((SMOOTH, 255 - SMOOTH[..., :1]), axis=2)


def photo(file: bytes, photometric: str) -> Dataset:
    dataset: Dataset = cr(SMOOTH, syntax=JPEGBaseline8Bit, PhotometricInterpretation=photometric)
    dataset.PixelData = encapsulate([file])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def palette(bits: int, entries: int = 256, first: int = 0) -> dict[str, Any]:
    said: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    levels = np.random.default_rng(bits).integers(0, 1 << bits, (3, entries))
    for colour, column in zip(("Red", "Green", "Blue"), levels, strict=True):
        said[f"{colour}PaletteColorLookupTableDescriptor"] = [entries, first, bits]
        said[f"{colour}PaletteColorLookupTableData"] = column.astype("<u2" if bits == 16 else np.uint8).tobytes()
    return said


@pytest.mark.parametrize("syntax", ["native", RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_rgb_is_what_is_stored(syntax: str) -> None:
    dataset = cr(PIXELS)
    if syntax == JPEG2000Lossless:
        dataset.PhotometricInterpretation = "YBR_RCT"
    if syntax != "native":
        dataset.compress(syntax, PIXELS, generate_instance_uid=False)

    np.testing.assert_array_equal(shown(dataset), PIXELS)


def test_rgb_in_planes_is_what_is_stored() -> None:
    dataset = cr(PIXELS, PlanarConfiguration=1, PixelData=PIXELS.transpose(2, 0, 1).tobytes())

    np.testing.assert_array_equal(shown(dataset), PIXELS)


def test_colour_of_sixteen_bits_keeps_its_upper_eight() -> None:
    deep = (PIXELS.astype(np.uint16) << 8) | 0x7F

    np.testing.assert_array_equal(shown(cr(deep)), PIXELS)


@pytest.mark.parametrize("syntax", ["native", RLELossless])
def test_ybr_full_is_pydicoms_rgb(syntax: str) -> None:
    dataset = cr(PIXELS, PhotometricInterpretation="YBR_FULL")
    if syntax != "native":
        dataset.compress(syntax, PIXELS, generate_instance_uid=False)

    expected = convert_color_space(PIXELS, "YBR_FULL", "RGB").astype(int)

    assert np.abs(shown(dataset) - expected).max() <= 1


def test_ybr_full_422_shares_a_colour_between_two_pixels() -> None:
    pairs = np.random.default_rng(1).integers(0, 256, (64, 33, 4)).astype(np.uint8)
    dataset = cr(PIXELS, PhotometricInterpretation="YBR_FULL_422", PixelData=pairs.tobytes())

    full = np.stack((pairs[..., :2].reshape(64, 66), *(np.repeat(pairs[..., k], 2, axis=1) for k in (2, 3))), axis=2)

    assert np.abs(shown(dataset) - convert_color_space(full, "YBR_FULL", "RGB").astype(int)).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("entries", "first"), [(256, 0), (100, 20)])
def test_a_palette_is_pydicoms(bits: int, entries: int, first: int) -> None:
    index = np.arange(256, dtype=np.uint8).reshape(16, 16)
    dataset = cr(index, **palette(bits, entries, first))

    expected = apply_color_lut(index, dataset) >> (bits - 8)

    np.testing.assert_array_equal(shown(dataset), expected)


def test_a_segmented_palette_is_refused() -> None:
    dataset = cr(np.zeros((2, 2), np.uint8), **palette(8), SegmentedRedPaletteColorLookupTableData=bytes(6))

    with pytest.raises(FoveolaError, match="segmented palette"):
        shown(dataset)


@pytest.mark.parametrize("subsampling", [0, 2])
def test_ycbcr_jpeg_becomes_rgb(subsampling: int) -> None:
    found = shown(photo(jpeg(SMOOTH, quality=95, subsampling=subsampling), "YBR_FULL_422"))

    assert np.abs(found.astype(int) - SMOOTH).mean() < 3


def test_jpeg_of_plain_rgb_is_not_transformed() -> None:
    file = jpeg(SMOOTH, quality=95, keep_rgb=True)
    assert read_jpeg(file, "x").colour == "RGB"

    assert np.abs(shown(photo(file, "RGB")).astype(int) - SMOOTH).mean() < 3


@pytest.mark.parametrize(("keep_rgb", "photometric"), [(True, "YBR_FULL_422"), (False, "RGB")])
def test_jpeg_whose_markers_contradict_the_header_is_refused(keep_rgb: bool, photometric: str) -> None:
    with pytest.raises(FoveolaError, match="header and codestream disagree: (RGB|YCbCr) in the codestream"):
        shown(photo(jpeg(SMOOTH, keep_rgb=keep_rgb), photometric))


@pytest.mark.parametrize(("colour", "photometric"), [("RGB", "RGB"), ("YCbCr", "YBR_FULL_422")])
def test_the_header_tells_where_the_codestream_has_no_marker(colour: str, photometric: str) -> None:
    marked = pinned(jpeg(SMOOTH, quality=95, keep_rgb=colour == "RGB"), colour, "x")
    bare = bytearray(marked[:2] + marked[18:])  # without Adobe's marker, which `pinned` has put first
    # Components 1, 2 and 3, which a decoder alone would take for YCbCr.
    frame = bare.index(b"\xff\xc0") + 4
    scan = bare.index(b"\xff\xda") + 4
    for k in range(3):
        bare[frame + 6 + 3 * k] = bare[scan + 1 + 2 * k] = k + 1
    assert read_jpeg(bytes(bare), "x").colour == ""

    assert np.abs(shown(photo(bytes(bare), photometric)).astype(int) - SMOOTH).mean() < 3


@pytest.mark.parametrize("name", ["xc_colour_photo_with_icon.dcm", "op_fundus_right_jpeg.dcm", "sc_rgb_jpeg_app14.dcm"])
def test_real_jpeg_colour_is_pydicoms_rgb(name: str) -> None:
    path = real(name)

    found = shown(path.read_bytes()).astype(int)

    expected = pixel_array(path, decoding_plugin="pylibjpeg").astype(int)
    assert np.abs(found - expected).mean() < 1  # libjpeg-turbo and libjpeg smooth the colours differently


def test_a_fundus_is_red() -> None:
    """A decoder that takes YCbCr for RGB gives a green or pink one."""
    for name in ("op_fundus_right_jpeg.dcm", "op_fundus_left_rgb_planar.dcm"):
        red, green, blue = shown(real(name).read_bytes()).reshape(-1, 3).mean(axis=0)
        assert red > 1.5 * green > 1.5 * blue
