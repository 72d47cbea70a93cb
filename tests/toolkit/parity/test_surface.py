from __future__ import annotations

from math import hypot

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, directed_hausdorff

from foveola.toolkit.parity import surface
from foveola.toolkit.parity.surface import outline, surface_measures

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
SIZE = (64, 64)
EMPTY = np.zeros(SIZE, dtype=bool)


def box(top: int, left: int, height: int, width: int) -> Mask:
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def disc(row: int, column: int, radius: int) -> Mask:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.asarray((rows - row) ** 2 + (columns - column) ** 2 <= radius**2)


# Surface Dice at the tolerance and the 95th percentile of the surface distance, by DeepMind's package surface-distance
# 0.1 (PyPI; Nikolov et al.), compute_surface_dice_at_tolerance and compute_robust_hausdorff, with one spacing on both
# axes. Its elements and lengths in 2-D are the ones defined here, so every shape must agree, those at the edge too.
PAIRS = {
    "a square moved by three": (box(20, 20, 20, 20), box(20, 23, 20, 20)),
    "a square in a square": (box(10, 10, 30, 30), box(15, 15, 20, 20)),
    "a square and a tall box": (box(20, 20, 10, 10), box(18, 19, 30, 8)),
    "a disc moved": (disc(30, 30, 15), disc(33, 32, 15)),
    "a disc and a larger one": (disc(30, 30, 12), disc(30, 30, 17)),
    "two far apart": (box(2, 2, 6, 6), disc(50, 50, 9)),
    "an island beside": (disc(30, 30, 12), disc(30, 30, 12) | box(2, 55, 4, 4)),
    "one pixel": (box(5, 5, 1, 1), box(9, 8, 1, 1)),
    "two at a corner": (box(20, 20, 6, 6) | box(26, 26, 6, 6), box(20, 20, 12, 12)),
    "a ring": (disc(32, 32, 20) & ~disc(32, 32, 10), disc(32, 32, 18) & ~disc(32, 32, 9)),
    "at the image's edge": (box(0, 0, 20, 20), box(0, 3, 22, 20)),
    "at the lower edge": (box(44, 44, 20, 20), box(40, 44, 22, 18)),
}
DEEPMIND = [  # shape, spacing, tolerance, surface Dice, HD95
    ("a square moved by three", 1.0, 1.0, 0.5, 3.0),
    ("a square moved by three", 1.0, 2.0, 0.5507431157248639, 3.0),
    ("a square moved by three", 0.5, 1.5, 1.0, 1.5),
    ("a square in a square", 1.0, 2.0, 0.0, 6.4031242374328485),
    ("a square and a tall box", 1.0, 1.0, 0.2939920674649706, 18.0),
    ("a square and a tall box", 0.5, 1.5, 0.6620158650700589, 9.0),
    ("a disc moved", 1.0, 1.0, 0.2650927085186187, 3.605551275463989),
    ("a disc moved", 1.0, 2.0, 0.5196579293499232, 3.605551275463989),
    ("a disc moved", 0.5, 1.5, 0.8396531354458566, 1.8027756377319946),
    ("a disc and a larger one", 1.0, 2.0, 0.0, 5.385164807134504),
    ("two far apart", 0.5, 1.5, 0.0, 34.64823227814083),
    ("an island beside", 1.0, 1.0, 0.9152636851608625, 26.1725046566048),
    ("one pixel", 1.0, 1.0, 0.0, 5.0),
    ("two at a corner", 1.0, 1.0, 0.6234165414514539, 5.0),
    ("two at a corner", 1.0, 2.0, 0.7099167918818792, 5.0),
    ("a ring", 1.0, 1.0, 0.3582224096199857, 2.23606797749979),
    ("a ring", 1.0, 2.0, 0.8825475984480415, 2.23606797749979),
    ("at the image's edge", 1.0, 1.0, 0.2809297123416943, 3.0),
    ("at the image's edge", 0.5, 1.5, 0.9894399356642688, 1.5),
    ("at the lower edge", 1.0, 1.0, 0.30074311572486395, 4.0),
    ("at the lower edge", 1.0, 2.0, 0.7708864577089839, 4.0),
]


@pytest.mark.parametrize(("name", "spacing", "tolerance", "nsd", "hd95"), DEEPMIND)
def test_surfaces_are_those_of_deepminds_package(
    name: str, spacing: float, tolerance: float, nsd: float, hd95: float
) -> None:
    assert surface_measures(*PAIRS[name], spacing, tolerance) == pytest.approx((nsd, hd95), rel=1e-12, abs=1e-12)


