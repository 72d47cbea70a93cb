from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from foveola.runtime.errors import FoveolaError
from foveola.runtime.image import read_image
from foveola.runtime.task import Task
from foveola.toolkit.data.check import survey_dataset
from foveola.toolkit.data.dataset import Columns
from foveola.toolkit.data.phantom import random_of
from foveola.toolkit.data.phantom_body import State, draw_blood, draw_state, make_body
from foveola.toolkit.data.phantoms import PHANTOMS
from foveola.toolkit.recipe import read_recipe, shipped_recipes
from foveola.toolkit.stages.table import STAGES

MEASURES = ("age", "height", "weight", "bmi", "waist")
BLOOD = ("sbp", "dbp", "cholesterol", "glucose", "triglycerides", "hba1c", "bun", "creatinine", "uric_acid")
TASKS = (
    Task(name="sex", kind="binary", classes=("female|F", "male|M")),
    Task(name="hypertension", kind="binary", classes=("no|0", "yes|1")),
    *(Task(name=name, kind="regression", classes=(name,)) for name in (*MEASURES, *BLOOD)),
)


def rows_of(root: Path) -> list[dict[str, str]]:
    with (root / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def numbers(rows: list[dict[str, str]], column: str) -> np.ndarray:
    return np.array([float(row[column]) if row[column] else np.nan for row in rows])


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bodies") / "data"
    make_body(root, patients=120, seed=2, size=64)
    return root


def test_a_cardiometabolic_phantom_is_a_sound_data_set_with_every_factor(bodies: Path) -> None:
    survey = survey_dataset(bodies, TASKS, columns=Columns(attributes=PHANTOMS["cardiometabolic"].attributes))

    assert survey.errors == ()
    assert all(survey.images[split] for split in ("train", "val", "calibration", "test"))
    assert survey.targets["glucose"]["train"]["not known"] > 0
    assert survey.targets["glucose"]["test"]["not known"] == 0
    assert survey.targets["sbp"]["train"]["not known"] == 0


def test_both_eyes_of_a_patient_have_one_body_and_one_split(bodies: Path) -> None:
    by_patient: dict[str, list[dict[str, str]]] = {}
    for row in rows_of(bodies):
        by_patient.setdefault(row["patient_id"], []).append(row)

    pairs = [rows for rows in by_patient.values() if len(rows) == 2]

    assert len(pairs) > 20
    for one, other in pairs:
        assert {one["eye"], other["eye"]} == {"left", "right"}
        assert all(one[name] == other[name] for name in ("split", "sex", *MEASURES, *BLOOD))


def test_the_body_mass_index_is_weight_over_height_squared() -> None:
    states = [draw_state(random_of(0, number)) for number in range(200)]

    assert all(state.bmi == pytest.approx(state.weight / (state.height / 100) ** 2) for state in states)
    assert 20 < np.mean([state.bmi for state in states]) < 30
    assert 80 < sum(state.male for state in states) < 120


def explained(states: list[State], blood: list[dict[str, float]]) -> list[float]:
    """Share of each factor's variance that a linear function of the simple factors explains."""
    simple = np.array([[s.male, s.age, s.height, s.weight, s.bmi, s.waist] for s in states], np.float64)
    design = np.column_stack((np.ones(len(states)), (simple - simple.mean(0)) / simple.std(0)))
    shares = []
    for name in BLOOD:
        y = np.array([one[name] for one in blood])
        rest = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
        shares.append(1 - float(rest.var() / y.var()))
    return shares


def test_no_body_leaves_what_the_recipes_hold_for_plausible() -> None:
    recipe = read_recipe(shipped_recipes()["sepl-small"], STAGES)
    ranges = {task.name: task.plausible for task in recipe.tasks if task.plausible is not None}
    rng = np.random.default_rng(0)

    for _ in range(20_000):
        state = draw_state(rng)
        found = draw_blood(state, rng) | {name: getattr(state, name) for name in MEASURES}
        assert found.keys() == ranges.keys()
        for name, (low, high) in ranges.items():
            assert low <= found[name] <= high, name


def test_the_blood_follows_from_the_body() -> None:
    states = [draw_state(random_of(5, number)) for number in range(400)]

    found = explained(states, [draw_blood(state, random_of(6, number)) for number, state in enumerate(states)])

    assert min(found) > 0.15
    assert np.mean(found) > 0.4


def test_the_control_s_blood_is_that_of_another_body_and_nothing_else_differs(tmp_path: Path) -> None:
    for name, unrelated in (("law", False), ("control", True)):
        make_body(tmp_path / name, patients=50, seed=5, size=32, gaps={}, unrelated=unrelated)

    law, control = rows_of(tmp_path / "law"), rows_of(tmp_path / "control")

    assert all(one[name] == other[name] for one, other in zip(law, control, strict=True) for name in ("sex", *MEASURES))
    for row in law:
        assert (tmp_path / "law" / row["file"]).read_bytes() == (tmp_path / "control" / row["file"]).read_bytes()
    age = numbers(law, "age")
    assert np.corrcoef(age, numbers(law, "sbp"))[0, 1] > 0.5
    assert abs(np.corrcoef(age, numbers(control, "sbp"))[0, 1]) < 0.35


def test_the_picture_yellows_with_age_and_its_vessels_widen_with_mass(bodies: Path) -> None:
    blue, dark, age, mass = list[float](), list[float](), list[float](), list[float]()
    for row in rows_of(bodies):
        if row["quality"] == "poor":
            continue
        x = read_image(bodies / row["file"]).astype(np.float64)
        field = np.asarray(ndimage.binary_erosion(x.sum(2) > 60, iterations=3), np.bool_)
        green = x[..., 1]
        blue.append(float((x[..., 2] / (x[..., 0] + 1))[field].mean()))
        # What the blood takes away from its surroundings.
        dark.append(
            float(
                np.clip(np.asarray(ndimage.grey_closing(green, 7)) - green, 0, None)[field].mean() / green[field].mean()
            )
        )
        age.append(float(row["age"]))
        mass.append(float(row["bmi"]))

    assert np.corrcoef(blue, age)[0, 1] < -0.5
    assert np.corrcoef(dark, mass)[0, 1] > 0.2


def test_equal_seeds_give_equal_files_and_other_seeds_do_not(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_body(tmp_path / name, patients=4, seed=seed, size=32)
    first = sorted(path.name for path in (tmp_path / "a/images").iterdir())

    same = [
        (tmp_path / "a/images" / name).read_bytes() == (tmp_path / "b/images" / name).read_bytes() for name in first
    ]

    assert all(same)
    assert (tmp_path / "a/manifest.csv").read_text() == (tmp_path / "b/manifest.csv").read_text()
    assert (tmp_path / "a/manifest.csv").read_text() != (tmp_path / "c/manifest.csv").read_text()


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "something").write_text("")

    with pytest.raises(FoveolaError, match="not empty"):
        make_body(tmp_path, patients=2)
