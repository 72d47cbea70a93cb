from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_curve

from foveola.toolkit.parity import detection
from foveola.toolkit.parity.bootstrap import resample_counts
from foveola.toolkit.parity.cases import Array
from foveola.toolkit.parity.detection import ClassMatches, match_class, replicate_weighted
from foveola.toolkit.parity.froc import RATES, froc_curve, sensitivity_at, sensitivity_of


def matches(scores: ArrayLike, hit: ArrayLike, truths: ArrayLike, image: ArrayLike | None = None) -> ClassMatches:
    """One class in whatever order; all answers in image 0 unless told."""
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    places = np.zeros(len(order), dtype=np.intp) if image is None else np.asarray(image, dtype=np.intp)
    return ClassMatches(
        scores=np.asarray(scores, dtype=np.float64)[order],
        hit=np.asarray(hit, dtype=bool)[order],
        image=places[order],
        truths=np.asarray(truths, dtype=np.float64),
    )


def random_matches(rng: np.random.Generator, images: int, levels: int = 8) -> ClassMatches:
    """Some 3 answers an image with few different scores, so that most are tied."""
    image = rng.integers(0, images, 3 * images)
    hit = rng.random(len(image)) < 0.4
    found = np.bincount(image[hit], minlength=images)
    return matches(rng.integers(0, levels, len(image)) / levels, hit, found + rng.integers(0, 2, images), image)


def brute(found: ClassMatches, images: float, rate: float) -> float:
    """Try every threshold: the last within the allowance, and the straight line from there to the next."""
    points = [(0.0, 0.0)]
    for threshold in sorted(set(found.scores.tolist()), reverse=True):
        kept = found.scores >= threshold
        points.append((float((kept & ~found.hit).sum()) / images, float((kept & found.hit).sum()) / found.truths.sum()))
    best = 0.0
    for (x, y), (next_x, next_y) in zip(points, [*points[1:], (float("inf"), points[-1][1])], strict=True):
        if x <= rate + 1e-12:
            best = y if next_x <= rate or next_x == float("inf") else y + (next_y - y) * (rate - x) / (next_x - x)
    return best


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.sampled_from([2, 8, 1000]))
@settings(max_examples=60, deadline=None)
def test_the_sensitivity_is_that_of_a_search_over_all_thresholds(seed: int, images: int, levels: int) -> None:
    found = random_matches(np.random.default_rng(seed), images, levels)
    rates = (*RATES, 0.3, 2 / 3)

    ours = [sensitivity_at(found, images, (rate,)) for rate in rates]

    if found.truths.sum() == 0:
        assert np.isnan(ours).all()
    else:
        assert ours == pytest.approx([brute(found, images, rate) for rate in rates], abs=1e-8)
        assert ours == pytest.approx(sorted(ours[:7]) + ours[7:])  # more false positives never find less


