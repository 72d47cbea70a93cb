"""Who, when and what: records, draws and pairs, and what is refused before any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from small_people import people, two_visits

from foveola.runtime.errors import FoveolaError, UsageError
from foveola.runtime.task import Task
from foveola.toolkit.data.dataset import Columns, read_dataset
from foveola.toolkit.teachers.comprer.batch import across, along
from foveola.toolkit.teachers.comprer.knobs import Aims, Roles
from foveola.toolkit.teachers.comprer.records import (
    check_measured,
    check_records,
    gap_scale,
    paired_subjects,
    read_records,
    returned_subjects,
)
from foveola.toolkit.teachers.comprer.sampler import draw, has_pair, mix, shelves

BOTH = ("fundus", "carotid")
ROLES = Roles()
SIDES = Roles(pairs="sides")


def test_records_tell_modalities_patients_visits_and_sides_apart() -> None:
    records = read_records(people(two_visits(2)), BOTH, ROLES)

    assert records.patients == ("p0", "p1")
    assert records.sides == ("left", "right")
    assert {name: len(scans) for name, scans in records.scans.items()} == {"fundus": 8, "carotid": 8}
    assert paired_subjects(records, ROLES) == returned_subjects(records) == {0, 1}
    assert gap_scale(records) == 2.5


def test_times_are_numbers_or_dates() -> None:
    rows = two_visits(1)
    for row in rows:
        row["years"] = "2020-01-01" if row["visit"] == 0 else "2022-01-01"

    assert gap_scale(read_records(people(rows), BOTH, ROLES)) == pytest.approx(2.0, abs=0.01)


def test_a_time_that_is_none_is_refused_with_its_line() -> None:
    rows = two_visits(1)
    rows[0]["years"] = "last spring"

    with pytest.raises(FoveolaError, match="line 2, column years.*'last spring' is no time"):
        read_records(people(rows), BOTH, ROLES)


def test_an_attribute_that_is_not_there_is_refused() -> None:
    with pytest.raises(FoveolaError, match=r"roles.side.*no attribute 'eyee'.*did you mean 'eye'"):
        read_records(people(two_visits(1)), BOTH, Roles(side="eyee"))
    with pytest.raises(UsageError, match="tells fundus from carotid"):
        read_records(people(two_visits(1)), BOTH, Roles(modality=""))


def refused(rows: list[dict[str, object]], aims: Aims = Aims(), roles: Roles = ROLES) -> str:  # noqa: B008
    with pytest.raises(FoveolaError) as caught:
        check_records(read_records(people(rows), BOTH, roles), aims, roles)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_set_without_a_pair_is_refused_unless_the_loss_is_out() -> None:
    apart = [row for row in two_visits(4) if (row["modality"] == "fundus") == (row["patient"] in ("p0", "p1"))]

    assert "fewer than two train patients have two modalities at one visit" in refused(apart)
    check_records(read_records(people(apart), BOTH, ROLES), Aims(multimodal=0), ROLES)


def test_one_visit_only_is_refused_for_a_temporal_loss() -> None:
    once = [row for row in two_visits(4) if row["visit"] == 0]

    assert "fewer than two train patients have a second visit" in refused(once)
    check_records(read_records(people(once), BOTH, ROLES), Aims(temporal=0), ROLES)


def test_visits_without_time_or_number_have_no_order() -> None:
    named = [row | {"visit": "ab"[int(str(row["visit"]))], "years": ""} for row in two_visits(4)]

    assert "no patient's visits have a time or a number" in refused(named)
    check_records(read_records(people(named), BOTH, ROLES), Aims(order=0), ROLES)


def test_years_between_visits_are_not_learned_from_numbers_of_visits() -> None:
    untimed = [row | {"years": ""} for row in two_visits(4)]

    assert "no patient's visits have a time; name the attribute in roles.years" in refused(untimed, Aims(gap=1))
    check_records(read_records(people(untimed), BOTH, ROLES), Aims(), ROLES)


@pytest.mark.parametrize(
    ("aims", "words"),
    [
        (Aims(contrast=0, order=0, gap=0), "aims.temporal: contrast, order and gap are all 0"),
        (Aims(multimodal=0, temporal=0, reconstruction=0), "aims: no loss is in"),
        (Aims(multimodal=0, temporal=0, measures=0, reconstruction=0, measured=("age",)), "aims: no loss is in"),
    ],
    ids=["no part", "no measure", "no weight"],
)
def test_losses_from_which_nothing_can_be_learned_are_refused(aims: Aims, words: str) -> None:
    assert refused(two_visits(4), aims).startswith(words)


def test_a_modality_without_pictures_is_counted_and_refused() -> None:
    lonely = [row for row in two_visits(4) if row["modality"] == "fundus"]

    words = refused(lonely)

    assert "no train picture of carotid" in words
    assert "fundus: 16 pictures of 4 patients; carotid: 0 pictures of 0 patients" in words


def test_pictures_that_a_manifest_names_but_nobody_has_are_counted(tmp_path: Path) -> None:
    lines = ["file,patient_id,split,modality"] + [f"{i}.png,p{i},train,carotid" for i in range(7)]
    (tmp_path / "manifest.csv").write_text("\n".join(lines))

    with pytest.raises(FoveolaError, match="7 faults: .*0.png is not there"):
        read_dataset(tmp_path, (), columns=Columns(attributes=("modality",)))


def test_two_eyes_of_a_patient_in_two_splits_are_refused(tmp_path: Path) -> None:
    for name in ("left", "right"):
        (tmp_path / name).write_bytes(name.encode())
    rows = ["file,patient_id,split,eye", "left,p1,train,left", "right,p1,test,right"]
    (tmp_path / "manifest.csv").write_text("\n".join(rows))

    with pytest.raises(FoveolaError, match="patient p1 is in several splits"):
        read_dataset(tmp_path, (), columns=Columns(attributes=("eye",)))


def test_masks_are_no_measure() -> None:
    vessel = Task(name="vessel", kind="segmentation", classes=("vessel",))
    data = msgspec.structs.replace(people(two_visits(1)), tasks=(vessel,))

    with pytest.raises(UsageError, match="vessel is a task of kind segmentation"):
        check_measured(data, ["vessel"])


@pytest.mark.parametrize("kind", ["binary", "ordinal", "multiclass"])
def test_a_measure_of_one_kind_only_is_refused(kind: Any) -> None:
    ill = Task(name="ill", kind=kind, classes=("no", "yes"))
    rows = [row | {"ill": 1.0 if row["patient"] == "p0" else 0.0} for row in two_visits(2)]

    check_measured(people(rows, (ill,)), ["ill"])
    with pytest.raises(FoveolaError, match="task 'ill': ill: all train pictures with a target have the same one"):
        check_measured(people(rows[8:], (ill,)), ["ill"])


def test_a_draw_takes_two_visits_every_modality_and_one_side() -> None:
    records = read_records(people(two_visits(3)), BOTH, ROLES)
    rng = np.random.default_rng(0)

    for _ in range(20):
        for shelf in shelves(records).values():
            drawn = draw(shelf, ROLES, rng)
            sides = {int(records.scans[name].side[place]) for name, places in drawn.items() for place in places}
            assert {name: len(places) for name, places in drawn.items()} == {"fundus": 2, "carotid": 2}
            assert len(sides) == 1


def test_a_draw_of_sides_takes_both() -> None:
    records = read_records(people(two_visits(1)), BOTH, SIDES)

    drawn = draw(shelves(records)[0], SIDES, np.random.default_rng(0))

    assert {name: len(places) for name, places in drawn.items()} == {"fundus": 4, "carotid": 4}


def test_a_draw_always_holds_a_visit_with_a_pair_where_there_is_one() -> None:
    rows = [{"patient": "p", "modality": "fundus", "visit": v, "years": v} for v in range(6)]
    rows.append({"patient": "p", "modality": "carotid", "visit": 4, "years": 4})
    records = read_records(people(rows), BOTH, ROLES)
    shelf, rng = shelves(records)[0], np.random.default_rng(0)

    drawn = [draw(shelf, ROLES, rng) for _ in range(20)]

    paired = next(visit for visit in shelf if has_pair(shelf, visit, ROLES))
    assert all(paired in records.scans["fundus"].visit[one["fundus"]] for one in drawn)
    assert len({tuple(one["fundus"]) for one in drawn}) > 1


def shares(order: NDArray[np.int64], few: int) -> list[int]:
    return [int((order[start : start + 10] < few).sum()) for start in range(0, 100, 10)]


def test_patients_with_pairs_are_spread_over_the_batches() -> None:
    order = mix(set(range(20)), set(), range(100), 10, np.random.default_rng(0))

    assert sorted(order.tolist()) == list(range(100))
    assert all(abs(count - 2) <= 1 for count in shares(order, 20))


@pytest.mark.parametrize("kind", ["pairs", "returns"])
def test_few_patients_with_pairs_or_visits_meet_two_by_two(kind: str) -> None:
    few, none = set(range(5)), set[int]()
    pairs, returns = (few, none) if kind == "pairs" else (none, few)

    order = mix(pairs, returns, range(103), 10, np.random.default_rng(0))

    assert sorted(order.tolist()) == list(range(103))
    assert sorted(shares(order, 5)) == [0] * 8 + [2, 3]
    assert (order[100:] >= 5).all()


def test_fewer_patients_than_a_batch_are_one_batch() -> None:
    assert sorted(mix({0, 1}, set(), range(3), 8, np.random.default_rng(0)).tolist()) == [0, 1, 2]


def test_pairs_are_modalities_of_one_visit_and_visits_of_one_modality() -> None:
    records = read_records(people(two_visits(2)), BOTH, ROLES)
    rng = np.random.default_rng(0)
    drawn = [draw(shelf, ROLES, rng) for shelf in shelves(records).values()]
    places = {name: np.concatenate([one[name] for one in drawn]) for name in BOTH}

    (pairs,) = across(records.scans, places, ROLES)
    visits = along("fundus", records.scans["fundus"], places["fundus"])

    fundus, carotid = (records.scans[name] for name in BOTH)
    p, q = places["fundus"][pairs.i], places["carotid"][pairs.j]
    assert (pairs.first, pairs.second, len(pairs.i), pairs.subjects) == ("fundus", "carotid", 4, 2)
    assert (fundus.subject[p] == carotid.subject[q]).all()
    assert (fundus.visit[p] == carotid.visit[q]).all()
    assert (len(visits.i), visits.ordered, visits.timed) == (2, 2, 2)
    assert visits.ahead.abs().tolist() == [2.5, 2.5]


def test_a_visit_whose_time_is_not_known_is_ordered_by_its_number_but_has_no_gap() -> None:
    rows = [row | {"years": ""} for row in two_visits(2)]
    records = read_records(people(rows), BOTH, ROLES)
    scans = records.scans["fundus"]

    pairs = along("fundus", scans, np.flatnonzero(scans.side == 0))

    assert (pairs.ordered, pairs.timed) == (2, 0)
    assert pairs.ahead.tolist() == [1.0, 1.0]
    assert pairs.years.isnan().all()


def test_visits_pair_on_their_own_side_in_whatever_order_pictures_were_drawn() -> None:
    rows = [row for row in two_visits(1) if row["visit"] == 0 or row["eye"] == "left"]
    scans = read_records(people(rows), ["fundus"], SIDES).scans["fundus"]
    apart = read_records(people([row for row in rows if (row["visit"], row["eye"]) != (0, "left")]), ["fundus"], SIDES)

    found = [along("fundus", scans, np.array(order)) for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0))]

    assert [len(pairs.i) for pairs in found] == [1, 1, 1]
    assert len(along("fundus", apart.scans["fundus"], np.arange(2)).i) == 1


def test_the_sides_of_one_visit_are_pairs_where_that_is_asked_for() -> None:
    records = read_records(people(two_visits(2)), ["fundus"], SIDES)
    scans = records.scans["fundus"]

    (pairs,) = across(records.scans, {"fundus": np.arange(len(scans))}, SIDES)

    assert len(pairs.i) == 4
    assert (scans.side[pairs.i] == 0).all()
    assert (scans.side[pairs.j] == 1).all()
    assert paired_subjects(records, SIDES) == {0, 1}
