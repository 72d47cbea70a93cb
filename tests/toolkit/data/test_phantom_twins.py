"""The twin phantom: a sound data set whose pictures show the hidden state and whose names and order show nothing."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from foveola.runtime.errors import FoveolaError, UsageError
from foveola.runtime.task import Task
from foveola.toolkit.data.check import survey_dataset
from foveola.toolkit.data.dataset import Columns, read_dataset
from foveola.toolkit.data.phantom_twins import MEASURES, OUTCOMES, make_twins
from foveola.toolkit.data.phantoms import PHANTOMS
from foveola.toolkit.data.twins_carotid import FIELD_MM, draw_anatomy, draw_carotid
from foveola.toolkit.data.twins_fundus import draw_anatomy as draw_eye
from foveola.toolkit.data.twins_fundus import draw_fundus
from foveola.toolkit.data.twins_people import AGE, MIXTURES, STATES, WALL, draw_person
from foveola.toolkit.parity.retrieval import cosine, pair_percentile

F64 = NDArray[np.float64]
SIZE = 32
ROLES = ("modality", "eye", "visit", "years")
TASKS = (
    *(Task(name=name, kind="regression", classes=(name,), columns=(name,)) for name in MEASURES),
    *(Task(name=name, kind="binary", classes=("no|0", "yes|1"), columns=(name,)) for name in OUTCOMES),
)


def rows_of(root: Path, name: str = "manifest.csv") -> list[dict[str, str]]:
    with (root / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def content(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


def agreement(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation."""
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


class Twins:
    """A finished phantom: pictures as simple numbers, and the truth about them."""

    def __init__(self, root: Path) -> None:
        self.root, self.rows = root, rows_of(root)
        self.truth = {row["file"]: row for row in rows_of(root, "latent.csv")}

    def of(self, modality: str, split: str) -> list[dict[str, str]]:
        found = [row for row in self.rows if (row["modality"], row["split"]) == (modality, split)]
        return sorted(found, key=lambda row: (row["patient_id"], row["visit"], row["eye"]))

    def states(self, rows: list[dict[str, str]]) -> F64:
        return np.array([[float(self.truth[row["file"]][f"s{i}"]) for i in range(STATES)] for row in rows])

    def pixels(self, rows: list[dict[str, str]]) -> F64:
        """Pixels (mirrored where it is a left side) and, of grey pictures, what each depth has on average."""
        found = []
        for row in rows:
            image = np.asarray(Image.open(self.root / row["file"]), np.float64) / 255
            image = image[:, ::-1] if row["eye"] == "left" else image
            columns = image.reshape(SIZE, SIZE, -1)
            found.append(np.concatenate([image.ravel(), columns.mean(1).ravel(), columns.std(1).ravel()]))
        return np.stack(found)

    def recovered(self, modality: str) -> F64:
        """The test pictures' states by ridge regression from the train pictures' pixels."""
        train, test = self.of(modality, "train"), self.of(modality, "test")
        ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(2, 5, 4)))
        ridge.fit(self.pixels(train), self.states(train))
        return np.asarray(ridge.predict(self.pixels(test)))


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    root = tmp_path_factory.mktemp("twins")
    make_twins(root, patients=160, seed=1, size=SIZE, shares={"train": 0.6, "test": 0.4}, gaps={})
    return Twins(root)


@pytest.fixture(scope="module")
def gappy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gappy")
    PHANTOMS["twins"].make(root, patients=150, seed=2, size=SIZE)
    return root


def test_twins_are_a_sound_data_set_with_every_measure_and_outcome(gappy: Path) -> None:
    survey = survey_dataset(gappy, TASKS, columns=Columns(attributes=ROLES))

    assert survey.errors == ()
    assert all(survey.images[split] for split in ("train", "val", "calibration", "test"))
    assert all(survey.targets[task.name]["train"]["not known"] for task in TASKS)
    assert all(survey.targets[name]["test"]["not known"] == 0 for name in MEASURES)
    assert all(survey.targets[name]["train"][answer] >= 20 for name in OUTCOMES for answer in ("no", "yes"))


