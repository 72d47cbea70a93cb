"""An artefact against torch on the same real images: how far its numbers part, and which decisions flip.

Decisions are those of the device: a class above its locked threshold, the most probable class, the label of a pixel, a
cell of the detector above its threshold. Regression, box coordinates and embeddings have differences only.

Shapes: N images, C classes, M measures, h x w the network's grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..runtime.answer import probabilities, sigmoid
from ..runtime.errors import FoveolaError
from ..runtime.manifest import Comparison, EngineName, OutputDifference, TaskOutput

Raw = Mapping[str, NDArray[np.float32]]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Two computations of one output over all images. Infinite where only one has NaN or infinity at some place."""

    tensor: str
    largest: float  # absolute
    mean: float  # of the absolute differences
    relative: float  # root mean square of the difference over that of the reference
    decisions: int  # compared
    flips: int  # that differ


def compare_engines(engine: EngineName, pairs: Iterable[tuple[Raw, Raw]], outputs: Sequence[TaskOutput]) -> Comparison:
    """Summarise how an engine's raw outputs differ from torch's, one line per output tensor.

    Args:
        engine: whose artefact it is.
        pairs: (torch's, the engine's) raw outputs of the same input, batch first; drawn once, one at a time.
        outputs: tasks with their tensors and locked thresholds; without thresholds 0.5 decides.

    Raises:
        FoveolaError: one of the two answers NaN or infinity where the other has a number.
    """
    images, differences = compare_outputs(pairs, outputs)
    for one in differences:
        if not np.isfinite(one.largest):
            fault = f"output {one.tensor!r} holds NaN or infinity where torch has numbers, or the other way round"
            raise FoveolaError(engine, fault, "`foveola check` names the layer")
    return Comparison(
        engine=engine,
        images=images,
        outputs=tuple(
            OutputDifference(tensor=d.tensor, largest=d.largest, mean=d.mean, decisions=d.decisions, flips=d.flips)
            for d in differences
        ),
    )


def compare_outputs(
    pairs: Iterable[tuple[Raw, Raw]], outputs: Sequence[TaskOutput]
) -> tuple[int, tuple[Difference, ...]]:
    """Compare two computations; gives the number of images and one line per output tensor.

    Args:
        pairs: (the reference's, the other's) raw outputs of the same input, batch first; drawn once, one at a time.
        outputs: as for `compare_engines`.
    """
    tallies = {tensor: _Tally() for output in outputs for tensor in output.tensors}
    images = 0
    for reference, answer in pairs:
        images += next(iter(reference.values())).shape[0]
        for output in outputs:
            for tensor in output.tensors:
                decides = tensor in deciding(output)
                tallies[tensor].add(reference[tensor], answer[tensor], output if decides else None)
    return images, tuple(tally.difference(name) for name, tally in tallies.items())


@dataclass
class _Tally:
    largest: float = 0.0
    total: float = 0.0
    values: int = 0
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))  # of the difference, of the reference
    decisions: int = 0
    flips: int = 0

    def add(self, reference: NDArray[np.float32], answer: NDArray[np.float32], output: TaskOutput | None) -> None:
        if reference.shape != answer.shape:
            raise RuntimeError(f"the reference gives shape {reference.shape}, the engine {answer.shape}")
        ours, theirs = _comparable(reference, answer)
        apart = np.abs(ours - theirs)
        self.largest = max(self.largest, float(apart.max(initial=0.0)))
        self.total += float(apart.sum())
        self.squares += [float(np.sum(apart**2)), float(np.sum(ours**2))]
        self.values += apart.size
        if output is not None:
            before, after = decisions(output, reference), decisions(output, answer)
            self.decisions += before.size
            self.flips += int(np.count_nonzero(before != after))

    def difference(self, tensor: str) -> Difference:
        return Difference(
            tensor=tensor,
            largest=self.largest,
            mean=self.total / max(self.values, 1),
            relative=_ratio(*self.squares.tolist()),
            decisions=self.decisions,
            flips=self.flips,
        )


def distance(reference: NDArray[Any], answer: NDArray[Any]) -> float:
    """How far two tensors part where they part most: the root mean square of the difference in the worst channel.

    It is given as a share of the whole reference's root mean square, so that a channel of tiny values does not count
    for more than it does in the network. A wrong weight spoils one channel out of many.

    Args:
        reference: (N, C, ...), or of one axis.
        answer: of the same shape.

    Returns:
        0 where both are equal; infinity where only one of the two has NaN or infinity at some place. Where both have
        the same one, they agree there.
    """
    ours, theirs = _comparable(reference, answer)
    square = (ours - theirs) ** 2
    others = tuple(axis for axis in range(square.ndim) if axis != 1) if square.ndim > 1 else None
    return _ratio(float(np.max(square.mean(others), initial=0.0)), float(np.mean(ours**2)))


def _comparable(reference: NDArray[Any], answer: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as float64, with 0 where both have the same NaN or infinity, and 0 beside infinity where only one has."""
    ours, theirs = reference.astype(np.float64), answer.astype(np.float64)
    broken = ~(np.isfinite(ours) & np.isfinite(theirs))
    if broken.any():
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        theirs = np.where(broken, np.where(same, 0.0, np.inf), theirs)
        ours = np.where(broken, 0.0, ours)
    return ours, theirs


def _ratio(difference: float, reference: float) -> float:
    if difference == 0:
        return 0.0
    return float(np.sqrt(difference / reference)) if reference else float("inf")


def deciding(output: TaskOutput) -> tuple[str, ...]:
    """Name the tensors of a task that decide something by themselves: not measures, embeddings or the sides of boxes.

    None of a two-stage detector: its proposals come in another order wherever two of them are nearly as good.
    """
    if output.task.kind in ("regression", "embedding") or output.proposals is not None:
        return ()
    return output.tensors[1:] if output.task.kind == "detection" else output.tensors


def decisions(output: TaskOutput, raw: NDArray[np.float32]) -> NDArray[np.bool_] | NDArray[np.intp]:
    """Tell what a raw output decides.

    Args:
        output: the task and its thresholds.
        raw: scores of any kind but regression and embedding; detection: the score tensor (N, C, h, w).

    Returns:
        (N, C) or (N, C, h, w) yes or no; or the index of the chosen class, (N,) or (N, h, w).
    """
    kind = output.task.kind
    if kind in ("multiclass", "ordinal"):
        return np.asarray(np.argmax(probabilities(output.task, raw), axis=1))
    if kind == "segmentation" and output.task.activation == "softmax":
        return np.asarray(np.argmax(raw, axis=1))
    shape = [1, -1] + [1] * (raw.ndim - 2)
    thresholds = np.asarray(output.thresholds or [0.5] * raw.shape[1], np.float64).reshape(shape)
    # Monotone in the logit, so that a threshold of exactly 0 or 1 needs no special case.
    return np.asarray(sigmoid(raw.astype(np.float64)) >= thresholds)
