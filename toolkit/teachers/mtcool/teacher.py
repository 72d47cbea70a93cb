"""A teacher of one sub-model a task, each of which reads the features of all (after MT-CooL, Wu et al., IEEE TMI 2025).

- Sub-model i is an encoder f_i and a reader h_i: `y_i = h_i(f_i(x), {f_j(x)}, j != i)`. Encoders share nothing, but for
  a stem if there is one.
- Every answer takes all encoders: what K of them cost is the price of this teacher, and distillation into one encoder
  with K heads is how it is paid off.
- Perturbations and turns belong to the training (`objective.py`, `course.py`) and are no modules here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import torch
from torch import Tensor, nn

from ....runtime.task import Task
from ...models.heads import Head, LinearHead, Pyramid, Target
from ...models.network import Answered, Normalise, make_backbone
from ...models.student_heads import LightDecoder, MaskHead
from ...models.teacher_heads import DeepLabHead
from ..built import BuiltPlan, BuiltTeacher
from .fusion import FUSIONS, Fusion, Kind, Settle

Masks = Literal["light", "deeplab"]
KINDS = ("binary", "multilabel", "multiclass", "ordinal", "regression", "segmentation")  # that a sub-model can answer
FINE = (4, 8, 16, 32)  # strides of a light mask head
MASK_STRIDE = 4


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One encoder.

    Args:
        name: of the task that it was made for.
        backbone: timm's name.
        dense: whether that task is answered by masks.
    """

    name: str
    backbone: str
    dense: bool = False


class CoolPlan(BuiltPlan, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="mtcool"):
    """What rebuilds a cooperation.

    Args:
        members: its encoders, in order; all of them, also where only some tasks are answered.
        fusion: how a reader takes in the features of the others.
        masks: head of a segmentation: `light` with the encoder's finer maps, or `deeplab` on the coarsest.
        width: channels of the light decoder.
        output_stride: input pixels per cell of the coarsest map of a segmentation's encoder.
        stem: channels of a stem that all encoders share; 0 for none.
    """

    members: tuple[Member, ...]
    fusion: Kind = "concat"
    masks: Masks = "light"
    width: int = 64
    output_stride: Literal[8, 16, 32] = 32
    stem: int = 0

    def build(self) -> Cooperative:
        """The modules, with random weights."""
        return Cooperative(self)


class Encoder(nn.Module):
    """f_i: a backbone and the maps that its reader needs."""

    def __init__(self, plan: CoolPlan, member: Member) -> None:
        super().__init__()
        self.strides = FINE if member.dense and plan.masks == "light" else (32,)
        stride = plan.output_stride if member.dense and plan.masks == "deeplab" else 32
        self.backbone, self.channels = make_backbone(
            member.backbone, plan.stem or plan.input.channels, self.strides, stride
        )

    def forward(self, seen: Tensor) -> Pyramid:
        """Feature maps by stride, the coarsest under 32."""
        return dict(zip(self.strides, self.backbone(seen), strict=True))


class Reader(nn.Module):
    """h_i: own and others' features to the raw output of one task."""

    def __init__(self, plan: CoolPlan, task: Task, own: Encoder, others: Sequence[Encoder]) -> None:
        super().__init__()
        self.task = task
        self.dense = task.kind == "segmentation"
        self.settle = Settle()
        self.fusion: Fusion = FUSIONS[plan.fusion](own.channels[32], [other.channels[32] for other in others])
        light = self.dense and plan.masks == "light"
        self.decoder = LightDecoder(own.channels, plan.width) if light else None
        self.head: Head = self._head(plan, own.channels[32])

    def _head(self, plan: CoolPlan, channels: int) -> Head:
        """A head without dropout: the loss and the perturbed loss must differ by the perturbation alone."""
        if not self.dense:
            return LinearHead(self.task, channels, dropout=0.0)
        if plan.masks == "light":
            return MaskHead(self.task, plan.width, MASK_STRIDE)
        head = DeepLabHead(self.task, channels)
        for module in head.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return head

    def cells(self, own: Tensor) -> tuple[int, int]:
        """Cells at which features are read: one for what answers with numbers."""
        return (own.shape[-2], own.shape[-1]) if self.dense else (1, 1)

    def others(self, maps: Sequence[Tensor], own: Tensor) -> list[Tensor]:
        """The others' coarsest maps as this reader takes them in."""
        return [self.settle(one, self.cells(own)) for one in maps]

    def read(self, pyramid: Pyramid, others: Sequence[Tensor] | None) -> tuple[Pyramid, dict[str, Tensor]]:
        """Maps as the head sees them, and its raw output; `others` None: alone."""
        own = self.settle(pyramid[32], self.cells(pyramid[32]))
        seen: Pyramid = {**pyramid, 32: self.fusion(own, others)}
        if self.decoder is not None:
            seen |= self.decoder(seen)
        return seen, self.head(seen)

    def loss(self, pyramid: Pyramid, others: Sequence[Tensor] | None, target: Target) -> Tensor:
        """Loss against the reference standard, over known targets only."""
        seen, raw = self.read(pyramid, others)
        return self.head.loss(seen, raw, target)


