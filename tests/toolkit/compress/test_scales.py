"""A teacher's values become the student's scale, whatever the teacher standardised them by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small import PLAN, STUDENT, TASKS, silent, squares

from foveola.toolkit.answers import RawAnswers, Scale, rescaled
from foveola.toolkit.finished import read_history
from foveola.toolkit.knobs import Lessons
from foveola.toolkit.train import distil_student

SIDE = tuple(task for task in TASKS if task.name == "side")


def test_values_in_another_scale_are_the_same_values() -> None:
    raw = {"side": np.array([[1.0], [-2.0]], np.float32), "bright": np.array([[3.0], [4.0]], np.float32)}
    answers = RawAnswers(raw)

    found = rescaled(answers, {"side": ((20.0,), (5.0,))}, {"side": ((15.0,), (2.0,)), "other": ((0.0,), (1.0,))})

    assert found.raw["side"].tolist() == [[5.0], [-2.5]]  # 25 and 10 pixels
    assert found.raw["side"].dtype == np.float32
    assert found.raw["bright"] is raw["bright"]
    assert rescaled(answers, {"side": ((20.0,), (5.0,))}, {"side": ((20.0,), (5.0,))}).raw["side"] is raw["side"]


def test_a_teacher_that_answers_in_pixels_teaches_what_one_of_standardised_values_does(tmp_path: Path) -> None:
    data = squares(tmp_path / "data", SIDE)
    pixels = np.arange(10, 34, 3, dtype=np.float32)[:, None]
    taught: tuple[tuple[str, RawAnswers, Scale | None], ...] = (
        ("pixels", RawAnswers({"side": pixels}), {"side": ((0.0,), (1.0,))}),
        ("tens", RawAnswers({"side": ((pixels - 20) / 10).astype(np.float32)}), {"side": ((20.0,), (10.0,))}),
        ("unscaled", RawAnswers({"side": pixels}), None),
    )

    losses = {}
    for name, answers, scale in taught:
        (tmp_path / name).mkdir()
        distil_student(
            data,
            STUDENT,
            PLAN,
            answers,
            taught_on=STUDENT.input,
            taught_scale=scale,
            lessons=Lessons(soft_weight=1.0, temperature=2.0, hint_weight=0.0),
            folder=tmp_path / name,
            cache=tmp_path / "cache",
            seed=0,
            report=silent,
        )
        losses[name] = read_history(tmp_path / name)[0].losses["side"]

    assert losses["pixels"] == pytest.approx(losses["tens"], rel=1e-3)
    assert losses["unscaled"] > 3 * losses["pixels"]
