from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small import PLAN, STUDENT, TASKS, TEACHER, silent, squares

from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Kind, Task
from foveola.toolkit.compress import lessons
from foveola.toolkit.compress.distill import Distilled
from foveola.toolkit.compress.feature_lessons import hint_loss
from foveola.toolkit.compress.lessons import cached_answers
from foveola.toolkit.compress.mask_lessons import soft_mask_loss
from foveola.toolkit.compress.scalar_lessons import soft_scalar_loss
from foveola.toolkit.finished import teacher_answers
from foveola.toolkit.knobs import Lessons
from foveola.toolkit.models.network import load_network
from foveola.toolkit.train import distil_student, train_teacher


@pytest.mark.parametrize("kind", ["binary", "multilabel", "multiclass", "ordinal", "regression"])
def test_a_student_that_answers_like_its_teacher_has_nothing_to_learn(kind: Kind) -> None:
    task = Task(name="t", kind=kind, classes=("a", "b") if kind != "ordinal" else ("a", "b", "c"))
    teacher = torch.randn(6, task.channels, generator=torch.Generator().manual_seed(0))
    other = (teacher + 1.0 * torch.tensor([1.0, -1.0])[: task.channels]).requires_grad_()

    assert float(soft_scalar_loss(task, teacher, teacher, 2.0)) == pytest.approx(0, abs=1e-6)
    assert float(soft_scalar_loss(task, other, teacher, 2.0).detach()) > 0.01


def test_the_gradient_of_a_hot_lesson_is_that_of_matching_logits() -> None:
    # Hinton et al. 2015, sec. 2.1: at high temperature and zero-meaned logits the gradient is (z - v) / N.
    task = Task(name="t", kind="multiclass", classes=("a", "b", "c", "d"))
    teacher = torch.tensor([[0.4, -0.1, 0.2, -0.5]])
    student = torch.tensor([[0.1, 0.3, -0.3, -0.1]], requires_grad=True)

    soft_scalar_loss(task, student, teacher, 500.0).backward()

    assert student.grad is not None
    assert torch.allclose(student.grad, (student.detach() - teacher) / 4, atol=1e-3)


@pytest.mark.parametrize("exclusive", [True, False])
def test_mask_lessons_count_inside_the_picture_only(exclusive: bool) -> None:
    task = Task(name="t", kind="segmentation", classes=("a", "b"), exclusive=exclusive)
    generator = torch.Generator().manual_seed(0)
    raw, teacher = (torch.randn(1, task.channels, 4, 4, generator=generator) for _ in range(2))
    view = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    view[..., :8] = False
    changed = raw.clone()
    changed[..., :2] += 5

    assert torch.allclose(soft_mask_loss(task, raw, teacher, view), soft_mask_loss(task, changed, teacher, view))
    assert float(soft_mask_loss(task, teacher, teacher, view)) == pytest.approx(0, abs=1e-6)


def test_a_hint_is_about_direction_not_length() -> None:
    features = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))

    assert float(hint_loss(features * 3, features)) == pytest.approx(0, abs=1e-5)
    assert float(hint_loss(-features, features)) == pytest.approx(2, abs=1e-5)


def test_a_student_learns_every_task_from_answers_that_were_asked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = squares(tmp_path / "data")
    for name in ("teacher", "student"):
        (tmp_path / name).mkdir()
    train_teacher(data, TEACHER, PLAN, folder=tmp_path / "teacher", cache=tmp_path / "cache", seed=1, report=silent)
    train = data.subset("train")
    asked: list[int] = []

    def counted(*args: object, **named: object) -> object:
        asked.append(1)
        return teacher_answers(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(lessons, "teacher_answers", counted)
    first, again = (cached_answers(tmp_path / "teacher", "a" * 64, train, tmp_path / "cache", silent) for _ in range(2))
    cached_answers(tmp_path / "teacher", "b" * 64, train, tmp_path / "cache", silent)

    assert len(asked) == 2  # once for each teacher
    assert all(np.array_equal(first.raw[name], again.raw[name]) for name in first.raw)
    student = distil_student(
        data,
        STUDENT,
        PLAN,
        first,
        taught_on=TEACHER.input,
        lessons=Lessons(soft_weight=0.7, temperature=2.0, hint_weight=0.5),
        folder=tmp_path / "student",
        cache=tmp_path / "cache",
        seed=1,
        report=silent,
    )
    assert student.tasks == TASKS
    assert not any(name.startswith("project") for name in load_network(tmp_path / "student").state_dict())


def test_a_task_that_the_teacher_does_not_answer_is_learned_from_the_reference_alone(tmp_path: Path) -> None:
    from foveola.toolkit.batches import TrainingData
    from foveola.toolkit.data.arrays import prepare_arrays
    from foveola.toolkit.models.network import Architecture, Network

    tasks = TASKS[:2]
    data = squares(tmp_path / "data", tasks)
    arrays = prepare_arrays(data, STUDENT.input)
    network = Network(
        Architecture(role="student", backbone=STUDENT.backbone, input=STUDENT.input, tasks=tasks, width=16)
    )
    objective = Distilled(network, Lessons(soft_weight=1.0, temperature=1.0, hint_weight=0.0), hint_channels=0)
    batch = TrainingData(arrays, tasks, {}, {}).batch(np.arange(4))

    losses = objective(batch)

    assert all(float(loss.detach()) > 0 for loss in losses.values())


def test_a_teachers_boxes_are_brought_to_the_students_pixels(tmp_path: Path) -> None:
    from foveola.toolkit.answers import RawAnswers
    from foveola.toolkit.batches import TrainingData
    from foveola.toolkit.data.arrays import prepare_arrays
    from foveola.toolkit.train import input_scale

    spec = InputSpec(height=96, width=96, channels=1)
    arrays = prepare_arrays(squares(tmp_path / "data", TASKS[-1:]), spec)
    boxes = np.array([[10, 20, 30, 40, 0.9, 1]], np.float32)
    answers = RawAnswers({}, {"things": [boxes] * len(arrays)})

    data = TrainingData(arrays, TASKS[-1:], {}, {}, answers, input_scale(TEACHER.input, spec))

    assert data.batch(np.array([0])).soft_boxes["things"][0].tolist() == [pytest.approx([15, 30, 45, 60, 1, 0.9])]


def test_a_student_that_sees_another_part_of_the_picture_is_refused() -> None:
    from foveola.toolkit.train import input_scale

    with pytest.raises(FoveolaError, match=r"the student sees 64 x 64 .*fit stretch.*same crop, fit and aspect"):
        input_scale(TEACHER.input, InputSpec(height=64, width=64, channels=1, fit="stretch"))
    with pytest.raises(FoveolaError, match="96 x 64"):
        input_scale(TEACHER.input, InputSpec(height=64, width=96, channels=1))
