from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from foveola.runtime.errors import FoveolaError, UsageError
from foveola.runtime.task import Kind, Task
from foveola.toolkit.parity.cases import Answers, Cases, References
from foveola.toolkit.parity.endpoints import MEASURES
from foveola.toolkit.parity.evidence import decode_evidence, encode_evidence
from foveola.toolkit.parity.metrics import METRICS
from foveola.toolkit.parity.prove import prove

from .conftest import BINARY, HEADER, Array, binary_scores, by_metric, compare, make_cases

LABELS = Task(name="findings", kind="multilabel", classes=("nodule", "effusion", "rare"), critical=("nodule",))
VIEW = Task(name="view", kind="multiclass", classes=("PA", "AP", "LAT"))
GRADE = Task(name="grade", kind="ordinal", classes=("0", "1", "2", "3"))
AGE = Task(name="age", kind="regression", classes=("age",), unit="years")
LUNGS = Task(name="lungs", kind="segmentation", classes=("right", "left"))
NODULES = Task(name="nodules", kind="detection", classes=("nodule",))


def test_a_good_student_passes_and_a_bad_one_fails() -> None:
    truth, teacher, student = binary_scores(2000)

    good = compare(BINARY, truth, teacher, student)
    bad = compare(BINARY, truth, teacher, np.random.default_rng(0).random(teacher.shape))

    assert good.verdict == "pass", [e.reason for e in good.endpoints]
    assert bad.verdict == "fail"
    assert {e.metric for e in good.endpoints} == {"auc", "sensitivity", "specificity", "brier", "logloss"}
    assert all(e.margin == METRICS[e.metric].margin for e in good.endpoints)


def test_a_shift_against_the_threshold_fails_though_the_auc_does_not_see_it() -> None:
    truth, teacher, _ = binary_scores(2000)

    found = by_metric(compare(BINARY, truth, teacher, teacher * 0.8))

    assert (found["auc"].difference, found["auc"].verdict) == (0.0, "pass")
    assert found["sensitivity"].verdict == "fail"
    assert found["specificity"].verdict == "pass"


def test_identical_answers_differ_by_nothing_and_pass(binary: tuple[Array, Array, Array]) -> None:
    truth, teacher, _ = binary

    evidence = compare(BINARY, truth, teacher, teacher.copy())

    assert evidence.verdict == "pass"
    assert all((e.difference, e.low, e.high) == (0.0, 0.0, 0.0) for e in evidence.endpoints)
    assert not evidence.flips


def test_answers_that_never_change_a_decision_are_not_proof_from_few_cases() -> None:
    truth, _, _ = binary_scores(60)
    perfect = np.where(truth > 0.5, 0.9, 0.1)
    nearly = perfect + 0.001 * np.random.default_rng(0).standard_normal(perfect.shape)

    judged = by_metric(compare(BINARY, truth, perfect, nearly))
    found = {name: judged[name] for name in ("auc", "sensitivity", "specificity")}

    assert all(e.difference == 0.0 and e.verdict == "underpowered" for e in found.values())
    assert found["sensitivity"].low == pytest.approx(-(1.96**2) / (30 + 1.96**2), rel=1e-3)
    assert all(e.needed_cases is not None and e.needed_cases > 60 for e in found.values())


def test_the_order_of_the_cases_changes_no_byte() -> None:
    truth, teacher, student = binary_scores(120)
    cases = make_cases(120, 50, sex=tuple("MF"[n % 2] for n in range(120)))
    order = np.random.default_rng(4).permutation(120)
    shuffled = Cases(
        keys=tuple(cases.keys[n] for n in order),
        patients=tuple(cases.patients[n] for n in order),
        attributes={"sex": tuple(cases.attributes["sex"][n] for n in order)},
    )

    one = compare(BINARY, truth, teacher, student, cases=cases)
    other = compare(BINARY, truth[order], teacher[order], student[order], cases=shuffled)

    assert encode_evidence(one) == encode_evidence(other)


def test_swapping_the_models_negates_every_difference() -> None:
    truth, teacher, student = binary_scores(200)

    one, other = (by_metric(compare(BINARY, truth, *pair)) for pair in ((teacher, student), (student, teacher)))

    for metric, endpoint in one.items():
        assert endpoint.difference == pytest.approx(-(other[metric].difference or 0.0))
        assert endpoint.low == pytest.approx(-(other[metric].high or 0.0), abs=1e-9)


