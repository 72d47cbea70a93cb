from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from foveola.runtime.task import Task
from foveola.toolkit.parity.cases import Answers, Cases, References
from foveola.toolkit.parity.evidence import Endpoint, Evidence
from foveola.toolkit.parity.protocol import Rule, TaskRules, usual_protocol
from foveola.toolkit.parity.prove import prove

from .conftest import Array, by_metric, make_cases

LUNGS = Task(name="lungs", kind="segmentation", classes=("right", "left"))
NAMES = ("dice", "nsd", "hd95")
Model = dict[str, Array]


def model(count: int, seed: int = 0, classes: int = 2) -> Model:
    """A model that finds every structure well."""
    rng = np.random.default_rng(seed)
    dice = rng.uniform(0.7, 0.99, (count, classes))
    return {"dice": dice, "nsd": dice**2, "hd95": 20.0 * (1.0 - dice)}


def near(teacher: Model, seed: int = 1, noise: float = 0.01) -> Model:
    """A student that differs a little from its teacher."""
    rng = np.random.default_rng(seed)
    return {name: values * (1 + noise * rng.standard_normal(values.shape)) for name, values in teacher.items()}


def with_gap(found: Model, rows: slice, column: int | slice = slice(None)) -> Model:
    """The same without an answer in some cells."""
    torn = {name: values.copy() for name, values in found.items()}
    for values in torn.values():
        values[rows, column] = np.nan
    return torn


def judge(
    teacher: Model,
    student: Model,
    *,
    task: Task = LUNGS,
    cases: Cases | None = None,
    primary: tuple[str, ...] = NAMES,
    others: tuple[str, ...] = (),
) -> Evidence:
    endpoints = {name: Rule(primary=name in primary) for name in (*primary, *others)}
    protocol = msgspec.structs.replace(
        usual_protocol([task]), tasks={task.name: TaskRules(endpoints=endpoints)}, resamples=200
    )
    by_task: list[dict[str, Any]] = [
        {name: {task.name: values} for name, values in found.items()} for found in (teacher, student)
    ]
    return prove(
        [task],
        cases or make_cases(len(teacher["dice"])),
        References(),
        Answers(**by_task[0]),
        {"onnxruntime": Answers(**by_task[1])},
        protocol=protocol,
        bundle="tiny",
        bundle_digest="a" * 64,
        teacher_digest="b" * 64,
        data_digest="c" * 64,
        split="test",
    ).evidence


def low(endpoint: Endpoint) -> float:
    assert endpoint.low is not None
    return endpoint.low


# --- values ---


def test_a_row_is_the_mean_over_classes_of_the_means_over_the_cases_that_have_them() -> None:
    teacher, student = model(60), model(60, seed=5)
    for values in (*teacher.values(), *student.values()):
        values[::3, 1] = np.nan  # not annotated: the left lung counts in 40 cases

    evidence = judge(teacher, student)

    for name in NAMES:
        whole, right, left = (by_metric(evidence, label)[name] for label in ("", "right", "left"))
        assert whole.teacher == pytest.approx(np.nanmean(teacher[name], axis=0).mean())
        assert whole.student == pytest.approx(np.nanmean(student[name], axis=0).mean())
        assert (whole.cases, right.cases, left.cases) == (60, 60, 40)
        assert (whole.primary, right.primary, left.primary) == (True, False, False)
        assert left.student == pytest.approx(np.nanmean(student[name][:, 1]))


def test_a_smaller_distance_is_better() -> None:
    teacher = model(60)
    closer = {**teacher, "hd95": 0.5 * teacher["hd95"]}

    found = by_metric(judge(teacher, closer))["hd95"]

    assert found.difference == pytest.approx(0.5 * teacher["hd95"].mean(axis=0).mean())


def test_a_task_of_one_class_has_one_row_a_metric() -> None:
    task = msgspec.structs.replace(LUNGS, classes=("both",))
    teacher = model(40, classes=1)

    evidence = judge(teacher, near(teacher), task=task)

    assert [(e.metric, e.label) for e in evidence.endpoints] == [(name, "") for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_with_one_image_a_patient_and_no_tail_the_interval_is_scipys_paired_t(name: str) -> None:
    # The corrections for skewness, leverage and what was never seen are of the order 1 / n: of 4,000 patients whose
    # differences have no tail some 2 % of the interval's half width is left of them.
    task = msgspec.structs.replace(LUNGS, classes=("both",))
    rng = np.random.default_rng(3)
    values = {"dice": 0.5, "nsd": 0.5, "hd95": 10.0}
    teacher = {key: np.full((4000, 1), value) for key, value in values.items()}
    student = {key: value + value * rng.uniform(-0.5, 0.45, (4000, 1)) for key, value in teacher.items()}
    sign = -1.0 if name == "hd95" else 1.0

    found = by_metric(judge(teacher, student, task=task))[name]

    theirs = ttest_rel(sign * student[name][:, 0], sign * teacher[name][:, 0]).confidence_interval(0.95)
    half = (theirs.high - theirs.low) / 2
    assert found.difference == pytest.approx((theirs.low + theirs.high) / 2)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.03 * half)


