"""Several teachers' answers as those of one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import InputSpec
from foveola.toolkit.answers import RawAnswers
from foveola.toolkit.compress.joined import Voice, check_same_view, fuse_boxes, join_voices

SPEC = InputSpec(height=64, width=64, channels=1)


def box(*row: float) -> NDArray[np.float32]:
    return np.array([row], np.float32)


def voice(answers: RawAnswers, size: int = 64, **scale: tuple[tuple[float, ...], tuple[float, ...]]) -> Voice:
    return Voice(answers=answers, input=InputSpec(height=size, width=size, channels=1), scale=scale)


def test_one_teacher_is_heard_as_it_is() -> None:
    only = voice(RawAnswers({"a": np.zeros((2, 1), np.float32)}))

    assert join_voices([only]) is only


def test_a_task_that_several_answer_gets_the_mean_of_their_logits() -> None:
    first = RawAnswers({"a": np.array([[1.0]], np.float32)})
    second = RawAnswers({"a": np.array([[3.0]], np.float32), "b": np.array([[7.0]], np.float32)})

    joined = join_voices([voice(first), voice(second)]).answers

    assert joined.raw["a"].tolist() == [[2.0]]
    assert joined.raw["b"].tolist() == [[7.0]]


def test_values_are_averaged_in_the_first_teachers_scale() -> None:
    first, second = (RawAnswers({"age": np.array([[value]], np.float32)}) for value in (1.0, 40.0))

    joined = join_voices([voice(first, age=((50.0,), (10.0,))), voice(second, age=((0.0,), (1.0,)))])

    assert joined.scale["age"] == ((50.0,), (10.0,))
    assert joined.answers.raw["age"].tolist() == [[0.0]]  # 60 and 40 years


def test_masks_of_two_sizes_are_averaged_on_the_finer_grid() -> None:
    coarse, fine = np.full((1, 2, 2, 2), 2.0, np.float32), np.full((1, 2, 4, 4), 4.0, np.float32)

    joined = join_voices([voice(RawAnswers({"m": coarse})), voice(RawAnswers({"m": fine}))])

    assert np.array_equal(joined.answers.raw["m"], np.full((1, 2, 4, 4), 3.0))


def test_boxes_are_fused_as_published() -> None:
    # Solovyev et al. 2021, sec. 3: coordinates weighted by confidence, mean confidence, times the share that saw it.
    lists = [
        np.concatenate([box(0, 0, 10, 10, 0.9, 0), box(40, 40, 60, 60, 0.5, 1)]),
        np.concatenate([box(0, 0, 11, 10, 0.3, 0), box(0, 0, 10, 10, 0.8, 1)]),
    ]

    fused = fuse_boxes(lists)

    assert fused[0].tolist() == pytest.approx([0, 0, 10.25, 10, 0.6, 0])
    assert fused[1].tolist() == pytest.approx([0, 0, 10, 10, 0.4, 1])  # another label, one teacher of two
    assert fused[2].tolist() == pytest.approx([40, 40, 60, 60, 0.25, 1])
    assert fuse_boxes([np.zeros((0, 6), np.float32)] * 2).shape == (0, 6)


def test_boxes_follow_the_first_teachers_pixels() -> None:
    first = voice(RawAnswers(boxes={"t": [box(0, 0, 10, 10, 0.9, 0)]}), 64)
    second = voice(RawAnswers(boxes={"t": [box(0, 0, 20, 20, 0.9, 0)]}), 128)
    only = voice(RawAnswers(), 64), voice(RawAnswers(boxes={"t": [box(0, 0, 20, 20, 0.9, 0)]}), 128)

    for joined in (join_voices([first, second]), join_voices(only)):
        assert joined.answers.boxes["t"][0].tolist() == [pytest.approx([0, 0, 10, 10, 0.9, 0])]
        assert joined.input.width == 64


def test_features_are_those_of_the_first_or_stand_side_by_side() -> None:
    weak, strong = (np.full((2, width, 4, 4), size, np.float16) for width, size in ((3, 0.5), (5, 8.0)))
    voices = [voice(RawAnswers()), voice(RawAnswers(hint=weak)), voice(RawAnswers(hint=strong[..., :2, :2]))]

    first, both = join_voices(voices, "first").answers.hint, join_voices(voices, "all").answers.hint

    assert first is weak
    assert both is not None
    assert both.shape == (2, 8, 2, 2)
    assert np.allclose(both, 1.0)  # neither is louder


def test_teachers_that_see_different_parts_of_a_picture_are_refused() -> None:
    wide = InputSpec(height=64, width=128, channels=1)

    with pytest.raises(FoveolaError, match=r"teachers: 'b' sees 128 x 64 .* 'a' 64 x 64 .*same crop, fit and aspect"):
        check_same_view({"a": SPEC, "b": wide})
    check_same_view({"a": SPEC, "b": InputSpec(height=128, width=128, channels=1)})


def test_teachers_that_answer_different_classes_are_refused() -> None:
    one, two = (voice(RawAnswers({"a": np.zeros((2, n), np.float32)})) for n in (1, 3))

    with pytest.raises(FoveolaError, match="task 'a' is answered with 1 and 3 channels"):
        join_voices([one, two])
