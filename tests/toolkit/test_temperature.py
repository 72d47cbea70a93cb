"""Temperatures: what is fitted is the least log-loss, by scikit-learn's own; and nothing but probabilities moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit, softmax
from sklearn.metrics import log_loss, roc_auc_score
from small import TASKS, squares

from foveola.runtime.answer import probabilities
from foveola.runtime.errors import FoveolaError, UsageError
from foveola.runtime.manifest import TemperatureFit
from foveola.runtime.task import Task
from foveola.toolkit.answers import RawAnswers
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.json_files import write_json
from foveola.toolkit.score import lock_thresholds
from foveola.toolkit.temperature import (
    COLDEST,
    MIN_IMAGES,
    TEMPERATURES,
    WARMEST,
    choose_tasks,
    fit_temperature,
    fitting_set,
    loss_at,
    read_temperatures,
    warmed,
)

BINARY = Task(name="t", kind="binary", classes=("no", "yes"))
LABELS = Task(name="t", kind="multilabel", classes=("a", "b"))
CLASSES = Task(name="t", kind="multiclass", classes=("a", "b", "c", "d"))
GRADES = Task(name="t", kind="ordinal", classes=("none", "some", "much"))
EVERY = (BINARY, LABELS, CLASSES, GRADES)
Array = NDArray[np.float32]


def simulated(task: Task, count: int, temperature: float, seed: int = 0) -> tuple[Array, Array]:
    """Targets that were drawn from the probabilities of honest logits, and those logits times the temperature."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(scale=2.0, size=(count, task.channels))
    if task.kind == "ordinal":
        honest = -np.sort(-honest, axis=1)
    chances = np.asarray(probabilities(task, honest), np.float64)
    if task.kind in ("binary", "multilabel"):
        target = (rng.random(chances.shape) < chances).astype(np.float32)
    else:
        drawn = (rng.random((count, 1)) > np.cumsum(chances, axis=1)).sum(axis=1)
        target = np.minimum(drawn, len(task.classes) - 1)[:, None].astype(np.float32)
    return (honest * temperature).astype(np.float32), target


def oracle(task: Task, raw: Array, target: Array, temperature: float) -> float:
    """The mean log-loss by scikit-learn, of probabilities that scipy made where it can."""
    scaled = raw.astype(np.float64) / temperature
    if task.kind in ("binary", "multilabel"):
        known = ~np.isnan(target)
        return float(log_loss(target[known], expit(scaled[known])))
    rows = ~np.isnan(target[:, 0])
    chances = softmax(scaled, axis=1) if task.kind == "multiclass" else np.asarray(probabilities(task, scaled))
    return float(log_loss(target[rows, 0], chances[rows], labels=range(len(task.classes))))


# --- the fit


@pytest.mark.parametrize("task", EVERY, ids=lambda task: task.kind)
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_found_again(task: Task, temperature: float) -> None:
    fit = fit_temperature(task, *simulated(task, 20_000, temperature), "val")

    assert fit.temperature == pytest.approx(temperature, rel=0.05)
    assert fit.after <= fit.before
    assert (fit.task, fit.split, fit.images) == ("t", "val", 20_000)


@pytest.mark.parametrize("task", EVERY, ids=lambda task: task.kind)
def test_the_loss_is_the_log_loss_of_scikit_learn_and_the_fit_has_the_least_of_it(task: Task) -> None:
    raw, target = simulated(task, 400, 2.5, seed=1)

    fit = fit_temperature(task, raw, target, "val")

    assert fit.before == pytest.approx(oracle(task, raw, target, 1.0), abs=1e-6)
    assert fit.after == pytest.approx(oracle(task, raw, target, fit.temperature), abs=1e-6)
    grid = np.exp(np.linspace(np.log(COLDEST), np.log(WARMEST), 500))
    assert fit.after <= min(oracle(task, raw, target, one) for one in grid) + 1e-6


