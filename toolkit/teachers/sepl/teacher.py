"""SePL's teacher: simple factors are answered first, and these answers guide those of the complex ones.

- A plan names the simple factors; all other tasks are complex. Each has its name, nothing goes by position.
- The priors are the network's own raw answers and are not detached: the losses of the complex factors reach the heads
  of the simple ones ("self-propagation"; Ko et al., MICCAI 2025).
- A teacher that is asked for simple factors alone has no experts and no gates.

B batch, D width of the backbone, A priors, E experts, H hidden width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn

from ....runtime.errors import UsageError
from ....runtime.task import Kind, Task
from ...models.network import Answered, Normalise, make_backbone
from ..built import BuiltPlan, BuiltTeacher
from .modules import Mixture, PlainHeads
from .priors import ClassesAs, prior_vector

Prior = Literal["guide", "none", "detached", "reference"]
KINDS: tuple[Kind, ...] = ("binary", "multilabel", "multiclass", "ordinal", "regression")
COARSEST = 32  # stride of the map whose mean is the picture's feature


class SeplPlan(BuiltPlan, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="sepl"):
    """What is needed to rebuild the teacher before its weights are loaded.

    Args:
        backbone: timm's name; its width is read from it.
        simple: the factors that are predicted first, in the order of the prior vector.
        experts: of the mixture; 0 for plain heads on the complex factors.
        hidden: width of an expert, or of the layer before plain heads (0: no such layer).
        prior_hidden: width of what the priors become in an expert.
        prior: `guide`, `none`, `detached` (no gradient through the priors), or `reference` (while training, the
            reference standard takes the priors' place where it is known; the teacher answers with its own).
        attention: whether an expert weighs the priors before it takes them.
        sex_as: how a simple factor of classes, such as sex, stands among the priors.
    """

    backbone: str
    simple: tuple[Task, ...]
    experts: Annotated[int, Meta(ge=0)] = 4
    hidden: Annotated[int, Meta(ge=0)] = 512
    prior_hidden: Annotated[int, Meta(gt=0)] = 12
    prior: Prior = "guide"
    attention: bool = True
    sex_as: ClassesAs = "logit"

    def __post_init__(self) -> None:
        """Refuse what cannot be built or read.

        Raises:
            FoveolaError: a measure without a scaler.
            UsageError: a kind that no factor has, no simple factor, or priors that nobody takes.
        """
        super().__post_init__()
        for task in (*self.simple, *self.tasks):
            if task.kind not in KINDS:
                raise UsageError(f"task {task.name!r}", f"{task.kind} is no factor", f"factors are {', '.join(KINDS)}")
        if self.complex and self.prior != "none":
            if not self.simple:
                raise UsageError("simple", "no factor is predicted first", "name some, or set prior to none")
            if self.experts == 0:
                raise UsageError("experts", "plain heads take no priors", "set prior to none, or give experts")
        if self.experts and not self.hidden:
            raise UsageError("hidden", "an expert of width 0", "give it a width, or set experts to 0")

    @property
    def complex(self) -> tuple[Task, ...]:
        """The factors that are answered after the simple ones."""
        first = {task.name for task in self.simple}
        return tuple(task for task in self.tasks if task.name not in first)

    @property
    def priors(self) -> int:
        """Length of the prior vector that the experts see."""
        return 0 if self.prior == "none" else sum(task.channels for task in self.simple)

    def build(self) -> SeplTeacher:
        """The modules, with random weights."""
        return SeplTeacher(self)

    def of_tasks(self, names: Collection[str]) -> SeplPlan:
        """The plan of what answers these tasks only: simple factors stay where a complex one needs them."""
        asked = super().of_tasks(names)
        if asked.complex and asked.prior != "none":
            return asked
        return msgspec.structs.replace(asked, simple=tuple(task for task in self.simple if task.name in names))


@dataclass
class Propagated:
    """All that one pass gives."""

    coarse: Tensor  # (B, D, h, w)
    feature: Tensor  # (B, D)
    priors: Tensor | None  # (B, A)
    raw: dict[str, Tensor]  # by factor, also those that are only priors: (B, channels)
    mixed: dict[str, Tensor] = field(default_factory=dict)  # by complex factor: (B, H)
    shares: dict[str, Tensor] = field(default_factory=dict)  # by complex factor: (B, E), of sum 1


class SeplTeacher(BuiltTeacher):
    """A backbone, a linear head for each simple factor, and a mixture of experts for the complex ones."""

    def __init__(self, plan: SeplPlan) -> None:
        super().__init__(plan)
        self.sepl = plan
        self.normalise = Normalise(plan.input)
        self.backbone, channels = make_backbone(plan.backbone, plan.input.channels, (COARSEST,))
        width = channels[COARSEST]
        self.simple = nn.ModuleDict({task.name: nn.Linear(width, task.channels) for task in plan.simple})
        self.complex = _complex_heads(plan, width)

    @property
    def backbones(self) -> tuple[str, ...]:
        """The one backbone."""
        return (self.sepl.backbone,)

    def propagate(self, x_BCHW: Tensor, reference: Mapping[str, Tensor] | None = None) -> Propagated:
        """One pass.

        Args:
            x_BCHW: images in 0..1.
            reference: scaled targets of the simple factors, NaN where not known; used where `prior` is `reference`.
        """
        (coarse,) = self.backbone(self.normalise(x_BCHW))
        return self.propagate_from(coarse, reference)

    def propagate_from(self, coarse_BDhw: Tensor, reference: Mapping[str, Tensor] | None = None) -> Propagated:
        """The same from the backbone's map on."""
        plan, feature = self.sepl, coarse_BDhw.mean((2, 3))
        raw = {name: head(feature) for name, head in self.simple.items()}
        priors = None
        if raw:
            given = reference if plan.prior == "reference" else None
            priors = prior_vector(plan.simple, raw, plan.sex_as, given)
            priors = priors.detach() if plan.prior == "detached" else priors
        found = Propagated(coarse_BDhw, feature, priors, raw)
        if isinstance(self.complex, Mixture):
            more, found.mixed, found.shares = self.complex(feature, priors)
            found.raw |= more
        elif self.complex is not None:
            found.raw |= self.complex(feature)
        return found

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Raw outputs of the asked tasks."""
        raw = self.propagate(x_BCHW).raw
        return {task.name: raw[task.name] for task in self.tasks}

    def answer(self, x_BCHW: Tensor) -> Answered:
        """Raw outputs by task; the backbone's map guides a student; priors, mixed features and gates by name."""
        found = self.propagate(x_BCHW)
        features = {"backbone": found.feature}
        if found.priors is not None:
            features["priors"] = found.priors
        features |= {f"mixed.{name}": x for name, x in found.mixed.items()}
        features |= {f"gate.{name}": x for name, x in found.shares.items()}
        raw = {task.name: found.raw[task.name] for task in self.tasks}
        return Answered(raw=raw, hint=found.coarse, features=features)


def _complex_heads(plan: SeplPlan, width: int) -> Mixture | PlainHeads | None:
    if not plan.complex:
        return None
    if plan.experts == 0:
        return PlainHeads(plan.complex, width, plan.hidden)
    return Mixture(
        plan.complex,
        width,
        plan.priors,
        experts=plan.experts,
        hidden=plan.hidden,
        prior_hidden=plan.prior_hidden,
        attention=plan.attention,
    )


def entropy(shares_BE: Tensor) -> Tensor:
    """Entropy (B,) of the experts' shares, in nats: 0 for one expert alone, log E for all alike."""
    return -torch.xlogy(shares_BE, shares_BE).sum(1)