def test_visits_kinds_of_picture_sides_and_cells_are_missing_at_the_given_rates_in_train_alone(gappy: Path) -> None:
    seen: dict[str, dict[str, set[tuple[str, str, str]]]] = {}
    for row in rows_of(gappy):
        part = "train" if row["split"] in ("train", "calibration") else "test"
        own = seen.setdefault(part, {}).setdefault(row["patient_id"], set())
        own.add((row["visit"], row["modality"], row["eye"]))

    train = seen["train"].values()
    assert all(len(own) == 8 for own in seen["test"].values())
    assert 0.03 < np.mean([all(visit == "0" for visit, _, _ in own) for own in train]) < 0.25
    shown = [len({kind for visit, kind, _ in own if visit == "0"}) for own in train]
    assert 0.03 < np.mean(np.array(shown) == 1) < 0.25
    assert set(shown) == {1, 2}
    cells = [row["imt"] == "" for row in rows_of(gappy) if row["split"] == "train"]
    assert 0.05 < np.mean(cells) < 0.2


def test_without_gaps_everybody_has_both_sides_of_both_kinds_at_every_visit(tmp_path: Path) -> None:
    count = make_twins(tmp_path / "three", patients=4, seed=1, size=SIZE, visits=3, gaps={})

    rows = rows_of(tmp_path / "three")
    assert count == len(rows) == 4 * 3 * 2 * 2
    years = {(row["patient_id"], row["visit"]): float(row["years"]) for row in rows}
    for patient in {row["patient_id"] for row in rows}:
        apart = np.diff([years[patient, visit] for visit in "012"])
        assert years[patient, "0"] == 0
        assert ((apart >= 1.5) & (apart <= 4.5)).all()


def test_a_stroke_to_come_is_unknown_after_one_that_was_and_an_illness_stays(twins: Twins) -> None:
    by_visit = {(row["patient_id"], row["visit"]): row for row in twins.rows}
    for row in twins.rows:
        assert (row["incident_stroke"] == "") == (row["prevalent_stroke"] == "1")
        before = by_visit[row["patient_id"], "0"]
        assert row["prevalent_hypertension"] >= before["prevalent_hypertension"]
        assert float(row["age"]) == pytest.approx(float(before["age"]) + float(row["years"]), abs=0.11)


def test_fundus_is_in_colour_and_carotid_is_grey_at_any_size(tmp_path: Path) -> None:
    for size in (32, 45, 96):
        root = tmp_path / str(size)
        make_twins(root, patients=1, seed=3, size=size, shares={"train": 1.0}, gaps={})
        for row in rows_of(root):
            with Image.open(root / row["file"]) as picture:
                assert (picture.mode, picture.size) == (
                    {"fundus": "RGB", "carotid": "L"}[row["modality"]],
                    (size, size),
                )
                assert np.asarray(picture).std() > 20


@pytest.mark.parametrize("modality", ["fundus", "carotid"])
def test_ridge_regression_recovers_the_hidden_state_from_each_kind_of_picture(twins: Twins, modality: str) -> None:
    truth = twins.states(twins.of(modality, "test"))

    explained = 1 - ((twins.recovered(modality) - truth) ** 2).mean(0) / truth.var(0)

    assert explained.mean() > 0.3
    assert (explained > 0.1).sum() >= 6


def test_both_kinds_of_picture_agree_on_the_person(twins: Twins) -> None:
    first, second = (twins.recovered(modality) for modality in ("fundus", "carotid"))
    # Rows are in the same order: one of each patient, visit and side.
    chosen = [i for i, row in enumerate(twins.of("fundus", "test")) if (row["visit"], row["eye"]) == ("0", "left")]

    similar = cosine(first[chosen], second[chosen])

    percentiles = pair_percentile(similar, np.arange(len(chosen)))
    assert percentiles.mean() > 0.75
    assert pair_percentile(similar.T, np.arange(len(chosen))).mean() > 0.75


