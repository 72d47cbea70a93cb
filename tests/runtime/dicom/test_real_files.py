"""The real DICOM files, odd ones included: each is answered about as pydicom shows it, or refused for what is wrong."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from dicom_objects import ANY, GREY, opened, real, real_rows
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from foveola.runtime.dicom.codestream import Codestream
from foveola.runtime.dicom.frames import first_frame
from foveola.runtime.dicom.header import read_header
from foveola.runtime.dicom.pixels import decode_frame
from foveola.runtime.dicom.rule import SourceRule
from foveola.runtime.dicom.tags import Tags, quiet
from foveola.runtime.errors import FoveolaError

REFUSED = {
    "seg_of_cr_binary.dcm": "is a Segmentation Storage object",
    "xa_96_frames_jpeg.dcm": "holds 96 frames",
    "mr_10_frames_rle.dcm": "holds 10 frames",
    "mr_truncated_pixels.dcm": "has 8130 bytes, its length says 8192",
    "ct_j2k_pixelrep_mismatch.dcm": "disagree: signed False in the codestream, True in the header",
    "sr_no_pixels.dcm": "holds no pixel data .Comprehensive SR Storage",
    "damaged_cut_at_60_percent.dcm": "no DICOM object can be read from it",
    "damaged_not_dicom.dcm": "not a PNG, JPEG, TIFF or BMP file",
    "damaged_empty.dcm": "the file is empty",
}
ROWS = real_rows()
GOOD = [row for row in ROWS if row["file"] not in REFUSED]
GREYS = [row for row in GOOD if row["photometric"].startswith("MONOCHROME")]


@pytest.mark.parametrize("name", REFUSED)
def test_an_odd_one_is_refused_for_what_is_wrong_with_it(name: str) -> None:
    with pytest.raises(FoveolaError, match=REFUSED[name]) as told:
        opened(real(name).read_bytes())

    assert "\n" not in str(told.value)


@pytest.mark.parametrize("row", GOOD, ids=[row["file"] for row in GOOD])
def test_stored_values_are_those_of_the_files_manifest(row: dict[str, str]) -> None:
    """Least, greatest and mean before any table, as another reader decoded them."""
    if row["photometric"] == "PALETTE COLOR" or row["shape"].endswith("x3"):
        found: NDArray[Any] = np.asarray(opened(real(row["file"]).read_bytes()).picture)
        if row["photometric"] == "PALETTE COLOR":
            found = _stored(row["file"])
    else:
        found = _stored(row["file"])

    assert "x".join(map(str, found.shape)) == row["shape"]
    lossy = row["transfer_syntax"].startswith(("JPEG Baseline", "JPEG Extended"))
    assert (int(found.min()), int(found.max())) == (int(row["pixel_min"]), int(row["pixel_max"]))
    assert float(found.mean()) == pytest.approx(float(row["pixel_mean"]), abs=0.5 if lossy else 0.006)


@lru_cache
def _stored(name: str) -> NDArray[Any]:
    with quiet():
        tags = Tags(dcmread(real(name), force=True), name)
        if not getattr(tags.dataset, "file_meta", None):
            tags.dataset.set_original_encoding(True, True)
        header = read_header(tags)
        samples, stream = decode_frame(first_frame(tags, header), header, name)
    assert stream is None or isinstance(stream, Codestream)
    values = samples.astype(np.int64)
    return np.where(values >> header.stored - 1, values - (1 << header.stored), values) if header.signed else values


@pytest.mark.parametrize("row", GREYS, ids=[row["file"] for row in GREYS])
def test_a_grey_picture_is_what_pydicom_shows(row: dict[str, str]) -> None:
    source = opened(real(row["file"]).read_bytes())
    assert source.dataset is not None

    expected = _by_pydicom(_stored(row["file"]), source.dataset)

    white = 255 if source.picture.mode == "L" else 65535
    assert np.abs(np.asarray(source.picture) - expected * white).max() <= 0.51


def _by_pydicom(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        full = np.arange(1 << int(dataset.BitsStored)) - (
            (1 << int(dataset.BitsStored) - 1) * dataset.PixelRepresentation
        )
        modal, whole = (apply_modality_lut(values, dataset) for values in (stored, full))
        if "VOILUTSequence" in dataset:
            entry = dataset.VOILUTSequence[0]
            seen = apply_voi_lut(modal, dataset) / ((1 << entry.LUTDescriptor[2]) - 1)
        else:
            low, high = whole.min(), whole.max()
            windowed = "WindowWidth" in dataset
            if windowed and "ModalityLUTSequence" in dataset:
                low, high = 0, 65535
            seen = ((apply_voi_lut(modal, dataset) if windowed else modal) - float(low)) / (float(high) - float(low))
    return np.asarray(1 - seen if dataset.PhotometricInterpretation == "MONOCHROME1" else seen)


def test_a_chest_with_its_tag_changed_to_monochrome1_is_its_own_negative() -> None:
    plain, fake = (
        np.asarray(opened(real(name).read_bytes()).picture, np.int64)
        for name in ("cr_chest_jpeg_baseline.dcm", "cr_chest_fake_monochrome1.dcm")
    )

    np.testing.assert_array_equal(fake, 255 - plain)


def test_every_lung_is_dark_whatever_the_polarity_of_the_file() -> None:
    """A radiograph shows air dark and bone bright: the middle of the chest is brighter than the lungs beside it."""
    pixels = np.asarray(opened(real("cr_chest_mono1_no_preamble").read_bytes()).picture, np.float64)
    height, width = pixels.shape
    band = pixels[height // 4 : height // 2]
    spine, lung = band[:, 45 * width // 100 : 55 * width // 100], band[:, 20 * width // 100 : 35 * width // 100]

    assert spine.mean() > lung.mean()


def test_the_first_frame_of_many_is_read_where_the_rule_says_so() -> None:
    path = real("mr_10_frames_rle.dcm")

    found = np.asarray(opened(path.read_bytes(), SourceRule(frames="first"), GREY).picture)

    expected = dcmread(path).pixel_array[0] / 4095 * 65535
    assert np.abs(found - expected).max() <= 0.51
    assert ANY.frames == "one"
