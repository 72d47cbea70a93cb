"""How good a teacher's embedding is, for the page that compares teachers."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from foveola.runtime.task import Task
from foveola.toolkit.parity.measured import Setting
from foveola.toolkit.parity.probe import probe_scores
from foveola.toolkit.parity.protocol import TaskRules
from foveola.toolkit.parity.retrieval import cosine, pair_percentile, recall_at, unit
from foveola.toolkit.review.blocks import main_rows, task_blocks
from foveola.toolkit.review.record import Review, TeacherReview
from foveola.toolkit.teachers.embedding_metrics import measure_embedding

TASK = Task(name="likeness", kind="embedding", size=5, classes=("diabetes", "smoker"))
PATIENTS = np.repeat(np.arange(40), 2)


def setting(patients: NDArray[np.intp] = PATIENTS) -> Setting:
    return Setting(patients=patients, resamples=200, seed=0, alpha=0.025, power=0.8, rules=TaskRules(endpoints={}))


def material(noise: float = 0.5) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    state = rng.standard_normal((40, 5))
    embedding = unit(state[PATIENTS] + noise * rng.standard_normal((80, 5)))
    return embedding, (state[PATIENTS][:, :2] > 0).astype(np.float64)


def test_retrieval_leads_and_probes_follow_each_with_an_interval() -> None:
    embedding, conditions = material()
    partner = np.arange(80) ^ 1
    rivals = PATIENTS[:, None] != PATIENTS[None]

    rows = {(row.metric, row.label): row for row in measure_embedding(TASK, conditions, embedding, setting())}

    scores = probe_scores(embedding, conditions, PATIENTS)
    similarity = cosine(embedding, embedding)
    assert [row.main for row in rows.values()] == [True, False, False, False, False]
    first = rows["pair_percentile", ""]
    assert first.value == pytest.approx(pair_percentile(similarity, partner, rivals).mean())
    assert rows["recall_at_1", ""].value == pytest.approx(recall_at(1, similarity, partner, rivals).mean())
    assert rows["probe_auc", "diabetes"].value == pytest.approx(roc_auc_score(conditions[:, 0], scores[:, 0]))
    assert first.low is not None
    assert first.high is not None
    assert first.value is not None
    assert 0.5 < first.low < first.value < first.high <= 1.0
    assert (first.cases, first.patients, first.note) == (80, 40, "")


def test_an_embedding_of_noise_is_said_to_be_no_better_than_chance() -> None:
    embedding = unit(np.random.default_rng(1).standard_normal((80, 5)))

    first = measure_embedding(TASK, np.zeros((80, 2)) * np.nan, embedding, setting())[0]

    assert "not shown to be better than chance (0.5)" in first.note


def test_without_a_pair_the_probes_lead() -> None:
    embedding, conditions = material()

    rows = measure_embedding(TASK, conditions, embedding, setting(np.arange(80)))

    assert [(row.metric, row.label, row.main) for row in rows] == [
        ("probe_auc", "", True),
        ("probe_auc", "diabetes", False),
        ("probe_auc", "smoker", False),
    ]


def test_the_pages_say_what_an_embedding_is() -> None:
    embedding, conditions = material()
    rows = tuple(measure_embedding(TASK, conditions, embedding, setting()))
    review = Review(
        title="t", split="test", images=80, patients=40, resamples=200, seed=0, confidence=0.95, data_digest="a" * 64,
        tasks=(TASK,), teachers=(TeacherReview(name="eye", about="", measures=rows),), trainings=(), attention=(),
    )  # fmt: skip

    (block,) = task_blocks(review)

    assert ("classes", "diabetes and smoker") in block.facts
    assert any("images that resemble each other lie close" in value for _, value in block.facts)
    assert main_rows(review)[0].kind == "embedding"
