"""Laws of subgroups, labels and what compression forgets."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from foveola.runtime.task import Task
from foveola.toolkit.parity.bands import groups_of, is_age, too_many_values
from foveola.toolkit.parity.evidence import Evidence, Subgroup
from foveola.toolkit.parity.measured import Measured
from foveola.toolkit.parity.protocol import usual_protocol
from foveola.toolkit.parity.subgroups import LABEL, adjusted, forgetting, holm, p_of_harm

from .conftest import BINARY, Array, binary_scores, compare, make_cases

LABELS = Task(name="findings", kind="multilabel", classes=("a", "b", "c", "d", "e", "f"))
VIEW = Task(name="view", kind="multiclass", classes=("PA", "AP", "LAT"))
GRADE = Task(name="grade", kind="ordinal", classes=("0", "1", "2", "3"))
AGE = Task(name="age", kind="regression", classes=("age",), unit="years")
SIZES = Task(name="sizes", kind="regression", classes=("heart", "lungs"))
LUNGS = Task(name="lungs", kind="segmentation", classes=("right", "left"))
NODULES = Task(name="nodules", kind="detection", classes=("nodule", "mass"))

GROUPS: dict[str, tuple[str, list[str], dict[str, list[int]]]] = {
    "texts are groups as they are": ("view", ["PA", "AP", "", "PA"], {"AP": [1], "PA": [0, 3]}),
    "ages are bands": (
        "age",
        ["0", "17", "18", "64.5", "65", "79", "80", "101", ""],
        {"0-17": [0, 1], "18-39": [2], "40-64": [3], "65-79": [4, 5], "80+": [6, 7]},
    ),
    "ages as DICOM writes them are bands": (
        "PatientAge", ["045Y", "011M", "003W", "017Y"], {"0-17": [1, 2, 3], "40-64": [0]},
    ),
    "an age that nobody reaches is not known": ("age", ["999", "-1", "50"], {"40-64": [2]}),
    "few numbers are groups in their order": ("room", ["10", "9", "9"], {"9": [1, 2], "10": [0]}),
    "many numbers are tertiles": (
        "exposure",
        [str(n) for n in range(15)],
        {"up to 4": [*range(5)], "over 4 up to 9": [*range(5, 10)], "over 9": [*range(10, 15)]},
    ),
    "numbers that are mostly equal make fewer groups": (
        "dose", ["1"] * 40 + [str(n) for n in range(2, 15)], {"up to 1": [*range(40)], "over 1": [*range(40, 53)]},
    ),
    "a name makes none": ("name", [f"n{n}" for n in range(51)], {}),
    "fifty texts are still groups": ("town", [f"n{n:02}" for n in range(50)], {f"n{n:02}": [n] for n in range(50)}),
    "nothing known makes none": ("sex", ["", ""], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
def test_how_values_make_groups(name: str) -> None:
    attribute, values, wanted = GROUPS[name]

    found = {value: np.flatnonzero(members).tolist() for value, members in groups_of(attribute, values)}

    assert list(found.items()) == list(wanted.items())


def test_a_number_of_the_hospital_is_an_identifier_and_an_age_is_not() -> None:
    assert too_many_values([f"A-{n}" for n in range(60)])
    assert not too_many_values([str(n) for n in range(60)])
    assert is_age("Age (years)")
    assert is_age("patient_age")
    assert not is_age("image")


def values_of(task: Task, rng: np.random.Generator, count: int) -> dict[str, Any]:
    """Reference, teacher and student of one task with some loss, by the names of `compare`'s arguments."""
    if task.kind == "segmentation":
        teacher = rng.beta(30, 2, (count, 2))
        return {"reference": None, "teacher": teacher, "student": teacher * (1 - 0.02 * rng.random((count, 2)))}
    if task.kind == "detection":
        truths = [np.array([[10.0, 10, 40, 40, n % 2]]) for n in range(count)]
        found = [np.array([[10.0, 10, 40, 41, rng.random(), n % 2]]) for n in range(count)]
        kept = [box if rng.random() > 0.1 else box[:0] for box in found]
        return {"reference": None, "teacher": found, "student": kept, "boxes": tuple(truths)}
    if task.kind == "regression":
        sizes = rng.normal(50, 9, (count, len(task.classes)))
        teacher = sizes + rng.normal(0, 3, sizes.shape)
        return {"reference": sizes, "teacher": teacher, "student": teacher + rng.normal(0, 1, sizes.shape)}
    if task.kind in ("multiclass", "ordinal"):
        width = len(task.classes)
        truth = rng.integers(0, width, count)
        said = [np.where(rng.random(count) < share, (truth + 1) % width, truth) for share in (0.1, 0.2)]
        scores = [np.eye(width)[index] * 0.6 + 0.4 / width for index in said]
        return {"reference": truth.astype(float)[:, None], "teacher": scores[0], "student": scores[1]}
    width = 1 if task.kind == "binary" else len(task.classes)
    present = (rng.random((count, width)) < 0.4).astype(float)
    teacher = np.clip(0.3 + 0.4 * present + 0.2 * rng.standard_normal(present.shape), 0, 1)
    student = np.clip(teacher + 0.1 * rng.standard_normal(present.shape), 0, 1)
    return {"reference": present, "teacher": teacher, "student": student}