# --- by hand, by brute force ---


def test_a_squares_outline_is_its_sides_with_the_corners_cut() -> None:
    corners, lengths = outline(box(10, 20, 5, 7))

    assert len(corners) == 2 * (5 + 7)
    assert corners.min(axis=0).tolist() == [10, 20]
    assert corners.max(axis=0).tolist() == [15, 27]
    assert lengths.sum() == pytest.approx(2 * (4 + 6) + 4 * 0.5**0.5)


def elements(mask: Mask) -> tuple[Array, Array]:
    """Corners and lengths by a loop over every corner of every pixel."""
    padded = np.pad(mask, 1)
    corners, lengths = [], []
    for row in range(mask.shape[0] + 1):
        for column in range(mask.shape[1] + 1):
            (a, b), (c, d) = padded[row : row + 2, column : column + 2].tolist()
            sides = (a != b) + (a != c) + (b != d) + (c != d)  # of neighbours that differ
            if sides:
                straight = sides == 2 and (a != b) == (c != d)  # in at one side, out at the opposite one
                corners.append((row, column))
                lengths.append(1.0 if straight else sides / 2 * 0.5**0.5)
    return np.array(corners, dtype=np.float64).reshape(-1, 2), np.array(lengths)


def percentile(distances: Array, lengths: Array, share: float) -> float:
    """The least distance within which such a share of the length lies, by asking each."""
    enough = [lengths[distances <= d].sum() >= share * lengths.sum() - 1e-9 for d in distances]
    return float(distances[enough].min())


def brute(truth: Mask, answer: Mask, tolerance: float) -> tuple[float, float]:
    (first, long), (second, wide) = elements(truth), elements(answer)
    apart = cdist(first, second)
    there, back = apart.min(axis=1), apart.min(axis=0)
    near = long[there <= tolerance + 1e-9].sum() + wide[back <= tolerance + 1e-9].sum()
    return near / (long.sum() + wide.sum()), max(percentile(there, long, 0.95), percentile(back, wide, 0.95))


SMALL = arrays(np.bool_, (9, 11)).filter(lambda mask: bool(mask.any()))
TOLERANCES = st.sampled_from([0.0, 1.0, 2.0, 3.5])


@given(SMALL, SMALL, TOLERANCES)
@settings(max_examples=60, deadline=None)
def test_surfaces_are_those_of_a_search_over_all_elements(truth: Mask, answer: Mask, tolerance: float) -> None:
    assert surface_measures(truth, answer, 0, tolerance) == pytest.approx(brute(truth, answer, tolerance))


