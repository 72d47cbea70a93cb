"""The lesson of an embedding against formulas by hand, and what is refused of teachers and stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from foveola.runtime.errors import FoveolaError
from foveola.runtime.task import Task
from foveola.toolkit.answers import RawAnswers
from foveola.toolkit.batches import Batch
from foveola.toolkit.compress.distill import answer_losses
from foveola.toolkit.compress.embedding_lessons import (
    check_embeddings,
    direction_loss,
    embedding_lesson,
    embeddings_of,
    similarity_structure_loss,
    value_loss,
)
from foveola.toolkit.data.arrays import Arrays
from foveola.toolkit.data.samples import Sample
from foveola.toolkit.knobs import Lessons
from foveola.toolkit.losses import scalar_loss
from foveola.toolkit.models.heads import LinearHead
from foveola.toolkit.score import score_answers, with_agreement
from foveola.toolkit.stages.network import check_teachable

TASK = Task(name="likeness", kind="embedding", size=5)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(teacher: Tensor | None, count: int = 6) -> Batch:
    return Batch(
        images=torch.zeros(count, 1, 4, 4),
        scalars={"likeness": torch.zeros(count, 0)},
        masks={},
        boxes={},
        soft={} if teacher is None else {"likeness": teacher},
        soft_boxes={},
        hint=None,
        view=torch.ones(count, 1, 4, 4, dtype=torch.bool),
    )


# --- the losses ---


def test_a_student_that_agrees_has_nothing_to_learn() -> None:
    teacher = draws(6, 5)

    for loss in (direction_loss, value_loss, similarity_structure_loss):
        assert float(loss(teacher, teacher)) == pytest.approx(0.0, abs=1e-6)


def test_the_direction_and_the_relation_never_see_a_length() -> None:
    own, teacher = draws(6, 5), draws(6, 5, seed=1)

    for loss in (direction_loss, similarity_structure_loss):
        assert float(loss(7.0 * own, 0.1 * teacher)) == pytest.approx(float(loss(own, teacher)), rel=1e-5)
    assert float(direction_loss(-teacher, teacher)) == pytest.approx(2.0)


def test_the_values_are_a_share_of_the_teachers_own_square() -> None:
    teacher = draws(6, 5)

    assert float(value_loss(torch.zeros(6, 5), teacher)) == pytest.approx(1.0)
    assert float(value_loss(2.0 * teacher, teacher)) == pytest.approx(1.0)
    assert float(value_loss(torch.zeros(6, 5), 100.0 * teacher)) == pytest.approx(1.0)


def test_the_relation_is_the_share_of_the_cosines_variance_that_is_not_met() -> None:
    own, teacher = draws(6, 5), draws(6, 5, seed=1)
    rows, columns = np.nonzero(~np.eye(6, dtype=bool))
    a, b = (functional.normalize(x, dim=1).numpy().astype(np.float64) for x in (own, teacher))
    mine, theirs = ((x @ x.T)[rows, columns] for x in (a, b))

    assert float(similarity_structure_loss(own, teacher)) == pytest.approx(
        np.mean((mine - theirs) ** 2) / theirs.var(), rel=1e-4
    )


def test_the_relation_is_blind_to_a_turn_of_the_space() -> None:
    teacher = draws(8, 5)
    turn, _ = torch.linalg.qr(draws(5, 5, seed=2))

    assert float(similarity_structure_loss(teacher @ turn, teacher)) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_a_batch_too_small_for_a_relation_still_has_a_gradient(count: int) -> None:
    own = draws(count, 5).requires_grad_()

    similarity_structure_loss(own, draws(count, 5, seed=1)).backward()

    assert own.grad is not None
    assert float(own.grad.abs().sum()) == 0.0


@pytest.mark.parametrize(
    ("knob", "loss"),
    [
        ("embedding_cosine", direction_loss),
        ("embedding_mse", value_loss),
        ("embedding_relation", similarity_structure_loss),
    ],
)
def test_each_weight_is_that_of_its_loss(knob: str, loss: Any) -> None:
    own, teacher = draws(6, 5), draws(6, 5, seed=1)
    off = Lessons(embedding_cosine=0.0, embedding_mse=0.0, embedding_relation=0.0)

    found = embedding_lesson(own, teacher, msgspec.structs.replace(off, **{knob: 3.0}))

    assert float(found) == pytest.approx(3.0 * float(loss(own, teacher)), rel=1e-6)


def test_no_weight_at_all_is_refused() -> None:
    with pytest.raises(FoveolaError, match="are all 0; an embedding learns from nothing else"):
        embedding_lesson(draws(6, 5), draws(6, 5), Lessons(embedding_cosine=0, embedding_mse=0, embedding_relation=0))


def test_gradient_descent_finds_the_teachers_embedding() -> None:
    teacher, own = draws(8, 5), draws(8, 5, seed=1).requires_grad_()
    optimiser = torch.optim.Adam([own], lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        embedding_lesson(own, teacher, Lessons()).backward()
        optimiser.step()

    assert float(functional.cosine_similarity(own, teacher).min().detach()) > 0.99


# --- the whole loss ---


def test_the_lesson_is_the_whole_loss_whatever_the_soft_weight() -> None:
    own, teacher = draws(6, 5), draws(6, 5, seed=1)
    head = LinearHead(TASK, 3)

    found = [
        answer_losses([head], {"likeness": own}, batch(teacher), Lessons(soft_weight=weight))["likeness"]
        for weight in (0.0, 0.7)
    ]

    assert float(found[0]) == float(found[1]) == pytest.approx(float(embedding_lesson(own, teacher, Lessons())))


def test_the_reference_standard_alone_teaches_nothing_and_keeps_its_gradient() -> None:
    own = draws(6, 5).requires_grad_()

    loss = scalar_loss(TASK, own, torch.zeros(6, 0))
    loss.backward()

    assert float(loss.detach()) == 0.0
    assert own.grad is not None


def test_a_student_whose_teacher_has_no_embedding_is_refused() -> None:
    with pytest.raises(FoveolaError, match="task 'likeness': no teacher answers this embedding"):
        answer_losses([LinearHead(TASK, 3)], {"likeness": draws(6, 5)}, batch(None), Lessons())


def test_the_students_head_is_linear_from_pooled_features_to_its_numbers() -> None:
    head = LinearHead(TASK, 3)

    assert head({32: torch.zeros(2, 3, 2, 2)})["likeness"].shape == (2, 5)


# --- who may teach ---


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"a": {}}, "no teacher answers this embedding"),
        ({"a": {"likeness": np.zeros((3, 5))}, "b": {"likeness": np.zeros((3, 5))}}, "a and b both answer"),
        ({"a": {"likeness": np.zeros((3, 7))}}, "7 numbers, the task's size is 5; write size: 7"),
    ],
)
def test_each_embedding_has_one_teacher_of_its_length(answers: dict[str, Any], words: str) -> None:
    with pytest.raises(FoveolaError, match="task 'likeness'") as raised:
        check_embeddings([TASK], answers)

    assert words in str(raised.value)


def test_of_several_teachers_the_one_that_has_it_is_taken() -> None:
    wanted = np.ones((2, 5), np.float32)
    given = [RawAnswers({"view": np.zeros((2, 1), np.float32)}), RawAnswers({"likeness": wanted})]

    check_embeddings([TASK], {"a": given[0].raw, "b": given[1].raw})

    assert embeddings_of([TASK], given).raw == {"likeness": wanted}


def test_a_training_without_a_teacher_is_refused_by_name() -> None:
    with pytest.raises(FoveolaError) as raised:
        check_teachable([Task(name="age", kind="regression", classes=("age",)), TASK], "grow")

    assert str(raised.value).startswith("grow: likeness is an embedding, which nothing but a teacher can teach")


# --- the validation score ---


def cases(patients: list[str], conditions: list[list[float]] | None = None) -> Arrays:
    samples = tuple(
        Sample(key=f"{n}", path=Path(f"{n}.png"), patient=name, split="val", sha256=f"{n}", row=n, attributes={})
        for n, name in enumerate(patients)
    )
    given = np.zeros((len(patients), 0)) if conditions is None else np.array(conditions)
    return Arrays(
        images=np.zeros((len(patients), 1, 1, 1), np.float32),
        scalars={"likeness": given.astype(np.float32)},
        masks={},
        boxes={},
        geometries=(),
        samples=samples,
    )


def answers_of(rows: Any) -> RawAnswers:
    return RawAnswers({"likeness": np.asarray(rows, np.float32)})


def test_the_score_is_retrieval_between_chance_and_perfect() -> None:
    rng = np.random.default_rng(0)
    own = np.repeat(rng.standard_normal((20, 5)), 2, axis=0)
    arrays = cases([f"p{n // 2}" for n in range(40)])

    perfect = score_answers([TASK], answers_of(own), arrays, {}).by_task["likeness"]
    chance = np.mean(
        [score_answers([TASK], answers_of(rng.standard_normal((40, 5))), arrays, {}).total for _ in range(20)]
    )

    assert perfect == pytest.approx(1.0)
    assert abs(chance) < 0.15


def test_without_a_pair_the_probes_score_it_and_without_classes_nothing_does() -> None:
    rng = np.random.default_rng(1)
    own = rng.standard_normal((60, 5))
    names = [f"p{n}" for n in range(60)]

    probed = score_answers([TASK], answers_of(own), cases(names, (own[:, :1] > 0).astype(float).tolist()), {})
    nothing = score_answers([TASK], answers_of(own), cases(names), {})

    assert probed.by_task["likeness"] > 0.8
    assert nothing.by_task == {}


def test_while_it_is_distilled_the_teachers_cosine_counts_half() -> None:
    own = np.repeat(np.random.default_rng(2).standard_normal((10, 5)), 2, axis=0)
    turned = -own
    scores = score_answers([TASK], answers_of(turned), cases([f"p{n // 2}" for n in range(20)]), {})

    found = with_agreement(scores, [TASK], answers_of(turned), answers_of(own))

    assert scores.total == pytest.approx(1.0)
    assert found.total == pytest.approx(0.0)
    assert found.by_task == scores.by_task
    assert found.measures == {"cosine/likeness": pytest.approx(-1.0)}
    assert with_agreement(scores, [TASK], answers_of(turned), RawAnswers()) == scores
