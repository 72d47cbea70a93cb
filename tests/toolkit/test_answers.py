from __future__ import annotations

from pathlib import Path

import numpy as np
from small import SPEC, TASKS, squares

from foveola.toolkit.answers import RawAnswers, answer_images, load_answers, save_answers
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.models.network import Architecture, Network


def teacher() -> Network:
    scale: dict[str, tuple[float, ...]] = {"side": (0.0,)}
    plan = Architecture(
        role="teacher", backbone="resnet10t", input=SPEC, tasks=TASKS, width=16, target_mean=scale, target_std=scale
    )
    return Network(plan).eval()


def test_answers_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    images = prepare_arrays(squares(tmp_path), SPEC).images[:5]
    network = teacher()

    together, alone = answer_images(network, images, hint=True), answer_images(network, images, batch_size=2, hint=True)

    for name, values in together.raw.items():
        np.testing.assert_allclose(values, alone.raw[name], atol=1e-4)
    assert together.hint is not None
    assert together.hint.shape == (5, 512, 2, 2)
    assert [len(one) for one in together.boxes["things"]] == [len(one) for one in alone.boxes["things"]]


def test_stored_answers_are_read_back_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    boxes = [rng.random((n, 6)).astype(np.float32) for n in (2, 0, 3)]
    before = RawAnswers(
        {"a": rng.random((3, 4)).astype(np.float32)}, {"b": boxes}, rng.random((3, 2, 4, 4)).astype(np.float16)
    )

    save_answers(before, tmp_path / "answers")
    after = load_answers(tmp_path / "answers")

    np.testing.assert_array_equal(after.raw["a"], before.raw["a"])
    assert all(np.array_equal(x, y) for x, y in zip(after.boxes["b"], boxes, strict=True))
    assert np.array_equal(after.hint, before.hint)  # type: ignore[arg-type]


def test_answers_without_a_single_box_are_kept(tmp_path: Path) -> None:
    save_answers(RawAnswers({}, {"b": [np.zeros((0, 6), np.float32)] * 2}), tmp_path / "answers")

    assert [one.shape for one in load_answers(tmp_path / "answers").boxes["b"]] == [(0, 6), (0, 6)]