@pytest.mark.parametrize("dense", [0.0, 1e9], ids=["distance map", "search tree"])
@pytest.mark.parametrize("name", PAIRS)
def test_both_ways_to_search_give_the_same_distances(name: str, dense: float, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, answer = PAIRS[name]
    monkeypatch.setattr(surface, "DENSE", dense)

    assert surface_measures(truth, answer, 0, 2.0) == pytest.approx(brute(truth, answer, 2.0))


@pytest.mark.parametrize("name", PAIRS)
def test_the_whole_distance_is_scipys_hausdorff(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, answer = PAIRS[name]
    first, second = (outline(mask)[0].astype(np.float64) for mask in (truth, answer))
    monkeypatch.setattr(surface, "PERCENTILE", 100.0)

    _, distance = surface_measures(truth, answer, 0, 1.0)

    assert distance == pytest.approx(max(directed_hausdorff(first, second)[0], directed_hausdorff(second, first)[0]))


@pytest.mark.parametrize("count", [20, 100, 140, 200, 280])
@pytest.mark.parametrize("length", [1.0, 0.5**0.5, 0.1])
def test_rounding_does_not_decide_what_95_of_100_equal_lengths_are(count: int, length: float) -> None:
    distances = np.arange(1.0, count + 1)

    found = surface._percentile(distances, np.full(count, length))  # pyright: ignore[reportPrivateUsage]

    assert found == count * 95 / 100


# --- laws ---


@given(SMALL, SMALL, TOLERANCES)
@settings(max_examples=60, deadline=None)
def test_it_does_not_matter_which_mask_is_called_the_truth(truth: Mask, answer: Mask, tolerance: float) -> None:
    assert surface_measures(truth, answer, 0, tolerance) == pytest.approx(
        surface_measures(answer, truth, 0, tolerance), rel=1e-12
    )


@given(SMALL, st.floats(0.1, 3.0), st.floats(0.01, 5.0))
@settings(max_examples=40, deadline=None)
def test_equal_masks_lie_nowhere_apart(mask: Mask, spacing: float, tolerance: float) -> None:
    assert surface_measures(mask, mask.copy(), spacing, tolerance) == (1.0, 0.0)


@given(SMALL, SMALL, TOLERANCES, st.integers(0, 6), st.integers(0, 6), st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_moving_turning_and_mirroring_both_masks_changes_nothing(
    truth: Mask, answer: Mask, tolerance: float, down: int, right: int, turn: int
) -> None:
    still = surface_measures(truth, answer, 0, tolerance)

    moved = [np.rot90(np.pad(mask, ((down, 3), (right, 2))), turn % 4) for mask in (truth, answer)]
    if turn >= 4:
        moved = [np.fliplr(mask) for mask in moved]

    assert surface_measures(moved[0], moved[1], 0, tolerance) == pytest.approx(still, rel=1e-12)


@given(SMALL, SMALL, st.sampled_from([1.0, 2.0, 3.0]), st.floats(0.05, 4.0))
@settings(max_examples=60, deadline=None)
def test_distances_scale_with_the_spacing_and_a_tolerance_in_millimetres_does_too(
    truth: Mask, answer: Mask, pixels: float, spacing: float
) -> None:
    nsd, hd95 = surface_measures(truth, answer, 0, pixels)

    assert surface_measures(truth, answer, spacing, pixels * spacing) == pytest.approx((nsd, hd95 * spacing))


def test_three_pixels_of_a_tenth_are_not_more_than_three_tenths() -> None:
    assert surface_measures(*PAIRS["a square moved by three"], 0.1, 0.3)[0] == 1.0
    assert surface_measures(*PAIRS["a square moved by three"], 0.1, 0.299)[0] < 1.0


@given(SMALL, SMALL, TOLERANCES, st.sampled_from([0.0, 0.7]))
@settings(max_examples=60, deadline=None)
def test_to_miss_a_structure_never_scores_better_than_to_find_it_badly(
    truth: Mask, answer: Mask, tolerance: float, spacing: float
) -> None:
    nsd, hd95 = surface_measures(truth, answer, spacing, tolerance)

    missed_nsd, missed_hd95 = surface_measures(truth, np.zeros_like(truth), spacing, tolerance)

    assert missed_nsd <= nsd
    assert missed_hd95 >= hd95


@pytest.mark.parametrize("spacing", [0.0, 0.5])
@pytest.mark.parametrize(
    ("truth", "answer", "nsd", "diagonals"),
    [
        (EMPTY, EMPTY, 1.0, 0.0),
        (EMPTY, disc(30, 30, 5), 0.0, 1.0),
        (disc(30, 30, 5), EMPTY, 0.0, 1.0),
    ],
    ids=["both empty", "truth empty", "answer empty"],
)
def test_an_empty_mask_has_an_answer_and_it_is_no_nan(
    truth: Mask, answer: Mask, nsd: float, diagonals: float, spacing: float
) -> None:
    diagonal = diagonals * hypot(*SIZE) * (spacing or 1.0)

    assert surface_measures(truth, answer, spacing, 2.0) == pytest.approx((nsd, diagonal))


def test_a_mask_that_fills_the_image_has_an_outline_at_its_edge() -> None:
    full = ~EMPTY

    corners, lengths = outline(full)

    assert len(corners) == 4 * 64
    assert lengths.sum() == pytest.approx(4 * 63 + 4 * 0.5**0.5)
    assert surface_measures(full, box(0, 0, 64, 60), 0, 1.0)[1] == 4.0


def test_an_empty_mask_has_no_outline() -> None:
    corners, lengths = outline(EMPTY)

    assert corners.shape == (0, 2)
    assert lengths.shape == (0,)


@pytest.mark.parametrize(
    ("truth", "answer"),
    [(EMPTY, EMPTY[:-1]), (np.zeros((1, 4, 4), dtype=bool), np.zeros((1, 4, 4), dtype=bool))],
    ids=["other shape", "three axes"],
)
def test_masks_that_cannot_be_compared_are_refused(truth: Mask, answer: Mask) -> None:
    with pytest.raises(ValueError, match="masks of shapes"):
        surface_measures(truth, answer, 0, 1.0)
