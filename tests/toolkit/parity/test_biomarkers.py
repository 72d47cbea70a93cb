from __future__ import annotations

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from foveola.toolkit.parity.biomarkers import cardiothoracic_ratio, cup_disc_ratio, measure_marker
from foveola.toolkit.parity.protocol import Biomarker

Mask = NDArray[np.bool_]

# A film: right lung R, left lung L, heart H (its tip lies over the left lung, o, which belongs to both).
FILM = """
..............
...RR....LL...
..RRRR..LLLL..
.RRRRHHHHLLLL.
.RRRHHHHHooLL.
.RRRHHHHHHoLLL
.RR........LLL
"""
# A fundus: disc D, cup C inside it. The cup is wider than tall, the disc taller than wide.
FUNDUS = """
........
..DDDD..
..DDDD..
.DCCCCD.
.DCCCCD.
..DDDD..
..DDDD..
...DD...
"""
CHEST = Biomarker(kind="cardiothoracic_ratio", task="organs", inner=("heart",), outer=("right", "left"))
EYE = Biomarker(kind="cup_disc_ratio", task="nerve", inner=("cup",), outer=("disc", "cup"))


def drawn(picture: str, letters: str) -> Mask:
    """Pixels that bear one of the letters."""
    rows = [list(row) for row in picture.split()]
    return np.isin(np.array(rows), list(letters))


def chest() -> Mask:
    return np.stack([drawn(FILM, "Ho"), drawn(FILM, "R"), drawn(FILM, "Lo")])


def fundus() -> Mask:
    return np.stack([drawn(FUNDUS, "C"), drawn(FUNDUS, "D")])


def test_the_cardiothoracic_ratio_is_the_widest_heart_over_the_widest_chest() -> None:
    # The heart reaches from column 4 to 10, the lungs from column 1 to 13; no single row is so wide.
    assert measure_marker(CHEST, ("heart", "right", "left"), chest()) == 7 / 13


def test_the_cup_to_disc_ratio_is_taken_from_top_to_bottom() -> None:
    assert measure_marker(EYE, ("cup", "disc"), fundus()) == 2 / 7


def test_a_turned_film_has_the_other_extent() -> None:
    heart, right, left = chest()

    assert cup_disc_ratio(heart.T, (right | left).T) == cardiothoracic_ratio(heart, right | left)
    assert cardiothoracic_ratio(heart.T, (right | left).T) == 3 / 6


def test_where_the_part_lies_in_the_image_does_not_matter() -> None:
    heart, right, left = chest()
    moved = [np.roll(np.pad(mask, 9), (4, -6), axis=(0, 1)) for mask in (heart, right | left)]

    assert cardiothoracic_ratio(moved[0], moved[1]) == 7 / 13


def test_a_hole_or_a_gap_between_the_lungs_is_inside_the_extent() -> None:
    heart, right, left = chest()
    lungs = right | left
    lungs[:, 5:9] = False

    assert cardiothoracic_ratio(heart, lungs) == 7 / 13


def test_a_stray_pixel_belongs_to_the_part() -> None:
    heart, right, left = chest()
    heart[0, 0] = True

    assert cardiothoracic_ratio(heart, right | left) == 11 / 13


def test_a_part_of_one_pixel_has_the_extent_one() -> None:
    point = np.zeros((4, 4), dtype=bool)
    point[2, 1] = True

    assert cardiothoracic_ratio(point, point) == cup_disc_ratio(point, point) == 1.0


def test_classes_are_found_by_name_in_whatever_order() -> None:
    masks = chest()

    assert measure_marker(CHEST, ("left", "heart", "right"), masks[[2, 0, 1]]) == 7 / 13


def test_a_cup_that_swallows_the_disc_counts_as_disc_only_where_the_protocol_says_so() -> None:
    swallowed = np.stack([drawn(FUNDUS, "CD"), np.zeros((8, 8), dtype=bool)])
    alone = msgspec.structs.replace(EYE, outer=("disc",))

    assert measure_marker(EYE, ("cup", "disc"), swallowed) == 1.0
    assert np.isnan(measure_marker(alone, ("cup", "disc"), swallowed))


@pytest.mark.parametrize("gone", [(0,), (1, 2), (0, 1, 2)], ids=["no heart", "no lungs", "nothing"])
def test_a_ratio_without_one_of_its_parts_is_nan(gone: tuple[int, ...]) -> None:
    masks = chest()
    masks[list(gone)] = False

    assert np.isnan(measure_marker(CHEST, ("heart", "right", "left"), masks))


@pytest.mark.parametrize(("gone", "left"), [(1, 6), (2, 5)], ids=["no right lung", "no left lung"])
def test_one_lung_alone_is_a_narrower_chest_and_so_a_wrong_answer(gone: int, left: int) -> None:
    masks = chest()
    masks[gone] = False

    assert measure_marker(CHEST, ("heart", "right", "left"), masks) == 7 / left


def test_the_masks_are_not_changed() -> None:
    masks = chest()
    before = masks.copy()

    measure_marker(CHEST, ("heart", "right", "left"), masks)

    assert np.array_equal(masks, before)
