"""What each measure tells, on pictures that were drawn; oracles are scipy and numpy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from foveola.runtime.fitness.copy import SIDE, Squares, grey_plane, laplacian, lit_box, small_copy
from foveola.runtime.fitness.fundus import measure_fundus
from foveola.runtime.fitness.judge import REASONS
from foveola.runtime.fitness.radiograph import measure_radiograph, unit_thumbnail
from foveola.toolkit.fitness.spoil import FAULTS, spoil

Pictures = list[Image.Image]
Template = NDArray[np.float32]
# The fault, the measure that must tell it, and where that goes.
XRAY = [
    ("out of focus", "focus", -1),
    ("dark", "contrast", -1),
    ("dark mid-tones", "midtone", -1),
    ("bright mid-tones", "midtone", 1),
    ("clipped", "white", 1),
    ("clipped", "black", 1),
    ("inverted", "polarity", -1),
    ("turned by 90 degrees", "upright", -1),
    ("turned by 180 degrees", "upright", -1),
    ("cropped", "whole", -1),
    ("collimated", "field", -1),
]
FUNDUS = [
    ("out of focus", "focus", -1),
    ("dark", "brightness", -1),
    ("bright mid-tones", "brightness", 1),
    ("clipped", "white", 1),
    ("cropped", "surround", -1),
    ("half dark", "surround", -1),
    ("unevenly lit", "evenness", -1),
    ("green cast", "red_green", -1),
    ("blue cast", "blue", 1),
    ("no disc", "disc", -1),
    ("no macula", "macula", -1),
]


@pytest.mark.parametrize(("fault", "measure", "sign"), XRAY, ids=str)
def test_a_fault_of_a_radiograph_moves_its_measure(
    fault: str, measure: str, sign: int, chests: Pictures, template: Template
) -> None:
    good = [measure_radiograph(chest, template)[measure] for chest in chests]

    spoiled = [measure_radiograph(spoil(chest, FAULTS["radiograph"][fault]), template)[measure] for chest in chests]

    moved = sign * (np.array(spoiled) - good)
    assert np.mean(moved > 0) > 0.9, (good, spoiled)


@pytest.mark.parametrize(("fault", "measure", "sign"), FUNDUS, ids=str)
def test_a_fault_of_a_fundus_photograph_moves_its_measure(fault: str, measure: str, sign: int, eyes: Pictures) -> None:
    good = [measure_fundus(eye)[measure] for eye in eyes]

    spoiled = [measure_fundus(spoil(eye, FAULTS["fundus"][fault])).get(measure, np.nan) for eye in eyes]

    moved = sign * (np.array(spoiled) - good)
    assert np.mean(moved >= 0) > 0.8, (good, spoiled)
    assert np.median(moved) > 0


def test_every_measure_is_a_finite_number_and_has_its_reasons(
    chests: Pictures, eyes: Pictures, template: Template
) -> None:
    found = {"radiograph": measure_radiograph(chests[0], template), "fundus": measure_fundus(eyes[0])}

    for kind, measures in found.items():
        assert set(measures) == set(REASONS[kind])  # type: ignore[index]
        assert all(np.isfinite(list(measures.values())))


def test_a_negative_answers_with_minus_the_correlation(chests: Pictures, template: Template) -> None:
    grey = grey_plane(small_copy(chests[0]))

    right, wrong = ((unit_thumbnail(one) * template).sum() for one in (grey, 1 - grey))

    assert wrong == pytest.approx(-right, abs=1e-5)


def test_polarity_is_pearsons_correlation(chests: Pictures, template: Template) -> None:
    small = Image.fromarray(grey_plane(small_copy(chests[1]))).resize((16, 16), Image.Resampling.BILINEAR)

    found = measure_radiograph(chests[1], template)["polarity"]

    assert found == pytest.approx(np.corrcoef(np.asarray(small).ravel(), template.ravel())[0, 1], abs=1e-5)


def test_a_picture_of_8_bits_measures_as_one_of_16(chests: Pictures, template: Template) -> None:
    shallow = np.asarray(chests[0]) >> 8
    deep = Image.fromarray((shallow.astype("<u2")) * 257)

    one, other = (
        measure_radiograph(picture, template) for picture in (Image.fromarray(shallow.astype(np.uint8)), deep)
    )

    assert one == pytest.approx(other, abs=0.02)


def test_a_coloured_radiograph_measures_as_its_luma(chests: Pictures, template: Template) -> None:
    grey = Image.fromarray((np.asarray(chests[0]) >> 8).astype(np.uint8))

    assert measure_radiograph(grey.convert("RGB"), template) == pytest.approx(measure_radiograph(grey, template))


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_flat_picture_is_measured_and_raises_nothing(value: int, template: Template) -> None:
    flat = Image.new("L", (300, 200), value)

    found = measure_radiograph(flat, template)

    assert (found["white"], found["black"], found["contrast"]) == (1.0, 1.0, 0.0)
    assert found["polarity"] == 0.0
    assert all(np.isfinite(list(found.values())))


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 2), (7, 7)])
def test_a_tiny_picture_is_measured_and_raises_nothing(size: tuple[int, int], template: Template) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, size[::-1]).astype(np.uint8))

    assert all(np.isfinite(list(measure_radiograph(picture, template).values())))
    assert all(np.isfinite(list(measure_fundus(picture.convert("RGB")).values())))


def test_a_black_picture_has_no_field() -> None:
    assert measure_fundus(Image.new("RGB", (400, 300))) == {"field": 0.0}


def test_a_drawn_disc_has_a_full_field_and_a_dark_surround() -> None:
    rows, columns = np.mgrid[:300, :400]
    disc = np.hypot(rows - 149.5, columns - 199.5) < 140
    picture = Image.fromarray((disc[..., None] * np.array([180, 90, 30])).astype(np.uint8))

    found = measure_fundus(picture)

    assert found["field"] == pytest.approx(1, abs=0.03)
    assert found["surround"] == pytest.approx(1, abs=0.03)
    assert found["red_green"] == pytest.approx(1, abs=0.02)
    assert found["blue"] == pytest.approx(0.1, abs=0.01)
    assert found["evenness"] == pytest.approx(1, abs=0.01)


def test_the_bright_disc_is_found_where_the_phantom_has_it(eyes: Pictures) -> None:
    with_disc = [measure_fundus(eye)["disc"] for eye in eyes]

    assert np.median(with_disc) > 1  # standard deviations


# --- the arithmetic ---


def test_a_copy_of_a_copy_is_the_copy(chests: Pictures, eyes: Pictures) -> None:
    for picture in (chests[0], eyes[0]):
        copy = small_copy(picture, 128)

        assert max(copy.size) == 128
        assert np.array_equal(np.asarray(small_copy(copy, 128)), np.asarray(copy))


def test_a_small_picture_is_not_enlarged() -> None:
    assert small_copy(Image.new("L", (100, 80))).size == (100, 80)
    assert small_copy(Image.new("L", (1000, 1))).size == (SIDE, 1)


def test_the_copy_keeps_the_mean() -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (1000, 700)).astype(np.uint8)

    assert np.asarray(small_copy(Image.fromarray(pixels))).mean() == pytest.approx(pixels.mean(), abs=0.5)


def test_the_laplacian_is_scipys() -> None:
    plane = np.random.default_rng(2).random((20, 30), np.float32)

    assert np.allclose(laplacian(plane), -ndimage.laplace(plane)[1:-1, 1:-1], atol=1e-5)


@pytest.mark.parametrize("radius", [1, 3])
def test_means_over_squares_are_scipys(radius: int) -> None:
    rng = np.random.default_rng(3)
    planes, weight = rng.random((2, 24, 17), np.float32), (rng.random((24, 17)) > 0.3).astype(np.float32)
    size = 2 * radius + 1

    means, share = Squares(planes, weight, 4).means(radius)

    expected = [ndimage.uniform_filter(np.float64(plane * weight), size, mode="constant") for plane in planes]
    weights = ndimage.uniform_filter(np.float64(weight), size, mode="constant")
    assert np.allclose(share, weights)
    assert np.allclose(means * share, expected)


def test_the_lit_box_is_the_smallest_that_holds_all_lit_lines() -> None:
    lit = np.zeros((10, 20), np.bool_)
    lit[2:5, 3:9] = True

    assert lit_box(lit, 0.02) == (3, 2, 9, 5)
    assert lit_box(np.zeros((4, 4), np.bool_), 0.02) == (0, 0, 0, 0)
