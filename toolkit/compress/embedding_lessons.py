"""What a teacher's embedding teaches: its direction, its numbers, and how alike the images of a batch are to it.

An embedding is judged by cosines alone, so its direction comes first. Its numbers fix a length too, which keeps the
ranges of an int8 graph steady. The relation between images is what retrieval lives on: a student too small to meet
every direction may still keep who is near whom.

B batch, D numbers. All losses are means over the batch, and zero where student and teacher agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ...runtime.errors import FoveolaError
from ...runtime.task import Task
from ..answers import RawAnswers
from ..knobs import Lessons

LEAST_VARIANCE = 1e-4  # of a teacher's cosines within a batch; below it they are taken for equal


def embedding_lesson(raw_BD: Tensor, teacher_BD: Tensor, lessons: Lessons) -> Tensor:
    """The three losses with their weights.

    Args:
        raw_BD: the student's raw embedding.
        teacher_BD: the teacher's.
        lessons: `embedding_cosine`, `embedding_mse`, `embedding_relation`.

    Raises:
        FoveolaError: all weights are 0, so that nothing would be learned.
    """
    parts = (
        (lessons.embedding_cosine, direction_loss),
        (lessons.embedding_mse, value_loss),
        (lessons.embedding_relation, similarity_structure_loss),
    )
    asked = [weight * loss(raw_BD.float(), teacher_BD) for weight, loss in parts if weight > 0]
    if not asked:
        names = "embedding_cosine, embedding_mse and embedding_relation"
        raise FoveolaError("lessons", f"{names} are all 0", "an embedding learns from nothing else: give one a weight")
    return torch.stack(asked).sum()


def direction_loss(raw_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """1 - cosine of the two embeddings, mean over the images."""
    return (1.0 - functional.cosine_similarity(raw_BD, teacher_BD, dim=1)).mean()


def value_loss(raw_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Mean squared error of the numbers, as a share of the teacher's mean square: 1 for a student that says nothing."""
    return functional.mse_loss(raw_BD, teacher_BD) / teacher_BD.square().mean().clamp(min=1e-12)


def similarity_structure_loss(raw_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """How far the batch's matrices of cosines part, off the diagonal, as a share of the teacher's variance.

    Similarity-preserving distillation (Tung & Mori, ICCV 2019) on cosines; divided by the variance, so that a teacher
    whose cosines lie close together teaches their differences all the same. 0 for a batch of fewer than three images,
    which has one cosine.
    """
    count = len(raw_BD)
    if count < 3:
        return raw_BD.sum() * 0.0
    own, theirs = (functional.normalize(x, dim=1) for x in (raw_BD, teacher_BD))
    pairs = ~torch.eye(count, dtype=torch.bool, device=raw_BD.device)
    taught = (theirs @ theirs.T)[pairs]
    apart = ((own @ own.T)[pairs] - taught).square().mean()
    return apart / taught.var(unbiased=False).clamp(min=LEAST_VARIANCE)


def check_embeddings(tasks: Sequence[Task], answers: Mapping[str, Mapping[str, object]]) -> None:
    """Each embedding is answered by exactly one teacher, in its own length.

    Args:
        tasks: of the student.
        answers: raw answers (N, channels) by teacher, each by task.

    Raises:
        FoveolaError: nobody answers one, or two teachers do: their spaces have nothing to do with each other.
    """
    for task in tasks:
        if task.kind != "embedding":
            continue
        given = [name for name, raw in answers.items() if task.name in raw]
        if not given:
            fault = "no teacher answers this embedding, and nothing else can teach it"
            raise FoveolaError(f"task {task.name!r}", fault, "name a teacher that does, or leave the task out")
        if len(given) > 1:
            fault = f"{' and '.join(given)} both answer this embedding, and spaces of two networks cannot be averaged"
            raise FoveolaError(f"task {task.name!r}", fault, "name one of them alone as the teacher")
        width = getattr(answers[given[0]][task.name], "shape", (0, 0))[1]
        if width != task.size:
            fault = f"the teacher's embedding has {width} numbers, the task's size is {task.size}"
            raise FoveolaError(f"task {task.name!r}", fault, f"write size: {width}")


def embeddings_of(tasks: Sequence[Task], answers: Sequence[RawAnswers]) -> RawAnswers:
    """The embeddings among several teachers' answers, each from the one teacher that has it."""
    names = [task.name for task in tasks if task.kind == "embedding"]
    return RawAnswers({name: one.raw[name] for one in answers for name in names if name in one.raw})
