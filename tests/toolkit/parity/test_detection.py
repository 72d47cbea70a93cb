from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from foveola.toolkit.parity.bootstrap import resample_counts
from foveola.toolkit.parity.detection import average_precision, match_class, match_image, overlap, replicate_precision

Array = NDArray[np.float64]


def random_boxes(rng: np.random.Generator, images: int) -> tuple[list[Array], list[Array]]:
    answers, truths = [], []
    for _ in range(images):
        count = rng.integers(0, 4)
        corner = rng.random((count, 2)) * 80
        box = np.concatenate([corner, corner + 10 + rng.random((count, 2)) * 20], axis=1)
        truths.append(np.concatenate([box, rng.integers(0, 2, (count, 1))], axis=1))
        extra = np.concatenate([box + rng.normal(0, 3, box.shape), rng.random((2, 4)) * 20 + [0, 0, 20, 20]])
        scores = rng.random((len(extra), 1)).round(1)  # many ties
        answers.append(np.concatenate([extra, scores, rng.integers(0, 2, (len(extra), 1))], axis=1))
    return answers, truths


def test_overlap_of_known_boxes() -> None:
    boxes = np.array([[0.0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6], [1, 1, 1, 2]])

    assert overlap(boxes[:1], boxes)[0] == pytest.approx([1.0, 2 / 6, 0.0, 0.0])


def test_each_reference_box_is_found_once() -> None:
    truth = np.array([[0.0, 0, 10, 10]])

    assert match_image(np.array([[0.0, 0, 10, 10], [0.0, 0, 10, 9]]), truth).tolist() == [True, False]


def test_perfect_answers_have_precision_one_and_no_answers_none() -> None:
    truth = [np.array([[0.0, 0, 10, 10, 0]]), np.zeros((0, 5))]
    perfect = [np.array([[0.0, 0, 10, 10, 0.9, 0]]), np.zeros((0, 6))]

    assert average_precision(match_class(perfect, truth, 0)) == pytest.approx(1.0)
    assert average_precision(match_class([np.zeros((0, 6))] * 2, truth, 0)) == 0.0
    assert np.isnan(average_precision(match_class(perfect, truth, 1)))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_a_resample_has_the_precision_of_the_images_it_repeats(seed: int) -> None:
    rng = np.random.default_rng(seed)
    answers, truths = random_boxes(rng, 6)
    # No ties here: among equal scores the order of copies is not defined.
    for boxes in answers:
        boxes[:, 4] = rng.random(len(boxes))
    patients = np.arange(6)
    models = [[match_class(answers, truths, label) for label in range(2)]]

    drawn = replicate_precision(models, patients, 20, seed=seed % 1000)

    counts = np.concatenate(list(resample_counts(6, 20, seed % 1000))).astype(np.intp)
    for row, taken in enumerate(np.repeat(np.arange(6), times) for times in counts):
        for label in range(2):
            repeated = match_class([answers[n] for n in taken], [truths[n] for n in taken], label)
            assert drawn[row, 0, label] == pytest.approx(average_precision(repeated), nan_ok=True, abs=1e-12)


def test_rows_leave_the_other_images_out() -> None:
    answers, truths = random_boxes(np.random.default_rng(2), 12)
    rows = np.arange(12) < 7

    some = average_precision(match_class(answers, truths, 0), rows)

    assert some == pytest.approx(average_precision(match_class(answers[:7], truths[:7], 0)))
