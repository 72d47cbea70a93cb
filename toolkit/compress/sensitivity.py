"""Which layers cost accuracy in 8 bits, and which of them go back to float: mixed precision by sensitivity.

1. Every layer is quantised alone, its input, weights and result, and the network is asked about validation images: the
   slack of each task says what that layer costs (see `variants.slack`).
2. If the whole int8 graph leaves the worst task less slack than wanted, layers go back to float one by one, the most
   sensitive first (least slack alone, then least SQNR), until it is enough or `most` layers are float; one that brings
   the worst task nothing stays in 8 bits.
3. What turns out not to have been needed is quantised again.

The slack is a step function of few cases; SQNR parts layers that it cannot tell apart. It is judged on validation
images as everything before the proof is; the proof's images are not touched.

`sensitivity.json` tells it by layer, also where nothing was asked for (then without slacks).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from ...export.layer_error import layer_sqnr
from ...export.partial import constant_layers, open_plain
from ...export.placement import Placement, place
from ...export.quantize import Calibrated, int8_model
from ..answers import RawAnswers
from ..data.arrays import Arrays
from ..models.network import Network
from ..variants.slack import ask, slacks, worst
from .levers import Bench, with_biases
from .overflow import spread

SENSITIVITY = "sensitivity.json"
TRIED = 3  # layers are tried for each that may go back
ERROR_IMAGES = 16  # calibration images on which the layers' SQNR is measured

Why = Literal["", "last of a head", "asked for", "sensitive", "behind a head"]
F32 = NDArray[np.float32]
Progress = Callable[[int, int, str], None]


class LayerSensitivity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One layer.

    Args:
        layer: its name in the graphs.
        module: that it comes from.
        sqnr_db: of its result in the int8 graph that was written, with the noise of all layers before.
        own_db: of its result with the noise of its own quantisers alone.
        slack: of each task where this layer alone is quantised; empty where that was not measured.
        float_: whether it stands in float.
        why: why it does.
    """

    layer: str
    module: str
    sqnr_db: float
    own_db: float
    slack: dict[str, float]
    float_: bool = msgspec.field(name="float")
    why: Why = ""


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file `sensitivity.json`.

    Args:
        format: of this file.
        images: validation images on which slacks were measured; 0 where they were not.
        wanted: least slack of the worst task; None where it was not asked for.
        before: slack of each task with all layers in 8 bits that can be.
        after: of the graph that was written.
        layers: in graph order.
    """

    format: Literal[1] = 1
    images: int = 0
    wanted: float | None = None
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    layers: tuple[LayerSensitivity, ...]


class Judge:
    """Slacks of int8 graphs on a few validation images, against the float graph."""

    def __init__(self, network: Network, plain: ModelProto, val: Arrays) -> None:
        self.network, self.val, self.names = network, val, [value.name for value in plain.graph.output]
        self.reference = self._answers(plain)

    def slacks(self, model: ModelProto) -> dict[str, float]:
        """Slack of each task."""
        return slacks(self.network, self.reference, self._answers(model), self.val)

    def _answers(self, model: ModelProto) -> RawAnswers:
        session: Any = open_plain(model)

        def run(image: F32) -> dict[str, F32]:
            return dict(zip(self.names, session.run(self.names, {"image": image}), strict=True))

        return ask(run, self.network, self.val.images)


class Mixed(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: the graph's new float layers, and slacks by layer, before and after."""

    images: int
    kept: tuple[str, ...]
    alone: dict[str, dict[str, float]]
    before: dict[str, float]
    after: dict[str, float]


def find_mixed(
    bench: Bench, calibrated: Calibrated, judge: Judge, least_slack: float, most: int, progress: Progress
) -> tuple[Calibrated, Mixed]:
    """Put the most sensitive layers back to float until the worst task has its slack; see the head of this file.

    Args:
        bench: the calibration images, and how weights are written.
        calibrated: of the whole int8 graph.
        judge: asked about every candidate.
        least_slack: wanted of the worst task: 1 as good as float, 0 its margin.
        most: layers that may go back.
        progress: called with (done, total, text).
    """
    alone = slack_alone(calibrated, judge, bench, progress)
    before = judge.slacks(bench.model(calibrated))
    errors = layer_sqnr(calibrated.model, bench.model(calibrated), spread(bench.arrays, ERROR_IMAGES), alone=True)
    order = sorted(alone, key=lambda name: (worst(alone[name])[1], errors[name]))
    kept: list[str] = []
    found, after = calibrated, before
    for number, name in enumerate(order[: TRIED * most]):
        if worst(after)[1] >= least_slack or len(kept) == min(most, len(order) - 1):
            break
        progress(number, TRIED * most, f"{name} back to float")
        tried = _without(bench, calibrated, [*kept, name])
        slack = judge.slacks(bench.model(tried))
        if worst(slack)[1] > worst(after)[1]:
            kept, found, after = [*kept, name], tried, slack
    for name in list(kept[:-1]) if worst(after)[1] >= least_slack else []:
        fewer = [one for one in kept if one != name]
        tried = _without(bench, calibrated, fewer)
        slack = judge.slacks(bench.model(tried))
        if worst(slack)[1] >= least_slack:
            kept, found, after = fewer, tried, slack
    if kept and found.corrections.biases:  # they were found with these layers in 8 bits
        found = with_biases(bench, found, progress)
        after = judge.slacks(bench.model(found))
    return found, Mixed(images=len(judge.val), kept=tuple(kept), alone=alone, before=before, after=after)


