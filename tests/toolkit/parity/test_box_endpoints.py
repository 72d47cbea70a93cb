from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from scipy.stats import ttest_rel

from foveola.runtime.task import Task
from foveola.toolkit.parity.cases import Cases
from foveola.toolkit.parity.detection import average_precision, match_class
from foveola.toolkit.parity.evidence import Endpoint, Evidence
from foveola.toolkit.parity.froc import RATES, sensitivity_at
from foveola.toolkit.parity.protocol import Rule, TaskRules, usual_protocol

from .conftest import Array, by_metric, compare, make_cases

NODULES = Task(name="nodules", kind="detection", classes=("nodule",))
FINDINGS = Task(name="findings", kind="detection", classes=("nodule", "mass"))
NAMES = ("map50", "sensitivity_at_fp", "froc")
NONE, NO_TRUTH = np.zeros((0, 6)), np.zeros((0, 5))
Boxes = list[Array | None]


def image(rng: np.random.Generator, labels: list[int]) -> Array:
    """Reference boxes that do not touch, one a label."""
    corner = np.arange(len(labels))[:, None] * 50.0 + rng.uniform(0, 10, (len(labels), 2))
    return np.concatenate([corner, corner + 30, np.array(labels, dtype=np.float64)[:, None]], axis=1).reshape(-1, 5)


def answered(rng: np.random.Generator, truth: Array, found: float, false: float, labels: int = 1) -> Array:
    """Answers that find a share of the boxes, and false ones on an image of 400 pixels."""
    mine = truth[rng.random(len(truth)) < found]
    wrong = rng.poisson(false)
    corner = 300 + rng.uniform(0, 50, (wrong, 2))
    boxes = np.concatenate([mine[:, :4] + rng.uniform(-2, 2, (len(mine), 4)), np.hstack([corner, corner + 20])])
    scores = np.concatenate([rng.uniform(0.4, 1.0, len(mine)), rng.uniform(0.0, 0.7, wrong)])
    label = np.concatenate([mine[:, 4], rng.integers(0, labels, wrong).astype(np.float64)])
    return np.column_stack([boxes, scores, label]).reshape(-1, 6)


