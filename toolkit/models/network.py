"""One multitask network: normalisation, a timm backbone, and one head a task.

Teacher and student differ in their heads alone and keep one contract:

- the input is what `runtime.image.prepare` gives: float32 (B, C, H, W) in 0..1; the normalisation is the first layer;
- `forward` answers a dict from tensor name to raw output, as `runtime.task` describes it;
- a network is saved as `model.json` (its `Architecture`) and `model.safetensors` and rebuilt from both; never a pickle.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...runtime.errors import FoveolaError
from ...runtime.manifest import InputSpec
from ...runtime.task import Task
from .heads import Head, LinearHead, Pyramid
from .structure import Structure, apply_structure
from .student_heads import AnchorFreeHead, LightDecoder, MaskHead
from .teacher_heads import DeepLabHead, FasterRcnnHead


class Architecture(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="network"):
    """All that is needed to rebuild a network before its weights are loaded.

    Args:
        role: `teacher` has full heads (linear, DeepLabV3, Faster R-CNN), `student` has heads for the edge.
        backbone: a timm name with features at strides 4 (teacher) or 8 to 32.
        input: how images are fed.
        tasks: one head each, in this order.
        width: channels of the student's decoder, or of the teacher's feature pyramid.
        mask_stride: student: input pixels per mask cell, 4 or 8.
        box_stride: student: input pixels per cell of the detector's grid, 4 or 8.
        output_stride: teacher: input pixels per cell of the coarsest map; 16 and 8 dilate the last stages (DeepLabV3).
        target_mean: regression: mean of each measure on the training data.
        target_std: regression: standard deviation likewise.
        structure: what compression changed in the modules.
    """

    role: Literal["teacher", "student"]
    backbone: str
    input: InputSpec
    tasks: tuple[Task, ...]
    width: int = 64
    mask_stride: Literal[4, 8] = 8
    box_stride: Literal[4, 8] = 8
    output_stride: Literal[8, 16, 32] = 32
    target_mean: dict[str, tuple[float, ...]] = {}
    target_std: dict[str, tuple[float, ...]] = {}
    structure: Structure = Structure()

    @property
    def target_scale(self) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
        """Mean and standard deviation of each regression task."""
        return {name: (self.target_mean[name], self.target_std[name]) for name in self.target_mean}


class Normalise(nn.Module):
    """(x - mean) / std per channel, inside the graph, so that the device feeds plain 0..1."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(spec.mean).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalised images of the same shape."""
        return (x_BCHW - self.mean) / self.std


@dataclass
class Answered:
    """What a model answers about one batch."""

    raw: dict[str, Tensor] = field(default_factory=dict)  # task -> (B, T), or (B, K, h, w) logits for masks
    boxes: dict[str, list[Tensor]] = field(
        default_factory=dict
    )  # task -> per image (M, 6): x1, y1, x2, y2, score, label
    hint: Tensor | None = None  # (B, F, h, w) features, for distillation
    features: dict[str, Tensor] = field(default_factory=dict)  # name -> (B, F) or (B, F, h, w), whatever else it knows


class Teacher(Protocol):
    """What distillation and proof ask of a teacher; `Network` is one, and so is any wrapped module."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that it answers."""
        ...

    @property
    def input(self) -> InputSpec:
        """How it is fed."""
        ...

    @property
    def target_scale(self) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
        """Regression: mean and standard deviation by which its raw values become units."""
        ...

    def answer(self, x_BCHW: Tensor) -> Answered:
        """Answers to one batch."""
        ...