class Stem(nn.Sequential):
    """Two small convolutions before all encoders, at full resolution."""

    def __init__(self, channels: int, width: int) -> None:
        parts: list[nn.Module] = []
        for before in (channels, width):
            parts += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        super().__init__(*parts)


class Cooperative(BuiltTeacher):
    """The whole teacher; see the module's law."""

    def __init__(self, plan: CoolPlan) -> None:
        super().__init__(plan)
        self.normalise = Normalise(plan.input)
        self.stem = Stem(plan.input.channels, plan.stem) if plan.stem else None
        self.encoders = nn.ModuleDict({member.name: Encoder(plan, member) for member in plan.members})
        self.readers = nn.ModuleDict({task.name: self._reader(plan, task) for task in plan.tasks})

    def _reader(self, plan: CoolPlan, task: Task) -> Reader:
        others = [self.encoder(member.name) for member in plan.members if member.name != task.name]
        return Reader(plan, task, self.encoder(task.name), others)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the encoders, in order."""
        return tuple(self.encoders)

    @property
    def backbones(self) -> tuple[str, ...]:
        """Names of its backbones, for reports."""
        assert isinstance(self.plan, CoolPlan)
        return tuple(member.backbone for member in self.plan.members)

    def encoder(self, name: str) -> Encoder:
        """f_i."""
        found = self.encoders[name]
        assert isinstance(found, Encoder)
        return found

    def reader(self, name: str) -> Reader:
        """h_i."""
        found = self.readers[name]
        assert isinstance(found, Reader)
        return found

    def see(self, x_BCHW: Tensor) -> Tensor:
        """What every encoder sees: normalised, and through the stem if there is one."""
        x: Tensor = self.normalise(x_BCHW)
        if self.stem is not None:
            x = self.stem(x)
        return x

    def of_others(self, name: str, maps: dict[str, Tensor], own: Tensor) -> list[Tensor]:
        """The others' coarsest maps as the reader of that name takes them in, in the encoders' order."""
        return self.reader(name).others([maps[other] for other in self.names if other != name], own)

    def pyramids(self, x_BCHW: Tensor) -> dict[str, Pyramid]:
        """The maps of every encoder."""
        seen = self.see(x_BCHW)
        return {name: self.encoder(name)(seen) for name in self.names}

    def answer(self, x_BCHW: Tensor) -> Answered:
        """Raw outputs, each encoder's pooled features under its name, and all encoders' maps as the hint."""
        pyramids = self.pyramids(x_BCHW)
        maps = {name: pyramid[32] for name, pyramid in pyramids.items()}
        answered = Answered(hint=joined(list(maps.values())))
        answered.features = {name: one.mean((2, 3)) for name, one in maps.items()}
        answered.features["backbone"] = torch.cat(list(answered.features.values()), 1)
        for task in self.tasks:
            others = self.of_others(task.name, maps, maps[task.name])
            answered.raw |= self.reader(task.name).read(pyramids[task.name], others)[1]
        return answered

    def attended(self, x_BCHW: Tensor, task: str) -> tuple[Tensor, Tensor]:
        """The map of the task's own encoder; what it hears of the others is no part of it."""
        pyramids = self.pyramids(x_BCHW)
        maps = {name: pyramid[32] for name, pyramid in pyramids.items()}
        others = self.of_others(task, maps, maps[task])
        return maps[task], self.reader(task).read(pyramids[task], others)[1][task]

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Raw outputs by task."""
        return self.answer(x_BCHW).raw


def joined(maps: Sequence[Tensor]) -> Tensor:
    """All encoders' coarsest maps side by side, settled, at the cells of the coarsest: what one encoder has to hold."""
    cells = (min(one.shape[-2] for one in maps), min(one.shape[-1] for one in maps))
    settle = Settle()
    return torch.cat([settle(one, cells) for one in maps], 1)
