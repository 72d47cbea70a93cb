"""An artefact against torch on the same real images: how far its numbers part, and which decisions flip.

Decisions are those of the device: a class above its locked threshold, the most probable class, the label of a pixel, a
cell of the detector above its threshold. Regression and box coordinates have differences only.

Shapes: N images, C classes, M measures, h x w the network's grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..runtime.answer import probabilities
from ..runtime.manifest import Comparison, EngineName, OutputDifference, TaskOutput

Raw = Mapping[str, NDArray[np.float32]]


def compare_engines(engine: EngineName, pairs: Iterable[tuple[Raw, Raw]], outputs: Sequence[TaskOutput]) -> Comparison:
    """Summarise how an engine's raw outputs differ from torch's, one line per output tensor.

    Args:
        engine: whose artefact it is.
        pairs: (torch's, the engine's) raw outputs of the same input, batch first; drawn once, one at a time.
        outputs: tasks with their tensors and locked thresholds; without thresholds 0.5 decides.
    """
    tallies = {tensor: _Tally() for output in outputs for tensor in output.tensors}
    images = 0
    for reference, answer in pairs:
        images += next(iter(reference.values())).shape[0]
        for output in outputs:
            for tensor in output.tensors:
                boxes = output.task.kind == "detection" and tensor == output.tensors[0]
                tallies[tensor].add(reference[tensor], answer[tensor], None if boxes else output)
    return Comparison(engine=engine, images=images, outputs=tuple(t.difference(name) for name, t in tallies.items()))


@dataclass
class _Tally:
    largest: float = 0.0
    total: float = 0.0
    values: int = 0
    decisions: int = 0
    flips: int = 0

    def add(self, reference: NDArray[np.float32], answer: NDArray[np.float32], output: TaskOutput | None) -> None:
        if reference.shape != answer.shape:
            raise RuntimeError(f"torch gives shape {reference.shape}, the engine {answer.shape}")
        distance = np.abs(reference.astype(np.float64) - answer)
        self.largest = max(self.largest, float(distance.max(initial=0.0)))
        self.total += float(distance.sum())
        self.values += distance.size
        if output is not None and output.task.kind != "regression":
            ours, theirs = decisions(output, reference), decisions(output, answer)
            self.decisions += ours.size
            self.flips += int(np.count_nonzero(ours != theirs))

    def difference(self, tensor: str) -> OutputDifference:
        return OutputDifference(
            tensor=tensor,
            largest=self.largest,
            mean=self.total / max(self.values, 1),
            decisions=self.decisions,
            flips=self.flips,
        )


def decisions(output: TaskOutput, raw: NDArray[np.float32]) -> NDArray[np.bool_] | NDArray[np.intp]:
    """Tell what a raw output decides.

    Args:
        output: the task and its thresholds.
        raw: scores of any kind but regression; detection: the score tensor (N, C, h, w).

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
    return _sigmoid(raw.astype(np.float64)) >= thresholds


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))
