from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from small import TASKS, squares
from torch import Tensor, nn

from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import InputSpec
from foveola.toolkit.answers import answer_images
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.finished import read_locked
from foveola.toolkit.teachers.external import External, GivenTeacher, build_external
from foveola.toolkit.teachers.load import load_teacher
from foveola.toolkit.teachers.take import take_teacher

RGB = InputSpec(height=64, width=64, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
GREY = InputSpec(height=64, width=64, channels=1)
CLASSES = tuple(task for task in TASKS if task.name in ("bright", "corner"))
SQUARE = tuple(task for task in TASKS if task.name == "square")


def test_a_timm_checkpoint_becomes_a_teacher_of_several_tasks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = timm.create_model("resnet10t", num_classes=4, in_chans=1).eval()
    save_file(original.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "out").mkdir()
    data = squares(tmp_path / "data", CLASSES)

    take_teacher(
        data,
        library="timm",
        architecture="resnet10t",
        weights=tmp_path / "weights.safetensors",
        spec=GREY,
        names=(),
        outputs=0,
        folder=tmp_path / "out",
        cache=tmp_path / "cache",
    )

    images = prepare_arrays(data, GREY).images
    answers = answer_images(load_teacher(tmp_path / "out"), images)
    with torch.inference_mode():
        expected = original((torch.from_numpy(images.copy()) - 0.5) / 0.25)
    assert torch.allclose(torch.from_numpy(answers.raw["bright"]), expected[:, :1], atol=1e-4)
    assert torch.allclose(torch.from_numpy(answers.raw["corner"]), expected[:, 1:], atol=1e-4)
    assert set(read_locked(tmp_path / "out")) == {"bright"}


def test_a_torchvision_segmentation_network_becomes_a_teacher(tmp_path: Path) -> None:
    plan = External(library="torchvision", architecture="lraspp_mobilenet_v3_large", input=RGB, tasks=SQUARE)

    raw = build_external(plan).eval()(torch.rand(2, 3, 64, 64))

    assert raw["square"].shape == (2, 2, 64, 64)


def test_a_torchvision_classifier_becomes_a_teacher() -> None:
    plan = External(library="torchvision", architecture="mobilenet_v3_small", input=RGB, tasks=CLASSES, outputs=1000)

    raw = build_external(plan).eval()(torch.rand(2, 3, 64, 64))

    assert {name: tuple(x.shape) for name, x in raw.items()} == {"bright": (2, 1), "corner": (2, 3)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "resnet_none"}, "timm has no such network"),
        ({"library": "torchvision"}, "torchvision has no such network"),
        ({"library": "torchvision", "architecture": "resnet18"}, "three channels"),
        ({"outputs": 2}, "2 output channels, but its tasks need 4"),
    ],
    ids=["unknown-timm", "unknown-torchvision", "grey", "too-few-channels"],
)
def test_an_impossible_teacher_is_refused(change: dict[str, object], words: str) -> None:
    fields = {"library": "timm", "architecture": "resnet10t", "input": GREY, "tasks": CLASSES} | change

    with pytest.raises(FoveolaError, match=words):
        build_external(External(**fields))  # type: ignore[arg-type]


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("resnet18", num_classes=4, in_chans=1).state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "out").mkdir()

    with pytest.raises(FoveolaError, match="another architecture"):
        take_teacher(
            squares(tmp_path / "data", CLASSES),
            library="timm",
            architecture="resnet10t",
            weights=tmp_path / "w.safetensors",
            spec=GREY,
            names=(),
            outputs=0,
            folder=tmp_path / "out",
            cache=tmp_path / "cache",
        )


def test_a_loaded_network_cannot_answer_boxes(tmp_path: Path) -> None:
    with pytest.raises(FoveolaError, match="detection"):
        take_teacher(
            squares(tmp_path / "data"),
            library="timm",
            architecture="resnet10t",
            weights=tmp_path / "none",
            spec=GREY,
            names=(),
            outputs=0,
            folder=tmp_path,
            cache=tmp_path,
        )


class Mine(nn.Module):
    """A teacher as a user would write one."""

    def __init__(self, names: tuple[str, ...] = ("bright", "corner")) -> None:
        super().__init__()
        self.names, self.body = names, nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        pooled = self.body(x).mean((2, 3))
        return dict(zip(self.names, torch.split(pooled, [1, 3], 1), strict=True))


def test_any_module_teaches_from_python(tmp_path: Path) -> None:
    images = prepare_arrays(squares(tmp_path, CLASSES), GREY).images

    answers = answer_images(GivenTeacher(Mine(), CLASSES, GREY).eval(), images)

    assert answers.raw["corner"].shape == (16, 3)
    assert answers.boxes == {}


def test_a_module_that_misses_a_task_is_refused_by_name() -> None:
    with pytest.raises(FoveolaError, match="no output for task 'corner'.*bright, other"):
        GivenTeacher(Mine(("bright", "other")), CLASSES, GREY)(torch.rand(1, 1, 8, 8))


def test_torchvision_is_one_whose_operators_load() -> None:
    assert torchvision.ops.nms(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([1.0]), 0.5).tolist() == [0]