def test_evidence_survives_its_file(binary: tuple[Array, Array, Array]) -> None:
    evidence = compare(BINARY, *binary, cases=make_cases(400, site=("A", "") * 200))

    assert decode_evidence(encode_evidence(evidence)) == evidence
    assert {curve.kind for curve in evidence.curves} == {"roc", "calibration"}
    assert {curve.engine for curve in evidence.curves} == {"teacher", "onnxruntime"}
    assert [(s.value, s.cases) for s in evidence.subgroups] == [("A", 200)]


NAN = np.full((40, 1), np.nan)
DEGENERATE: dict[str, tuple[Array, Array, Array, int | None, str]] = {
    "no case": (np.zeros((0, 1)), np.zeros((0, 1)), np.zeros((0, 1)), None, "no case"),
    "no reference known": (NAN, *binary_scores(40)[1:], None, "no case"),
    "positives only": (np.ones((40, 1)), *binary_scores(40)[1:], None, "one class only, positive"),
    "negatives only": (np.zeros((40, 1)), *binary_scores(40)[1:], None, "one class only, negative"),
    "a single patient": (*binary_scores(40), 1, "only 1 positive patient;"),
    "nine positive patients": (*binary_scores(18), None, "only 9 positive patients"),
    "no teacher's answer": (binary_scores(40)[0], NAN, binary_scores(40)[2], None, "no case"),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_what_cannot_be_proved_is_underpowered_and_says_why(name: str) -> None:
    truth, teacher, student, patients, reason = DEGENERATE[name]

    evidence = compare(BINARY, truth, teacher, student, cases=make_cases(len(truth), patients))

    assert evidence.verdict == "underpowered"
    assert all(e.verdict == "underpowered" and reason in e.reason for e in evidence.endpoints)
    assert decode_evidence(encode_evidence(evidence)) == evidence


def test_a_student_without_answers_fails(binary: tuple[Array, Array, Array]) -> None:
    truth, teacher, _ = binary

    evidence = compare(BINARY, truth, teacher, np.full_like(teacher, np.nan))

    assert evidence.verdict == "fail"
    worst = {e.metric: e.student for e in evidence.endpoints}
    assert worst == {"auc": 0.0, "sensitivity": 0.0, "specificity": 0.0, "brier": 1.0, "logloss": worst["logloss"]}
    assert worst["logloss"] == pytest.approx(-np.log(1e-7), rel=1e-6)
    assert "400 answers of the student are missing" in evidence.notes[0]


def test_a_missing_answer_is_a_wrong_one(binary: tuple[Array, Array, Array]) -> None:
    truth, teacher, _ = binary
    student = teacher.copy()
    right = (teacher[:, 0] >= 0.5) == (truth[:, 0] > 0.5)
    gap = np.flatnonzero(right)[:7]
    student[gap] = [[np.nan], [np.inf], [-np.inf], [np.nan], [np.nan], [np.nan], [np.nan]]

    found = compare(BINARY, truth, teacher, student)

    assert found.flip_counts == {"onnxruntime/finding/yes/lost": 7}
    assert all((e.difference or 0.0) < 0 for e in found.endpoints)


def test_what_the_teacher_did_not_answer_is_left_out(binary: tuple[Array, Array, Array]) -> None:
    truth, teacher, student = binary
    teacher = teacher.copy()
    teacher[:5] = np.nan

    evidence = compare(BINARY, truth, teacher, student)

    assert {e.cases for e in evidence.endpoints} == {395}
    assert "5 answers are left out" in evidence.notes[0]


def test_a_teacher_at_chance_proves_nothing() -> None:
    rng = np.random.default_rng(0)
    truth = (np.arange(2000) % 2).astype(np.float64)[:, None]
    teacher = rng.random((2000, 1))

    evidence = compare(BINARY, truth, teacher, teacher + 1e-6 * rng.random((2000, 1)))

    assert {e.verdict for e in evidence.endpoints} == {"underpowered"}
    assert all("no assay sensitivity" in e.reason for e in evidence.endpoints)


def test_a_teacher_that_always_says_yes_has_a_sensitivity_that_proves_nothing(
    binary: tuple[Array, Array, Array],
) -> None:
    truth, teacher, student = binary

    found = by_metric(compare(BINARY, truth, teacher, student, thresholds=(0.0,)))

    assert found["sensitivity"].teacher == 1.0
    assert "no assay sensitivity" in found["sensitivity"].reason


def labels(count: int, seed: int = 0) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    truth = (rng.random((count, 3)) < [0.4, 0.3, 0.0]).astype(np.float64)
    truth[:4, 2] = 1.0
    truth[rng.random((count, 3)) < 0.1] = np.nan
    teacher = np.clip(0.3 + 0.4 * np.nan_to_num(truth) + 0.12 * rng.standard_normal((count, 3)), 0, 1)
    return truth, teacher, np.clip(teacher + 0.01 * rng.standard_normal((count, 3)), 0, 1)


def test_a_label_with_few_patients_is_named_and_not_in_the_macro_mean() -> None:
    truth, teacher, student = labels(1500)
    broken = student.copy()
    broken[:, 2] = 0.5

    one, other = (compare(LABELS, truth, teacher, s) for s in (student, broken))

    assert by_metric(one)["auc"].verdict == "pass"
    assert by_metric(one)["auc"] == by_metric(other)["auc"]
    assert by_metric(other, "rare")["auc"].verdict == "underpowered"
    assert not by_metric(other, "rare")["auc"].primary
    assert any("rare is not in the macro means" in note for note in one.notes)


def test_the_macro_mean_is_the_mean_of_the_labels() -> None:
    evidence = compare(LABELS, *labels(800))

    for metric in ("auc", "sensitivity", "specificity"):
        rows = [by_metric(evidence, label)[metric] for label in ("nodule", "effusion")]
        whole = by_metric(evidence)[metric]
        assert whole.teacher == pytest.approx(np.mean([row.teacher or 0.0 for row in rows]))
        assert whole.difference == pytest.approx(np.mean([row.difference or 0.0 for row in rows]))


def test_lost_positives_of_a_critical_class_are_listed_first() -> None:
    truth, teacher, _ = labels(300)
    student = np.where(np.random.default_rng(1).random(teacher.shape) < 0.3, 1 - teacher, teacher)

    evidence = compare(LABELS, truth, teacher, student)

    lost = sum(f.kind == "lost" and f.label == "nodule" and f.reference == "positive" for f in evidence.flips)
    assert lost > 5
    assert all(f.label == "nodule" and f.reference == "positive" and f.kind == "lost" for f in evidence.flips[:lost])
    assert len(evidence.flips) == 50
    assert sum(evidence.flip_counts.values()) > 50


def one_hot(index: np.ndarray, width: int, sure: float = 0.8) -> Array:
    scores = np.full((len(index), width), (1 - sure) / (width - 1))
    scores[np.arange(len(index)), index.astype(int)] = sure
    return scores


@pytest.mark.parametrize(("task", "metric"), [(VIEW, "accuracy"), (GRADE, "kappa")])
def test_classes_and_grades(task: Task, metric: str) -> None:
    rng = np.random.default_rng(0)
    width = len(task.classes)
    truth = rng.integers(0, width, 1200)
    guess = np.where(rng.random(1200) < 0.1, rng.integers(0, width, 1200), truth)
    same = one_hot(guess, width, 0.79)
    worse = np.where(rng.random(1200) < 0.2, rng.integers(0, width, 1200), guess)
    reference = truth.astype(np.float64)[:, None]

    good = compare(task, reference, one_hot(guess, width), same)
    bad = compare(task, reference, one_hot(guess, width), one_hot(worse, width))
    none = compare(task, reference, one_hot(guess, width), np.full((1200, width), np.nan))
    single = compare(task, np.zeros((1200, 1)), one_hot(guess, width), same)

    assert [e.metric for e in good.endpoints] == [metric, *(("brier", "logloss") if task is VIEW else ())]
    assert (good.endpoints[0].difference, good.verdict) == (0.0, "pass")
    assert (good.endpoints[0].low or 0.0) < 0  # equal decisions are not equal answers
    assert bad.verdict == none.verdict == "fail"
    assert (none.endpoints[0].student or 0.0) <= 0.0
    assert single.verdict == "underpowered"
    assert bad.flips[0].kind == "lost"


def test_a_majority_teacher_has_no_assay_sensitivity() -> None:
    truth = (np.arange(300) % 10 == 0).astype(np.float64)[:, None]
    teacher = one_hot(np.zeros(300), 3)

    evidence = compare(VIEW, truth, teacher, teacher)

    assert "no assay sensitivity" in evidence.endpoints[0].reason


def test_measures() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(50, 12, (300, 1))
    teacher = truth + rng.normal(0, 4, (300, 1))

    good = compare(AGE, truth, teacher, teacher + rng.normal(0, 0.3, (300, 1))).endpoints[0]
    bad = compare(AGE, truth, teacher, truth + rng.normal(0, 9, (300, 1)))
    gone = compare(AGE, truth, teacher, np.full_like(teacher, np.nan)).endpoints[0]
    blind = compare(AGE, truth, np.full_like(truth, 50.0), np.full_like(truth, 50.0)).endpoints[0]
    flat = compare(AGE, np.full_like(truth, 50.0), teacher, teacher).endpoints[0]

    constant = np.abs(truth - np.median(truth)).mean()
    assert good.margin == pytest.approx(0.05 * constant)
    assert good.verdict == "pass"
    assert bad.verdict == "fail"
    assert bad.flips[0].reference.endswith("years")
    assert gone.verdict == "fail"
    assert blind.verdict == "underpowered"
    assert "constant" in blind.reason
    assert "one value only" in flat.reason


def test_a_margin_of_the_task_goes_before_the_default() -> None:
    truth = np.random.default_rng(0).normal(50, 12, (60, 1))
    task = msgspec.structs.replace(AGE, margins={"mae": 1.5})

    assert compare(task, truth, truth, truth).endpoints[0].margin == 1.5


def test_masks() -> None:
    rng = np.random.default_rng(0)
    teacher = rng.beta(30, 2, (900, 2))
    teacher[::3, 1] = np.nan
    student = np.clip(teacher + 0.005 * rng.standard_normal(teacher.shape), 0, 1)
    worse = student.copy()
    worse[:270, 0] = np.nan  # not answered: Dice 0

    good, bad = compare(LUNGS, None, teacher, student), compare(LUNGS, None, teacher, worse)

    assert good.verdict == "pass"
    assert [(e.label, e.primary) for e in good.endpoints] == [("", True), ("right", False), ("left", False)]
    assert by_metric(good)["dice"].teacher == pytest.approx(np.nanmean(teacher, axis=0).mean())
    assert by_metric(good, "left")["dice"].cases == 600
    assert bad.verdict == "fail"
    assert bad.flips[0].kind == "lost"


def test_boxes() -> None:
    rng = np.random.default_rng(0)
    truths: list[Array | None] = []
    worse: list[Array | None] = []
    teacher, student = [], []
    for n in range(120):
        box = np.array([[10.0, 10, 40, 40, 0]]) + np.array([[1.0, 1, 1, 1, 0]]) * rng.random() * 20
        truths.append(box if n % 2 else np.zeros((0, 5)))
        found = np.column_stack([box[:, :4], rng.random(1), np.zeros(1)])
        teacher.append(found if n % 2 or n % 5 == 0 else np.zeros((0, 6)))
        student.append(teacher[-1] + 0.01 * rng.random() * np.array([1, 1, 1, 1, 1, 0]))
        worse.append(teacher[-1][:0] if n % 3 else teacher[-1])
    truths[0] = None
    worse[1] = None

    good = compare(NODULES, None, teacher, student, boxes=tuple(truths))
    bad = compare(NODULES, None, teacher, worse, boxes=tuple(truths))
    empty = compare(NODULES, None, teacher, student, boxes=tuple(np.zeros((0, 5)) for _ in truths))

    assert good.endpoints[0].cases == 119
    assert good.endpoints[0].positives == 60
    assert (good.endpoints[0].low or 0.0) < -0.02  # nothing was lost, but 60 patients cannot show 0.02
    assert good.verdict == "underpowered"
    assert bad.verdict == "fail"
    assert bad.flips[0].label == "nodule"
    assert "nothing to find" in empty.endpoints[0].reason


def test_an_attribute_with_many_values_makes_no_subgroups(binary: tuple[Array, Array, Array]) -> None:
    cases = make_cases(400, name=tuple(f"n{n}" for n in range(400)), sex=("M", "F") * 200)

    evidence = compare(BINARY, *binary, cases=cases)

    assert {s.attribute for s in evidence.subgroups} == {"sex"}
    assert [s.difference for s in evidence.subgroups] == [None, None]  # here sex decides the class
    assert "attribute name has too many values" in evidence.notes[0]


def compare_raw(tasks: list[Task], cases: Cases, answers: Answers) -> None:
    header: dict[str, Any] = dict(HEADER)
    prove(tasks, cases, References(), answers, {"onnxruntime": answers}, **header)


def test_all_faults_of_the_material_are_said_at_once() -> None:
    cases = Cases(keys=("a", "a", "b"), patients=("p", "q"), attributes={"sex": ("M",)})
    wrong = Answers(scores={"finding": np.zeros((2, 1))}, thresholds={"finding": (0.5, 0.5)})

    with pytest.raises(FoveolaError) as refused:
        compare_raw([BINARY, NODULES], cases, wrong)

    said = str(refused.value)
    assert "\n" not in said
    parts = ("same key", "2 patients", "'sex'", "reference of 'finding' is missing", "(2, 1)", "2 thresholds")
    for part in (*parts, "no reference boxes"):
        assert part in said, part


@pytest.mark.parametrize(("alpha", "resamples"), [(0.0, 200), (0.6, 200), (0.025, 10)])
def test_senseless_settings_are_refused(binary: tuple[Array, Array, Array], alpha: float, resamples: int) -> None:
    with pytest.raises(UsageError):
        compare(BINARY, *binary, alpha=alpha, resamples=resamples)


def test_every_kind_of_task_has_endpoints() -> None:
    assert set(MEASURES) == set(get_args(Kind))


def test_ten_thousand_cases_are_no_burden() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 10_000)
    teacher = one_hot(np.where(rng.random(10_000) < 0.2, rng.integers(0, 4, 10_000), truth), 4)

    evidence = compare(GRADE, truth.astype(np.float64)[:, None], teacher, np.roll(teacher, 1, axis=0), resamples=2000)

    assert evidence.verdict == "fail"


