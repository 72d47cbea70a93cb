"""Our own decoder of lossless JPEG and of JPEG with 12 bits, against an encoder of these tests and pylibjpeg."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dicom_objects import cr, real, shown
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEGLossless, JPEGLosslessSV1

from foveola.runtime.dicom.jpeg import ZIGZAG, decode_extended, decode_lossless
from foveola.runtime.errors import FoveolaError


def encoded(pixels: NDArray[Any], precision: int, predictor: int, *, restart: int = 0) -> bytes:
    """Lossless JPEG (T.81 annex H), sample by sample as the text says it, with 17 codes of 5 bits each."""
    rows, columns, count = pixels.shape
    counts = bytes([0, 0, 0, 0, 17, *[0] * 11])
    parts = [b"\xff\xd8", segment(0xC4, b"\0" + counts + bytes(range(17)))]
    size = precision.to_bytes(1, "big") + rows.to_bytes(2, "big") + columns.to_bytes(2, "big")
    names = range(1, count + 1)
    parts.append(segment(0xC3, size + bytes([count]) + b"".join(bytes([k, 0x11, 0]) for k in names)))
    if restart:
        parts.append(segment(0xDD, (restart * columns).to_bytes(2, "big")))
    parts.append(segment(0xDA, bytes([count]) + b"".join(bytes([k, 0]) for k in names) + bytes([predictor, 0, 0])))
    starts = range(0, rows, restart or rows)
    for index, start in enumerate(starts):
        parts.append(scan(pixels[start : start + (restart or rows)].astype(int), precision, predictor))
        parts.append(bytes([0xFF, 0xD0 + index % 8]) if index + 1 < len(starts) else b"\xff\xd9")
    return b"".join(parts)


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def scan(pixels: NDArray[Any], precision: int, predictor: int) -> bytes:
    bits = []
    for y, x, k in np.ndindex(pixels.shape):
        left, above = (int(pixels[y, x - 1, k]) if x else 0), (int(pixels[y - 1, x, k]) if y else 0)
        corner = int(pixels[y - 1, x - 1, k]) if x and y else 0
        told = 1 << precision - 1 if not x and not y else left if not y else above if not x else None
        rules = [left, above, corner, left + above - corner, left + (above - corner >> 1), above + (left - corner >> 1)]
        guess = [*rules, left + above >> 1][predictor - 1] if told is None else told
        diff = (int(pixels[y, x, k]) - guess + 32767) % 65536 - 32767  # -32767 .. 32768
        length = abs(diff).bit_length()
        bits.append(f"{length:05b}")
        if 0 < length < 16 or (abs(diff) < 32768 and length):
            bits.append(f"{diff if diff > 0 else diff + (1 << length) - 1:0{length}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")


def wrapped(pixels: NDArray[Any], file: bytes, *, syntax: str = JPEGLossless, stored: int = 16) -> Dataset:
    dataset: Dataset = cr(pixels, syntax=syntax, stored=stored)
    dataset.PixelData = encapsulate([file])
    dataset["PixelData"].is_undefined_length = True
    return dataset


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize(("precision", "count", "restart"), [(16, 1, 0), (12, 1, 5), (8, 3, 0), (8, 3, 3)])
def test_every_predictor_gives_back_what_was_encoded(predictor: int, precision: int, count: int, restart: int) -> None:
    high = 1 << precision
    pixels = np.random.default_rng(predictor).integers(0, high, (17, 23, count))
    pixels[3:9] = np.arange(23)[:, None] % high  # smooth rows too
    pixels[10, :3] = 0
    pixels[10, 1] = high - 1

    found = decode_lossless(encoded(pixels, precision, predictor, restart=restart), "x")

    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("predictor", [1, 4, 6])
def test_the_encoder_of_these_tests_writes_what_libjpeg_reads(predictor: int) -> None:
    libjpeg = pytest.importorskip("libjpeg")
    pixels = np.random.default_rng(predictor).integers(0, 4096, (17, 23, 1))

    found = libjpeg.decode(encoded(pixels, 12, predictor))

    np.testing.assert_array_equal(np.asarray(found).reshape(17, 23), pixels[..., 0])


def test_a_scan_longer_than_a_chunk_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from foveola.runtime.dicom import jpeg

    pixels = np.random.default_rng(0).integers(0, 65536, (40, 40, 1))
    for size in (7, 64, 1000):
        monkeypatch.setattr(jpeg, "CHUNK", size)
        np.testing.assert_array_equal(decode_lossless(encoded(pixels, 16, 1), "x"), pixels)


def test_lossless_jpeg_comes_through_the_seam() -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 30)).astype(np.uint16)

    found = shown(wrapped(pixels, encoded(pixels[..., None], 16, 7)))

    np.testing.assert_array_equal(found, pixels)


def test_another_predictor_than_the_syntax_allows_is_refused() -> None:
    pixels = np.zeros((8, 8), np.uint16)

    with pytest.raises(FoveolaError, match="JPEG process SOF3, not that of"):
        shown(wrapped(pixels, encoded(pixels[..., None], 16, 2), syntax=JPEGLosslessSV1))


def test_real_lossless_jpeg_is_pylibjpegs() -> None:
    path = real("cr_modality_lut_jpeg_lossless.dcm")
    pytest.importorskip("libjpeg")
    frame = get_frame(dcmread(path).PixelData, 0, number_of_frames=1)

    found = decode_lossless(frame, path.name)[..., 0]

    np.testing.assert_array_equal(found, pixel_array(path, decoding_plugin="pylibjpeg"))


def test_real_jpeg_of_12_bits_is_pylibjpegs_but_for_rounding() -> None:
    path = real("cr_jpeg_extended_12bit.dcm")
    pytest.importorskip("libjpeg")
    frame = get_frame(dcmread(path).PixelData, 0, number_of_frames=1)

    differ = decode_extended(frame, path.name)[..., 0].astype(int) - pixel_array(path, decoding_plugin="pylibjpeg")

    assert np.abs(differ).max() <= 1
    assert np.mean(differ != 0) < 0.05


def test_the_zigzag_is_the_standards() -> None:
    assert ZIGZAG[:16].tolist() == [0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5]  # T.81 figure A.6
    assert sorted(ZIGZAG.tolist()) == list(range(64))


BROKEN = {
    "cut off in the scan": lambda file: file[: len(file) // 2] + b"\xff\xd9",
    "no Huffman table": lambda file: file[:2] + file[40:],
    "a code that no table has": lambda file: file[:-30] + b"\xff\0" * 14 + b"\xff\xd9",
    "no end": lambda file: file[:-2],
    "too many codes": lambda file: file.replace(bytes([0, 0, 0, 0, 17]), bytes([9, 0, 0, 0, 8])),
    "predictor 0": lambda file: file.replace(b"\1\0\1\0\0", b"\1\0\0\0\0"),
}


@pytest.mark.parametrize("breaks", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_codestream_is_refused(breaks: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 30)).astype(np.uint16)
    whole = encoded(pixels[..., None], 16, 1)
    assert breaks(whole) != whole

    with pytest.raises(FoveolaError):
        shown(wrapped(pixels, breaks(whole)))
