"""Outlines against a filling by the even-odd rule that is written here from its definition."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from foveola.runtime.dicom_results.contour import MOST_CORNERS, Polygon, outlines

Bools = NDArray[np.bool_]


def filled(polygons: list[Polygon], shape: tuple[int, ...]) -> Bools:
    """A pixel is inside where the row through its centre crosses an odd number of upright edges left of it."""
    crossings = np.zeros(shape, np.int64)
    for polygon in polygons:
        for (x1, y1), (x2, y2) in pairwise(polygon):
            if x1 == x2 and x1 < shape[1]:
                crossings[int(min(y1, y2)) : int(max(y1, y2)), int(x1)] += 1
    odd: Bools = np.cumsum(crossings, axis=1) % 2 == 1
    return odd


@given(arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12)))
@settings(max_examples=300, deadline=None)
def test_outlines_fill_to_the_mask_that_they_came_from(mask: Bools) -> None:
    polygons = outlines(mask)

    np.testing.assert_array_equal(filled(polygons, mask.shape), mask)
    for polygon in polygons:
        assert polygon[0].tolist() == polygon[-1].tolist()
        steps = np.diff(polygon, axis=0)
        assert ((steps == 0).sum(axis=1) == 1).all()  # every side runs along rows or along columns
        assert ((steps[:-1] == 0) != (steps[1:] == 0)).all()  # and turns at its corners


def test_a_rectangle_has_its_four_corners() -> None:
    mask = np.zeros((9, 9), np.bool_)
    mask[2:5, 3:8] = True

    assert [polygon.tolist() for polygon in outlines(mask)] == [[[3, 2], [8, 2], [8, 5], [3, 5], [3, 2]]]


def test_pixels_that_touch_at_a_corner_are_two_outlines() -> None:
    assert [len(polygon) for polygon in outlines(np.eye(2, dtype=np.bool_))] == [5, 5]


@pytest.mark.parametrize("shape", [(300, 301), (1, 40000), (40001, 1)])
def test_a_mask_of_noise_is_covered_by_few_corners(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(3).random(shape) < 0.5

    polygons = outlines(mask)

    assert sum(len(polygon) - 1 for polygon in polygons) <= MOST_CORNERS
    assert filled(polygons, shape)[mask].all()
    assert all((polygon <= [shape[1], shape[0]]).all() for polygon in polygons)


def test_the_largest_picture_is_traced_in_seconds() -> None:
    y, x = np.ogrid[:3000, :3000]
    mask = (np.hypot(x - 1500, y - 1500) < 1400) & (np.random.default_rng(0).random((3000, 3000)) < 0.9)

    start = time.process_time()
    outlines(mask)

    assert time.process_time() - start < 5  # one on a quiet desk


@given(st.integers(1, 5), st.integers(1, 5))
def test_nothing_has_no_outline(height: int, width: int) -> None:
    assert outlines(np.zeros((height, width), np.bool_)) == []