def test_a_strangers_carotid_tells_nothing_about_the_person(tmp_path: Path) -> None:
    root = tmp_path / "control"
    make_twins(root, patients=120, seed=1, size=SIZE, shares={"train": 0.5, "test": 0.5}, gaps={}, strangers=True)
    control = Twins(root)
    chosen = [i for i, row in enumerate(control.of("fundus", "test")) if (row["visit"], row["eye"]) == ("0", "left")]

    found = [control.recovered(modality)[chosen] for modality in ("fundus", "carotid")]

    percentile = pair_percentile(cosine(*found), np.arange(len(chosen))).mean()
    assert abs(percentile - 0.5) < 4 / np.sqrt(12 * len(chosen))
    # Each kind of picture is still that of one person, visit after visit, with the measures of that person.
    for modality in ("fundus", "carotid"):
        rows = control.of(modality, "test")
        assert agreement([float(row["imt"]) for row in rows], control.states(rows) @ WALL) > 0.9


def test_wear_grows_from_visit_to_visit_and_pictures_show_it(twins: Twins) -> None:
    rows = twins.of("fundus", "test")
    wear, found = twins.states(rows)[:, 0], twins.recovered("fundus")[:, 0]
    places = {(row["patient_id"], row["visit"], row["eye"]): i for i, row in enumerate(rows)}
    pairs = [(i, places[patient, "1", eye]) for (patient, visit, eye), i in places.items() if visit == "0"]

    assert all(wear[later] > wear[earlier] for earlier, later in pairs)
    assert np.mean([found[later] > found[earlier] for earlier, later in pairs]) > 0.6


def test_measures_and_outcomes_follow_from_the_state(twins: Twins) -> None:
    states = twins.states(twins.rows)
    for name, least in (("imt", 0.9), ("vessel_density", 0.85), ("blood_pressure", 0.7), ("age", 0.8)):
        values = np.array([float(row[name]) for row in twins.rows])
        even, odd = slice(0, None, 2), slice(1, None, 2)
        predicted = RidgeCV().fit(states[even], values[even]).predict(states[odd])
        assert agreement(predicted, values[odd]) > least, name
    for name in OUTCOMES:
        known = np.array([row[name] != "" for row in twins.rows])
        ill = np.array([row[name] == "1" for row in twins.rows])[known]
        scores = LogisticRegression().fit(states[known], ill).decision_function(states[known])
        assert roc_auc_score(ill, scores) > 0.7, name


def test_who_wears_fast_falls_ill_more_often_than_the_state_alone_would_say() -> None:
    people = [draw_person(5, number, 2) for number in range(3000)]
    at_risk = [person for person in people if person.visits[0].incident_stroke is not None]
    rates = np.array([person.rate for person in at_risk])
    falls = np.array([bool(person.visits[0].incident_stroke) for person in at_risk])

    assert falls[rates > np.median(rates)].mean() > falls[rates <= np.median(rates)].mean() + 0.1
    ages = np.array([person.visits[0].age for person in people])
    assert abs(ages.mean() - 54) < 1
    assert np.corrcoef(ages, np.array([person.visits[0].state for person in people]) @ AGE)[0, 1] > 0.9


def test_neither_names_nor_the_order_of_rows_nor_the_size_of_the_manifest_tell_anything(twins: Twins) -> None:
    names = [int(row["file"].split("/")[1].split(".")[0], 16) / 2.0**64 for row in twins.rows]
    states = twins.states(twins.rows)
    numbers = [int(row["patient_id"][1:]) for row in twins.rows]
    columns = {"modality": "fundus", "visit": "1", "split": "test"}
    told = [[row[name] == value for row in twins.rows] for name, value in columns.items()]

    for clue in (names, list(range(len(names)))):
        assert max(abs(agreement(clue, states[:, i])) for i in range(STATES)) < 0.12
        assert max(abs(agreement(clue, what)) for what in told) < 0.12
        assert abs(agreement(clue, numbers)) < 0.12
    neighbours = [a["patient_id"] == b["patient_id"] for a, b in zip(twins.rows[:-1], twins.rows[1:], strict=True)]
    assert np.mean(neighbours) < 0.03
    patients = {row["patient_id"]: state for row, state in zip(twins.rows, states, strict=True)}
    order = [patients[name] for name in sorted(patients)]
    assert np.abs(np.corrcoef(np.arange(len(order)), np.array(order).T)[0, 1:]).max() < 0.3