@pytest.mark.parametrize("name", NAMES)
def test_copies_of_a_patients_image_add_no_evidence(name: str) -> None:
    teacher = model(50)
    student = near(teacher)
    fours = [{key: np.repeat(values, 4, axis=0) for key, values in found.items()} for found in (teacher, student)]
    cases = Cases(
        keys=tuple(f"case{n:03d}" for n in range(200)), patients=tuple(f"patient{n // 4:02d}" for n in range(200))
    )

    one, four = by_metric(judge(teacher, student)), by_metric(judge(fours[0], fours[1], cases=cases))

    assert (four[name].low, four[name].high) == pytest.approx((one[name].low, one[name].high), rel=1e-6)
    assert (four[name].cases, four[name].patients) == (200, 50)


# --- gaps ---


def test_identical_answers_differ_by_nothing() -> None:
    teacher = model(40)

    evidence = judge(teacher, {name: values.copy() for name, values in teacher.items()})

    assert all((e.difference, e.low, e.high) == (0.0, 0.0, 0.0) for e in evidence.endpoints)
    assert evidence.verdict == "pass"


def test_answers_of_equal_dice_whose_surfaces_differ_are_not_identical() -> None:
    teacher = model(40)
    student = {**near(teacher), "dice": teacher["dice"]}

    found = by_metric(judge(teacher, student))

    assert found["dice"].low == 0.0
    assert low(found["nsd"]) < (found["nsd"].difference or 0.0)
    assert low(found["hd95"]) < (found["hd95"].difference or 0.0)


def test_a_missing_answer_is_dice_nought_surface_dice_nought_and_the_largest_distance_of_all() -> None:
    teacher = model(40)
    student = near(teacher)
    teacher["hd95"][7, 1] = 90.0

    found = by_metric(judge(teacher, with_gap(student, slice(0, 4), 0)), "right")

    kept = {name: values[4:, 0].sum() for name, values in student.items()}
    assert found["dice"].student == pytest.approx(kept["dice"] / 40)
    assert found["nsd"].student == pytest.approx(kept["nsd"] / 40)
    assert found["hd95"].student == pytest.approx((kept["hd95"] + 4 * 90.0) / 40)
    assert found["hd95"].cases == 40


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_an_infinite_answer_is_none(value: float) -> None:
    teacher = model(40)
    student = near(teacher)
    torn = {name: values.copy() for name, values in student.items()}
    for values in torn.values():
        values[:4, 0] = value

    one, other = judge(teacher, torn), judge(teacher, with_gap(student, slice(0, 4), 0))

    assert [(e.student, e.low, e.high) for e in one.endpoints] == [(e.student, e.low, e.high) for e in other.endpoints]


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_to_give_no_answer_is_never_better_than_any_answer(seed: int, gaps: int) -> None:
    teacher, student = model(24, seed), model(24, seed + 1)
    teacher["hd95"][23, 1] = 20.0  # as far as any answer lies in these images

    answered, silent = (by_metric(judge(teacher, each)) for each in (student, with_gap(student, slice(0, gaps))))

    for name in NAMES:
        assert (silent[name].difference or 0.0) <= (answered[name].difference or 0.0) + 1e-12


def test_a_case_without_the_teachers_answer_is_left_out_and_said_to_be() -> None:
    teacher, student = model(40), near(model(40))
    kept = {name: values[4:] for name, values in student.items()}

    evidence = judge(with_gap(teacher, slice(0, 4)), student)

    assert all(e.cases == 36 for e in evidence.endpoints)
    assert by_metric(evidence)["nsd"].student == pytest.approx(kept["nsd"].mean(axis=0).mean())
    assert any("8 answers are left out because the teacher gave none" in note for note in evidence.notes)


def test_a_student_that_loses_a_structure_in_a_tenth_of_the_patients_fails() -> None:
    teacher = model(400)
    teacher["hd95"][399, 0] = 90.0  # the worst that the answers know of
    student = near(teacher)

    evidence = judge(teacher, with_gap(student, slice(0, 40), 1))

    assert {e.metric: e.verdict for e in evidence.endpoints if e.primary} == dict.fromkeys(NAMES, "fail")
    assert any("40 answers of the student are missing" in note for note in evidence.notes)