def only(values: Any, rows: list[int]) -> Any:
    """Some rows of an array, a list or nothing."""
    if values is None:
        return None
    return type(values)(values[n] for n in rows) if isinstance(values, (list, tuple)) else values[rows]


@pytest.mark.parametrize("task", [BINARY, LABELS, VIEW, GRADE, AGE, SIZES, LUNGS, NODULES], ids=lambda task: task.name)
def test_a_group_has_the_difference_and_interval_of_its_cases_alone(task: Task) -> None:
    material = values_of(task, np.random.default_rng(1), 240)
    site = tuple("AB"[n % 3 == 0] for n in range(240))
    cases = make_cases(240, 110, site=site)
    rows = [n for n in range(240) if site[n] == "A"]
    alone = msgspec.structs.replace(
        cases, keys=tuple(cases.keys[n] for n in rows), patients=tuple(cases.patients[n] for n in rows), attributes={}
    )
    part = {name: only(values, rows) for name, values in material.items()}

    whole = compare(task, material.pop("reference"), cases=cases, **material)
    few = compare(task, part.pop("reference"), cases=alone, **part)

    groups = {group.label: group for group in whole.subgroups if group.value == "A"}
    wanted = {row.label: row for row in few.endpoints if row.primary and row.metric == task.metric}
    assert set(groups) == set(wanted)
    for label, group in groups.items():
        row = wanted[label]
        assert (group.cases, group.patients, group.metric) == (row.cases, row.patients, row.metric)
        assert group.difference == pytest.approx(row.difference, abs=1e-12)
        assert (group.low, group.high) == pytest.approx((row.low, row.high), abs=1e-12)
        assert group.margin == next(
            e.margin for e in whole.endpoints if (e.label, e.metric) == (label, task.metric) and e.primary
        )


