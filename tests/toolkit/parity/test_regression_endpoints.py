from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import ttest_1samp

from foveola.runtime.task import Task
from foveola.toolkit.parity.evidence import Endpoint
from foveola.toolkit.parity.protocol import Rule, TaskRules, usual_protocol
from foveola.toolkit.parity.regression_endpoints import limits_of_agreement

from .conftest import Array, by_metric, compare, make_cases

AGE = Task(name="age", kind="regression", classes=("age",), unit="years", margins={"mae": 1.0, "bias": 1.0})
SIZES = Task(name="sizes", kind="regression", classes=("long", "wide"), unit="mm")

# Peak expiratory flow rate (l/min) of 17 subjects by a large and a mini Wright meter, the first reading of each: Bland
# and Altman, Lancet 1986, table 1.
LARGE = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]

# Cardiac ejection fraction of 12 subjects by radionuclide ventriculography and by impedance cardiography: Bland and
# Altman, Journal of Biopharmaceutical Statistics 2007, table 1.
EJECTION = """
1 7.83 6.57  1 7.42 5.62  1 7.89 6.90  1 7.12 6.57  1 7.88 6.35  2 6.16 4.06  2 7.26 4.29  2 6.71 4.26  2 6.54 4.09
3 4.75 4.71  3 5.24 5.50  3 4.86 5.08  3 4.78 5.02  3 6.05 6.01  3 5.42 5.67  4 4.21 4.14  4 3.61 4.20  4 3.72 4.61
4 3.87 4.68  4 3.92 5.04  5 3.13 3.03  5 2.98 2.86  5 2.85 2.77  5 3.17 2.46  5 3.09 2.32  5 3.12 2.43  6 5.92 5.90
6 6.42 5.81  6 5.92 5.70  6 6.27 5.76  7 7.13 5.09  7 6.62 4.63  7 6.58 4.61  7 6.93 5.09  8 4.54 4.72  8 4.81 4.61
8 5.11 4.36  8 5.29 4.20  8 5.39 4.36  8 5.57 4.20  9 4.48 3.17  9 4.92 3.12  9 3.97 2.96  10 4.22 4.35  10 4.65 4.62
10 4.74 3.16  10 4.44 3.53  10 4.50 3.53  11 6.78 7.20  11 6.07 6.09  11 6.52 7.00  11 6.42 7.10  11 6.41 7.40
11 5.76 6.80  12 5.06 4.50  12 4.72 4.20  12 4.90 3.80  12 4.80 3.80  12 4.90 4.20  12 5.10 4.50
"""


