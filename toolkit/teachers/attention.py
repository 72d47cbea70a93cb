"""Where a teacher looked: Grad-CAM on the coarsest feature map, over a few cases of each label.

The class activation map of a raw output is the rectified sum of the feature maps, each weighted with the mean gradient
of the output with respect to it (Selvaraju et al., ICCV 2017, eq. 1 and 2). It shows what spoke for the label, scaled
to its own largest value: maps of two cases cannot be compared by brightness, and a map is no proof of a reason.

Cases are chosen by rule, so that nobody picks the pretty ones: for a label the true positive with the highest
probability, the miss with the lowest, the false alarm with the highest; then the next of each. For classes and grades
the most certain right answer and the most certain wrong one.

B batch, C channels, H and W of the input, N cases.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ...runtime.task import Task
from ..models.heads import Head
from ..models.network import Network, Teacher
from ..report.pictures import display
from .built import BuiltTeacher
from .team import Team

SIDE = 240  # pixels: the longer side of each of the two panels
GAP = 4  # pixels between them
STRENGTH = 0.65  # share of the colour where the map is 1
# Black, violet, red, orange, pale yellow: lightness rises, so that it also reads in grey (matplotlib's "inferno").
HEAT = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))


class Pick(msgspec.Struct, frozen=True, kw_only=True):
    """A case that is worth a picture."""

    index: int  # among the N cases
    label: str
    channel: int  # of the raw output whose evidence is drawn
    outcome: str  # true positive, miss, false alarm; right, wrong
    right: bool
    probability: float
    threshold: float | None  # None where the most probable class is taken
    reference: str
    answer: str


def grad_cam(network: Network | BuiltTeacher, x_BCHW: Tensor, task: str, channel: int) -> NDArray[np.float32]:
    """Map of what spoke for one raw output.

    Args:
        network: in evaluation mode; of a teacher of several encoders the task's own is asked.
        x_BCHW: prepared images (0..1), on the network's device.
        task: one that answers with numbers (binary, multilabel, multiclass, ordinal, regression).
        channel: of its raw output.

    Returns:
        (B, H, W) in 0..1, brought to the input's size; all 0 where nothing spoke for it.
    """
    with torch.enable_grad():
        coarse, raw = (
            network.attended(x_BCHW, task) if isinstance(network, BuiltTeacher) else _seen(network, x_BCHW, task)
        )
        # A case's output depends on its own map alone, so the sum over cases has each case's gradient.
        (gradient,) = torch.autograd.grad(raw[:, channel].sum(), coarse)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    maps = (weights * coarse.detach()).sum(dim=1, keepdim=True).clamp(min=0).float()
    peak = maps.amax(dim=(2, 3), keepdim=True)
    maps = torch.where(peak > 0, maps / peak.clamp(min=torch.finfo(maps.dtype).tiny), 0.0)
    large = functional.interpolate(maps, size=x_BCHW.shape[-2:], mode="bilinear", align_corners=False)
    return np.asarray(large[:, 0].cpu().numpy(), np.float32)


def _seen(network: Network, x_BCHW: Tensor, task: str) -> tuple[Tensor, Tensor]:
    """The coarsest map, and the raw output of a task that its head gives for it."""
    with torch.no_grad():
        pyramid = network.pyramid(x_BCHW)
    head = network.heads[task]
    assert isinstance(head, Head), task
    coarse = pyramid[32].detach().clone().requires_grad_(True)
    return coarse, head({**pyramid, 32: coarse})[task]


def network_for(teacher: Teacher, task: str) -> Network | BuiltTeacher | None:
    """What answers a task: the teacher itself, or a member of a team; None for a foreign one."""
    candidates = teacher.ordered_members() if isinstance(teacher, Team) else [teacher]
    ours = (one for one in candidates if isinstance(one, (Network, BuiltTeacher)))
    return next((one for one in ours if any(own.name == task for own in one.tasks)), None)


def pick_cases(
    task: Task, probability: NDArray[np.floating], reference: NDArray[np.floating], limits: Sequence[float], count: int
) -> list[Pick]:
    """Choose cases by rule, at most `count` a label (binary, multilabel) or a task (multiclass, ordinal).

    Args:
        task: one of these four kinds; other kinds have no pictures.
        probability: (N, C), or (N, 1) of the positive class.
        reference: (N, C) or (N, 1) 0 and 1, or (N, 1) the class's index; NaN is a gap.
        limits: locked thresholds; empty means 0.5.
        count: at most.
    """
    if task.kind in ("multiclass", "ordinal"):
        return _pick_choices(task, probability, reference[:, 0])[:count]
    if task.kind not in ("binary", "multilabel"):
        return []
    labels = task.classes[1:] if task.kind == "binary" else task.classes
    picks: list[Pick] = []
    for channel, label in enumerate(labels):
        truth = reference[:, channel]
        if (truth > 0.5).any() and (truth <= 0.5).any():
            limit = float(limits[channel]) if limits else 0.5
            names = task.classes if task.kind == "binary" else (f"no {label}", label)
            picks += list(_pick_label(label, channel, probability[:, channel], truth, limit, names))[:count]
    return picks


def _pick_label(
    label: str,
    channel: int,
    probability: NDArray[np.floating],
    truth: NDArray[np.floating],
    limit: float,
    names: Sequence[str],
) -> Iterator[Pick]:
    """True positive, miss, false alarm, and again."""
    falling = np.argsort(-probability, kind="stable")
    said, true, false = probability >= limit, truth > 0.5, truth <= 0.5
    lists = {
        "true positive": [i for i in falling if true[i] and said[i]],
        "miss": [i for i in falling[::-1] if true[i] and not said[i]],
        "false alarm": [i for i in falling if false[i] and said[i]],
    }
    for outcome, index in _in_turn(lists):
        yield Pick(
            index=index,
            label=label,
            channel=channel,
            outcome=outcome,
            right=outcome == "true positive",
            probability=float(probability[index]),
            threshold=limit,
            reference=names[int(true[index])],
            answer=names[int(said[index])],
        )


def _pick_choices(task: Task, probability: NDArray[np.floating], truth: NDArray[np.floating]) -> list[Pick]:
    """The most certain right answer, the most certain wrong one, and again; nothing where only one class occurs."""
    known = ~np.isnan(truth)
    if len(np.unique(truth[known])) < 2:
        return []
    chosen, surest = probability.argmax(axis=1), probability.max(axis=1)
    falling = np.argsort(-surest, kind="stable")
    lists = {
        "right": [i for i in falling if known[i] and chosen[i] == truth[i]],
        "wrong": [i for i in falling if known[i] and chosen[i] != truth[i]],
    }
    # The raw outputs of a grade are "above grade k": what spoke for a grade is what spoke for "above the one below".
    shift = 1 if task.kind == "ordinal" else 0
    return [
        Pick(
            index=index,
            label=task.classes[chosen[index]],
            channel=max(int(chosen[index]) - shift, 0),
            outcome=outcome,
            right=outcome == "right",
            probability=float(surest[index]),
            threshold=None,
            reference=task.classes[int(truth[index])],
            answer=task.classes[chosen[index]],
        )
        for outcome, index in _in_turn(lists)
    ]


def _in_turn(lists: dict[str, list[np.intp]]) -> Iterator[tuple[str, int]]:
    """One of each list, then the next of each."""
    named = [[(outcome, int(index)) for index in found] for outcome, found in lists.items()]
    return (one for one in chain.from_iterable(zip_longest(*named)) if one is not None)


def heat_picture(image: NDArray[np.uint8] | NDArray[np.uint16], heat: NDArray[np.floating]) -> bytes:
    """The picture, and beside it the picture under its map.

    Args:
        image: (H, W) or (H, W, 3); 16-bit images are windowed for the eye.
        heat: (H, W) in 0..1.

    Returns:
        PNG bytes; equal inputs give equal bytes.
    """
    scale = SIDE / max(image.shape[:2])
    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    plain = np.asarray(Image.fromarray(display(image)).resize(size, Image.Resampling.BILINEAR), np.float64)
    warm = Image.fromarray(np.asarray(heat, np.float32)).resize(size, Image.Resampling.BILINEAR)
    share = np.clip(np.asarray(warm, np.float64), 0, 1)[..., None]
    steps = np.linspace(0, 1, len(HEAT))
    colour = np.stack([np.interp(share[..., 0], steps, column) for column in zip(*HEAT, strict=True)], axis=-1)
    over = plain * (1 - STRENGTH * share) + colour * STRENGTH * share
    gap = np.full((size[1], GAP, 3), 255.0)
    stream = io.BytesIO()
    canvas = np.concatenate([plain, gap, over], axis=1).round().astype(np.uint8)
    Image.fromarray(canvas).save(stream, "PNG")
    return stream.getvalue()