def test_one_sure_mistake_weighs_what_the_log_loss_says() -> None:
    """A loss that is cut off where a probability is rounded to 0 would take the mistake lightly, and be colder."""
    raw = np.array([[1.0]] * 99 + [[-10.0]] + [[-1.0]] * 50, np.float32)
    target = np.array([[1.0]] * 100 + [[0.0]] * 50, np.float32)

    fit = fit_temperature(BINARY, raw, target, "val")

    # Worked by hand: 149 log(1 + exp(-s)) + log(1 + exp(10 s)), s = 1 / T, falls no more at about 149 / (1 + e^s) = 10.
    assert 1 / fit.temperature == pytest.approx(np.log(13.9), rel=0.01)
    assert loss_at(BINARY, raw, target, 0.02) == pytest.approx(10 / 0.02 / 150)


@pytest.mark.parametrize("task", EVERY, ids=lambda task: task.kind)
def test_gaps_count_for_nothing(task: Task) -> None:
    raw, target = simulated(task, 200, 2.0)
    more, gaps = simulated(task, 100, 2.0, seed=9)[0], np.full((100, target.shape[1]), np.nan, np.float32)

    fit = fit_temperature(task, raw, target, "val")

    assert fit_temperature(task, np.vstack([raw, more]), np.vstack([target, gaps]), "val") == fit


def test_a_label_that_is_known_alone_counts_alone() -> None:
    raw, target = simulated(LABELS, 200, 2.0)
    target[::3, 0] = np.nan

    fit = fit_temperature(LABELS, raw, target, "val")

    assert fit.images == 200
    assert fit.after == pytest.approx(oracle(LABELS, raw, target, fit.temperature), abs=1e-6)


def test_grades_that_tie_cost_the_same_at_every_temperature() -> None:
    """A grade between two equal logits has probability 0, whatever they are divided by."""
    raw = np.array([[1.0, 1.0], [2.0, -1.0]] * 20, np.float32)
    target = np.array([[1.0], [0.0]] * 20, np.float32)

    fit = fit_temperature(GRADES, raw, target, "val")

    assert np.isfinite([fit.before, fit.after]).all()


@pytest.mark.parametrize("task", EVERY, ids=lambda task: task.kind)
def test_a_task_that_is_always_right_keeps_its_temperature(task: Task) -> None:
    """Its loss falls for ever towards temperature 0, where each probability is 0 or 1."""
    target = np.tile([[0.0], [1.0]], (20, 1)).astype(np.float32)
    right = {
        "binary": 2 * target - 1,
        "multilabel": np.hstack([2 * target - 1, 1 - 2 * target]),
        "multiclass": np.hstack([1 - target, target, 0 * target - 1, 0 * target - 1]),
        "ordinal": np.hstack([2 * target - 1, 0 * target - 2]),
    }[task.kind].astype(np.float32)
    wanted = np.hstack([target, 1 - target]) if task.kind == "multilabel" else target

    fit = fit_temperature(task, right, wanted, "val")

    assert fit.temperature == 1.0
    assert fit.after == fit.before
    once_wrong = right.copy()
    once_wrong[0] *= -1
    assert fit_temperature(task, once_wrong, wanted, "val").temperature != 1.0


def test_answers_that_say_nothing_become_halves_and_no_more() -> None:
    rng = np.random.default_rng(4)
    raw = (5 * rng.normal(size=(500, 1))).astype(np.float32)

    fit = fit_temperature(BINARY, -raw, (raw > 0).astype(np.float32), "val")

    assert fit.temperature == pytest.approx(WARMEST, rel=1e-4)


# --- what it leaves alone


def test_no_decision_of_a_class_and_no_auc_changes() -> None:
    for seed, task in enumerate((BINARY, LABELS, CLASSES)):
        raw, target = simulated(task, 500, 3.0, seed)
        temperature = fit_temperature(task, raw, target, "val").temperature
        # In float64: in float32 some probabilities beside 1 are equal at one temperature and not at another.
        cool, warm = (np.asarray(probabilities(task, raw.astype(np.float64) / one)) for one in (1.0, temperature))

        assert not np.allclose(cool, warm)
        if task.kind == "multiclass":
            np.testing.assert_array_equal(cool.argmax(1), warm.argmax(1))
        else:
            assert roc_auc_score(target, cool) == pytest.approx(roc_auc_score(target, warm), abs=1e-12)