def test_the_rates_are_those_of_luna16_and_count_alike() -> None:
    # 8 images: 1/8 of a false positive an image is one, 8 are 64. One of four is found before each of 0, 1, 8, 60.
    scores = np.linspace(1.0, 0.1, 64)
    hit = np.isin(np.arange(64), [0, 2, 10, 63])

    found = matches(scores, hit, [4.0, *[0.0] * 7])

    assert RATES == (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
    by_rate = [sensitivity_at(found, 8, (rate,)) for rate in RATES]
    assert by_rate == [0.5, 0.5, 0.5, 0.75, 0.75, 0.75, 1.0]
    assert sensitivity_at(found, 8, RATES) == pytest.approx(np.mean(by_rate))


def test_the_froc_curve_is_scikit_learns_roc_with_counts_for_rates() -> None:
    rng = np.random.default_rng(0)
    found = random_matches(rng, 40, levels=12)

    x, y = froc_curve(found, 40)

    false, true, _ = roc_curve(found.hit, found.scores, drop_intermediate=False)
    np.testing.assert_allclose(x, false * (~found.hit).sum() / 40)
    np.testing.assert_allclose(y, true * found.hit.sum() / found.truths.sum())


def test_the_rate_counts_images_on_which_there_is_nothing_to_find() -> None:
    found = matches([0.9, 0.8, 0.7], [0, 0, 1], [1.0])

    assert sensitivity_at(found, 1, (1.0,)) == 0.0
    assert sensitivity_at(found, 2, (1.0,)) == 1.0
    assert froc_curve(found, 4)[0].tolist() == [0.0, 0.25, 0.5, 0.5]


# --- ties ---


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_equal_scores_are_not_parted_by_their_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = random_matches(rng, 12, levels=4)
    order = rng.permutation(len(found.scores))
    shuffled = matches(
        found.scores[order].tolist(), found.hit[order].tolist(), found.truths, found.image[order].tolist()
    )

    for rate in (*RATES, 0.7):
        one, other = (sensitivity_at(each, 12, (rate,)) for each in (found, shuffled))
        assert one == pytest.approx(other, nan_ok=True, abs=1e-12)
    np.testing.assert_allclose(froc_curve(found, 12), froc_curve(shuffled, 12))


def test_a_single_score_for_all_is_a_straight_line() -> None:
    found = matches([0.5] * 8, [1, 1, 0, 0, 0, 0, 1, 1], [4.0])

    by_rate = [sensitivity_at(found, 1, (rate,)) for rate in (0.5, 1.0, 2.0, 4.0, 8.0)]
    assert by_rate == pytest.approx([0.125, 0.25, 0.5, 1.0, 1.0])


def test_a_hit_tied_with_a_false_answer_is_worth_less_than_one_before_it_and_more_than_one_behind() -> None:
    before, tied, behind = (matches([score, 0.5], [1, 0], [1.0]) for score in (0.6, 0.5, 0.4))

    found = [sensitivity_at(one, 1, (0.25,)) for one in (before, tied, behind)]

    assert found == pytest.approx([1.0, 0.25, 0.0])


# --- edges ---


def test_a_detector_that_never_reaches_a_rate_has_the_sensitivity_of_all_its_answers() -> None:
    found = matches([0.9, 0.8, 0.3], [1, 0, 1], [3.0])

    assert sensitivity_at(found, 1, (8.0,)) == pytest.approx(2 / 3)


def test_without_answers_nothing_is_found_and_without_boxes_there_is_no_sensitivity() -> None:
    silent = matches([], [], [2.0, 1.0])

    assert sensitivity_at(silent, 2, RATES) == 0.0
    assert np.isnan(sensitivity_at(matches([0.9], [0], [0.0]), 1, RATES))
    assert [part.tolist() for part in froc_curve(silent, 2)] == [[0.0], [0.0]]


def test_a_second_answer_for_a_box_that_is_found_already_is_false() -> None:
    truth = [np.array([[0.0, 0, 10, 10, 0]])]
    twice = [np.array([[0.0, 0, 10, 10, 0.9, 0], [0.0, 0, 10, 9, 0.8, 0]])]

    x, y = froc_curve(match_class(twice, truth, 0), 1)

    assert (x.tolist(), y.tolist()) == ([0.0, 0.0, 1.0], [0.0, 1.0, 1.0])


def test_an_answer_below_the_last_hit_changes_nothing() -> None:
    found = matches([0.9, 0.8, 0.5], [0, 1, 1], [3.0])
    chatty = matches([0.9, 0.8, 0.5, *[0.1] * 50], [0, 1, 1, *[0] * 50], [3.0])

    for rate in RATES:
        assert sensitivity_at(found, 4, (rate,)) == sensitivity_at(chatty, 4, (rate,))


# --- weights ---


def drawn_again(found: ClassMatches, patients: NDArray[np.intp], counts: Array) -> tuple[ClassMatches, int]:
    """Really repeat the images of each patient."""
    taken = np.concatenate([np.repeat(n, int(counts[patient])) for n, patient in enumerate(patients)])
    rows = [np.flatnonzero(found.image == n) for n in taken]
    row = np.concatenate([*rows, np.zeros(0, dtype=np.intp)]).astype(np.intp)
    place = np.concatenate([np.full(len(part), k) for k, part in enumerate(rows)] or [np.zeros(0)])
    again = matches(found.scores[row], found.hit[row], found.truths[taken], place)
    return again, len(taken)


@pytest.mark.parametrize("block", [1, 2_000_000], ids=["one resample at a time", "all at once"])
@pytest.mark.parametrize("seed", range(6))
def test_a_resample_has_the_sensitivity_of_the_images_it_repeats(
    seed: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    patients = np.sort(np.concatenate([np.arange(5), rng.integers(0, 5, 5)]))
    models = [[random_matches(rng, 10, levels) for _ in range(2)] for levels in (4, 1000)]
    images = np.bincount(patients).astype(np.float64)
    monkeypatch.setattr(detection, "BLOCK", block)

    statistic = sensitivity_of(models, patients, images, RATES)
    drawn = replicate_weighted(statistic, 5, 8, seed)

    assert drawn.shape == (8, 2, 2)
    counts = np.concatenate(list(resample_counts(5, 8, seed)))
    for row, times in enumerate(counts):
        for m, model in enumerate(models):
            for k, found in enumerate(model):
                again, number = drawn_again(found, patients, times.astype(np.float64))
                wanted = sensitivity_at(again, number, RATES)
                assert drawn[row, m, k] == pytest.approx(wanted, nan_ok=True, abs=1e-9)


def test_all_weights_multiplied_by_one_number_change_nothing() -> None:
    rng = np.random.default_rng(3)
    statistic = sensitivity_of([[random_matches(rng, 9)]], np.arange(9), np.ones(9), RATES)
    weights = rng.random((9, 4))

    np.testing.assert_allclose(statistic(weights), statistic(weights * 7.3))
