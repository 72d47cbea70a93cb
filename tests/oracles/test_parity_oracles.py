"""The proof's statistics against programs and published numbers that nobody here wrote."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.stats import bootstrap
from sklearn.calibration import calibration_curve
from sklearn.metrics import cohen_kappa_score, roc_auc_score, roc_curve

from foveola.toolkit.parity.bootstrap import replicate_sums
from foveola.toolkit.parity.class_endpoints import quadratic_kappa
from foveola.toolkit.parity.curves import calibration, roc
from foveola.toolkit.parity.delong import auc, compare_auc
from foveola.toolkit.parity.detection import average_precision, match_class
from foveola.toolkit.parity.proportion import tango_interval

Array = NDArray[np.float64]

# 43 patients with ovarian cancer and bowel obstruction: albumin, total protein, K-G score, outcome (0 or 1). From
# DeLong, DeLong and Clarke-Pearson, Biometrics 1988, as printed with the results below in the SAS/STAT User's Guide,
# PROC LOGISTIC, example "Comparing Receiver Operating Characteristic Curves", which takes 10 minus the K-G score.
OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1
3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0
4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1
4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1
2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""


def ovarian() -> tuple[NDArray[np.bool_], dict[str, Array]]:
    table = np.array(OVARIAN.split(), dtype=np.float64).reshape(-1, 4)
    return table[:, 3] > 0.5, {"albumin": table[:, 0], "protein": table[:, 1], "kg": 10 - table[:, 2]}


@pytest.mark.parametrize(("name", "area"), [("albumin", 0.7366), ("kg", 0.7258), ("protein", 0.6478)])
def test_the_areas_are_those_printed_for_delongs_patients(name: str, area: float) -> None:
    truth, scores = ovarian()

    assert len(truth) == 43
    assert auc(truth, scores[name]) == pytest.approx(area, abs=5e-5)


@pytest.mark.parametrize(
    ("name", "difference", "error", "chi_square"),
    [("albumin", 0.0108, 0.0953, 0.0127), ("protein", -0.0780, 0.1046, 0.5554)],
)
def test_the_contrasts_are_those_printed_for_delongs_patients(
    name: str, difference: float, error: float, chi_square: float
) -> None:
    truth, scores = ovarian()

    compared = compare_auc(truth, scores["kg"], scores[name], np.arange(len(truth)))

    assert compared.difference == pytest.approx(difference, abs=5e-5)
    assert compared.se == pytest.approx(error, abs=5e-5)
    assert (compared.difference / compared.se) ** 2 == pytest.approx(chi_square, abs=5e-5)


@pytest.mark.parametrize(
    ("gains", "losses", "pairs", "alpha", "wanted", "digits"),
    [
        # Airway hyper-responsiveness before and after stem cell transplantation; Fagerland, Lydersen and Laake,
        # Statistics in Medicine 2014, give Tango's 95 % interval as -0.517 to -0.026.
        (1, 7, 21, 0.025, (-0.517, -0.026), 3),
        # PropCIs::scoreci.mp(25, 28, 618) at 90 %, in R.
        (28, 25, 618, 0.05, (-0.0148, 0.0247), 4),
    ],
)
def test_tangos_interval_is_as_published(
    gains: int, losses: int, pairs: int, alpha: float, wanted: tuple[float, float], digits: int
) -> None:
    low, high = tango_interval(gains, losses, pairs, alpha)

    assert (round(low, digits), round(high, digits)) == wanted


@pytest.mark.parametrize("seed", range(5))
def test_auc_and_roc_are_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random(300) < 0.3
    scores = (rng.normal(size=300) + truth).round(1)  # ties

    false, true = roc(truth, scores, most=1000)

    wanted_false, wanted_true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert auc(truth, scores) == pytest.approx(roc_auc_score(truth, scores))
    np.testing.assert_allclose(false, wanted_false)
    np.testing.assert_allclose(true, wanted_true)


@pytest.mark.parametrize("seed", range(5))
def test_quadratic_kappa_is_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, 200)
    decided = np.clip(truth + rng.integers(-1, 2, 200), 0, 4)

    ours = quadratic_kappa(truth.astype(np.float64), decided.astype(np.float64))

    assert ours == pytest.approx(cohen_kappa_score(truth, decided, weights="quadratic"))


def test_calibration_bins_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(500)
    truth = rng.random(500) < scores

    mean, seen, count = calibration(truth, scores, 10)

    wanted_seen, wanted_mean = calibration_curve(truth, scores, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(count, 50)
    np.testing.assert_allclose(mean, wanted_mean, atol=0.02)  # its edges are interpolated
    np.testing.assert_allclose(seen, wanted_seen, atol=0.05)


def test_the_bootstrap_of_a_paired_ratio_is_scipys() -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(1, 4, 60).astype(np.float64)  # cases a patient
    total = weight * rng.normal(0.01, 0.05, 60)  # sum of the differences of a patient

    drawn = replicate_sums(np.stack([total, weight], axis=1), 20_000, seed=1)
    ours = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])

    theirs = bootstrap(
        (total, weight),
        lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(2),
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    np.testing.assert_allclose(ours, theirs.confidence_interval, atol=0.03 * width)
    assert (drawn[:, 0] / drawn[:, 1]).std(ddof=1) == pytest.approx(theirs.standard_error, rel=0.03)


def coco_box(image: int, label: float, corners: list[float]) -> dict[str, Any]:
    x1, y1, x2, y2 = corners
    width, height = x2 - x1, y2 - y1
    return {"image_id": image, "category_id": int(label), "bbox": [x1, y1, width, height], "area": width * height}


def coco_precision(answers: list[Array], truths: list[Array], labels: int) -> list[float]:
    """AP at IoU 0.5 of each class by pycocotools."""
    drawn, found = [], []
    for image, (answer, truth) in enumerate(zip(answers, truths, strict=True)):
        drawn += [coco_box(image, row[4], row[:4]) | {"iscrowd": 0} for row in truth.tolist()]
        found += [coco_box(image, row[5], row[:4]) | {"score": row[4]} for row in answer.tolist()]
    with contextlib.redirect_stdout(io.StringIO()):
        coco: Any = COCO()
        coco.dataset = {
            "images": [{"id": n} for n in range(len(truths))],
            "annotations": [box | {"id": n + 1} for n, box in enumerate(drawn)],
            "categories": [{"id": k} for k in range(labels)],
        }
        coco.createIndex()
        evaluation: Any = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.evaluate()
        evaluation.accumulate()
    return [float(evaluation.eval["precision"][0, :, k, 0, -1].mean()) for k in range(labels)]


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_is_that_of_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    answers, truths = [], []
    for _ in range(40):
        count = int(rng.integers(0, 6))
        corner = rng.random((count, 2)) * 60
        box = np.concatenate([corner, corner + 10 + rng.random((count, 2)) * 30], axis=1)
        label = rng.integers(0, 3, (count, 1))
        truths.append(np.concatenate([box, label], axis=1))
        wild = rng.random((3, 4)) * 30 + [0, 0, 30, 30]
        found = np.concatenate([box + rng.normal(0, 3, box.shape), wild])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        given = np.concatenate([label, rng.integers(0, 3, (3, 1))])
        answers.append(np.concatenate([found, rng.random((count + 3, 1)), given], axis=1))

    ours = [average_precision(match_class(answers, truths, k)) for k in range(3)]

    assert ours == pytest.approx(coco_precision(answers, truths, 3), abs=1e-9)