def test_thresholds_that_are_locked_after_it_decide_as_those_before_it() -> None:
    """Youden's rule looks at the order alone; the threshold moves with the probabilities."""
    raw, target = simulated(BINARY, 300, 3.0)
    arrays: Any = type("Arrays", (), {"scalars": {"t": target}})
    cool, warm = RawAnswers({"t": raw}), warmed(RawAnswers({"t": raw}), {"t": 3.0})
    first, second = (lock_thresholds([BINARY], one, arrays)["t"][0] for one in (cool, warm))

    before, after = (np.asarray(probabilities(BINARY, one.raw["t"]), np.float64) for one in (cool, warm))
    np.testing.assert_array_equal(before >= first, after >= second)
    assert abs(logit(second) * 3) == pytest.approx(abs(logit(first)), abs=0.05)


def test_a_task_without_temperature_is_left_as_it_is() -> None:
    raw = np.ones((3, 1), np.float32)

    answers = warmed(RawAnswers({"a": raw, "b": raw}, {"c": []}), {"a": 2.0})

    np.testing.assert_array_equal(answers.raw["a"], raw / 2)
    np.testing.assert_array_equal(answers.raw["b"], raw)
    assert answers.raw["a"].dtype == np.float32


# --- what is refused


def test_too_few_images_with_a_target_are_refused() -> None:
    raw, target = simulated(BINARY, 40, 2.0)
    target[MIN_IMAGES - 1 :] = np.nan

    with pytest.raises(FoveolaError, match="split 'val': task 't' has 19 images with a target, 20 are needed; leave"):
        fit_temperature(BINARY, raw, target, "val")
    fit_temperature(BINARY, *simulated(BINARY, MIN_IMAGES, 2.0), "val")


@pytest.mark.parametrize("task", EVERY, ids=lambda task: task.kind)
def test_one_class_alone_is_refused(task: Task) -> None:
    raw, target = simulated(task, 40, 2.0)

    with pytest.raises(FoveolaError, match="one class only"):
        fit_temperature(task, raw, np.zeros_like(target), "val")


def test_tasks_that_are_not_there_or_have_no_probabilities_are_refused_all_at_once() -> None:
    with pytest.raises(UsageError, match=r"tasks: side, lungs has no probabilities.*bright, signs, corner, grade"):
        choose_tasks(TASKS, ["bright", "side", "lungs"])


def test_all_tasks_with_probabilities_are_taken_or_those_named_in_their_order() -> None:
    assert [task.name for task in choose_tasks(TASKS, ())] == ["bright", "signs", "corner", "grade"]
    assert [task.name for task in choose_tasks(TASKS, ("grade", "bright"))] == ["bright", "grade"]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The four validation images of the squares six times, beside those of training."""
    data: Dataset = squares(tmp_path_factory.mktemp("squares"))
    return data.take([*range(8, 12)] * 6 + [*range(8)])


def test_the_images_are_those_of_the_split(cases: Dataset) -> None:
    assert len(fitting_set(cases, "val", TASKS[:1])) == 24


def test_an_image_that_training_uses_too_is_refused(cases: Dataset) -> None:
    twice = [*cases.samples[:-1], msgspec.structs.replace(cases.samples[-1], sha256=cases.samples[0].sha256)]
    shared = msgspec.structs.replace(cases, samples=tuple(twice))

    with pytest.raises(FoveolaError, match=r"split 'val': 6 image\(s\) are used in training or proof too"):
        fitting_set(shared, "val", TASKS[:1])


def test_a_split_without_images_is_refused(cases: Dataset) -> None:
    with pytest.raises(FoveolaError, match="split 'calibration': no images to fit a temperature on"):
        fitting_set(cases, "calibration", TASKS[:1])


def test_all_tasks_with_too_few_targets_are_told_at_once(cases: Dataset) -> None:
    few = cases.take([0, 1, 2, 3])

    with pytest.raises(FoveolaError, match=r"'bright' has 4 images.*; task 'corner' has 4 images.*; leave these tasks"):
        fitting_set(few, "val", [TASKS[0], TASKS[2]])


# --- the file


def test_what_was_written_is_read(tmp_path: Path) -> None:
    fits = (TemperatureFit(task="t", split="val", images=40, temperature=1.7, before=0.7, after=0.6),)

    assert read_temperatures(tmp_path) == ()
    write_json(tmp_path / TEMPERATURES, fits)

    assert read_temperatures(tmp_path) == fits
