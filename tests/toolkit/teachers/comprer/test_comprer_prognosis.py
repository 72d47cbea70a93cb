"""Linear probes, and who can come to have a condition."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedGroupKFold
from small_people import CODE, people, two_visits

from foveola.runtime.errors import FoveolaError
from foveola.runtime.task import Task
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.teachers.comprer.linear import fit_probe
from foveola.toolkit.teachers.comprer.prognosis import check_incident


def test_a_probe_is_the_linear_model_that_scikit_learn_fits() -> None:
    rng = np.random.default_rng(0)
    x, patients = rng.standard_normal((120, 6)) * 3 + 1, np.repeat(np.arange(60), 2)
    y = (x[:, 0] + rng.standard_normal(120) > 1).astype(float)
    y[:5] = np.nan
    value = x[:, 1] * 2 + rng.standard_normal(120)
    known = ~np.isnan(y)
    z = (x - x[known].mean(0)) / x[known].std(0)

    weight, bias = fit_probe(Task(name="a", kind="binary", classes=("no", "yes")), x, y[:, None], patients)
    ridge, offset = fit_probe(Task(name="b", kind="regression", classes=("b",)), x, value[:, None], patients)

    answers = x @ weight[0] + bias[0]
    models = [LogisticRegression(C=c, max_iter=1000).fit(z[known], y[known]) for c in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)]
    assert any(np.allclose(answers, model.decision_function(z), atol=1e-6) for model in models)
    z = (x - x.mean(0)) / x.std(0)
    ridges = [Ridge(alpha=a).fit(z, value) for a in (1.0, 10.0, 1e2, 1e3, 1e4)]
    assert any(np.allclose(x @ ridge[0] + offset[0], model.predict(z), atol=1e-6) for model in ridges)


@pytest.mark.parametrize("kind", ["ordinal", "multiclass"])
def test_a_probe_of_grades_or_classes_answers_all_of_them(kind: Any) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0.0, 1.0, 3.0], 40)
    x = rng.standard_normal((120, 4)) * 0.3 + np.stack([np.cos(y), np.sin(y), y, 0 * y], 1)
    task = Task(name="a", kind=kind, classes=("a", "b", "c", "d"))
    if kind == "ordinal":
        y[80:] = np.repeat([2.0, 3.0], 20)

    weight, bias = fit_probe(task, x, y[:, None], np.arange(120))

    raw = x @ weight.T + bias
    assert raw.shape == (120, task.channels)
    if kind == "multiclass":
        assert (raw.argmax(1) == y).mean() > 0.9
        assert not (raw.argmax(1) == 2).any()


def test_a_probe_of_grades_of_which_the_highest_is_absent_never_answers_it() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0.0, 1.0, 2.0], 40)
    x = rng.standard_normal((120, 2)) * 0.2 + y[:, None]
    task = Task(name="a", kind="ordinal", classes=("a", "b", "c", "d"))

    weight, bias = fit_probe(task, x, y[:, None], np.arange(120))

    assert ((x @ weight.T + bias > 0).sum(1) == y).mean() > 0.95
    assert (x @ weight[2] + bias[2] < -5).all()


def test_a_probe_is_chosen_among_all_strengths_where_a_fold_shows_one_class_only() -> None:
    rng = np.random.default_rng(48)
    pictures, ill = [4, 4, 5, 6, 5, 1, 6, 8, 6, 7], [0, 0, 0, 4, 3, 1, 0, 5, 4, 7]  # of each patient
    patients = np.repeat(np.arange(10), pictures)
    y = np.concatenate([np.arange(count) < few for count, few in zip(pictures, ill, strict=True)]).astype(float)
    folds = StratifiedGroupKFold(5).split(y[:, None], y, patients)
    x = 4 * y[:, None] + rng.standard_normal((len(y), 3))

    weight, bias = fit_probe(Task(name="a", kind="binary", classes=("no", "yes")), x, y[:, None], patients)

    assert any(len(np.unique(y[judged])) == 1 for _, judged in folds)
    weakest = LogisticRegression(C=1e-4, max_iter=1000).fit((x - x.mean(0)) / x.std(0), y)
    assert np.abs(x @ weight[0] + bias[0]).mean() > 10 * np.abs(weakest.coef_).sum()


def test_a_condition_that_nobody_has_is_refused() -> None:
    task = Task(name="a", kind="binary", classes=("no", "yes"))

    with pytest.raises(FoveolaError, match="all train pictures with a target have the same one"):
        fit_probe(task, np.ones((4, 2)), np.zeros((4, 1)), np.arange(4))
    with pytest.raises(FoveolaError, match="no train picture has a target"):
        fit_probe(task, np.ones((4, 2)), np.full((4, 1), np.nan), np.arange(4))


def test_who_has_a_condition_cannot_come_to_have_it() -> None:
    rows = [row | {"prevalent_stroke": i % 2, "incident_stroke": 0.0 if i % 2 == 0 else np.nan}
            for i, row in enumerate(two_visits(2))]  # fmt: skip
    assert check_incident(people(rows, (CODE,))) == []

    rows[5] |= {"incident_stroke": 1.0}
    rows[7] |= {"incident_stroke": 0.0}

    with pytest.raises(FoveolaError, match=r"incident_stroke is given for 2 image\(s\) of prevalent cases.*line 7"):
        check_incident(people(rows, (CODE,)))


@pytest.mark.parametrize(
    ("cell", "words"),
    [("1.0", "incident_stroke is given for 8 image.s. of prevalent cases"), ("had one", "line 2, .*neither 0 nor 1")],
)
def test_a_prevalent_condition_among_the_attributes_is_read_as_a_flag(cell: str, words: str) -> None:
    alone = Task(name="incident_stroke", kind="binary", classes=("no", "yes"))
    data = people([row | {"incident_stroke": 0.0} for row in two_visits(1)], (alone,))

    def said(text: str) -> Dataset:
        samples = (msgspec.structs.replace(one, attributes=one.attributes | {"prevalent_stroke": text})
                   for one in data.samples)  # fmt: skip
        found: Dataset = msgspec.structs.replace(data, samples=tuple(samples))
        return found

    assert check_incident(said("0")) == check_incident(said("")) == []
    with pytest.raises(FoveolaError, match=words):
        check_incident(said(cell))


def test_an_incident_condition_without_its_prevalent_one_is_named() -> None:
    alone = Task(name="incident_stroke", kind="binary", classes=("no", "yes"))

    assert check_incident(people(two_visits(1), (alone,))) == ["incident_stroke"]