def test_the_hidden_state_is_in_no_column_that_a_recipe_can_read(twins: Twins) -> None:
    assert set(twins.rows[0]) == {"file", "patient_id", "split", *ROLES, *MEASURES, *OUTCOMES}
    with pytest.raises(FoveolaError, match="no column 's0'"):
        read_dataset(twins.root, [Task(name="s0", kind="regression", classes=("s0",), columns=("s0",))])


def test_mixtures_are_orthogonal_so_that_each_kind_of_picture_shows_all_of_the_state() -> None:
    for mixture in MIXTURES.values():
        np.testing.assert_allclose(mixture @ mixture.T, np.eye(STATES), atol=1e-12)
    assert np.abs(MIXTURES["fundus"] @ MIXTURES["carotid"].T).max() < 0.95


def test_the_far_walls_two_lines_are_as_far_apart_as_the_wall_is_thick() -> None:
    size, still = 512, np.zeros(4)
    for factor in (-1.5, 0.0, 2.0):
        rng = np.random.default_rng(3)
        # No plaque, no bow: the lines are level, and the mean over the columns shows them.
        factors = np.array([factor, 0, 0, -2.6, 0, 0, 0, 0])
        image = draw_carotid(factors, draw_anatomy(rng), still, size, rng, left=False)
        profile = image.astype(np.float64).mean(1)
        below = profile[int(6.2 / FIELD_MM * size) :]
        outer = int(np.argmax(below))
        inner = int(np.argmax(below[: outer - int(0.25 / FIELD_MM * size)]))
        assert (outer - inner) * FIELD_MM / size == pytest.approx(0.80 + 0.16 * factor, abs=0.09)


def test_more_vessels_are_drawn_where_the_state_says_so() -> None:
    eye, dark = draw_eye(np.random.default_rng(4)), []
    for factor in (-2.0, 0.0, 2.0):
        factors = np.zeros(STATES)
        factors[0] = factor
        image = draw_fundus(factors, eye, np.zeros(4), 128, np.random.default_rng(5), left=False).astype(np.float64)
        dark.append(image[..., 1].sum())
    assert dark[0] > dark[1] > dark[2]


def test_a_left_eye_is_a_right_one_mirrored() -> None:
    eye, factors = draw_eye(np.random.default_rng(4)), np.linspace(-1, 1, STATES)
    left, right = (
        draw_fundus(factors, eye, np.zeros(4), 64, np.random.default_rng(6), left=left) for left in (True, False)
    )

    np.testing.assert_array_equal(left, right[:, ::-1])


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_ones(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_twins(tmp_path / name, patients=3, seed=seed, size=SIZE)

    digests = [content(tmp_path / name) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


def test_a_patients_pictures_do_not_depend_on_how_many_others_there_are(tmp_path: Path) -> None:
    for name, patients in (("few", 1), ("more", 4)):
        make_twins(tmp_path / name, patients=patients, seed=4, size=SIZE, gaps={})

    for path in (tmp_path / "few" / "images").iterdir():
        assert path.read_bytes() == (tmp_path / "more" / "images" / path.name).read_bytes()


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 visits"):
        make_twins(tmp_path / "none", patients=3, visits=0)
    with pytest.raises(UsageError, match="16 pixels"):
        make_twins(tmp_path / "small", patients=3, size=16)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    with pytest.raises(FoveolaError, match="not empty"):
        make_twins(tmp_path / "full", patients=3)