def test_holm_is_that_of_the_definition() -> None:
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.04, 0.01]) == pytest.approx([0.04, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_holm_is_the_closed_test_of_bonferroni(p: list[float]) -> None:
    # Marcus, Peritz and Gabriel 1976: an hypothesis falls when every intersection that holds it falls.
    for n, found in enumerate(holm(p)):
        others = [k for k in range(len(p)) if k != n]
        sets = [(n, *more) for size in range(len(p)) for more in combinations(others, size)]
        closed = max(min(1.0, len(one) * min(p[k] for k in one)) for one in sets)
        assert found == pytest.approx(closed)


def measured(difference: float, high: float, hindrance: str = "") -> Measured:
    return Measured(
        metric="auc", primary=True, cases=100, patients=50, difference=difference, low=difference - 0.01, high=high,
        margin=0.02, method="", hindrance=hindrance,
    )  # fmt: skip


@given(st.floats(-0.2, 0.1), st.floats(1e-4, 0.1), st.integers(5, 500))
@settings(max_examples=100, deadline=None)
def test_p_is_below_alpha_exactly_when_the_whole_interval_lies_below_minus_the_margin(
    difference: float, reach: float, freedom: int
) -> None:
    p = p_of_harm(measured(difference, difference + reach), 0.02, freedom, 0.025)

    assert p is not None
    if abs(difference + reach + 0.02) > 1e-9:
        assert (p < 0.025) == (difference + reach < -0.02)


def test_what_has_no_width_has_a_certain_p_and_what_is_hindered_none() -> None:
    assert p_of_harm(measured(0.0, 0.0), 0.02, 49, 0.025) == 1.0
    assert p_of_harm(measured(-0.1, -0.1), 0.02, 49, 0.025) == 0.0
    assert p_of_harm(measured(-0.1, -0.05, "only 3 patients"), 0.02, 49, 0.025) is None
    assert p_of_harm(measured(-0.1, -0.05), float("nan"), 49, 0.025) is None


def harmed(count: int = 1200) -> Evidence:
    """One site of four loses a lot, one has a handful of patients, one holds one class only."""
    rng = np.random.default_rng(5)
    truth, teacher, _ = binary_scores(count)
    site = np.array(["north", "south", "west", "few"])[np.minimum(np.arange(count) // 4 % 80 // 26, 3)]
    site[truth[:, 0] > 0.5] = np.where(site[truth[:, 0] > 0.5] == "few", "north", site[truth[:, 0] > 0.5])
    site[:8] = "tiny"
    student = teacher + 0.005 * rng.standard_normal(teacher.shape)
    bad = site == "south"
    student[bad] = rng.random((int(bad.sum()), 1))
    return compare(BINARY, truth, teacher, np.clip(student, 0, 1), cases=make_cases(count, site=tuple(site.tolist())))


def test_a_harmed_group_is_flagged_and_small_ones_are_marked_and_kept() -> None:
    groups = {group.value: group for group in harmed().subgroups}

    assert set(groups) == {"few", "north", "south", "tiny", "west"}
    assert groups["south"].flagged
    assert (groups["south"].holm or 1.0) < 0.05
    assert not groups["north"].flagged
    assert not groups["west"].flagged
    assert (groups["few"].few, groups["few"].difference, groups["few"].p) == (True, None, None)
    assert groups["tiny"].few
    assert groups["tiny"].difference is not None
    assert groups["tiny"].p is None


def test_a_loss_of_two_margins_is_flagged_whatever_chance_says() -> None:
    group = Subgroup(
        engine="e", task="t", metric="auc", attribute="a", value="v", cases=9, difference=-0.021, margin=0.01, p=0.4
    )

    flags = [adjusted([msgspec.structs.replace(group, difference=d)], 0.025)[0].flagged for d in (-0.021, -0.019)]

    assert flags == [True, False]


def test_labels_are_screened_in_the_same_family_as_groups_and_each_engine_has_its_own() -> None:
    material = values_of(LABELS, np.random.default_rng(2), 300)
    evidence = compare(LABELS, material.pop("reference"), cases=make_cases(300, sex=("F", "M") * 150), **material)

    groups = evidence.subgroups
    assert [group.value for group in groups if group.attribute == LABEL] == list(LABELS.classes)
    tested = [group.p for group in groups if group.p is not None]
    assert len(tested) == 8
    smallest = min(groups, key=lambda group: group.p if group.p is not None else 1.0)
    assert smallest.holm == pytest.approx(min(1.0, 8 * min(tested)))
    twice = adjusted([*groups, *(msgspec.structs.replace(group, engine="other") for group in groups)], 0.025)
    assert [group.holm for group in twice] == [group.holm for group in groups] * 2


def test_groups_exactly_at_the_margin_are_seldom_called_worse_beyond_chance() -> None:
    rng = np.random.default_rng(11)
    protocol = usual_protocol([VIEW])
    runs, count, wrong = 150, 640, 0
    site = tuple(f"s{n % 8}" for n in range(count))
    for _ in range(runs):
        truth = rng.integers(0, 3, count)
        teacher = np.where(rng.random(count) < 0.1, (truth + 1) % 3, truth)
        lost = (teacher == truth) & (rng.random(count) < 0.02 / 0.9)  # accuracy falls by the margin, 0.02
        student = np.where(lost, (truth + 1) % 3, teacher)
        scores = [np.eye(3)[index] * 0.7 + 0.1 for index in (teacher, student)]
        found = compare(
            VIEW, truth.astype(float)[:, None], scores[0], scores[1], cases=make_cases(count, site=site),
            protocol=protocol,
        )  # fmt: skip
        wrong += any((group.holm or 1.0) < 0.05 for group in found.subgroups)

    assert wrong / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5


def test_forgetting_goes_from_the_rarest_label_up_with_spearmans_correlation() -> None:
    rng = np.random.default_rng(3)
    shares = np.array([0.4, 0.05, 0.3, 0.1, 0.2, 0.15])
    truth = (rng.random((1500, 6)) < shares).astype(float)
    teacher = np.clip(0.3 + 0.4 * truth + 0.15 * rng.standard_normal(truth.shape), 0, 1)
    student = np.clip(teacher + 0.03 / shares * rng.standard_normal(truth.shape) * 0.5, 0, 1)

    found = forgetting(compare(LABELS, truth, teacher, student))

    assert len(found) == 1
    rows = found[0].rows
    assert [row.label for row in rows] == ["b", "d", "f", "e", "c", "a"]
    assert {row.metric for row in rows} == {found[0].metric} == {"auc"}
    wanted: Any = spearmanr([row.positives for row in rows], [row.difference for row in rows])
    assert found[0].correlation == pytest.approx(wanted[0])
    assert wanted[0] > 0.5


def test_few_labels_have_no_correlation() -> None:
    material = values_of(LUNGS, np.random.default_rng(0), 60)

    found = forgetting(compare(LUNGS, material.pop("reference"), **material))

    assert [row.label for row in found[0].rows] == ["left", "right"]
    assert found[0].correlation is None


def test_a_group_by_another_metric_when_the_protocol_has_not_the_usual_one(
    binary: tuple[Array, Array, Array],
) -> None:
    protocol = usual_protocol([BINARY])
    rules = protocol.tasks["finding"]
    only = {"specificity": rules.endpoints["specificity"]}
    rules = msgspec.structs.replace(rules, endpoints=only)

    evidence = compare(
        BINARY, *binary, cases=make_cases(400, site=("A", "A", "B", "B") * 100),
        protocol=msgspec.structs.replace(protocol, tasks={"finding": rules}),
    )  # fmt: skip

    assert {group.metric for group in evidence.subgroups} == {"specificity"}