def test_the_proof_needs_numpy_scipy_and_msgspec_only() -> None:
    import foveola.toolkit.parity as package

    allowed = {
        "__future__",
        "collections",
        "concurrent",
        "functools",
        "hashlib",
        "itertools",
        "math",
        "os",
        "re",
        "typing",
        "msgspec",
        "numpy",
        "scipy",
        "",
    }
    for file in Path(package.__path__[0]).glob("*.py"):
        for line in file.read_text().splitlines():
            words = line.split()
            if words[:1] in (["from"], ["import"]):
                assert words[1].split(".")[0] in allowed, f"{file.name}: {line}"


@pytest.mark.parametrize("task", [BINARY, LABELS, VIEW, GRADE, AGE, LUNGS, NODULES], ids=lambda task: task.kind)
@pytest.mark.parametrize("count", [0, 3])
def test_nothing_known_about_any_case_is_underpowered_for_every_kind(task: Task, count: int) -> None:
    width = 1 if task.kind == "binary" else len(task.classes)
    answers = np.full((count, width), 0.5)
    reference = np.full((count, task.column_count), np.nan)

    if task.kind == "detection":
        found = [np.zeros((0, 6))] * count
        evidence = compare(task, None, found, found, boxes=(None,) * count)
    elif task.kind == "segmentation":
        evidence = compare(task, None, np.full((count, width), np.nan), np.full((count, width), np.nan))
    else:
        evidence = compare(task, reference, answers, answers + 0.01)

    assert evidence.verdict == "underpowered"
    assert decode_evidence(encode_evidence(evidence)) == evidence


def test_every_policy_for_gaps_is_counted() -> None:
    rng = np.random.default_rng(0)
    teacher = rng.beta(30, 2, (60, 2))
    student = teacher.copy()
    student[:3, 0] = 0.0  # missed wholly
    student[7] = np.nan
    cases = make_cases(60, 20, site=("A",) * 57 + ("B",) * 3)

    found = compare(LUNGS, None, teacher, student, cases=cases).policies
    same = compare(LUNGS, None, teacher, teacher.copy()).policies

    assert found["masks of the student without anything right, counted as Dice 0"] == 3
    assert found["answers of the student missing, counted as the worst"] == 2
    assert found["subgroups and labels too small to be trusted, or of one class"] == 1
    assert found["images of the patient who has most"] == 3
    assert found["tasks and engines whose answers equal the teacher's bit for bit"] == 0
    assert same["tasks and engines whose answers equal the teacher's bit for bit"] == 1