def ages(count: int, seed: int = 0, noise: float = 3.0) -> tuple[Array, Array]:
    """Truth and a good teacher, each (count, 1)."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(20, 80, (count, 1))
    return truth, truth + rng.uniform(-noise, noise, (count, 1))


def low(endpoint: Endpoint) -> float:
    assert endpoint.low is not None
    return endpoint.low


# --- limits of agreement ---


def test_the_limits_of_agreement_are_those_of_bland_and_altmans_peak_flow_meters() -> None:
    apart = np.array(LARGE, dtype=np.float64) - np.array(MINI)

    limits = limits_of_agreement(apart, np.arange(17))

    # The paper: mean -2.1, standard deviation 38.8, limits -79.7 and 75.5 at two standard deviations, where ours are
    # at 1.96 of them.
    assert limits is not None
    mean, deviation = sum(limits) / 2, (limits[1] - limits[0]) / 2 / 1.96
    assert (round(mean, 1), round(deviation, 1)) == (-2.1, 38.8)
    assert (mean - 2 * deviation, mean + 2 * deviation) == pytest.approx((-79.7, 75.5), abs=0.11)  # it rounds first


def test_the_limits_with_several_pairs_a_subject_are_bland_and_altmans_of_2007() -> None:
    subject, ventriculography, impedance = np.array(EJECTION.split(), dtype=np.float64).reshape(-1, 3).T

    limits = limits_of_agreement(ventriculography - impedance, subject.astype(np.intp))

    # Section 3: mean 0.6022, variance within subjects 0.1707 and in all 0.9813, limits -1.34 and 2.54.
    assert limits is not None
    assert limits == pytest.approx((-1.3394565, 2.5437899), abs=2e-6)


def test_subjects_that_differ_no_more_than_their_pairs_add_no_variance_between() -> None:
    apart = np.tile([-1.0, 1.0], 20)

    limits = limits_of_agreement(apart, np.repeat(np.arange(20), 2))

    assert limits is not None
    assert limits[1] == pytest.approx(1.96 * 2.0**0.5)  # the mean square within patients is 2


@pytest.mark.parametrize("patients", [[0, 0, 0], [0, 1, 2]], ids=["one patient", "one case each"])
def test_where_patients_tell_nothing_the_limits_are_those_of_1986(patients: list[int]) -> None:
    limits = limits_of_agreement([1.0, 2.0, 6.0], np.array(patients))

    assert limits == pytest.approx((3.0 - 1.96 * 7.0**0.5, 3.0 + 1.96 * 7.0**0.5))


def test_from_a_single_case_there_are_no_limits() -> None:
    assert limits_of_agreement([1.0], np.zeros(1, dtype=np.intp)) is None


def test_a_rows_limits_are_those_of_student_minus_teacher() -> None:
    truth, teacher = ages(60)
    student = teacher + np.random.default_rng(4).normal(2.0, 1.0, teacher.shape)

    evidence = compare(AGE, truth, teacher, student)

    wanted = limits_of_agreement((student - teacher)[:, 0], np.arange(60))
    assert by_metric(evidence)["mae"].limits == by_metric(evidence)["bias"].limits == pytest.approx(wanted)


# --- mean absolute error ---


def test_a_smaller_error_than_the_teachers_is_a_gain() -> None:
    truth, teacher = ages(60)
    better = truth + 0.5 * (teacher - truth)

    found = by_metric(compare(AGE, truth, teacher, better))["mae"]

    assert found.teacher == pytest.approx(np.abs(teacher - truth).mean())
    assert found.student == pytest.approx(np.abs(better - truth).mean())
    assert found.difference == pytest.approx(0.5 * np.abs(teacher - truth).mean())
    assert (found.difference or 0.0) > 0


def test_with_one_image_a_patient_and_no_tail_the_mae_has_students_interval() -> None:
    # What the corrections leave of 4,000 patients without a tail is below 3 % of the half width.
    truth, teacher = ages(4000)
    student = truth + np.random.default_rng(9).uniform(-4.0, 4.0, truth.shape)

    found = by_metric(compare(AGE, truth, teacher, student))["mae"]

    gain = (np.abs(teacher - truth) - np.abs(student - truth))[:, 0]
    theirs = ttest_1samp(gain, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(
        (theirs.low, theirs.high), abs=0.03 * (theirs.high - theirs.low) / 2
    )


def test_each_measure_of_a_task_has_its_own_row_and_margin() -> None:
    truth = np.concatenate([ages(60)[0], 10 * ages(60, seed=1)[0]], axis=1)
    teacher = truth + np.random.default_rng(2).uniform(-3, 3, truth.shape)

    evidence = compare(SIZES, truth, teacher, teacher + 0.01)

    rows = {(e.metric, e.label): e for e in evidence.endpoints}
    assert set(rows) == {(metric, label) for metric in ("mae", "bias") for label in ("long", "wide")}
    for k, label in enumerate(("long", "wide")):
        constant = np.abs(truth[:, k] - np.median(truth[:, k])).mean()
        assert rows["mae", label].margin == rows["bias", label].margin == pytest.approx(0.05 * constant)
        assert rows["mae", label].primary


# --- bias ---


def two_tests(apart: Array, margin: float) -> float:
    """The larger p of Schuirmann's two one-sided tests, by scipy."""
    below: Any = ttest_1samp(apart, -margin, alternative="greater")
    above: Any = ttest_1samp(apart, margin, alternative="less")
    return float(max(below.pvalue, above.pvalue))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("shift", [0.0, 0.35, 0.6, 0.9, 1.05, 1.2])
