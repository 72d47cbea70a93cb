"""The presentation state, read back by pydicom."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from foveola.runtime.prediction import Prediction

from .conftest import COLUMNS, ROWS, Written, mask


def read(written: Written, *arguments: Any, **options: Any) -> Any:
    return dcmread(written(*arguments, kinds=("gsps",), **options)["gsps"])


def shapes_of(state: Any, layer: str) -> list[list[list[float]]]:
    (annotation,) = [one for one in state.GraphicAnnotationSequence if one.GraphicLayer == layer]
    return [np.reshape(one.GraphicData, (-1, 2)).tolist() for one in annotation.GraphicObjectSequence]


def test_every_label_has_a_layer_of_its_own(written: Written) -> None:
    state = read(written)

    layers = {one.GraphicLayer: one.GraphicLayerDescription for one in state.GraphicLayerSequence}
    assert layers == {"FOVEOLA CAPTION": "Caption", "FOVEOLA MASK 1": "right lung", "FOVEOLA BOX 1": "nodule"}
    colours = {tuple(one.GraphicLayerRecommendedDisplayCIELabValue) for one in state.GraphicLayerSequence}
    assert len(colours) == 3


def test_outline_and_box_lie_where_mask_and_box_do(written: Written) -> None:
    state = read(written)

    assert shapes_of(state, "FOVEOLA MASK 1") == [[[8, 10], [24, 10], [24, 30], [8, 30], [8, 10]]]
    assert shapes_of(state, "FOVEOLA BOX 1") == [[[40.5, 10], [50.5, 10], [50.5, 20], [40.5, 20], [40.5, 10]]]


def test_the_caption_says_the_same_as_on_the_picture(written: Written, unfit: Prediction) -> None:
    (annotation,) = [one for one in read(written).GraphicAnnotationSequence if one.GraphicLayer == "FOVEOLA CAPTION"]
    assert "POSITIVE  Pneumothorax" in annotation.TextObjectSequence[0].UnformattedTextValue

    state = read(written, prediction=unfit, folder="unfit")

    (annotation,) = state.GraphicAnnotationSequence
    assert "NOT ANSWERED" in annotation.TextObjectSequence[0].UnformattedTextValue
    assert "GraphicObjectSequence" not in annotation


@pytest.mark.parametrize(
    ("photometric", "shape", "written_shape"),
    [
        ("MONOCHROME2", None, "IDENTITY"),
        ("MONOCHROME1", None, "INVERSE"),
        ("MONOCHROME1", "INVERSE", "INVERSE"),
        ("MONOCHROME2", "LIN OD", "IDENTITY"),
    ],
)
def test_a_negative_stays_a_negative_under_its_presentation_state(
    written: Written, cr: Dataset, photometric: str, shape: str | None, written_shape: str
) -> None:
    cr.PhotometricInterpretation = photometric
    if shape:
        cr.PresentationLUTShape = shape

    assert read(written, cr).PresentationLUTShape == written_shape


def test_the_sources_window_is_taken_over(written: Written, dx: Dataset) -> None:
    state = read(written, dx)

    assert state.SOPClassUID.name == "Grayscale Softcopy Presentation State Storage"
    (window,) = state.SoftcopyVOILUTSequence
    assert (window.WindowCenter, window.WindowWidth) == (2048, 4096)
    assert (state.RescaleSlope, state.RescaleIntercept) == (1, 0)


def test_a_lookup_table_goes_before_a_window_as_it_does_in_the_picture(written: Written, dx: Dataset) -> None:
    dx.VOILUTSequence = Sequence([Dataset()])
    dx.VOILUTSequence[0].LUTDescriptor = [4, 0, 16]
    dx.VOILUTSequence[0].add_new("LUTData", "US", [0, 10, 200, 65535])

    (item,) = read(written, dx).SoftcopyVOILUTSequence

    assert "WindowCenter" not in item
    assert np.frombuffer(item.VOILUTSequence[0].LUTData, "<u2").tolist() == [0, 10, 200, 65535]


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422", "PALETTE COLOR"])
def test_a_coloured_source_gets_a_coloured_presentation_state(written: Written, op: Dataset, photometric: str) -> None:
    op.PhotometricInterpretation = photometric
    op.SamplesPerPixel = 1 if photometric == "PALETTE COLOR" else 3

    state = read(written, op)

    assert state.SOPClassUID.name == "Color Softcopy Presentation State Storage"
    assert state.ICCProfile[12:16] == b"scnr"
    assert state.ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID == op.SOPInstanceUID


def test_a_mask_of_many_pieces_is_bounded_and_stays_in_the_image(written: Written) -> None:
    pixels = np.random.default_rng(1).random((ROWS, COLUMNS)) < 0.5
    noise = mask("noise")
    noise.pixels[:] = pixels

    shapes = shapes_of(read(written, prediction=Prediction(masks=(noise,))), "FOVEOLA MASK 1")

    assert 1 < len(shapes) <= 256
    assert all(0 <= x <= COLUMNS and 0 <= y <= ROWS for shape in shapes for x, y in shape)


@pytest.mark.parametrize(
    ("series", "image", "side"), [("L", None, "L"), (None, "R", "R"), ("L", "R", ""), (None, "B", "")]
)
def test_the_side_is_what_the_source_says_of_itself(
    written: Written, cr: Dataset, series: str | None, image: str | None, side: str
) -> None:
    del cr.Laterality
    if series:
        cr.Laterality = series
    if image:
        cr.ImageLaterality = image

    assert (read(written, cr).Laterality or "") == side
