from __future__ import annotations

from pathlib import Path

import pytest
import torch

from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Task
from foveola.toolkit.models.network import (
    Architecture,
    Network,
    load_network,
    load_weights,
    save_network,
    tensor_names,
)

TASKS = (
    Task(name="signs", kind="multilabel", classes=("a", "b")),
    Task(name="grade", kind="ordinal", classes=("none", "some", "much")),
    Task(name="lungs", kind="segmentation", classes=("right", "left")),
    Task(name="things", kind="detection", classes=("a", "b", "c")),
)


def network(role: str = "student", **knobs: object) -> Network:
    torch.manual_seed(0)
    backbone = "resnet10t" if role == "teacher" else "mobilenetv4_conv_small_035"
    spec = InputSpec(height=64, width=96, channels=1)
    plan = {"role": role, "backbone": backbone, "input": spec, "tasks": TASKS, "width": 16} | knobs
    return Network(Architecture(**plan)).eval()  # type: ignore[arg-type]


def test_a_student_answers_every_task_on_static_grids() -> None:
    raw = network()(torch.rand(2, 1, 64, 96))

    assert {name: tuple(x.shape) for name, x in raw.items()} == {
        "signs": (2, 2),
        "grade": (2, 2),
        "lungs": (2, 3, 8, 12),
        "things.boxes": (2, 4, 8, 12),
        "things.scores": (2, 3, 8, 12),
    }
    assert list(raw) == [name for task in TASKS for name in tensor_names(task, "student")]


def test_a_finer_mask_grid_is_a_knob() -> None:
    assert network(mask_stride=4)(torch.rand(1, 1, 64, 96))["lungs"].shape == (1, 3, 16, 24)


@pytest.mark.parametrize(("stride", "grid"), [(32, (2, 3)), (16, (4, 6)), (8, (8, 12))])
def test_a_teacher_may_be_dilated(stride: int, grid: tuple[int, int]) -> None:
    teacher = network("teacher", output_stride=stride)

    assert teacher(torch.rand(1, 1, 64, 96))["lungs"].shape[-2:] == grid


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_boxes_lie_in_the_input_whoever_answers(role: str) -> None:
    with torch.inference_mode():
        answered = network(role).answer(torch.rand(2, 1, 64, 96))

    assert len(answered.boxes["things"]) == 2
    for boxes in answered.boxes["things"]:
        assert boxes.shape[1] == 6
        assert bool(((boxes[:, :4] >= 0) & (boxes[:, :4] <= torch.tensor([96, 64, 96, 64]))).all())
        assert bool(((boxes[:, 5] >= 0) & (boxes[:, 5] < 3)).all())


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_saved_network_answers_the_same(role: str, tmp_path: Path) -> None:
    before, x = network(role), torch.rand(1, 1, 64, 96)

    save_network(before, tmp_path)
    after = load_network(tmp_path)

    assert all(torch.equal(a, b) for a, b in zip(before(x).values(), after(x).values(), strict=True))


def test_a_checkpoint_of_another_architecture_is_refused_by_its_keys(tmp_path: Path) -> None:
    save_network(network(), tmp_path)

    with pytest.raises(FoveolaError, match=r"another architecture: .*lateral.* and \d+ more"):
        load_weights(network(width=24), tmp_path / "model.safetensors")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"not weights")

    with pytest.raises(FoveolaError, match="not a safetensors checkpoint"):
        load_weights(network(), tmp_path / "model.safetensors")


def test_an_unknown_backbone_is_refused_with_a_near_name() -> None:
    with pytest.raises(FoveolaError, match="resnet51.*no such network.*did you mean"):
        network(backbone="resnet51")
    with pytest.raises(FoveolaError, match=r"did you mean mobilenetv4_conv_small( |\?)"):
        network(backbone="mobilenetv4_conv_smal")


def test_a_backbone_without_a_pyramid_is_refused() -> None:
    with pytest.raises(FoveolaError, match="no features at strides"):
        network(backbone="vit_tiny_patch16_224")


@pytest.mark.parametrize("boxes", [[None, None], [torch.zeros(0, 5), torch.zeros(0, 5)], [torch.zeros(0, 5), None]])
def test_a_detector_trains_on_images_without_a_box(boxes: list[torch.Tensor | None]) -> None:
    teacher = network("teacher").train()
    head = next(head for head in teacher.ordered_heads() if head.task.kind == "detection")
    pyramid = teacher.pyramid(torch.rand(2, 1, 64, 96))

    loss = head.loss(pyramid, head(pyramid), boxes)
    loss.backward()

    assert bool(loss.isfinite())
    assert all(bool(p.grad.isfinite().all()) for p in teacher.parameters() if p.grad is not None)


def test_every_network_of_one_input_sees_the_same_normalised_picture() -> None:
    from foveola.toolkit.teachers.contrast import Encoder

    spec = InputSpec(height=64, width=96, channels=1, mean=(0.4815,), std=(0.0721,))
    x = torch.rand(1, 1, 64, 96)

    seen = [
        network("teacher", input=spec).normalise(x),
        network("student", input=spec).normalise(x),
        Encoder("resnet10t", spec).normalise(x),
    ]

    assert all(torch.equal(one, (x - torch.tensor(0.4815)) / torch.tensor(0.0721)) for one in seen)