def scene(
    count: int, seed: int = 0, labels: int = 1, found: float = 0.8
) -> tuple[list[Array], list[Array], list[Array]]:
    """References, a teacher and a student that are alike; every third image holds nothing."""
    rng = np.random.default_rng(seed)
    truths = [image(rng, [] if n % 3 == 2 else [n % labels, (n // 2) % labels]) for n in range(count)]
    teacher, student = ([answered(rng, truth, found, 0.7, labels) for truth in truths] for _ in range(2))
    return truths, teacher, student


def judge(
    truths: Any,
    teacher: Any,
    student: Any,
    *,
    task: Task = NODULES,
    rate: float = 1.0,
    cases: Cases | None = None,
    resamples: int = 200,
) -> Evidence:
    rules = TaskRules(endpoints={name: Rule() for name in NAMES}, false_positives=rate)
    protocol = msgspec.structs.replace(usual_protocol([task]), tasks={task.name: rules}, resamples=resamples)
    return compare(task, None, tuple(teacher), tuple(student), boxes=tuple(truths), protocol=protocol, cases=cases)


def low(endpoint: Endpoint) -> float:
    assert endpoint.low is not None
    return endpoint.low


# --- values ---


@pytest.mark.parametrize("rate", [0.25, 1.0])
def test_a_row_is_the_mean_over_classes_of_what_the_answers_give(rate: float) -> None:
    truths, teacher, student = scene(60, labels=2)

    evidence = judge(truths, teacher, student, task=FINDINGS, rate=rate)

    for who, answers in (("teacher", teacher), ("student", student)):
        matched = [match_class(answers, truths, label) for label in range(2)]
        wanted = {
            "map50": [average_precision(one) for one in matched],
            "sensitivity_at_fp": [sensitivity_at(one, 60, (rate,)) for one in matched],
            "froc": [sensitivity_at(one, 60, RATES) for one in matched],
        }
        for name in NAMES:
            assert getattr(by_metric(evidence)[name], who) == pytest.approx(np.mean(wanted[name]))
            for k, label in enumerate(FINDINGS.classes):
                assert getattr(by_metric(evidence, label)[name], who) == pytest.approx(wanted[name][k])


def test_images_without_anything_to_find_count_for_the_rate() -> None:
    truths, teacher, student = scene(60)
    empty: list[Array] = [NO_TRUTH] * 60

    alone = by_metric(judge(truths, teacher, student))
    among = by_metric(judge(truths + empty, teacher + [NONE] * 60, student + [NONE] * 60, rate=0.5))

    assert among["sensitivity_at_fp"].student == pytest.approx(alone["sensitivity_at_fp"].student)
    assert among["sensitivity_at_fp"].cases == 120
    assert (among["froc"].student or 0.0) > (alone["froc"].student or 0.0)  # the same answers are half as many an image


@pytest.mark.parametrize("name", NAMES)
def test_without_false_answers_every_row_is_the_share_found_with_scipys_interval(name: str) -> None:
    # One box a patient, no false answer: each metric is the share of boxes found, so its interval must be that of a
    # paired mean. 1,500 patients, a tenth gained and a tenth lost: the corrections are then below 1 % of the half
    # width; the standard error is the larger of jackknife and bootstrap, with 2,000 resamples up to 4 % too large.
    rng = np.random.default_rng(4)
    truths = [image(rng, [0]) for _ in range(1500)]
    whole = [np.column_stack([truth[:, :4], [[0.9]], [[0.0]]]) for truth in truths]
    pairs = rng.permutation(np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [1142, 142, 156, 60], axis=0)).T
    teacher, student = ([box if hit else NONE for box, hit in zip(whole, row, strict=True)] for row in pairs)

    found = by_metric(judge(truths, teacher, student, resamples=2000))[name]

    theirs = ttest_rel(pairs[1], pairs[0]).confidence_interval(0.95)
    half = (theirs.high - theirs.low) / 2
    # Average precision is read at 101 recalls, so that each share is rounded to the next hundredth: with a variance
    # of 0.01^2 / 12, and away from the hundredths (0.8560 and 0.8653 here), where one patient would decide on a step.
    rounded = (half**2 + 1.96**2 * 2 * 0.01**2 / 12) ** 0.5 if name == "map50" else half
    assert found.difference == pytest.approx(14 / 1500, abs=0.01 if name == "map50" else 1e-9)
    assert ((found.high or 0.0) - low(found)) / 2 == pytest.approx(rounded, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_copies_of_a_patients_image_add_no_evidence(name: str) -> None:
    truths, teacher, student = scene(40)
    fours = [[each for each in boxes for _ in range(4)] for boxes in (truths, teacher, student)]
    cases = Cases(
        keys=tuple(f"case{n:03d}" for n in range(160)), patients=tuple(f"patient{n // 4:02d}" for n in range(160))
    )

    one = by_metric(judge(truths, teacher, student))[name]
    four = by_metric(judge(*fours, cases=cases))[name]

    assert (four.low, four.high) == pytest.approx((one.low, one.high), rel=1e-6)
    assert (four.cases, four.patients) == (160, 40)


# --- gaps ---


def test_identical_answers_differ_by_nothing() -> None:
    truths, teacher, _ = scene(60)

    evidence = judge(truths, teacher, [boxes.copy() for boxes in teacher])

    assert all((e.difference, e.low, e.high) == (0.0, 0.0, 0.0) for e in evidence.endpoints)
    assert evidence.verdict == "pass"


def test_a_share_on_a_hundredth_does_not_widen_the_interval_of_map50() -> None:
    rng = np.random.default_rng(4)
    truths = [image(rng, [0]) for _ in range(1500)]
    whole = [np.column_stack([truth[:, :4], [[0.9]], [[0.0]]]) for truth in truths]
    pairs = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [1133, 142, 157, 68], axis=0).T  # 0.8500 and 0.8600
    teacher, student = ([box if hit else NONE for box, hit in zip(whole, row, strict=True)] for row in pairs)

    found = by_metric(judge(truths, teacher, student))

    widths = {name: (found[name].high or 0.0) - low(found[name]) for name in ("map50", "froc")}
    assert widths["map50"] < 1.2 * widths["froc"]


def test_a_missing_answer_is_a_false_box_even_where_there_is_nothing_to_find() -> None:
    truths, teacher, _ = scene(60)
    teacher[5], truths[5] = NONE, NO_TRUTH
    silent: Boxes = [*teacher]
    silent[5] = None

    evidence = judge(truths, teacher, silent)

    assert all((e.difference or 0.0) <= 0.0 and low(e) < 0.0 for e in evidence.endpoints)
    assert (by_metric(evidence)["map50"].difference or 0.0) < 0.0
    assert any("1 answers of the student are missing" in note for note in evidence.notes)


def test_a_missing_answer_where_there_is_something_to_find_is_a_loss() -> None:
    truths, teacher, _ = scene(60, found=1.0)
    silent: Boxes = [*teacher]
    empty: Boxes = [*teacher]
    silent[0], empty[0] = None, NONE

    one, other = (by_metric(judge(truths, teacher, student)) for student in (silent, empty))

    for name in NAMES:
        assert (one[name].difference or 0.0) < 0.0
        assert (one[name].difference or 0.0) <= (other[name].difference or 0.0)  # not better than an empty answer


@pytest.mark.parametrize("whose", ["reference", "teacher"])
def test_a_case_without_reference_or_teachers_answer_is_left_out(whose: str) -> None:
    truths, teacher, student = scene(60)
    torn: dict[str, Boxes] = {"reference": [*truths], "teacher": [*teacher]}
    for n in range(6):
        torn[whose][n] = None

    some = judge(torn["reference"], torn["teacher"], student)
    rest = judge(truths[6:], teacher[6:], student[6:])

    assert {e.cases for e in some.endpoints} == {54}
    for one, other in zip(some.endpoints, rest.endpoints, strict=True):
        assert (one.teacher, one.student) == pytest.approx((other.teacher, other.student))


def test_a_box_that_is_not_finite_is_no_box() -> None:
    truths, teacher, student = scene(60)
    broken = [*student]
    broken[0] = np.concatenate([student[0], [[0.0, 0, np.inf, 9, 0.99, 0], [0, 0, 9, 9, np.nan, 0]]])

    one, other = judge(truths, teacher, broken), judge(truths, teacher, student)

    assert [e.student for e in one.endpoints] == [e.student for e in other.endpoints]


def test_a_student_without_answers_fails() -> None:
    truths, teacher, _ = scene(60)

    evidence = judge(truths, teacher, [None] * 60)

    assert {e.metric: (e.student, e.verdict) for e in evidence.endpoints} == dict.fromkeys(NAMES, (0.0, "fail"))


def test_a_student_that_loses_the_boxes_of_a_fifth_of_the_patients_fails() -> None:
    truths, teacher, _ = scene(300)
    student = [NONE if n % 5 == 0 else boxes for n, boxes in enumerate(teacher)]

    assert {e.verdict for e in judge(truths, teacher, student).endpoints} == {"fail"}


# --- hindrances ---


def test_a_class_that_few_patients_have_is_named_and_not_in_the_mean() -> None:
    truths, teacher, student = scene(60)
    for n in range(9):
        truths[n] = np.concatenate([truths[n], [[200.0, 200, 240, 240, 1]]])
        teacher[n] = np.concatenate([teacher[n], [[200.0, 200, 240, 240, 0.9, 1]]])  # the student finds none of them

    evidence = judge(truths, teacher, student, task=FINDINGS)

    for name in NAMES:
        whole, nodule, mass = (by_metric(evidence, label)[name] for label in ("", "nodule", "mass"))
        assert (whole.teacher, whole.student) == (nodule.teacher, nodule.student)
        assert (mass.teacher, mass.student, mass.verdict) == (1.0, 0.0, "underpowered")
        assert "only 9 patients" in mass.reason
    assert [note for note in evidence.notes if "mass is not in the mean (9 patients have it" in note]
    assert len(set(evidence.notes)) == len(evidence.notes)


def test_where_there_is_nothing_to_find_nothing_is_claimed() -> None:
    _, teacher, student = scene(60)

    evidence = judge([NO_TRUTH] * 60, teacher, student)

    assert all(e.reason == "the reference holds nothing to find" for e in evidence.endpoints)
    assert evidence.verdict == "underpowered"


def test_without_any_case_nothing_is_claimed() -> None:
    truths, _, student = scene(30)

    evidence = judge(truths, [None] * 30, student)

    assert [(e.verdict, e.cases) for e in evidence.endpoints] == [("underpowered", 0)] * 3


@pytest.mark.parametrize("patients", [1, 8])
def test_few_patients_prove_nothing(patients: int) -> None:
    truths, teacher, student = scene(27)

    evidence = judge(truths, teacher, student, cases=make_cases(27, patients))

    assert {e.verdict for e in evidence.endpoints} == {"underpowered"}
    assert all(f"only {patients} patient" in e.reason for e in evidence.endpoints)


def test_a_teacher_that_finds_nothing_proves_nothing() -> None:
    truths, _, _ = scene(60)

    evidence = judge(truths, [NONE] * 60, [NONE[:0].copy() for _ in range(59)] + [np.array([[0, 0, 1, 1, 0.1, 0.0]])])

    assert all("no assay sensitivity" in e.reason for e in evidence.endpoints)


def test_scores_that_differ_by_a_rounding_are_no_proof_from_few_patients() -> None:
    # All boxes found by both: no loss was seen in ten patients, and z^2 / (n + z^2) of them may hide one.
    rng = np.random.default_rng(0)
    truths = [image(rng, [0]) for _ in range(10)]
    teacher = [np.column_stack([truth[:, :4], [[0.9]], [[0.0]]]) for truth in truths]
    student = [boxes - [0, 0, 0, 0, 1e-9, 0] for boxes in teacher]

    found = by_metric(judge(truths, teacher, student))

    share = 1.959964**2 / (10 + 1.959964**2)
    assert {name: found[name].low for name in NAMES} == pytest.approx(dict.fromkeys(NAMES, -share), rel=1e-4)
    assert {found[name].verdict for name in NAMES} == {"underpowered"}


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_gives_one_interval(name: str) -> None:
    truths, teacher, student = scene(60)

    first, again = (low(by_metric(judge(truths, teacher, student, resamples=1000))[name]) for _ in range(2))

    assert first == again
