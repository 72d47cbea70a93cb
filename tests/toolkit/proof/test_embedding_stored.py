"""Embeddings among a teacher's stored answers: kept to the last bit, refused where they are none."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from foveola.runtime.answer import directions
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import TaskOutput
from foveola.runtime.prediction import Embedding, Finding, Prediction
from foveola.runtime.task import Task
from foveola.toolkit.pack.pages import _answer
from foveola.toolkit.proof.answer_rows import is_scored, score_row, score_width
from foveola.toolkit.proof.kept_answers import StoredAnswers, store_answers
from foveola.toolkit.proof.stored_answers import decode_answers, encode_answers

TASKS = (
    Task(name="likeness", kind="embedding", size=6, classes=("diabetes",), columns=("dm",), margins={"probe_auc": 0.1}),
    Task(name="ill", kind="binary", classes=("no", "yes")),
)
IMAGES = ("1" * 64, "2" * 64, "3" * 64)


def prediction(seed: int) -> Prediction:
    values = directions(np.random.default_rng(seed).standard_normal((1, 6)).astype(np.float32))[0]
    return Prediction(
        findings=(Finding(task="ill", label="yes", probability=0.5, threshold=0.5, positive=True),),
        embeddings=(Embedding(task="likeness", values=tuple(values.tolist())),),
    )


def stored() -> StoredAnswers:
    said = [prediction(0), None, prediction(2)]
    return store_answers(TASKS, IMAGES, said, thresholds={"ill": (0.5,)}, teacher="a" * 64)


def test_an_embedding_is_a_row_of_its_numbers() -> None:
    assert is_scored(TASKS[0])
    assert score_width(TASKS[0]) == 6
    assert score_row(TASKS[0], prediction(0)) == list(prediction(0).embeddings[0].values)


def test_what_is_read_is_what_was_said() -> None:
    read = decode_answers(encode_answers(stored()))

    again = read.prediction(0)
    assert again is not None
    assert again.embeddings == prediction(0).embeddings
    assert read.prediction(1) is None
    assert read.meta.tasks[0] == msgspec.structs.replace(TASKS[0], columns=(), margins={})
    assert np.array_equal(read.answers.scores["likeness"], stored().scores["likeness"], equal_nan=True)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_rows_that_have_another_length_are_refused(scale: float) -> None:
    answers = stored()
    scores = {**answers.scores, "likeness": answers.scores["likeness"] * scale}

    with pytest.raises(FoveolaError, match="scores of 'likeness' are no embeddings of length 1"):
        decode_answers(encode_answers(msgspec.structs.replace(answers, scores=scores)))


def test_an_embedding_of_another_size_than_its_task_is_refused() -> None:
    answers = stored()
    scores = {**answers.scores, "likeness": answers.scores["likeness"][:, :5]}

    with pytest.raises(FoveolaError, match=r"entry 'scores/likeness' is float64 \(3, 5\)"):
        decode_answers(encode_answers(msgspec.structs.replace(answers, scores=scores)))


def test_the_evidence_pack_names_its_length_and_its_conditions() -> None:
    told = _answer(TaskOutput(task=TASKS[0], tensors=("likeness",)))

    assert (told.kind, told.classes) == ("embedding", "6 numbers; conditions probed: diabetes")
