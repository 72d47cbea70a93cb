"""What int8 graphs of one network are worth on the validation images: it decides what is kept of a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from ...export.fake_quant import QuantisedGraph
from ...export.quantize import Calibrated, Overflow, WeightBits, int8_model
from ...runtime.engine import Session, open_session
from ...runtime.manifest import OnnxRuntimeOptions
from ..answers import answer_images
from ..course import Report
from ..data.arrays import prepare_arrays
from ..data.dataset import Dataset
from ..models.network import Network
from ..score import score_answers
from ..supervision import labelled, preparing
from ..variants.slack import ask, slacks, worst
from .overflow import spread

COMPARED = 8  # validation images on which real and fake integers are compared


class Worth(msgspec.Struct, frozen=True):
    """An int8 graph on the validation images.

    Args:
        slacks: of each task against the float network.
        score: mean over the tasks, which decides between equals.
    """

    slacks: dict[str, float]
    score: float

    @property
    def least(self) -> float:
        """Slack of the worst task."""
        return worst(self.slacks)[1]

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better."""
        return self.least, self.score


class Judge:
    """Asks int8 graphs of one network about the labelled validation images.

    Args:
        network: the float one, whose answers are what nothing may be lost of.
        dataset: with val cases.
        weight_bits: of the device.
        overflow: the cure where they are 7.
        cache: where decoded images are kept.
        report: progress.
    """

    def __init__(
        self,
        network: Network,
        dataset: Dataset,
        *,
        weight_bits: WeightBits,
        overflow: Overflow,
        cache: Path,
        report: Report,
    ) -> None:
        val = dataset.subset("val")
        self.arrays = prepare_arrays(val.take(labelled(val)), network.input, cache=cache, progress=preparing(report))
        self.network = network
        self.weight_bits: WeightBits = weight_bits
        self.overflow: Overflow = overflow
        self.reference = answer_images(network.eval(), self.arrays.images, hint=False)

    def worth(self, calibrated: Calibrated) -> Worth:
        """Judge the int8 graph of these weights and ranges."""
        answers = ask(self._open(calibrated).run, self.network, self.arrays.images)
        score = score_answers(self.network.tasks, answers, self.arrays, self.network.target_scale).total
        return Worth(slacks(self.network, self.reference, answers, self.arrays), score)

    def agreement(self, calibrated: Calibrated, graph: QuantisedGraph) -> float | None:
        """Decibels of the int8 graph's answers over their distance to the fake quantisers'.

        That of the worst output, on a few images; None where all are equal.
        """
        session, images = self._open(calibrated), list(spread(self.arrays, COMPARED))
        graph = graph.cpu().eval()
        real = [session.run(image) for image in images]
        with torch.inference_mode():
            fake = [{name: x.numpy() for name, x in graph(torch.from_numpy(image)).items()} for image in images]
        found = [decibels([one[name] for one in real], [one[name] for one in fake]) for name in graph.output_names]
        return min((one for one in found if one is not None), default=None)

    def _open(self, calibrated: Calibrated) -> Session:
        model = int8_model(calibrated, weight_bits=self.weight_bits, overflow=self.overflow)
        options = OnnxRuntimeOptions()
        return open_session(options, {options.graph: model.SerializeToString()})


def decibels(clean: Sequence[NDArray[np.float32]], other: Sequence[NDArray[np.float32]]) -> float | None:
    """Signal, about its mean, to noise; None where both are equal."""
    signal = np.concatenate([one.ravel() for one in clean]).astype(np.float64)
    noise = signal - np.concatenate([one.ravel() for one in other])
    power = float((noise**2).mean())
    return float(10 * np.log10(max(float(signal.var()), 1e-30) / power)) if power > 0 else None
