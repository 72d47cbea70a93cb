"""The grey chain: modality, values of interest, presentation, padding, in this order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dicom_objects import cr, lut, shown
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from foveola.runtime.errors import FoveolaError

RAMP: dict[int, NDArray[Any]] = {
    8: np.arange(256, dtype=np.uint8).reshape(16, 16),
    12: np.arange(4096, dtype=np.uint16).reshape(64, 64),
}
RAMP[16] = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def of(dataset: Dataset) -> list[int]:
    return [int(value) for value in shown(dataset).ravel()]


def grey(values: list[int], stored: int, **said: Any) -> Dataset:
    kind = np.uint8 if stored <= 8 else np.int16 if min(values) < 0 else np.uint16
    made: Dataset = cr(np.array([values], kind), stored=stored, **said)
    return made


def test_without_a_window_the_stored_bits_take_black_to_white() -> None:
    assert of(grey([0, 1, 128, 255], 8)) == [0, 1, 128, 255]
    assert of(grey([0, 512, 1023], 10)) == [0, round(512 / 1023 * 65535), 65535]
    assert of(grey([-2048, 0, 2047], 12)) == [0, round(2048 / 4095 * 65535), 65535]


def test_without_a_window_the_range_is_that_of_the_modality_values() -> None:
    assert of(grey([0, 1, 255], 8, RescaleSlope=-2, RescaleIntercept=100)) == [255, 254, 0]
    table = lut(0, 16, [1000, 1000, 2000, 3000])
    assert of(grey([0, 1, 2, 3, 255], 8, ModalityLUTSequence=[table])) == [0, 0, 128, 255, 255]


def test_a_window_applies_to_modality_values_not_to_stored_ones() -> None:
    said = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 0, "WindowWidth": 101}

    # Modality -50, 0 and 50 of stored 475, 500 and 525; LINEAR around -0.5 with 100 steps.
    assert of(grey([0, 475, 500, 525, 4095], 12, **said)) == [
        0,
        round(0.005 * 65535),
        round(0.505 * 65535),
        65535,
        65535,
    ]


def test_of_several_windows_the_first_counts() -> None:
    assert of(grey([0, 100, 255], 8, WindowCenter=[101, 1], WindowWidth=[1, 1])) == [0, 0, 255]


def test_a_voi_look_up_table_goes_before_a_window_and_the_first_item_counts() -> None:
    items = [lut(1, 8, [10, 20, 30]), lut(0, 8, [0, 0])]

    assert of(grey([0, 1, 2, 3, 9], 8, VOILUTSequence=items, WindowCenter=1, WindowWidth=1)) == [10, 10, 20, 30, 30]


def test_a_voi_look_up_table_reads_modality_values() -> None:
    said = {"RescaleSlope": 1, "RescaleIntercept": -10, "VOILUTSequence": [lut(-10, 8, [0, 100, 200])]}

    assert of(grey([0, 1, 2, 255], 8, **said)) == [0, 100, 200, 200]


def test_a_first_input_value_that_should_have_been_signed_is_read_as_signed() -> None:
    item = lut(65526, 8, [0, 100, 200])  # -10, written as US

    assert of(grey([0, 1, 2, 255], 8, RescaleSlope=1, RescaleIntercept=-10, VOILUTSequence=[item])) == [
        0,
        100,
        200,
        200,
    ]


@pytest.mark.parametrize("stored", [8, 12, 16])
@pytest.mark.parametrize(
    "interest",
    [
        {},
        {"WindowCenter": 100, "WindowWidth": 60},
        {"WindowCenter": 100, "WindowWidth": 60, "VOILUTFunction": "SIGMOID"},
        {"VOILUTSequence": [lut(50, 8, list(range(0, 240, 2)))]},
    ],
)
def test_monochrome1_inverts_what_the_window_shows_and_nothing_before(stored: int, interest: dict[str, Any]) -> None:
    white = 255 if stored == 8 else 65535
    plain = shown(cr(RAMP[stored], stored=stored, **interest)).astype(np.int64)

    inverted = shown(cr(RAMP[stored], stored=stored, PhotometricInterpretation="MONOCHROME1", **interest))

    assert np.abs(white - plain - inverted).max() <= 1  # halves round up on both sides


def test_presentation_lut_shape_inverse_is_monochrome1_said_twice() -> None:
    one = grey([0, 1, 255], 8, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    other = grey([0, 1, 255], 8, PresentationLUTShape="IDENTITY")

    assert (of(one), of(other)) == ([255, 254, 0], [0, 1, 255])


def test_pixel_padding_becomes_background_whatever_the_polarity() -> None:
    said = {"PixelPaddingValue": 200, "PixelPaddingRangeLimit": 250}

    assert of(grey([0, 199, 200, 225, 250, 251], 8, **said)) == [0, 199, 0, 0, 0, 251]
    inverted = grey([0, 199, 200, 225, 250, 251], 8, PhotometricInterpretation="MONOCHROME1", **said)
    assert of(inverted) == [255, 56, 0, 0, 0, 4]
    assert of(grey([-2000, 0], 12, PixelPaddingValue=63536 - 65536, RescaleSlope=1, RescaleIntercept=0))[0] == 0


def test_pixel_padding_does_not_move_the_range() -> None:
    assert of(grey([0, 100, 255], 8, PixelPaddingValue=255)) == [0, 100, 0]


CONTRADICTIONS = {
    "shape against photometric": {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"},
    "unknown shape": {"PresentationLUTShape": "LIN OD"},
    "centre without width": {"WindowCenter": 5},
    "linear narrower than one": {"WindowCenter": 5, "WindowWidth": 0.5},
    "no width": {"WindowCenter": 5, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
    "unknown function": {"WindowCenter": 5, "WindowWidth": 5, "VOILUTFunction": "CUBIC"},
    "slope of zero": {"RescaleSlope": 0, "RescaleIntercept": 5},
    "slope without intercept": {"RescaleSlope": 2},
    "table and rescale": {"RescaleSlope": 2, "RescaleIntercept": 0, "ModalityLUTSequence": [lut(0, 8, [1, 2])]},
    "entries beyond the bits": {"VOILUTSequence": [lut(0, 8, [1, 256])]},
    "flat table": {"ModalityLUTSequence": [lut(0, 8, [7, 7, 7])]},
}


@pytest.mark.parametrize("said", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_a_chain_that_contradicts_itself_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(FoveolaError, match=r"^study\.dcm: "):
        shown(grey([0, 1, 255], 8, **said))


def test_a_table_that_lies_about_its_entries_is_refused() -> None:
    item = lut(0, 8, [1, 2, 3])
    item.LUTDescriptor = [400, 0, 8]

    with pytest.raises(FoveolaError, match="does not hold the 400 entries"):
        shown(grey([0, 1], 8, VOILUTSequence=[item]))


def test_entries_of_eight_bits_may_stand_two_in_a_word() -> None:
    item = lut(0, 8, [0x0201, 0x0403])
    item.LUTDescriptor = [4, 0, 8]

    assert of(grey([0, 1, 2, 3, 9], 8, VOILUTSequence=[item])) == [1, 2, 3, 4, 4]


def test_grey_values_of_functional_groups_are_refused() -> None:
    group = Dataset()
    group.FrameVOILUTSequence = [Dataset()]

    with pytest.raises(FoveolaError, match="FrameVOILUTSequence"):
        shown(grey([0, 1], 8, SharedFunctionalGroupsSequence=[group]))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_the_chain_is_pydicoms(data: st.DataObject) -> None:
    stored = data.draw(st.sampled_from([8, 10, 12, 16]))
    signed = stored > 8 and data.draw(st.booleans())
    low = -(1 << stored - 1) if signed else 0
    pixels = np.arange(low, low + (1 << stored)).reshape(16, -1)
    kind = np.uint8 if stored == 8 else np.int16 if signed else np.uint16
    dataset = cr(pixels.astype(kind), stored=stored, **_chain(data, low, stored))

    found = shown(dataset)

    expected = _by_pydicom(pixels.astype(kind), dataset)
    white = 255 if stored == 8 else 65535
    assert np.abs(found - expected * white).max() <= 0.5 + 1e-6 * white


def _chain(data: st.DataObject, low: int, stored: int) -> dict[str, Any]:
    said: dict[str, Any] = {}
    modality = data.draw(st.sampled_from(["none", "rescale", "table"]))
    if modality == "rescale":
        said |= {"RescaleSlope": data.draw(st.sampled_from([1, 2, -1, 0.5])), "RescaleIntercept": -7}
    if modality == "table":
        said["ModalityLUTSequence"] = [
            lut(low, 16, sorted(data.draw(st.lists(st.integers(0, 9000), min_size=90, max_size=90))))
        ]
    interest = data.draw(st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID", "table"]))
    if interest == "table":
        entries = data.draw(st.lists(st.integers(0, 4095), min_size=60, max_size=60))
        said["VOILUTSequence"] = [lut(0, 12, entries)]
        if said.get("RescaleSlope") == 0.5:
            del said["RescaleSlope"], said["RescaleIntercept"]  # pydicom cuts fractions off towards zero, we downwards
    else:
        centre, width = data.draw(st.integers(-99, 1 << stored)), data.draw(st.integers(1, 1 << stored))
        said |= {"WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": interest}
    if data.draw(st.booleans()):
        said["PhotometricInterpretation"] = "MONOCHROME1"
    return said


def _by_pydicom(pixels: NDArray[Any], dataset: Dataset) -> NDArray[np.float64]:
    """0 black to 1 white, by pydicom's own functions."""
    modal = apply_modality_lut(pixels.astype(np.int64), dataset)  # in 16 bits its differences would run over
    if "VOILUTSequence" in dataset:
        modal = np.clip(np.asarray(modal).astype(np.int64), None, 65535)  # beyond it pydicom begins again at 0
        seen = apply_voi_lut(modal, dataset) / 4095
    else:
        with np.errstate(over="ignore"):  # in its sigmoid
            seen = _unit(np.asarray(apply_voi_lut(modal.astype(np.float64), dataset)), dataset)
    return 1 - seen if dataset.PhotometricInterpretation == "MONOCHROME1" else seen


def _unit(windowed: NDArray[np.float64], dataset: Dataset) -> NDArray[np.float64]:
    """Undo pydicom's output range, which it takes from the modality's (`apply_windowing`)."""
    low, high = (
        (-(1 << dataset.BitsStored - 1), (1 << dataset.BitsStored - 1) - 1)
        if dataset.PixelRepresentation
        else (0, (1 << dataset.BitsStored) - 1)
    )
    if "ModalityLUTSequence" in dataset:
        low, high = 0, 65535
    elif "RescaleSlope" in dataset:
        low, high = (
            low * dataset.RescaleSlope + dataset.RescaleIntercept,
            high * dataset.RescaleSlope + dataset.RescaleIntercept,
        )
    return np.asarray((windowed - low) / (high - low))
