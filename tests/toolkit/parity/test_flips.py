"""Laws of flips, exemplars and calibration errors."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveola.runtime.task import Task
from foveola.toolkit.parity.cases import Answers, References
from foveola.toolkit.parity.curves import froc_curves, reliability
from foveola.toolkit.parity.evidence import Flip
from foveola.toolkit.parity.flips import exemplars, find_flips
from foveola.toolkit.parity.pairing import pair
from foveola.toolkit.parity.prove import prove

from .conftest import BINARY, HEADER, Array, make_cases

LABELS = Task(name="findings", kind="multilabel", classes=("nodule", "effusion"), critical=("nodule",))
VIEW = Task(name="view", kind="multiclass", classes=("PA", "AP", "LAT"), critical=("LAT",))
GRADE = Task(name="grade", kind="ordinal", classes=("0", "1", "2"), critical=("2",))
LUNGS = Task(name="lungs", kind="segmentation", classes=("right", "left"), critical=("left",))
NODULES = Task(name="nodules", kind="detection", classes=("nodule", "mass"))


def flips_of(
    task: Task, reference: Array, teacher: Array, student: Array, thresholds: tuple[float, ...] = ()
) -> list[Flip]:
    compared = pair(
        task,
        References(scores={task.name: reference}),
        Answers(scores={task.name: teacher}, thresholds={task.name: thresholds}),
        Answers(scores={task.name: student}, thresholds={task.name: thresholds}),
    )
    return find_flips("onnxruntime", compared, make_cases(len(teacher)))


def test_a_label_is_the_surer_the_farther_it_lies_from_its_threshold() -> None:
    reference = np.array([[1.0, 0.0], [0.0, 1.0]])
    teacher = np.array([[0.9, 0.1], [0.05, 0.75]])
    student = np.array([[0.1, 0.6], [0.4, 0.2]])

    found = {(f.case, f.label): f for f in flips_of(LABELS, reference, teacher, student, (0.3, 0.5))}

    assert found["case00000", "nodule"].certainty == pytest.approx(0.6 / 0.7)
    assert found["case00000", "effusion"].certainty == pytest.approx(0.8)
    assert found["case00001", "nodule"].certainty == pytest.approx(0.25 / 0.7)
    assert [f.critical for f in found.values()] == [True, False, False, False]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_certainty_is_a_share(teacher: float, student: float, threshold: float) -> None:
    for flip in flips_of(BINARY, np.ones((1, 1)), np.array([[teacher]]), np.array([[student]]), (threshold,)):
        assert flip.certainty is not None
        assert 0.0 <= flip.certainty <= 1.0


@pytest.mark.parametrize("task", [VIEW, GRADE], ids=lambda task: task.kind)
def test_a_class_is_as_sure_as_its_probability(task: Task) -> None:
    teacher = np.array([[0.1, 0.2, 0.7], [0.55, 0.45, 0.0], [0.2, 0.2, 0.6]])
    student = np.array([[0.8, 0.1, 0.1], [0.1, 0.9, 0.0], [0.1, 0.2, 0.7]])

    found = flips_of(task, np.array([[2.0], [1.0], [2.0]]), teacher, student)

    assert [f.certainty for f in found] == pytest.approx([0.7, 0.55])
    assert [(f.kind, f.critical) for f in found] == [("lost", True), ("gained", False)]


def test_masks_have_no_certainty_but_may_be_critical() -> None:
    teacher, student = np.full((2, 2), 0.9), np.array([[0.5, 0.9], [0.9, 0.5]])
    compared = pair(LUNGS, References(), Answers(dice={"lungs": teacher}), Answers(dice={"lungs": student}))

    found = find_flips("onnxruntime", compared, make_cases(2))

    assert [(f.label, f.certainty, f.critical) for f in found] == [("right", None, False), ("left", None, True)]


def make_flip(name: str, certainty: float | None, *, critical: bool = False, severity: float = 0.5) -> Flip:
    return Flip(
        engine="e", task="t", label="", case=name, patient="p", reference="", teacher=0.9, student=0.1, kind="lost",
        severity=severity, certainty=certainty, critical=critical,
    )  # fmt: skip


def test_exemplars_are_lost_critical_findings_then_sure_decisions_then_the_rest() -> None:
    flips = [
        make_flip("mask", None, severity=0.9), make_flip("close", 0.1, severity=1.0), make_flip("sure", 0.9),
        make_flip("critical", 0.2, critical=True), make_flip("mild mask", None, severity=0.1),
    ]  # fmt: skip

    assert [f.case for f in exemplars(flips)] == ["critical", "sure", "close", "mask", "mild mask"]
    assert exemplars(flips[::-1]) == exemplars(flips)


def test_every_flip_comes_out_of_a_proof_though_the_evidence_lists_the_worst() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((400, 1)) < 0.5).astype(float)
    answers = [Answers(scores={"finding": rng.random((400, 1))}) for _ in range(2)]

    proof = prove(
        [BINARY], make_cases(400), References(scores={"finding": truth}), answers[0], {"onnxruntime": answers[1]},
        **HEADER,  # type: ignore[arg-type]
    )  # fmt: skip

    assert len(proof.evidence.flips) == 50
    assert len(proof.flips) == sum(proof.evidence.flip_counts.values()) > 150
    assert set(proof.evidence.flips) <= set(proof.flips)


def test_a_calibration_error_is_that_of_bins_of_equal_mass() -> None:
    rng = np.random.default_rng(1)
    scores = rng.permutation(np.linspace(0.001, 0.999, 500))[:, None]
    truth = (rng.random((500, 1)) < scores**2).astype(float)

    found = list(reliability("teacher", BINARY, truth, scores))

    order = np.argsort(scores[:, 0])
    naive = sum(
        len(part) / 500 * abs(scores[part, 0].mean() - truth[part, 0].mean()) for part in np.array_split(order, 10)
    )
    assert (found[0].cases, found[0].bins, found[0].label) == (500, 10, "yes")
    assert found[0].ece == pytest.approx(naive, abs=1e-6)


def test_probabilities_of_exactly_one_are_in_a_bin() -> None:
    # torchmetrics issue 3510: a saturated answer must not leave the error.
    truth = (np.arange(100) % 10 < 7).astype(float)[:, None]

    found = list(reliability("onnxruntime", BINARY, truth, np.ones((100, 1))))

    assert (found[0].cases, found[0].bins) == (100, 1)
    assert found[0].ece == pytest.approx(0.3)


def test_gaps_are_not_in_a_calibration_error_and_a_label_without_cases_has_none() -> None:
    reference = np.array([[1.0, np.nan], [0.0, np.nan], [1.0, np.nan]])
    scores = np.array([[0.8, 0.5], [np.nan, 0.5], [0.6, 0.5]])

    found = list(reliability("teacher", LABELS, reference, scores))

    assert [(row.label, row.cases) for row in found] == [("nodule", 2)]


def test_a_class_is_calibrated_when_it_is_right_as_often_as_it_says() -> None:
    scores = np.tile([0.8, 0.1, 0.1], (100, 1))
    right = np.where(np.arange(100) < 80, 0.0, 1.0)[:, None]

    good = list(reliability("teacher", VIEW, right, scores))
    bad = list(reliability("teacher", VIEW, np.zeros((100, 1)), scores))
    gone = list(reliability("teacher", VIEW, right, np.full((100, 3), np.nan)))

    assert good[0].label == ""
    assert good[0].ece == pytest.approx(0.0, abs=1e-6)
    assert bad[0].ece == pytest.approx(0.2)
    assert gone == []


def test_froc_curves_keep_their_ends_when_thinned() -> None:
    x = np.linspace(0, 9, 1000)
    found = list(froc_curves("teacher", NODULES, [(x, np.sqrt(x / 9)), (np.zeros(0), np.zeros(0))]))

    assert [(curve.label, curve.kind, len(curve.x)) for curve in found] == [("nodule", "froc", 200)]
    assert (found[0].x[0], found[0].x[-1], found[0].y[-1]) == (0.0, 9.0, 1.0)
    assert msgspec.json.encode(found[0])