def slack_alone(calibrated: Calibrated, judge: Judge, bench: Bench, progress: Progress) -> dict[str, dict[str, float]]:
    """Slack of each task where one layer alone is quantised, by the layer's name."""
    layers = [node.name for node in constant_layers(calibrated.model.graph) if node.name in calibrated.placement.layers]
    found = {}
    for number, name in enumerate(layers):
        progress(number, len(layers), "quantising each layer alone")
        only = msgspec.structs.replace(calibrated, placement=only_layer(calibrated, name))
        model = int8_model(only, weight_bits=bench.weight_bits, overflow=bench.overflow)
        found[name] = judge.slacks(model)
    return found


def only_layer(calibrated: Calibrated, name: str) -> Placement:
    """The plan with a single layer: its weights, its input's quantiser and that of its result."""
    graph, plan = calibrated.model.graph, calibrated.placement
    (node,) = (one for one in graph.node if one.name == name)
    behind = [one.output[0] for one in graph.node if node.output[0] in one.input]
    near = {node.input[0], node.output[0], *(behind if len(behind) == 1 else [])}
    return Placement(
        layers=frozenset({name}),
        float_layers=plan.float_layers,
        tensors={tensor: origin for tensor, origin in plan.tensors.items() if tensor in near},
    )


def _without(bench: Bench, calibrated: Calibrated, kept: Collection[str]) -> Calibrated:
    """The same graph with further layers in float."""
    more = msgspec.structs.replace(bench, float_layers=(*bench.float_layers, *kept))
    found = more.calibrate("minmax", calibrated.ranges)
    return msgspec.structs.replace(
        found, images=calibrated.images, corrections=calibrated.corrections, form=calibrated.form
    )


def describe_layers(
    calibrated: Calibrated,
    model: ModelProto,
    arrays: Arrays,
    origins: Mapping[str, str],
    *,
    asked: Collection[str],
    mixed: Mixed | None,
) -> tuple[LayerSensitivity, ...]:
    """One line for each layer of the graph that was written.

    Args:
        calibrated: as it was written from.
        model: the int8 graph.
        arrays: calibration images.
        origins: module of each node.
        asked: layers that were to stay float.
        mixed: what the sensitivity found, if it was asked for.
    """
    images = [np.array(image) for image in spread(arrays, ERROR_IMAGES)]
    together = layer_sqnr(calibrated.model, model, images)
    own = layer_sqnr(calibrated.model, model, images, alone=True)
    graph, plan = calibrated.model.graph, calibrated.placement
    last = set(place(graph, after_layers=calibrated.form == "unsigned").float_layers)
    alone = mixed.alone if mixed else {}
    lines = []
    for name in together:
        stays = name not in plan.layers
        lines.append(
            LayerSensitivity(
                layer=name,
                module=origins.get(name, ""),
                sqnr_db=round(together[name], 2),
                own_db=round(own[name], 2),
                slack={task: round(value, 4) for task, value in alone.get(name, {}).items()},
                float_=stays,
                why=_why(name, last, asked, mixed.kept if mixed else ()) if stays else "",
            )
        )
    return tuple(lines)


def _why(name: str, last: Collection[str], asked: Collection[str], sensitive: Sequence[str]) -> Why:
    if name in last:
        return "last of a head"
    if name in asked:
        return "asked for"
    return "sensitive" if name in sensitive else "behind a head"


def mixed_lines(mixed: Mixed, origins: Mapping[str, str], wanted: float) -> list[str]:
    """Say what was put back to float, and what it brought."""
    task, before = worst(mixed.before)
    other, after = worst(mixed.after)
    lines = [f"{name} ({origins.get(name, 'no module')}) stays float: it is the most sensitive" for name in mixed.kept]
    if before >= wanted:
        return [
            f"no layer goes back to float: the worst task, {task}, has a slack of {before:.2f}, {wanted:g} is wanted"
        ]
    reached = "" if after >= wanted else f", {wanted:g} is not reached"
    now = f"{after:.2f} ({other}) with {len(lines)} layers in float"
    told = f"slack of the worst task: {before:.2f} ({task}) in 8 bits, {now}"
    return [*lines, told + reached]