def test_the_bias_passes_where_both_of_scipys_one_sided_tests_reject(shift: float, sign: float) -> None:
    # Differences without a tail, so that Student's t is right; 4,000 patients, where the corrections for skewness and
    # for the rare blunder (of the order 1 / n) are far below the distance of these p values from 0.025.
    truth, teacher = ages(4000)
    noise = np.random.default_rng(1).uniform(-3.0, 3.0, truth.shape)
    student = teacher + sign * shift + (noise - noise.mean())

    found = by_metric(compare(AGE, truth, teacher, student))["bias"]

    p = two_tests((student - teacher)[:, 0], 1.0)
    assert not 0.005 < p < 0.125
    assert (found.verdict == "pass") == (p <= 0.025)
    assert found.difference == pytest.approx(-shift, abs=1e-9)


@pytest.mark.parametrize("shift", [-0.7, 0.0, 0.7])
def test_the_bounds_of_the_bias_are_those_of_students_t_on_the_means_of_the_patients(shift: float) -> None:
    # 2,000 patients with three images each, alike within a patient: the unit is the patient. Tolerance as above, 4 %
    # of the half width, and what a blunder that nobody saw may cost, which is of the order 1 / n too.
    rng = np.random.default_rng(2)
    truth, teacher = ages(6000)
    own = np.repeat(rng.uniform(-3.0, 3.0, 2000), 3)
    student = teacher + shift + (own + rng.uniform(-0.5, 0.5, 6000))[:, None]
    order = np.argsort(np.arange(6000) % 3, kind="stable")  # make_cases deals the cases out to the patients in turn

    found = by_metric(compare(AGE, truth[order], teacher[order], student[order], cases=make_cases(6000, 2000)))["bias"]

    theirs = ttest_1samp((student - teacher)[:, 0].reshape(2000, 3).mean(axis=1), 0.0).confidence_interval(0.95)
    half = (theirs.high - theirs.low) / 2
    assert low(found) == pytest.approx(-max(-theirs.low, theirs.high), abs=0.04 * half)
    assert found.high == pytest.approx(-max(0.0, theirs.low, -theirs.high), abs=0.04 * half)


def test_errors_that_cancel_are_no_bias_but_a_larger_error() -> None:
    truth, teacher = ages(600)
    sway = np.where(np.arange(600)[:, None] % 2, 6.0, -6.0)

    found = by_metric(compare(AGE, truth, teacher, teacher + sway))

    assert found["bias"].difference == pytest.approx(0.0, abs=1e-9)
    assert found["mae"].verdict == "fail"


@given(st.integers(0, 2**32 - 1), st.floats(-2.0, 2.0))
@settings(max_examples=15, deadline=None)
def test_turning_the_scale_round_changes_neither_row(seed: int, shift: float) -> None:
    truth, teacher = ages(30, seed)
    student = teacher + shift + np.random.default_rng(seed).normal(0, 1, teacher.shape)

    one, other = (by_metric(compare(AGE, *(sign * part for part in (truth, teacher, student)))) for sign in (1.0, -1.0))

    for name in ("mae", "bias"):
        assert (one[name].difference, one[name].low, one[name].high) == pytest.approx(
            (other[name].difference, other[name].low, other[name].high), rel=1e-6, abs=1e-9
        )


def test_the_bias_shows_each_models_own_error_with_its_sign() -> None:
    truth, teacher = ages(60)

    found = by_metric(compare(AGE, truth, teacher, teacher - 2.5))["bias"]

    assert found.teacher == pytest.approx((teacher - truth).mean())
    assert found.student == pytest.approx((teacher - truth).mean() - 2.5)
    assert found.difference == pytest.approx(-2.5)


# --- gaps, hindrances ---


def test_identical_answers_differ_by_nothing() -> None:
    truth, teacher = ages(40)

    evidence = compare(AGE, truth, teacher, teacher.copy())

    assert [(e.difference, e.low, e.high, e.limits) for e in evidence.endpoints] == [(0.0, 0.0, 0.0, (0.0, 0.0))] * 2
    assert evidence.verdict == "pass"


def test_equal_answers_in_all_but_a_rounding_may_hide_a_blunder_as_large_as_the_largest_error() -> None:
    truth, teacher = ages(12)
    errors = np.abs(teacher - truth)

    found = by_metric(compare(AGE, truth, teacher, teacher + 1e-9))["mae"]

    share = 1.959964**2 / (12 + 1.959964**2)
    assert low(found) == pytest.approx(-share * (errors.max() - errors.mean()), rel=1e-4)


