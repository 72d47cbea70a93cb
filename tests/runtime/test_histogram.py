"""Histograms of what a bundle was made with, held against numpy's and scipy's own."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import laplace

from foveola.runtime.features import answer_features, input_features
from foveola.runtime.histogram import (
    BINS,
    MOST_BINS,
    MOST_COUNT,
    Histogram,
    counted,
    decile_edges,
    histograms,
)
from foveola.runtime.prediction import Choice, Finding, Measurement, Prediction

RNG = np.random.default_rng(5)
FLOATS = st.floats(allow_nan=True, allow_infinity=True, width=32)


def array(values: Any) -> NDArray[np.float64]:
    return np.asarray(values, np.float64)


# --- counting


@settings(max_examples=300, deadline=None)
@given(values=st.lists(FLOATS, max_size=60), edges=st.lists(st.floats(-1e6, 1e6), max_size=12, unique=True).map(sorted))
def test_counts_are_those_of_numpy(values: list[float], edges: list[float]) -> None:
    found = counted(array(values), tuple(edges))

    finite = array(values)[np.isfinite(values)]
    assert found == tuple(np.histogram(finite, [-np.inf, *edges, np.inf])[0].tolist())
    assert sum(found) == len(finite)
    assert len(found) == len(edges) + 1


def test_a_value_on_an_edge_lies_above_it() -> None:
    assert counted(array([0.1, 0.5, 0.5, 0.9]), (0.5,)) == (1, 3)
    assert counted(array([0.5]), (0.25, 0.5, 0.75)) == (0, 0, 1, 0)


def test_what_is_no_number_is_not_counted() -> None:
    assert counted(array([np.nan, np.inf, -np.inf, 1.0]), (0.0,)) == (0, 1)
    assert counted(array([]), ()) == (0,)


# --- edges


def test_edges_are_the_deciles() -> None:
    values = RNG.permutation(1000).astype(np.float64)

    edges = decile_edges(values)

    assert edges == tuple(float(100 * k) for k in range(1, 10))
    assert counted(values, edges) == (100,) * 10


@settings(max_examples=300, deadline=None)
@given(values=st.lists(st.one_of(FLOATS, st.sampled_from([0.0, 1.0])), max_size=60), bins=st.integers(1, MOST_BINS))
def test_any_values_give_a_histogram_that_can_be_made(values: list[float], bins: int) -> None:
    edges = decile_edges(array(values), bins)

    counts = counted(array(values), edges)
    made = Histogram(edges=edges, counts=counts)
    assert len(made.counts) <= bins
    assert sum(counts) == np.isfinite(values).sum()
    if sum(counts):
        assert min(counts) > 0  # each bin holds some of the values that the edges were made of


def test_equal_values_stay_in_one_bin() -> None:
    assert decile_edges(np.zeros(50)) == ()
    assert decile_edges(array([0.0] * 45 + [1.0] * 5)) == (1.0,)
    assert decile_edges(array([])) == ()
    assert decile_edges(array([np.nan, np.inf])) == ()


def test_what_has_no_finite_value_has_no_histogram() -> None:
    made = histograms({"a": array([1.0, 2.0]), "b": array([np.nan]), "c": array([])})

    assert list(made) == ["a"]
    assert made["a"] == Histogram(edges=(2.0,), counts=(1, 1))


def test_a_histogram_holds_counts_and_edges_alone() -> None:
    """Ten bins of a thousand values: no more than a decile can be read off them."""
    made = histograms({"a": RNG.random(1000)})["a"]

    assert made.counts == (100,) * BINS
    assert len(msgspec.json.encode(made)) < 400


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "a count too few": ({"edges": (0.1, 0.2), "counts": (1, 2)}, "2 counts for 2 edges"),
    "a count too many": ({"edges": (0.1,), "counts": (1, 2, 3)}, "3 counts for 1 edges"),
    "no count": ({"edges": (), "counts": ()}, "0 counts for 0 edges"),
    "too many bins": ({"edges": tuple(range(MOST_BINS)), "counts": (1,) * (MOST_BINS + 1)}, "at most 64"),
    "edges that fall": ({"edges": (0.2, 0.1), "counts": (1, 2, 3)}, "do not rise"),
    "an edge twice": ({"edges": (0.1, 0.1), "counts": (1, 2, 3)}, "do not rise"),
    "an edge that is no number": ({"edges": (0.1, float("nan")), "counts": (1, 2, 3)}, "do not rise"),
    "an edge without end": ({"edges": (0.1, float("inf")), "counts": (1, 2, 3)}, "do not rise"),
    "a negative count": ({"edges": (0.1,), "counts": (1, -1)}, "a count is not in 0"),
    "a count beyond all images": ({"edges": (0.1,), "counts": (1, MOST_COUNT + 1)}, "a count is not in 0"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_cannot_be_a_histogram_is_refused(fault: str) -> None:
    fields, words = BROKEN[fault]

    with pytest.raises(ValueError, match=words):
        Histogram(**fields)


# --- what is described


def test_an_image_is_described_by_brightness_contrast_and_sharpness() -> None:
    x_CHW = RNG.random((3, 20, 17)).astype(np.float32)

    found = input_features(x_CHW)

    grey = x_CHW.astype(np.float64).mean(axis=0)
    assert found["brightness"] == pytest.approx(grey.mean(), rel=1e-5)
    assert found["contrast"] == pytest.approx(grey.std(), rel=1e-5)
    assert found["sharpness"] == pytest.approx(laplace(grey)[1:-1, 1:-1].var(), rel=1e-5)


def test_a_blurred_image_is_less_sharp_and_a_darker_one_less_bright() -> None:
    x = RNG.random((1, 32, 32)).astype(np.float32)
    blurred = ((x[:, :-1, :-1] + x[:, 1:, :-1] + x[:, :-1, 1:] + x[:, 1:, 1:]) / 4).astype(np.float32)
    darker = (x / 2).astype(np.float32)

    assert input_features(blurred)["sharpness"] < 0.5 * input_features(x)["sharpness"]
    assert input_features(darker)["brightness"] == pytest.approx(input_features(x)["brightness"] / 2, rel=1e-5)
    assert input_features(np.full((1, 8, 8), 0.5, np.float32)) == {
        "brightness": 0.5,
        "contrast": 0.0,
        "sharpness": 0.0,
    }


def test_an_answer_is_described_by_task_and_label() -> None:
    prediction = Prediction(
        findings=(Finding(task="tb", label="yes", probability=0.3, threshold=0.5, positive=False),),
        choices=(Choice(task="view", label="PA", index=0, probabilities=(0.8, 0.2), classes=("PA", "AP")),),
        measurements=(Measurement(task="age", name="age", value=61.5, unit="years"),),
    )

    assert answer_features(prediction) == {"tb/yes": 0.3, "view/PA": 0.8, "view/AP": 0.2, "age/age": 61.5}
    assert answer_features(Prediction()) == {}
