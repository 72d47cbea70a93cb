"""The pairing metrics on embeddings that somebody thought up."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from small_people import people, two_visits

from foveola.runtime.task import Task
from foveola.toolkit.teachers.comprer.knobs import Roles
from foveola.toolkit.teachers.comprer.pairing import (
    measure_pairing,
    order_auc,
    pairs_across,
    pairs_along,
    retrieve,
)
from foveola.toolkit.teachers.comprer.records import Records, Scans, read_records

AGE = Task(name="age", kind="regression", classes=("age",))
BOTH = ("fundus", "carotid")


def crowd(patients: int = 30) -> Records:
    rows = [row | {"age": 40.0 + int(str(row["patient"])[1:])} for row in two_visits(patients)]
    return read_records(people(rows, (AGE,)), BOTH, Roles())


def own(scans: Scans, patients: int) -> NDArray[np.float32]:
    """An embedding that says who it is."""
    return np.eye(patients, dtype=np.float32)[scans.subject]


def test_a_perfect_embedding_finds_every_partner_in_both_directions() -> None:
    records = crowd()
    codes = {name: own(scans, 30) for name, scans in records.scans.items()}

    pairing = measure_pairing(records, codes, codes, Roles())

    assert set(pairing.across) == {"fundus to carotid", "carotid to fundus"}
    for found in (*pairing.across.values(), *pairing.along.values()):
        assert found.pair_percentile == 1.0
        assert found.recall == {"1": 1.0, "5": 1.0, "10": 1.0}
        assert found.reciprocal_rank == 1.0
        assert found.alignment == pytest.approx(0.0)
        assert found.queries == 30


def test_a_random_embedding_is_at_chance_within_three_standard_errors() -> None:
    records, rng = crowd(200), np.random.default_rng(0)
    codes = {name: rng.standard_normal((len(scans), 16)).astype(np.float32) for name, scans in records.scans.items()}

    found = measure_pairing(records, codes, codes, Roles()).across["fundus to carotid"]

    assert abs(found.pair_percentile - 0.5) < 3 * np.sqrt(1 / 12 / 200)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.5 < found.high
    assert found.phenotype["age"] == pytest.approx(1.0, abs=0.15)


def test_an_embedding_of_the_phenotype_alone_retrieves_people_alike_without_their_partner() -> None:
    records = crowd(100)
    codes = {}
    for name, scans in records.scans.items():
        angle = scans.dataset.scalars["age"][:, 0] / 100
        codes[name] = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)

    found = measure_pairing(records, codes, codes, Roles()).across["fundus to carotid"]

    assert found.phenotype["age"] < 0.1
    assert found.pair_percentile > 0.99


def test_the_order_of_candidates_changes_nothing_and_ties_share_their_rank() -> None:
    rng = np.random.default_rng(1)
    query, gallery = rng.standard_normal((20, 4)), rng.standard_normal((20, 4))
    turned = rng.permutation(20)

    plain, other = retrieve(query, gallery, {}), retrieve(query[turned], gallery[turned], {})
    tied = retrieve(np.ones((20, 4)), np.ones((20, 4)), {})

    assert plain is not None
    assert other is not None
    assert tied is not None
    assert plain.pair_percentile == pytest.approx(other.pair_percentile)
    assert tied.pair_percentile == 0.5


def test_the_interval_knows_that_patients_stand_in_each_others_way() -> None:
    """All queries see the candidates in the same order, so that the mean is a half whoever takes part."""
    angle = np.linspace(0.1, 1.0, 40)

    found = retrieve(np.tile([1.0, 0.0], (40, 1)), np.stack([np.cos(angle), np.sin(angle)], 1), {})

    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.pair_percentile == pytest.approx(0.5)
    assert found.high - found.low < 0.01  # of those who ask alone it would be 0.18


def test_nobody_is_retrieved_among_one() -> None:
    assert retrieve(np.ones((1, 4)), np.ones((1, 4)), {}) is None


def test_one_pair_a_patient_is_of_the_first_visit_that_shows_both() -> None:
    rows = [row for row in two_visits(3) if not (row["patient"] == "p1" and row["visit"] == 0 and row["modality"] == "carotid")]  # fmt: skip # noqa: E501
    records = read_records(people(rows), BOTH, Roles())

    ((p, q),) = pairs_across(records, Roles()).values()

    assert records.scans["fundus"].subject[p].tolist() == [0, 1, 2]
    assert records.scans["fundus"].visit[p].tolist() == records.scans["carotid"].visit[q].tolist() == [0, 1, 0]


def test_the_first_visit_is_the_earliest_whatever_it_is_called() -> None:
    names = {0: "enrolment", 1: "a year later"}
    rows = [row | {"visit": names[int(str(row["visit"]))]} for row in two_visits(3)]
    records = read_records(people(rows), BOTH, Roles())

    ((p, q),) = pairs_across(records, Roles()).values()

    assert records.scans["fundus"].years[p].tolist() == records.scans["carotid"].years[q].tolist() == [0, 0, 0]


def test_sides_pair_within_their_modality() -> None:
    records = read_records(people(two_visits(3)), ["fundus"], Roles(pairs="sides"))

    ((key, (p, q)),) = pairs_across(records, Roles(pairs="sides")).items()

    assert key == ("fundus", "fundus", "fundus left", "fundus right")
    assert records.scans["fundus"].side[p].tolist() == [0, 0, 0]
    assert records.scans["fundus"].side[q].tolist() == [1, 1, 1]


def test_visits_pair_from_the_earlier_to_the_later_on_one_side() -> None:
    scans = crowd(4).scans["fundus"]

    first, second = pairs_along(scans)

    assert (scans.years[second] - scans.years[first]).tolist() == [2.5] * 4
    assert (scans.side[first] == scans.side[second]).all()


def test_the_order_auc_is_that_of_telling_pairs_from_turned_pairs() -> None:
    rng = np.random.default_rng(0)
    later, ahead = rng.standard_normal(50), rng.standard_normal(50)
    both = np.concatenate([later * np.sign(ahead), -later * np.sign(ahead)])

    assert order_auc(later, ahead) == pytest.approx(roc_auc_score(np.repeat([1, 0], 50), both))
    assert order_auc(ahead, ahead) == 1.0
    assert order_auc(-ahead, ahead) == 0.0
    assert order_auc(later, np.full(50, np.nan)) is None
