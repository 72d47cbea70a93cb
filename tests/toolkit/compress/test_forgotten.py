from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from small import SPEC, squares

from foveola.runtime.task import Task
from foveola.toolkit.answers import RawAnswers
from foveola.toolkit.compress.forgotten import (
    Side,
    class_images,
    count_kinds,
    draws_of,
    effective_number,
    flips_between,
    forgotten_images,
    rare_weights,
)
from foveola.toolkit.compress.go_on import draw
from foveola.toolkit.data.arrays import Arrays, prepare_arrays

SIGNS = Task(name="signs", kind="multilabel", classes=("left", "top"))


def arrays_of(scalars: dict[str, NDArray[np.float32]]) -> Arrays:
    count = len(next(iter(scalars.values())))
    images = np.zeros((count, 1, 4, 4), np.float32)
    return Arrays(images=images, scalars=scalars, masks={}, boxes={}, geometries=(), samples=(None,) * count)  # type: ignore[arg-type]


def test_the_effective_number_of_images_is_that_of_the_paper() -> None:
    # Cui et al., CVPR 2019, eq. 2: 1 + b + b^2 + ... + b^(n - 1).
    assert effective_number(3, 0.5) == pytest.approx(1 + 0.5 + 0.25)
    assert effective_number(7, 0.0) == 1
    assert effective_number(7, 1.0) == 7


def test_an_image_takes_the_weight_of_the_rarest_class_that_it_shows() -> None:
    values = np.array([[1, 0], [1, 0], [1, 1], [0, 0], [np.nan, np.nan]], np.float32)  # left 3, top 1

    weights, account = rare_weights((SIGNS,), arrays_of({"signs": values}), beta=1.0)

    assert weights.tolist() == [1, 1, 3, 1, 1]
    assert [(one.label, one.images, one.weight) for one in account] == [("left", 3, 1.0), ("top", 1, 3.0)]


def test_rarity_counts_within_each_task_and_never_for_measurements() -> None:
    grade = Task(name="grade", kind="ordinal", classes=("none", "some", "much"))
    age = Task(name="age", kind="regression", classes=("age",), unit="years")
    scalars = {
        "grade": np.array([[0], [0], [0], [2]], np.float32),
        "age": np.array([[1], [2], [3], [90]], np.float32),
    }

    weights, account = rare_weights((grade, age), arrays_of(scalars), beta=1.0)

    assert weights.tolist() == [1, 1, 1, 3]
    assert {one.label for one in account} == {"none", "much"}  # a class that nobody shows has no weight


def test_masks_and_boxes_show_their_classes(tmp_path: Path) -> None:
    data = squares(tmp_path)
    arrays = prepare_arrays(data, SPEC)
    dense = [i % 3 != 2 for i in range(len(data))]

    shown = {task.name: images for task, images in class_images(data.tasks, arrays)}

    assert shown["square"]["square"].tolist() == dense
    assert shown["things"]["square"].tolist() == dense
    assert not shown["things"]["other"].any()
    assert not shown["halves"]["lower"].any()  # a gap shows nothing
    assert "side" not in shown


def test_weights_are_multiplied_and_bounded() -> None:
    flipped, rare = np.array([True, True, False, False]), np.array([1.0, 4.0, 4.0, 1.0])

    assert draws_of(flipped, rare, flipped=3.0, most=6.0).tolist() == [3, 6, 4, 1]


def test_draws_follow_the_weights_and_keep_the_length_of_an_epoch() -> None:
    places, weights = np.arange(10, 50), np.where(np.arange(40) < 10, 3.0, 1.0)  # shares of 2 and 2 / 3
    rng = np.random.default_rng(0)

    drawn = [draw(places, weights, rng) for _ in range(300)]

    counts = np.array([np.bincount(one, minlength=50)[10:] for one in drawn])
    assert {len(one) for one in drawn} == {40}
    assert counts.mean(0) == pytest.approx(weights / weights.mean(), abs=0.1)
    assert set(counts[:, :10].ravel()) <= {2}  # systematic resampling: never more than one off
    assert set(counts[:, 10:].ravel()) <= {0, 1}
    assert any((a != b).any() for a, b in pairwise(drawn))


def test_equal_weights_draw_every_image_once() -> None:
    drawn = draw(np.arange(7), np.full(7, 2.5), np.random.default_rng(3))

    assert sorted(drawn.tolist()) == list(range(7))


def test_only_what_was_lost_or_nobody_can_judge_is_fed_back(tmp_path: Path) -> None:
    data = squares(tmp_path).subset("train").only(["signs"], labelled=False)
    data = msgspec.structs.replace(data, scalars={"signs": np.zeros((8, 2), np.float32)})
    data.scalars["signs"][3] = np.nan
    arrays = prepare_arrays(data, SPEC)
    right, wrong = np.full((8, 2), -2.0, np.float32), np.full((8, 2), -2.0, np.float32)
    wrong[1, 0] = 2.0  # the teacher was right: lost
    right[2, 1] = 2.0  # the teacher was wrong: gained
    wrong[3, 0] = 2.0  # no reference standard
    sides = [
        Side(answers=RawAnswers({"signs": raw}), arrays=arrays, input=SPEC, scale={}, locked={"signs": (0.5, 0.5)})
        for raw in (right, wrong)
    ]

    flips = flips_between(data.tasks, data, *sides)

    assert count_kinds(flips) == {"signs": {"gained": 1, "lost": 1, "unknown": 1}}
    assert np.flatnonzero(forgotten_images(flips, data)).tolist() == [1, 3]