# --- classes, endpoints ---


def test_a_class_that_few_patients_have_is_named_and_not_in_the_mean() -> None:
    teacher = model(60)
    student = near(teacher)
    for values in (*teacher.values(), *student.values()):
        values[9:, 1] = np.nan  # nine patients
    student["dice"][:9, 1] = 0.0

    evidence = judge(teacher, student)

    whole, left = by_metric(evidence)["dice"], by_metric(evidence, "left")["dice"]
    assert whole.student == pytest.approx(student["dice"][:, 0].mean())
    assert (left.cases, left.verdict, left.student) == (9, "underpowered", 0.0)
    assert "only 9 patients" in left.reason
    assert [note for note in evidence.notes if "left is not in the mean (9 patients have it, 10" in note]
    assert len(set(evidence.notes)) == len(evidence.notes)


def test_where_every_class_is_rare_nothing_is_claimed() -> None:
    teacher = model(9)

    evidence = judge(teacher, near(teacher))

    assert evidence.verdict == "underpowered"
    assert all("only 9 patients" in e.reason for e in evidence.endpoints)


def test_a_class_that_nobody_has_has_a_row_without_numbers() -> None:
    teacher, student = model(40), near(model(40))
    teacher, student = (with_gap(found, slice(None), 1) for found in (teacher, student))

    left = by_metric(judge(teacher, student), "left")["dice"]

    assert (left.cases, left.patients, left.teacher, left.low, left.verdict) == (0, 0, None, None, "underpowered")


def test_without_any_case_nothing_is_claimed() -> None:
    teacher = with_gap(model(40), slice(None))

    evidence = judge(teacher, model(40))

    assert [(e.verdict, e.cases) for e in evidence.endpoints] == [("underpowered", 0)] * 3


@pytest.mark.parametrize("who", ["teacher", "student"])
@pytest.mark.parametrize("name", ["nsd", "hd95"])
def test_a_primary_row_that_the_answers_do_not_hold_is_underpowered_and_says_so(name: str, who: str) -> None:
    teacher = model(40)
    both = {"teacher": teacher, "student": near(teacher)}
    del both[who][name]

    evidence = judge(both["teacher"], both["student"])

    found = by_metric(evidence)[name]
    assert (found.verdict, found.reason) == ("underpowered", f"the answers hold no {name}")
    assert evidence.verdict != "pass"


def test_a_row_that_only_describes_is_left_out_where_the_answers_do_not_hold_it() -> None:
    teacher = {"dice": model(40)["dice"]}

    evidence = judge(teacher, near(teacher), primary=("dice",), others=("nsd",))

    assert {e.metric for e in evidence.endpoints} == {"dice"}


def test_only_what_the_rules_name_is_measured() -> None:
    teacher = model(40)

    assert {e.metric for e in judge(teacher, near(teacher), primary=("hd95",)).endpoints} == {"hd95"}


# --- what was never seen ---


def test_equal_surfaces_in_all_but_a_rounding_are_no_proof_from_few_patients() -> None:
    # Ten patients without a loss may hide a structure lost in z^2 / (n + z^2) = 28 % of patients like them.
    teacher = model(10)

    found = by_metric(judge(teacher, near(teacher, noise=1e-9)))

    share = 1.959964**2 / (10 + 1.959964**2)
    dice = teacher["dice"].mean()
    assert low(found["dice"]) == pytest.approx(-share * dice, rel=1e-4)
    assert low(found["nsd"]) == pytest.approx(-share * teacher["nsd"].mean(), rel=1e-4)
    worst = teacher["hd95"].max() - teacher["hd95"].mean()
    assert low(found["hd95"]) == pytest.approx(-share * worst, rel=1e-4)
    assert found["dice"].verdict == found["nsd"].verdict == "underpowered"


def test_the_interval_narrows_with_the_patients() -> None:
    widths = []
    for count in (20, 80, 320):
        teacher = model(count)
        widths.append([-low(by_metric(judge(teacher, near(teacher)))[name]) for name in NAMES])

    assert np.all(np.diff(widths, axis=0) < 0)


def test_a_teacher_that_finds_nothing_proves_nothing() -> None:
    teacher = model(60)
    blind = {"dice": np.zeros((60, 2)), "nsd": teacher["nsd"], "hd95": teacher["hd95"]}

    found = by_metric(judge(blind, near(blind)))

    assert all("no assay sensitivity" in found[name].reason for name in NAMES if found[name].verdict != "fail")
    assert all(found[name].verdict != "pass" for name in NAMES)
