"""The secondary capture and the caption on it."""

from __future__ import annotations

from io import BytesIO

import msgspec
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from foveola.runtime.dicom_results.identity import BundleIdentity
from foveola.runtime.dicom_results.words import MOST_LINES, WIDEST, caption, mask_ink
from foveola.runtime.dicom_results.write import make_results
from foveola.runtime.prediction import Finding, Prediction

from .conftest import COLUMNS, ROWS, Written

SCALE = 8  # 64 columns are drawn as 512


def pixels_of(written: Written, prediction: Prediction | None = None, folder: str = "out") -> np.ndarray:
    captured = dcmread(written(prediction=prediction, kinds=("sc",), folder=folder)["sc"])
    array: np.ndarray = captured.pixel_array
    return array


def test_the_picture_is_drawn_with_outlines_and_boxes_and_a_band_below(written: Written) -> None:
    pixels = pixels_of(written)

    assert pixels.dtype == np.uint8
    assert pixels.shape[1:] == (COLUMNS * SCALE, 3)
    drawn, band = pixels[: ROWS * SCALE], pixels[ROWS * SCALE :]
    assert tuple(drawn[10 * SCALE, 16 * SCALE]) == mask_ink(0)  # the upper edge of the right lung
    assert tuple(drawn[20 * SCALE, 16 * SCALE]) == (100, 100, 100)  # inside of it
    assert tuple(drawn[15 * SCALE, int(40.5 * SCALE)]) == mask_ink(2)  # the left side of the box
    assert tuple(drawn[5 * SCALE, 5 * SCALE]) == (100, 100, 100)
    assert band.max() == 255


def test_nothing_but_lines_and_their_labels_covers_the_picture(written: Written) -> None:
    drawn = pixels_of(written)[: ROWS * SCALE]

    changed = (drawn != 100).any(axis=-1)
    assert changed.mean() < 0.05


def test_an_unfit_image_shows_its_picture_and_why(
    written: Written, unfit: Prediction, identity: BundleIdentity
) -> None:
    pixels = pixels_of(written, unfit)

    assert (pixels[: ROWS * SCALE] == 100).all()
    words = [line.text for line in caption(unfit, identity)]
    assert words == [
        "chest 1.4  sha256 0123456789ab",
        "NOT ANSWERED: image not fit",
        "- out of focus (0.03, at least 0.10)",
    ]


def test_the_caption_begins_with_what_is_positive(answer: Prediction, identity: BundleIdentity) -> None:
    turned = msgspec.structs.replace(answer, findings=answer.findings[::-1])

    words = [line.text for line in caption(turned, identity)]

    assert words[1:4] == [
        "POSITIVE  Pneumothorax  0.875 (>= 0.500)",
        "negative  Pleural Thickening  0.125 (< 0.250)",
        "box 1  nodule  0.970",
    ]
    assert "grade: severe  0.750" in words
    assert "age  61.25 years" in words


def test_a_label_alone_stands_with_its_question(identity: BundleIdentity) -> None:
    finding = Finding(task="sex", label="M", probability=0.626, threshold=0.5, positive=True)

    assert caption(Prediction(findings=(finding,)), identity)[1].text == "POSITIVE  sex: M  0.626 (>= 0.500)"


def test_a_caption_is_bounded_and_says_what_it_left_out(identity: BundleIdentity) -> None:
    many = tuple(
        Finding(task="t", label=f"sign {n} " + "x" * 99, probability=0.1, threshold=0.5, positive=False)
        for n in range(60)
    )

    lines = caption(Prediction(findings=many), identity)

    assert len(lines) == MOST_LINES
    assert max(len(line.text) for line in lines) <= WIDEST
    assert lines[-1].text == "and 38 more, see the report"


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        (Image.fromarray(np.full((3000, 2000), 40000, np.uint16)), (1365, 2048)),
        (Image.new("RGB", (900, 600), (156, 156, 156)), (900, 600)),
        (Image.new("L", (1, 900), 156), (1, 900)),
    ],
    ids=["16 bit", "colour", "one column"],
)
def test_any_picture_is_drawn_at_a_size_to_look_at(
    cr: Dataset, identity: BundleIdentity, picture: Image.Image, size: tuple[int, int]
) -> None:
    cr.Columns, cr.Rows = picture.size

    (data,) = make_results(cr, Prediction(), identity, ("sc",), picture=picture).values()

    pixels = dcmread(BytesIO(data)).pixel_array
    assert pixels.shape[1] == size[0]
    assert pixels.shape[0] > size[1]
    assert (pixels[: size[1]] == 156).all()


def test_it_refers_to_its_source_and_says_what_it_is(written: Written, op: Dataset) -> None:
    captured = dcmread(written(op, kinds=("sc",))["sc"])

    assert captured.SourceImageSequence[0].ReferencedSOPInstanceUID == op.SOPInstanceUID
    assert captured.ImageType[:2] == ["DERIVED", "SECONDARY"]
    assert captured.ConversionType == "WSD"
    assert (captured.LossyImageCompression, captured.LossyImageCompressionRatio) == ("01", 12)
    assert "PixelSpacing" not in captured


@pytest.mark.parametrize("said", ["YES", "NO", None])
def test_whether_somebody_is_named_in_the_pixels_is_the_sources_word(
    written: Written, cr: Dataset, said: str | None
) -> None:
    if said:
        cr.BurnedInAnnotation = said

    assert dcmread(written(cr, kinds=("sc",))["sc"]).get("BurnedInAnnotation") == said
