"""Laws of the space: what is drawn lies in it, and knobs beside the road are not drawn."""

from __future__ import annotations

from pathlib import Path

import optuna
import searching

from foveola.toolkit.search.space import named, own_values, sample, short_name

WIDTH = "    steps.student.width: {low: 8, high: 16, step: 8}\n"
ROADS = "    steps.int8.of: [student, more]\n    steps.more.learning_rate: {low: 0.0001, high: 0.01, log: true}\n"
ROAD = (WIDTH, WIDTH + ROADS)
SIZE = "steps.student.input.height, steps.student.input.width"


def study() -> optuna.study.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(directions=["minimize", "maximize"], sampler=optuna.samplers.RandomSampler(seed=0))


def test_only_knobs_on_the_road_are_drawn(tmp_path: Path) -> None:
    draft, roads = searching.draft(tmp_path, ROAD), set()
    asked = study()

    for _ in range(20):
        values = sample(asked.ask(), draft)
        roads.add(values["steps.int8.of"])
        if values["steps.int8.of"] == "more":
            assert set(values) == {"steps.int8.of", "steps.more.learning_rate"}
            assert 1e-4 <= float(values["steps.more.learning_rate"]) <= 1e-2
        else:
            assert set(values) == {"steps.int8.of", "steps.student.backbone", "steps.student.width", SIZE}
            assert values["steps.student.width"] in (8, 16)

    assert roads == {"student", "more"}


def test_the_recipe_as_written_is_a_point_of_its_space(tmp_path: Path) -> None:
    assert own_values(searching.draft(tmp_path)) == {
        "steps.student.backbone": "mobilenetv4_conv_small_035",
        "steps.student.width": 8,
        SIZE: 64,
    }


def test_a_recipe_outside_its_space_is_no_point_of_it(tmp_path: Path) -> None:
    assert (
        own_values(searching.draft(tmp_path, ("{low: 8, high: 16, step: 8}", "{low: 12, high: 16, step: 4}"))) is None
    )


def test_a_default_counts_as_written(tmp_path: Path) -> None:
    draft = searching.draft(
        tmp_path, ("steps.student.width: {low: 8, high: 16, step: 8}", "steps.student.soft_weight: [0.5, 0.7]")
    )

    assert (own_values(draft) or {})["steps.student.soft_weight"] == 0.7


def test_tables_name_a_key_by_its_first_field() -> None:
    assert short_name(SIZE) == "student.input.height"
    assert named({"steps.student.width": 8}) == "student.width 8"
