"""How often the proof passes a student that is exactly as much worse as the margin: it should be alpha, 2.5 %."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

from foveola.toolkit.parity.bootstrap import interval, replicate_sums
from foveola.toolkit.parity.delong import compare_auc
from foveola.toolkit.parity.proportion import compare_proportions

ALPHA = 0.025


def test_a_clustered_auc_at_minus_the_margin_passes_as_often_as_alpha() -> None:
    rng = np.random.default_rng(2024)
    margin, patients, images, runs = 0.02, 200, 3, 800
    area = 0.85
    means = [2**0.5 * norm.ppf(area), 2**0.5 * norm.ppf(area - margin)]  # AUC of unit normals = Phi(mean / sqrt 2)
    truth = np.repeat(np.arange(patients) % 5 < 2, images)
    patient = np.repeat(np.arange(patients), images)
    passed, naive = 0, 0
    for _ in range(runs):
        # 0.6 of the variance is the patient's own; 0.9 of both parts is common to the two models.
        own = np.repeat(rng.standard_normal((patients, 3)), images, axis=0) * 0.6**0.5
        noise = own + rng.standard_normal((patients * images, 3)) * 0.4**0.5
        scores = [mean * truth + 0.9**0.5 * noise[:, 0] + 0.1**0.5 * noise[:, k] for k, mean in enumerate(means, 1)]
        compared = compare_auc(truth, scores[0], scores[1], patient)
        bound = student_t.ppf(1 - ALPHA, min(compared.positive_patients, compared.negative_patients) - 1)
        passed += compared.difference - bound * compared.se > -margin
        loose = compare_auc(truth, scores[0], scores[1], np.arange(len(truth)))
        naive += loose.difference - norm.ppf(1 - ALPHA) * loose.se > -margin

    # Three binomial standard errors around 2.5 % of 800 are 0.8 % to 4.2 %.
    assert 0.008 <= passed / runs <= 0.042
    assert naive / runs > 0.05  # what taking images for patients would do


def test_a_clustered_sensitivity_at_minus_the_margin_passes_no_oftener_than_alpha() -> None:
    rng = np.random.default_rng(7)
    margin, patients, images, runs = 0.05, 120, 3, 1500
    share = np.full(patients * images, 1 / (patients * images))
    patient = np.repeat(np.arange(patients), images)
    teacher = np.ones(patients * images, dtype=bool)
    passed = 0
    for _ in range(runs):
        lost = np.repeat(rng.random(patients) < margin, images)  # a hard patient is lost on every image
        passed += compare_proportions(teacher, ~lost, share, patient, ALPHA).low > -margin

    assert passed / runs <= 0.037  # alpha and three binomial standard errors


def test_a_clustered_mean_at_minus_the_margin_passes_as_often_as_alpha() -> None:
    rng = np.random.default_rng(11)
    margin, patients, runs = 0.01, 40, 600
    passed = 0
    for run in range(runs):
        cases = rng.integers(1, 4, patients)
        change = np.repeat(rng.normal(-margin, 0.02, patients), cases) + rng.normal(0, 0.02, cases.sum())
        sums = np.stack([np.bincount(np.repeat(np.arange(patients), cases), weights=change), cases], axis=1)
        drawn = replicate_sums(sums.astype(np.float64), 300, seed=run)
        found = interval(float(change.mean()), drawn[:, 0] / drawn[:, 1], patients, ALPHA)
        assert found is not None
        passed += found.low > -margin

    assert passed / runs <= 0.044