@pytest.mark.parametrize("gap", [np.nan, np.inf, -np.inf])
def test_a_missing_answer_is_the_worst_on_either_side(gap: float) -> None:
    truth, teacher = ages(60)
    student = teacher.copy()
    student[3] = gap

    evidence = compare(AGE, truth, teacher, student)

    farthest = max(abs(truth[3] - truth.min())[0], abs(truth[3] - truth.max())[0], np.abs(teacher - truth).max())
    rest = np.abs(np.delete(teacher - truth, 3)).sum()
    found = by_metric(evidence)
    assert found["mae"].student == pytest.approx((rest + farthest) / 60)
    assert found["bias"].difference == pytest.approx(-(farthest + abs(teacher[3, 0] - truth[3, 0])) / 60)
    assert "1 answers of the student are missing" in evidence.notes[0]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_to_give_no_answer_is_never_better_than_any_answer_inside_the_range(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, teacher = ages(30, seed)
    student = np.clip(teacher + rng.normal(0, 8, teacher.shape), truth.min(), truth.max())
    silent = student.copy()
    silent[: int(rng.integers(1, 8))] = np.nan

    answered, missing = (by_metric(compare(AGE, truth, teacher, each))["mae"] for each in (student, silent))

    assert (missing.difference or 0.0) <= (answered.difference or 0.0) + 1e-12
    assert low(missing) <= low(answered) + 1e-9


def test_a_gap_cannot_balance_a_bias() -> None:
    # The student is one too low everywhere; a worst answer above would lift its mean, so the bias also looks below.
    truth, teacher = ages(200)
    student = teacher - 0.9
    torn = student.copy()
    torn[:4] = np.nan

    whole, gapped = (by_metric(compare(AGE, truth, teacher, each))["bias"] for each in (student, torn))

    assert low(gapped) < low(whole)
    assert (gapped.difference or 0.0) < (whole.difference or 0.0)
    assert gapped.verdict != "pass"


def test_a_case_without_the_teachers_answer_is_left_out() -> None:
    truth, teacher = ages(60)
    student = teacher + 0.1
    teacher[:5] = np.nan

    evidence = compare(AGE, truth, teacher, student)

    assert [e.cases for e in evidence.endpoints] == [55, 55]
    assert any("5 answers are left out because the teacher gave none" in note for note in evidence.notes)


HINDERED: dict[str, tuple[int, NDArray[np.float64] | None, str]] = {
    "nine patients": (9, None, "only 9 patients"),
    "one value": (40, np.full((40, 1), 50.0), "the reference has one value only"),
    "no reference": (40, np.full((40, 1), np.nan), "no case"),
}


@pytest.mark.parametrize("name", HINDERED)
def test_what_cannot_be_proved_is_underpowered_and_says_why(name: str) -> None:
    count, replaced, reason = HINDERED[name]
    truth, teacher = ages(count)

    evidence = compare(AGE, truth if replaced is None else replaced, teacher, teacher + 0.01)

    assert [e.verdict for e in evidence.endpoints] == ["underpowered"] * 2
    assert all(reason in e.reason for e in evidence.endpoints)


def test_a_teacher_that_only_knows_the_median_proves_nothing() -> None:
    truth, _ = ages(60)
    constant = np.full_like(truth, np.median(truth))

    evidence = compare(AGE, truth, constant, constant + 1e-6)

    assert all("not shown to beat a constant" in e.reason for e in evidence.endpoints)


def test_a_bias_asked_for_as_primary_counts_for_the_verdict() -> None:
    truth, teacher = ages(600)
    rules = TaskRules(endpoints={"mae": Rule(margin=5.0), "bias": Rule(margin=1.0)})
    protocol = msgspec.structs.replace(usual_protocol([AGE]), tasks={"age": rules}, resamples=200)

    biased = compare(AGE, truth, teacher, teacher + 2.0, protocol=protocol)
    usual = compare(AGE, truth, teacher, teacher + 2.0)

    assert (by_metric(biased)["bias"].verdict, by_metric(biased)["mae"].verdict) == ("fail", "pass")
    assert biased.verdict == "fail"
    assert not by_metric(usual)["bias"].primary
