from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student_t

from foveola.toolkit.parity.bootstrap import interval, replicate_sums, resample_counts


def test_each_resample_draws_as_many_patients_as_there_are() -> None:
    blocks = list(resample_counts(37, 101, seed=5))

    counts = np.concatenate(blocks)
    assert counts.shape == (101, 37)
    assert (counts.sum(axis=1) == 37).all()


def test_draws_do_not_depend_on_what_is_summed() -> None:
    one = replicate_sums(np.eye(20), 50, seed=3)

    np.testing.assert_array_equal(one, np.concatenate(list(resample_counts(20, 50, seed=3))))


def test_the_mean_of_independent_values_has_the_textbook_interval() -> None:
    values = np.random.default_rng(0).normal(size=80)
    drawn = replicate_sums(values[:, None], 20_000, seed=0)[:, 0] / 80

    found = interval(values.mean(), drawn, 80, 0.025)

    assert found is not None
    se = values.std(ddof=1) / 80**0.5
    assert found.se == pytest.approx(se, rel=0.02)
    assert found.low == pytest.approx(values.mean() - student_t.ppf(0.975, 79) * se, abs=0.03 * se + 0.02)
    assert found.low <= values.mean() - 1.9 * se


@pytest.mark.parametrize(("patients", "drawn"), [(1, np.zeros(50)), (5, np.full(50, np.nan))])
def test_where_no_width_can_be_estimated_there_is_no_interval(patients: int, drawn: np.ndarray) -> None:
    assert interval(0.0, drawn, patients, 0.025) is None