class Network(nn.Module):
    """A backbone and a head per task; see the module's law."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.normalise = Normalise(architecture.input)
        fine = architecture.role == "teacher" or 4 in (architecture.mask_stride, architecture.box_stride)
        strides = (4, 8, 16, 32) if fine else (8, 16, 32)
        self.strides = strides
        self.backbone, channels = make_backbone(
            architecture.backbone, architecture.input.channels, strides, architecture.output_stride
        )
        self.decoder = _make_decoder(architecture, channels)
        self.heads = nn.ModuleDict({task.name: self._make_head(task, channels) for task in architecture.tasks})
        apply_structure(self, architecture.structure)

    def _make_head(self, task: Task, channels: dict[int, int]) -> Head:
        plan = self.architecture
        teacher = plan.role == "teacher"
        if task.kind == "segmentation":
            return DeepLabHead(task, channels[32]) if teacher else MaskHead(task, plan.width, plan.mask_stride)
        if task.kind == "detection":
            size = (plan.input.height, plan.input.width)
            return (
                FasterRcnnHead(task, channels, size, plan.width)
                if teacher
                else AnchorFreeHead(task, plan.width, plan.box_stride)
            )
        return LinearHead(task, channels[32])

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that it answers."""
        return self.architecture.tasks

    @property
    def input(self) -> InputSpec:
        """How it is fed."""
        return self.architecture.input

    @property
    def target_scale(self) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
        """Mean and standard deviation of each regression task."""
        return self.architecture.target_scale

    def pyramid(self, x_BCHW: Tensor) -> Pyramid:
        """Feature maps by stride; a student's decoded maps stand under negative strides (-4, -8)."""
        features: list[Tensor] = self.backbone(self.normalise(x_BCHW))
        pyramid: Pyramid = dict(zip(self.strides, features, strict=True))
        if self.decoder is not None:
            pyramid |= self.decoder(pyramid)
        return pyramid

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Raw outputs by tensor name; a Faster R-CNN head has none (see `Head.boxes`)."""
        pyramid = self.pyramid(x_BCHW)
        raw: dict[str, Tensor] = {}
        for head in self.ordered_heads():
            raw |= head(pyramid)
        return raw

    def answer(self, x_BCHW: Tensor) -> Answered:
        """Raw outputs, boxes and the coarsest features of a batch; evaluation mode only (see `Teacher`)."""
        pyramid = self.pyramid(x_BCHW)
        answered = Answered(hint=pyramid[32], features={"backbone": pyramid[32].mean((2, 3))})
        for head in self.ordered_heads():
            found = head(pyramid)
            if isinstance(head, FasterRcnnHead | AnchorFreeHead):
                answered.boxes[head.task.name] = head.boxes(pyramid, found, (x_BCHW.shape[-2], x_BCHW.shape[-1]))
            else:
                answered.raw |= found
        return answered

    def ordered_heads(self) -> list[Head]:
        """Heads in the order of the tasks."""
        found: list[Head] = []
        for task in self.architecture.tasks:
            head = self.heads[task.name]
            assert isinstance(head, Head)
            found.append(head)
        return found


def make_backbone(
    name: str, in_channels: int, strides: tuple[int, ...], output_stride: int = 32
) -> tuple[nn.Module, dict[int, int]]:
    """A timm feature extractor with random weights, and the channels of its maps by nominal stride.

    With an `output_stride` below 32 the last stages are dilated, not strided; their maps keep their nominal names.

    Raises:
        FoveolaError: timm knows no such network, or it has no features at these strides.
    """
    indices = check_backbone(name, in_channels, strides)
    dilated: dict[str, Any] = {"output_stride": output_stride} if output_stride != 32 else {}
    try:
        model: Any = timm.create_model(
            name, pretrained=False, features_only=True, in_chans=in_channels, out_indices=indices, **dilated
        )
    except (ValueError, RuntimeError, AttributeError, TypeError, NotImplementedError):
        raise _unfit(name, f"it cannot be given output stride {output_stride}") from None
    return model, dict(zip(strides, model.feature_info.channels(), strict=True))


def check_backbone(name: str, in_channels: int, strides: tuple[int, ...] = (8, 16, 32)) -> list[int]:
    """Which of a backbone's feature maps have these strides; nothing is computed or allocated for it.

    Raises:
        FoveolaError: timm knows no such network, or it has no features at these strides.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        mend = f"did you mean {' or '.join(near)}?" if near else "see timm.list_models()"
        raise FoveolaError(f"backbone {name!r}", "timm has no such network", mend)
    try:
        with torch.device("meta"):
            probe: Any = timm.create_model(name, pretrained=False, features_only=True, in_chans=in_channels)
        reductions = list(probe.feature_info.reduction())
        return [reductions.index(stride) for stride in strides]
    except (ValueError, RuntimeError, AttributeError, TypeError, NotImplementedError):
        raise _unfit(name, f"it gives no features at strides {strides}") from None


def _unfit(name: str, fault: str) -> FoveolaError:
    return FoveolaError(f"backbone {name!r}", fault, "take a convolutional network such as resnet50")


def _make_decoder(plan: Architecture, channels: dict[int, int]) -> LightDecoder | None:
    dense = any(task.kind in ("segmentation", "detection") for task in plan.tasks)
    return LightDecoder(channels, plan.width) if plan.role == "student" and dense else None


def tensor_names(task: Task, role: Literal["teacher", "student"]) -> tuple[str, ...]:
    """Names of the raw outputs that answer a task."""
    if task.kind != "detection":
        return (task.name,)
    return () if role == "teacher" else (f"{task.name}.boxes", f"{task.name}.scores")


def save_network(network: Network, folder: Path) -> None:
    """Write `model.json` and `model.safetensors`; `load_network` gives the same answers back."""
    save_model(network.architecture, network, folder)


def save_model(plan: msgspec.Struct, module: nn.Module, folder: Path) -> None:
    """Write what rebuilds a module as `model.json`, and its weights as `model.safetensors`."""
    document = msgspec.json.format(msgspec.json.encode(plan, order="sorted"), indent=1)
    (folder / "model.json").write_bytes(document + b"\n")
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()},
        folder / "model.safetensors",
    )


def load_network(folder: Path) -> Network:
    """Rebuild a saved network on the CPU, in evaluation mode."""
    architecture = msgspec.json.decode((folder / "model.json").read_bytes(), type=Architecture)
    network = Network(architecture)
    load_weights(network, folder / "model.safetensors")
    return network.eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        FoveolaError: no such file, or not safetensors.
    """
    try:
        return load_file(path)
    except (OSError, ValueError, RuntimeError) as error:
        raise FoveolaError(str(path), f"not a safetensors checkpoint: {error}") from None
    except BaseException as error:  # safetensors raises a class of its own that is no public name
        if type(error).__name__ != "SafetensorError":
            raise
        raise FoveolaError(str(path), f"not a safetensors checkpoint: {error}") from None


def load_weights(module: nn.Module, path: Path, prefix: str = "") -> None:
    """Load a safetensors checkpoint whose keys must fit exactly.

    Args:
        module: changed in place.
        path: the file.
        prefix: only the keys that begin so are taken, without it.

    Raises:
        FoveolaError: no such file, not safetensors, or keys or shapes of another architecture (the first are named).
    """
    given = read_weights(path)
    weights = {key.removeprefix(prefix): x for key, x in given.items() if key.startswith(prefix)}
    own = module.state_dict()
    faults = [f"{key} is missing" for key in own.keys() - weights.keys()] + [
        f"{key} is not in the network" for key in weights.keys() - own.keys()
    ]
    faults += [
        f"{key} is {tuple(weights[key].shape)}, not {tuple(own[key].shape)}"
        for key in own.keys() & weights.keys()
        if own[key].shape != weights[key].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise FoveolaError(str(path), "a checkpoint of another architecture: " + ", ".join(sorted(faults)[:3]) + more)
    module.load_state_dict(weights)
