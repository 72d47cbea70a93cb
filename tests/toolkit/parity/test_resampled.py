"""Laws of the second opinion: the plain bootstrap beside the judged interval, held against scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import bootstrap
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from foveola.runtime.task import Task
from foveola.tests.toolkit.parity.conftest import binary_scores, by_metric, compare, make_cases
from foveola.toolkit.parity.cases import Cases

Array = NDArray[np.float64]
BINARY = Task(name="finding", kind="binary", classes=("no", "yes"))
GRADE = Task(name="grade", kind="ordinal", classes=("none", "some", "much"))
LUNG = Task(name="lung", kind="segmentation", classes=("lung",))
AGE = Task(name="age", kind="regression", classes=("age",), unit="years")
MANY = 4000  # resamples
NEAR = 0.08  # of the interval's width: two bootstraps of so many resamples differ by about this


def scipys(statistic: object, *sides: Array) -> tuple[float, float]:
    """The percentile interval of scipy's own paired bootstrap, one image a patient."""
    found = bootstrap(
        sides, statistic, paired=True, vectorized=False, n_resamples=1500, method="percentile",
        confidence_level=0.95, rng=np.random.default_rng(1),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def assert_near(found: tuple[float, float] | None, wanted: tuple[float, float]) -> None:
    assert found is not None
    reach = NEAR * (wanted[1] - wanted[0])
    assert found == pytest.approx(wanted, abs=reach)


def test_auc_is_scipys_bootstrap_of_scikit_learns_auc() -> None:
    truth, teacher, student = binary_scores(240, noise=0.1)

    row = by_metric(compare(BINARY, truth, teacher, student, resamples=MANY))["auc"]

    wanted = scipys(
        lambda t, a, b: roc_auc_score(t, b) - roc_auc_score(t, a), truth[:, 0], teacher[:, 0], student[:, 0]
    )
    assert_near(row.resampled, wanted)


def test_kappa_is_scipys_bootstrap_of_scikit_learns_kappa() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 200)
    grades = [np.where(rng.random(200) < share, rng.integers(0, 3, 200), truth) for share in (0.2, 0.3)]
    sure = [np.where(np.arange(3) == one[:, None], 0.8, 0.1) for one in grades]

    row = by_metric(compare(GRADE, truth[:, None].astype(np.float64), *sure, resamples=MANY))["kappa"]

    def apart(t: Array, a: Array, b: Array) -> float:
        first, second = (cohen_kappa_score(t, side, weights="quadratic") for side in (a, b))
        return float(second - first)

    assert_near(row.resampled, scipys(apart, truth.astype(float), *(one.astype(float) for one in grades)))


def test_means_of_patients_with_several_images_are_drawn_by_patient() -> None:
    rng = np.random.default_rng(0)
    drop = np.repeat(0.02 * rng.standard_normal((60, 1)), 4, axis=0)  # the same for all images of a patient
    teacher = rng.beta(30, 2, (240, 1))
    student = np.clip(teacher - drop, 0.0, 1.0)
    apart = (student - teacher).reshape(60, 4).mean(axis=1)

    evidence = compare(LUNG, None, teacher, student, cases=together(60, 4), resamples=MANY)

    assert_near(by_metric(evidence)["dice"].resampled, scipys(np.mean, apart))


def test_errors_are_turned_so_that_positive_is_better() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(50, 12, (200, 1))
    teacher, student = truth + rng.normal(0, 3, (200, 1)), truth + rng.normal(0, 4, (200, 1))

    row = by_metric(compare(AGE, truth, teacher, student, resamples=MANY))["mae"]

    assert_near(row.resampled, scipys(np.mean, (np.abs(teacher - truth) - np.abs(student - truth))[:, 0]))


def test_the_judged_interval_reaches_farther_down_than_the_plain_bootstrap() -> None:
    truth, teacher, student = binary_scores(400, noise=0.03)

    row = by_metric(compare(BINARY, truth, teacher, student, resamples=MANY))["auc"]

    assert row.resampled is not None
    assert row.low is not None
    assert row.low <= row.resampled[0]


def test_equal_answers_differ_by_nothing_in_either_interval() -> None:
    truth, teacher, _ = binary_scores(100)

    row = by_metric(compare(BINARY, truth, teacher, teacher))["auc"]

    assert row.resampled == (0.0, 0.0) == (row.low, row.high)


@pytest.mark.parametrize("metric", ["sensitivity", "specificity", "brier", "logloss"])
def test_what_has_an_interval_of_another_kind_has_no_second(metric: str) -> None:
    assert by_metric(compare(BINARY, *binary_scores(100)))[metric].resampled is None


def test_without_an_interval_there_is_no_second() -> None:
    truth, teacher, student = binary_scores(40)

    assert by_metric(compare(BINARY, np.ones_like(truth), teacher, student))["auc"].resampled is None


def together(patients: int, images: int) -> Cases:
    """Images of one patient stand side by side."""
    cases = make_cases(patients * images)
    names = tuple(f"patient{n // images:05d}" for n in range(patients * images))
    return Cases(keys=cases.keys, patients=names, attributes={}, images=cases.images)
