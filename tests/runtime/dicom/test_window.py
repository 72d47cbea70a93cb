"""The window arithmetic of PS3.3 C.11.2.1.2 and C.11.2.1.3, by the standard's own examples and hand-made tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_windowing

from foveola.runtime.dicom.window import WINDOWS, linear, linear_exact, sigmoid

# PS3.3 C.11.2.1.2.1, the notes: for output 0..255, where the ramp begins and ends, and its formula between.
EXAMPLES = [
    (2048, 4096, 0, 4095, lambda x: (x - 2047.5) / 4095 + 0.5),
    (0, 100, -50, 49, lambda x: (x + 0.5) / 99 + 0.5),
]
STEPS = [(2048, 1, 2047.5), (0, 1, -0.5)]


@pytest.mark.parametrize(("centre", "width", "black", "white", "between"), EXAMPLES)
def test_linear_is_the_standards_example(centre, width, black, white, between) -> None:  # type: ignore[no-untyped-def]
    values = np.arange(black - 300, white + 300, dtype=np.float64)

    found = linear(values, centre, width)

    expected = np.array([0 if x <= black else 1 if x > white else between(x) for x in values])
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert linear(np.array([black, white]), centre, width).tolist() == [0, 1]


@pytest.mark.parametrize(("centre", "width", "edge"), STEPS)
def test_linear_of_width_one_is_a_step_at_the_centre_less_a_half(centre: float, width: float, edge: float) -> None:
    values = np.array([edge - 0.5, edge, edge + 0.01, edge + 0.5])

    assert linear(values, centre, width).tolist() == [0, 0, 1, 1]


def test_linear_exact_is_black_and_white_at_half_the_width() -> None:
    assert linear_exact(np.array([-1, 0, 25, 50, 75, 100, 101]), 50, 100).tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert linear_exact(np.array([0.4, 0.5, 0.6]), 0.5, 0.2).tolist() == pytest.approx([0, 0.5, 1])


def test_sigmoid_is_the_standards_curve() -> None:
    found = sigmoid(np.array([-1e9, -50.0, 0.0, 50.0, 1e9]), 0, 100)

    assert found.tolist() == pytest.approx([0, 1 / (1 + math.exp(2)), 0.5, 1 / (1 + math.exp(-2)), 1])


def test_linear_of_eight_bits_is_the_table_that_other_viewers_got_wrong() -> None:
    # dcm4che issue 1513: 20, 144, 226 instead of these; centre 127, width 222: -(111) .. +110 around 127 takes 0..255.
    values = np.array([16, 36, 143.5, 237])

    assert np.floor(linear(values, 127, 222) * 255 + 0.5).tolist() == [0, 23, 147, 255]


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize(
    ("centre", "width"), [(1000.0, 1600.0), (-20.5, 3.0), (512.0, 1.0), (40.0, 400.25), (0.0, 2.0)]
)
def test_every_window_is_pydicoms(name: str, centre: float, width: float) -> None:
    dataset = Dataset()
    dataset.PhotometricInterpretation, dataset.BitsStored, dataset.PixelRepresentation = "MONOCHROME2", 12, 1
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = centre, width, name
    stored = np.arange(-2048, 2048, dtype=np.int16)

    with np.errstate(over="ignore"):  # in its sigmoid
        expected = (apply_windowing(stored, dataset) + 2048) / 4095

    np.testing.assert_allclose(WINDOWS[name][0](stored.astype(np.float64), centre, width), expected, atol=1e-9)
