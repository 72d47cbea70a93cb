"""Limits refuse the share that was chosen; statistics, trials and counts hold against oracles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import stats
from sklearn.metrics import roc_auc_score

from foveola.runtime.errors import FoveolaError
from foveola.runtime.fitness.judge import REASONS, reasons_of
from foveola.runtime.fitness.manifest import Fitness
from foveola.runtime.fitness.novelty import Distance
from foveola.toolkit.fitness.limits import WORST, bounds_of, excess, least_images, limit_of, spreads_of
from foveola.toolkit.fitness.spoil import FAULTS, spoil
from foveola.toolkit.fitness.statistics import fit_novelty
from foveola.toolkit.fitness.trials import _trial, crossed, halves_of
from foveola.toolkit.fitness.ungradable import ungradable, ungradable_parity


def drawn(rng: np.random.Generator, count: int) -> list[dict[str, float]]:
    """Measures with tails of all kinds, that hang together."""
    together = rng.normal(size=(count, 1))
    values = np.exp(0.6 * (rng.normal(size=(count, len(REASONS["fundus"]))) + together))
    return [dict(zip(REASONS["fundus"], row, strict=True)) for row in values.tolist()]


def test_at_most_the_chosen_share_of_good_images_is_refused_on_average() -> None:
    rng = np.random.default_rng(0)
    refused = []
    for _ in range(40):
        spreads = spreads_of(drawn(rng, 100), "fundus")
        limit = limit_of(np.array([excess(one, spreads, "fundus") for one in drawn(rng, 60)]), 0.1, "here")
        fresh = np.array([excess(one, spreads, "fundus") for one in drawn(rng, 200)])
        refused.append(float((fresh > limit).mean()))

    share, error = np.mean(refused), stats.sem(refused)

    assert 0.1 - 1 / 61 - 3 * error <= share <= 0.1 + 3 * error


def test_the_bounds_refuse_what_the_limit_refuses() -> None:
    rng = np.random.default_rng(1)
    spreads = spreads_of(drawn(rng, 100), "fundus")
    fitness = Fitness(kind="fundus", bounds=bounds_of(spreads, 2.0, "fundus"))

    for one in drawn(rng, 100):
        assert (excess(one, spreads, "fundus") > 2.0) == bool(reasons_of(one, fitness))


def test_what_cannot_be_measured_is_furthest_outside() -> None:
    spreads = spreads_of(drawn(np.random.default_rng(2), 30), "fundus")

    assert excess({"field": 0.0}, spreads, "fundus") == WORST


@pytest.mark.parametrize(("share", "count"), [(0.05, 19), (0.025, 39), (0.1, 9)])
def test_so_many_good_images_are_needed_and_no_fewer(share: float, count: int) -> None:
    assert least_images(share) == count
    # The largest of `count` values is exactly the limit: fewer could not keep the share.
    assert limit_of(np.arange(float(count)), share, "here") == count - 1
    assert math.ceil(count * (1 - share)) > count - 1


def test_no_good_image_sets_no_limit() -> None:
    with pytest.raises(FoveolaError, match="no good image"):
        limit_of(np.zeros(0), 0.1, "here")


def test_an_image_has_no_part_in_its_own_limit() -> None:
    halves = halves_of(["a", "a", "b", "b"])
    values = np.array([1.0, 2.0, 10.0, 20.0])

    found = crossed(values, halves, 0.5, "here")

    assert halves[0] == halves[1] != halves[2] == halves[3]
    assert found.tolist() == [20.0, 20.0, 2.0, 2.0]


def test_an_image_like_the_training_images_has_a_distance_of_about_one() -> None:
    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(4, 60))
    features = (rng.normal(size=(300, 4)) @ mixing + 0.3 * rng.normal(size=(300, 60)) + 5).astype(np.float32)
    distance = Distance(fit_novelty(features[:200], "f"))

    near = [distance({"f": row[None]}) for row in features[200:]]
    far = [distance({"f": (row + rng.normal(size=60))[None].astype(np.float32)}) for row in features[200:]]

    assert np.mean(near) == pytest.approx(1, abs=0.15)
    assert min(far) > max(near)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (np.zeros((15, 3), np.float32), "15 images"),
        (np.full((30, 3), np.nan, np.float32), "NaN"),
        (np.ones((30, 3), np.float32), "same for all"),
    ],
)
def test_features_without_statistics_are_refused(features: NDArray[np.float32], words: str) -> None:
    with pytest.raises(FoveolaError, match=words):
        fit_novelty(features, "f")


def test_a_trials_auc_is_that_of_scikit_learn_with_an_interval_around_it() -> None:
    rng = np.random.default_rng(4)
    good, bad = rng.normal(0.5, 0.3, 80), rng.normal(1.1, 0.3, 30)

    trial = _trial("fault", good, [f"p{i}" for i in range(80)], bad, [f"p{i}" for i in range(30)])

    assert trial.auc == pytest.approx(roc_auc_score(np.arange(110) >= 80, np.concatenate([good, bad])), abs=1e-6)
    assert 0.5 < trial.auc_low < trial.auc < trial.auc_high <= 1
    assert (trial.images, trial.caught) == (30, int((bad > 1).sum()))


def test_a_perfect_trial_has_a_lower_bound_below_one() -> None:
    trial = _trial("fault", np.zeros(20), [f"p{i}" for i in range(20)], np.full(10, 5.0), [f"q{i}" for i in range(10)])

    assert (trial.auc, trial.auc_high) == (1.0, 1.0)
    assert 0.7 < trial.auc_low < 1


def test_the_ungradable_share_has_wilsons_interval_of_the_patients() -> None:
    found = ungradable(np.arange(40) < 4, [f"p{i}" for i in range(40)])

    exact = stats.binomtest(4, 40).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-6)
    assert (found.images, found.patients, found.refused, found.share) == (40, 40, 4, 0.1)


def test_two_makings_that_refuse_the_same_differ_by_nothing_within_what_can_be_seen() -> None:
    refused = np.arange(50) < 5

    found = ungradable_parity(refused, refused, [f"p{i}" for i in range(50)])

    assert (found.before, found.after, found.difference) == (0.1, 0.1, 0.0)
    assert found.low == pytest.approx(-(1.96**2) / (50 + 1.96**2), abs=1e-3)  # Tango 1998, no discordant pair
    assert found.high == pytest.approx(-found.low)


@pytest.mark.parametrize("mode", ["L", "I;16", "RGB"])
@pytest.mark.parametrize("kind", ["radiograph", "fundus"])
def test_every_fault_keeps_the_mode_and_changes_the_picture(mode: str, kind: str) -> None:
    rng = np.random.default_rng(5)
    pixels = np.clip(np.hypot(*np.mgrid[-40:40, -50:50])[..., None] * 3 + rng.normal(0, 5, (80, 100, 3)), 0, 255)
    arrays = {"L": pixels[..., 0].astype(np.uint8), "I;16": (pixels[..., 0] * 257).astype("<u2")}
    picture = Image.fromarray(arrays.get(mode, pixels.astype(np.uint8)))

    for name, fault in FAULTS[kind].items():  # type: ignore[index]
        spoiled = spoil(picture, fault)

        assert spoiled.mode == mode
        colour = "cast" in name and mode != "RGB"
        assert colour or spoiled.size != picture.size or not np.array_equal(np.asarray(spoiled), np.asarray(picture))
